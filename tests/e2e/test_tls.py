"""TLS spoken by the server itself: HTTP and WebSocket over it, and a certificate that is replaced while it runs."""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from websockets.sync.client import connect

from tests.certificates import Certificates
from tests.e2e.running import APPS, LIMIT_S, Running
from tests.e2e.wire import heard_over_tls


@pytest.fixture
def files() -> Iterator[Certificates]:
    with Certificates() as certificates:
        yield certificates


@pytest.fixture
def server(files: Certificates) -> Iterator[Running]:
    certificate = ("--certfile", files.path("server.pem"), "--keyfile", files.path("server.key"))
    with Running("run", "zoo:app", "-p", "0", "--workers", "1", *certificate, app_dir=APPS) as server:
        yield server.ready()


def trusting(files: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=files.path("ca.pem"))


def test_http_and_websocket(server: Running, files: Certificates) -> None:
    url = f"https://127.0.0.1:{server.port}"
    server.said(rf"listening on {url}")
    body = bytes(range(256)) * 4096
    with httpx.Client(verify=trusting(files), timeout=LIMIT_S) as client:
        assert client.get(f"{url}/show").json()["scheme"] == "https"
        assert client.post(f"{url}/echo", content=body).content == body
    sent = ("text", body)
    heard = heard_over_tls(f"wss://127.0.0.1:{server.port}/ws", *sent, ssl=trusting(files), max_size=None)
    assert tuple(heard) == sent


def test_a_certificate_that_was_replaced_is_used_after_a_sighup(server: Running, files: Certificates) -> None:
    url = f"https://127.0.0.1:{server.port}"
    old = trusting(files)
    assert httpx.get(url, verify=old, timeout=LIMIT_S).status_code == 200
    with Certificates() as newer:
        newer.give(to=files)
    server.process.send_signal(signal.SIGHUP)
    server.said("SIGHUP")
    assert httpx.get(url, verify=trusting(files), timeout=LIMIT_S).status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(url, verify=old, timeout=LIMIT_S)


def shown(server: Running, ciphers: str) -> str:
    """The kind of key in the certificate that a new client is shown; `ciphers` are a client's of TLS 1.2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if ciphers:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address, 20) as plain, context.wrap_socket(plain) as client:
        der = client.getpeercert(binary_form=True)
        assert der is not None
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    key = x509.load_der_x509_certificate(der).public_key()
    return "RSA" if isinstance(key, rsa.RSAPublicKey) else "EC"


def test_after_a_sighup_a_certificate_with_another_kind_of_key_is_the_only_one(
    server: Running, files: Certificates
) -> None:
    def all_are_shown() -> set[str]:
        return {shown(server, ciphers) for ciphers in ("", "ECDHE+ECDSA:ECDHE+aRSA", "ECDHE+aRSA:ECDHE+ECDSA")}

    assert all_are_shown() == {"EC"}
    # A connection that is there all the time.
    with connect(f"wss://127.0.0.1:{server.port}/ws", ssl=trusting(files)) as old:
        for times, kind in enumerate(("RSA", "EC", "RSA"), 1):
            with Certificates(kind=kind) as newer:
                newer.give(to=files)
            server.process.send_signal(signal.SIGHUP)
            server.said("SIGHUP", times)
            assert all_are_shown() == {kind}
        Path(files.path("server.pem")).write_text("nonsense")
        server.process.send_signal(signal.SIGHUP)
        server.said("there is no certificate in PEM in it; the old certificate is kept")
        assert all_are_shown() == {"RSA"}
        assert old.ping().wait(LIMIT_S)


def test_who_speaks_no_tls_gets_no_answer(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 20) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"HTTP/1" not in plain.recv(1000)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--certfile", "/nothing.pem"), "listen.certfile: '/nothing.pem': No such file or directory"),
        (("--keyfile", "/nothing.pem"), "is of no use without a certfile"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: tuple[str, ...], told: str) -> None:
    with Running("run", "zoo:app", "-p", "0", *words, app_dir=APPS, status=2) as server:
        server.ended()
        assert told in server.output
