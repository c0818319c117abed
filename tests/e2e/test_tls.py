"""TLS spoken by the server itself: HTTP and WebSocket over it, and a certificate that is replaced while it runs."""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.certificates import Certificates
from tests.e2e.running import APPS, Running
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
    with httpx.Client(verify=trusting(files), timeout=20) as client:
        assert client.get(f"{url}/show").json()["scheme"] == "https"
        assert client.post(f"{url}/echo", content=body).content == body
    sent = ("text", body)
    heard = heard_over_tls(f"wss://127.0.0.1:{server.port}/ws", *sent, ssl=trusting(files), max_size=None)
    assert tuple(heard) == sent


def test_a_certificate_that_was_replaced_is_used_after_a_sighup(server: Running, files: Certificates) -> None:
    url = f"https://127.0.0.1:{server.port}"
    old = trusting(files)
    assert httpx.get(url, verify=old, timeout=20).status_code == 200
    with Certificates() as newer:
        for name in ("ca.pem", "server.pem", "server.key"):
            Path(files.path(name)).write_bytes(Path(newer.path(name)).read_bytes())
    server.process.send_signal(signal.SIGHUP)
    server.said("SIGHUP")
    assert httpx.get(url, verify=trusting(files), timeout=20).status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(url, verify=old, timeout=20)


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
