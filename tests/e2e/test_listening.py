"""Where a server listens: IPv6, Unix sockets, inherited sockets, Twisted's endpoints, and what cannot be had."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from websockets.sync.client import connect

from tests.e2e.running import APPS, LIMIT_S, Running, command_line
from tests.e2e.wire import Wire, handshake, heard_over_tls

#: A server alone. It answers 503, which is enough where only the way to it matters.
SERVE = ("serve", "--cluster", "none=redis+unix:///nowhere")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for this machine that nobody has signed but itself."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


class Everywhere(NamedTuple):
    """A server that listens in every way at once."""

    server: Running
    path: Path
    other_path: Path
    inherited: dict[str, tuple[str, int] | str]
    tcp: int
    tls: int
    trusted: ssl.SSLContext


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everywhere]:
    folder = tmp_path_factory.mktemp("sockets")
    key, cert = certificate(folder)
    tcp, tls, path, other_path = free_port(), free_port(), folder / "web.sock", folder / "other.sock"
    given = folder / "given.sock"
    with ExitStack() as stack:
        inherited = [stack.enter_context(socket.socket(family)) for family in (socket.AF_INET, socket.AF_UNIX)]
        inherited[0].bind(("127.0.0.1", 0))
        inherited[1].bind(str(given))
        words = ["-b", "::1", "-p", "0", "-u", str(path)]
        for sock in inherited:
            words += ["--fd", str(sock.fileno())]
        for endpoint in (
            f"tcp:{tcp}:interface=127.0.0.1",
            f"unix:{other_path}",
            f"ssl:{tls}:interface=127.0.0.1:privateKey={key}:certKey={cert}",
        ):
            words += ["-e", endpoint]
        fds = [sock.fileno() for sock in inherited]
        server = Running("run", "zoo:app", "--workers", "1", *words, app_dir=APPS, pass_fds=fds)
        with server:
            where: dict[str, tuple[str, int] | str] = {"tcp": inherited[0].getsockname(), "unix": str(given)}
            trusted = ssl.create_default_context(cafile=str(cert))
            yield Everywhere(server.ready(), path, other_path, where, tcp, tls, trusted)
        # What it has made is gone; what it was given is its owner's to remove.
        assert (path.exists(), other_path.exists(), given.exists()) == (False, False, True)


def test_ipv6(everywhere: Everywhere) -> None:
    url = everywhere.server.said(r"listening on .*(http://\[::1\]:\d+)")[1]
    shown = httpx.get(f"{url}/show").json()
    assert (shown["client"], shown["server"]) == ("::1", ["::1", int(url.rpartition(":")[2])])


def test_a_unix_socket(everywhere: Everywhere) -> None:
    path = everywhere.path
    everywhere.server.said(rf"listening on .*unix:{path}")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as http:
        shown = http.get("http://a.test/show").json()
    assert (shown["client"], shown["server"]) == (None, [str(path), None])
    with connect("ws://a.test/ws", sock=_unix(path)) as client:
        client.send("a")
        assert client.recv(LIMIT_S) == "a"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_an_inherited_socket(everywhere: Everywhere, kind: str) -> None:
    with Wire(everywhere.inherited[kind]) as wire:
        assert wire.get("/").status == 200


def test_a_tcp_endpoint(everywhere: Everywhere) -> None:
    with Wire(("127.0.0.1", everywhere.tcp)) as wire:
        shown = json.loads(wire.get("/show").body)
    assert (shown["scheme"], shown["client"], shown["server"]) == ("http", "127.0.0.1", ["127.0.0.1", everywhere.tcp])
    everywhere.server.said(rf"listening on tcp:{everywhere.tcp}:interface=127\.0\.0\.1, ")


def test_a_unix_endpoint(everywhere: Everywhere) -> None:
    with Wire(str(everywhere.other_path)) as wire:
        assert wire.get("/").status == 200


def plain_addresses(everywhere: Everywhere) -> list[tuple[str, int] | str]:
    """Every place where no TLS is spoken, on the loop's own transports and on Twisted's."""
    twisted = (("127.0.0.1", everywhere.tcp), str(everywhere.other_path))
    return [*everywhere.inherited.values(), str(everywhere.path), *twisted]


def test_half_a_close_behind_a_request(everywhere: Everywhere) -> None:
    for address in plain_addresses(everywhere):
        with Wire(address) as wire:
            wire.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 3)
            wire.socket.shutdown(socket.SHUT_WR)
            assert [wire.receive().status for _ in range(3)] == [200] * 3
            assert wire.closed()


def test_half_a_close_behind_a_body_that_is_longer_than_a_window(everywhere: Everywhere) -> None:
    for address in plain_addresses(everywhere):
        with Wire(address) as wire:
            wire.send(b"POST /count HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n" + bytes(1_000_000))
            wire.socket.shutdown(socket.SHUT_WR)
            assert wire.receive().body == b"1000000"
            assert wire.closed()


def test_half_a_close_of_a_websocket_is_the_whole(everywhere: Everywhere) -> None:
    for address in plain_addresses(everywhere):
        with Wire(address) as wire:
            wire.send(handshake("/ws"))
            assert wire.head()[0] == 101
            wire.socket.shutdown(socket.SHUT_WR)
            began = time.monotonic()
            wire.closed()
            assert time.monotonic() - began < 10.0, "it was waited for a ping"


def test_a_tls_endpoint(everywhere: Everywhere) -> None:
    body = os.urandom(1_000_000)
    with httpx.Client(verify=everywhere.trusted, base_url=f"https://127.0.0.1:{everywhere.tls}") as client:
        assert client.get("/show").json()["scheme"] == "https"
        assert client.post("/echo", content=body).content == body
    message = body[:100_000]
    assert heard_over_tls(f"wss://127.0.0.1:{everywhere.tls}/ws", message, ssl=everywhere.trusted) == [message]


@pytest.mark.parametrize("offered", [None, ["http/1.1"], ["h2", "http/1.1"]])
def test_tls_clients_may_choose_their_protocol(everywhere: Everywhere, offered: list[str] | None) -> None:
    context = everywhere.trusted
    context.set_alpn_protocols(offered or [])
    with (
        socket.create_connection(("127.0.0.1", everywhere.tls), 20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        assert client.selected_alpn_protocol() == (offered and "http/1.1")


def test_half_a_response_is_reset_over_tls_too(everywhere: Everywhere) -> None:
    with (
        socket.create_connection(("127.0.0.1", everywhere.tls), 20) as plain,
        everywhere.trusted.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as client,
    ):
        client.sendall(b"GET /fails-late HTTP/1.0\r\n\r\n")
        everywhere.server.tracebacks += 1
        with pytest.raises((ConnectionResetError, ssl.SSLError)):
            b"".join(iter(lambda: client.recv(65536), b""))


def test_a_name_with_several_addresses() -> None:
    port = free_port()
    with Running(*SERVE, "-b", "localhost", "-p", str(port)) as server:
        server.said("listening on")
        for family, *_, address in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM):
            with socket.socket(family) as client:
                client.connect(address)


def test_what_a_killed_server_has_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    with Running(*SERVE, "-u", str(path)) as server:
        server.said("listening on")
        server.killed()
    assert path.exists()
    with Running(*SERVE, "-u", str(path)) as server:
        server.said("listening on")
        with Wire(str(path)) as wire:
            assert wire.get("/").status == 503


@pytest.mark.parametrize("how", ["-p", "tcp:{}:interface=127.0.0.1"])
def test_a_port_that_is_in_use_is_one_line(how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        where = ("-p", str(port)) if how == "-p" else ("-e", how.format(port))
        done = _refused(*SERVE, *where)
    assert done.stderr.startswith("ifserver: error: cannot listen on ")
    assert "in use" in done.stderr


def test_a_unix_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "web.sock")
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(path)
        taken.listen()
        assert "somebody listens there" in _refused(*SERVE, "-u", path).stderr
        assert os.path.exists(path)


def test_what_is_never_started_leaves_no_socket_behind(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    command = command_line("run", "zoo:nothing", "--app-dir", str(APPS), "-u", str(path))
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2
    assert f"listening on unix:{path}" in done.stderr
    assert not path.exists()
    _refused("run", "zoo:app", "--app-dir", str(APPS), "-u", str(path), "-e", "tcp:none")
    assert not path.exists()


def test_a_port_can_be_had_again_at_once() -> None:
    port = free_port()
    for _ in range(2):
        with Running(*SERVE, "-p", str(port)) as server, Wire(("127.0.0.1", server.port)) as wire:
            # The server closes first, so that its side of the connection lingers.
            assert wire.get("/", "connection: close").status == 503
            assert wire.closed()


def _unix(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    return client


def _refused(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command_line(*arguments), capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    return done
