"""Behind proxies, across real processes: headers, the PROXY protocol by hand, and HAProxy itself."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from websockets.sync.client import connect

from tests.e2e.running import APPS, LIMIT_S, Running, eventually
from tests.e2e.wire import Wire, handshake

EDGES = ("run", "edges:app", "--workers", "1", "-b", "127.0.0.1", "-p", "0")
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FOUR = b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 443\r\n"
SIX = b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 443\r\n"


def v2(command: int, family: int, data: bytes = b"") -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(data)) + data


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class From(Wire):
    """A connection to `port` from another address of this machine's."""

    def __init__(self, source: str, port: int) -> None:
        host = "::1" if ":" in source else "127.0.0.1"
        self.socket = socket.create_connection((host, port), 25, (source, 0))
        self._file = self.socket.makefile("rb")


def seen(wire: Wire, *fields: str) -> dict[str, Any]:
    """What the application sees of a request with these header fields."""
    reply = wire.get("/", *fields)
    assert reply.status == 200
    found: dict[str, Any] = json.loads(reply.body)
    return found


# Headers.


@pytest.fixture(scope="module")
def trusting() -> Iterator[Running]:
    """A server that believes 127.0.0.2, and nobody else."""
    with Running(*EDGES, "--trusted-proxies", "127.0.0.2, 10.0.0.0/8", "--root-path", "/app", app_dir=APPS) as server:
        yield server.ready()


HOPS: list[tuple[tuple[str, ...], list[Any], str]] = [
    (("x-forwarded-for: 203.0.113.7",), ["203.0.113.7", 0], "http"),
    (("x-forwarded-for: 203.0.113.7:4711", "x-forwarded-proto: https"), ["203.0.113.7", 4711], "https"),
    (("x-forwarded-for: 192.0.2.1, 203.0.113.7, 10.1.2.3",), ["203.0.113.7", 0], "http"),
    (("x-forwarded-for: 2001:db8::7", "x-forwarded-proto: https"), ["2001:db8::7", 0], "https"),
    (("x-forwarded-for: [2001:db8::7]:4711",), ["2001:db8::7", 4711], "http"),
    (('forwarded: for="[2001:db8::7]:4711";proto=https',), ["2001:db8::7", 4711], "https"),
    (("forwarded: for=192.0.2.1, for=203.0.113.7;proto=https, for=10.1.2.3;proto=http",), ["203.0.113.7", 0], "https"),
    (("forwarded: for=_hidden;proto=https",), ["127.0.0.2", None], "http"),
    (("x-forwarded-for: nonsense",), ["127.0.0.2", None], "http"),
    (("x-forwarded-for: fe80::1%eth0",), ["127.0.0.2", None], "http"),
    (('forwarded: for="[fe80::1%25eth0]";proto=https',), ["127.0.0.2", None], "http"),
    (("x-forwarded-for: ::ffff:203.0.113.7",), ["::ffff:203.0.113.7", 0], "http"),
]


@pytest.mark.parametrize(("fields", "client", "scheme"), HOPS)
def test_a_trusted_proxy_is_believed(
    trusting: Running, fields: tuple[str, ...], client: list[Any], scheme: str
) -> None:
    with From("127.0.0.2", trusting.port) as wire:
        found = seen(wire, *fields)
    assert found["client"][0] == client[0]
    if client[1] is not None:
        assert found["client"] == client
    assert found["scheme"] == scheme
    assert (found["root_path"], found["path"]) == ("/app", "/app/")


@pytest.mark.parametrize("fields", [fields for fields, _, _ in HOPS])
def test_anybody_else_is_not(trusting: Running, fields: tuple[str, ...]) -> None:
    with From("127.0.0.1", trusting.port) as wire:
        found = seen(wire, *fields)
        assert found["client"] == list(wire.socket.getsockname())
    assert found["scheme"] == "http"
    # They reach the application all the same: it may know better.
    assert {name for name, _ in found["headers"]} >= {each.partition(":")[0] for each in fields}


@pytest.mark.parametrize(("source", "scheme"), [("127.0.0.2", "wss"), ("127.0.0.1", "ws")])
def test_the_scheme_of_a_websocket(trusting: Running, source: str, scheme: str) -> None:
    headers = {"X-Forwarded-For": "2001:db8::7", "X-Forwarded-Proto": "https"}
    with (
        From(source, trusting.port) as wire,
        connect("ws://test/", sock=wire.socket, additional_headers=headers) as client,
    ):
        found = json.loads(client.recv(LIMIT_S))
    assert found["scheme"] == scheme
    assert (found["client"][0] == "2001:db8::7") is (scheme == "wss")


def test_without_the_flag_nobody_is_believed() -> None:
    with Running(*EDGES, app_dir=APPS) as server, From("127.0.0.1", server.ready().port) as wire:
        found = seen(wire, "x-forwarded-for: 203.0.113.7", "x-forwarded-proto: https")
        assert (found["client"], found["scheme"]) == (list(wire.socket.getsockname()), "http")


# The PROXY protocol.


class Places(NamedTuple):
    """A server that is announced its clients in three places, and not in a fourth."""

    server: Running
    port: int
    path: Path
    endpoint: int
    plain: int

    def address(self, where: str) -> tuple[str, int] | str:
        if where == "unix":
            return str(self.path)
        return "127.0.0.1", self.port if where == "tcp" else self.endpoint


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    path = tmp_path_factory.mktemp("proxy") / "web.sock"
    endpoint, plain = free_port(), free_port()
    words = ["--proxy-protocol", "-u", str(path), "-e", f"haproxy:tcp:{endpoint}:interface=127.0.0.1"]
    words += ["-e", f"tcp:{plain}:interface=127.0.0.1"]
    with Running(*EDGES, *words, app_dir=APPS) as server:
        yield Places(server.ready(), server.port, path, endpoint, plain)


EVERYWHERE = pytest.mark.parametrize("where", ["tcp", "unix", "endpoint"])


@EVERYWHERE
@pytest.mark.parametrize(
    ("header", "client", "server"),
    [
        (FOUR, ["203.0.113.7", 40000], ["198.51.100.1", 443]),
        (SIX, ["2001:db8::7", 40000], ["2001:db8::1", 443]),
        (
            v2(0x21, 0x11, bytes([203, 0, 113, 7, 198, 51, 100, 1]) + struct.pack("!HH", 40000, 443)),
            ["203.0.113.7", 40000],
            ["198.51.100.1", 443],
        ),
    ],
)
def test_the_application_sees_the_client(places: Places, where: str, header: bytes, client: Any, server: Any) -> None:
    with Wire(places.address(where)) as wire:
        # The request comes with the header, and another behind it.
        wire.send(header + b"GET /one HTTP/1.1\r\nhost: a\r\n\r\n")
        found = json.loads(wire.receive().body)
        assert (found["client"], found["server"], found["path"]) == (client, server, "/one")
        assert seen(wire)["client"] == client


@EVERYWHERE
def test_a_header_in_pieces(places: Places, where: str) -> None:
    with Wire(places.address(where)) as wire:
        wire.socket.setsockopt(*NO_DELAY) if where != "unix" else None
        for byte in FOUR:
            wire.send(bytes([byte]))
        assert seen(wire)["client"] == ["203.0.113.7", 40000]


NO_DELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@EVERYWHERE
@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", v2(0x20, 0x00)])
def test_a_connection_of_the_proxys_own(places: Places, where: str, header: bytes) -> None:
    with Wire(places.address(where)) as wire:
        found = seen(wire.send(header))
        assert found["client"] == (None if where == "unix" else list(wire.socket.getsockname()))


@EVERYWHERE
@pytest.mark.parametrize(
    "bad",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"PROXY TCP4 nonsense\r\n",
        b"PROXY TCP6 fe80::1%x\nforged ::1 1 2\r\n",
        SIGNATURE + b"\x22\x11\0\0",
    ],
)
def test_a_connection_without_a_header_is_closed(places: Places, where: str, bad: bytes) -> None:
    with Wire(places.address(where)) as wire:
        assert _nothing_more(wire.send(bad))


def _nothing_more(wire: Wire) -> bool:
    """Whether the connection ends with nothing, in good order or not."""
    try:
        return wire.socket.recv(1) == b""
    except ConnectionResetError:
        return True


@EVERYWHERE
def test_a_websocket_behind_a_header(places: Places, where: str) -> None:
    with Wire(places.address(where)) as wire:
        wire.send(SIX + handshake("/"))
        assert wire.head()[0] == 101
        head = wire.read(2)
        size = struct.unpack("!H", wire.read(2))[0] if head[1] == 126 else head[1]
        assert json.loads(wire.read(size))["client"] == ["2001:db8::7", 40000]


@pytest.mark.parametrize("where", ["tcp", "endpoint"])
def test_a_connection_from_elsewhere_is_closed(where: str) -> None:
    endpoint = free_port()
    words = ("--proxy-protocol", "--trusted-proxies", "127.0.0.2", "-e", f"haproxy:tcp:{endpoint}:interface=127.0.0.1")
    with Running(*EDGES, *words, app_dir=APPS) as server:
        server.ready()
        port = server.port if where == "tcp" else endpoint
        assert _is_cut("127.0.0.1", port)
        with From("127.0.0.2", port) as wire:
            assert seen(wire.send(FOUR))["client"] == ["203.0.113.7", 40000]


def _is_cut(source: str, port: int) -> bool:
    """Whether a connection with a header ends with nothing; a reset may come before `connect` has returned."""
    try:
        with From(source, port) as wire:
            return _nothing_more(wire.send(FOUR))
    except (ConnectionResetError, BrokenPipeError):
        return True


def test_other_endpoints_are_not_announced_to(places: Places) -> None:
    with Wire(("127.0.0.1", places.plain)) as wire:
        assert seen(wire)["client"] == list(wire.socket.getsockname())
    with Wire(("127.0.0.1", places.plain)) as wire:
        assert wire.send(FOUR + b"\r\n").receive().status == 400


# HAProxy itself.

HAPROXY = """
global
    log stderr format raw local0
defaults
    mode tcp
    log global
    option tcplog
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen v1
    bind 127.0.0.1:{v1}
    bind [::1]:{v1}
    server tcp 127.0.0.1:{port} send-proxy check inter 100
listen v2
    bind 127.0.0.1:{v2}
    bind [::1]:{v2}
    server tcp 127.0.0.1:{port} send-proxy-v2 check inter 100
listen unix
    bind 127.0.0.1:{unix}
    server unix {path} send-proxy-v2
listen endpoint
    bind 127.0.0.1:{endpoint}
    server endpoint 127.0.0.1:{to_endpoint} send-proxy-v2 proxy-v2-options unique-id,crc32c
listen without
    bind 127.0.0.1:{without}
    server tcp 127.0.0.1:{port}
"""


@pytest.fixture(scope="module")
def haproxy(places: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """The ports of a HAProxy in front of the server, by how it announces."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    assert program is not None, "haproxy is missing: run tools/install-system-packages"
    ports = {name: free_port() for name in ("v1", "v2", "unix", "endpoint", "without")}
    config = tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
    config.write_text(HAPROXY.format(**ports, port=places.port, path=places.path, to_endpoint=places.endpoint))
    process = subprocess.Popen([program, "-db", "-f", str(config)], stderr=subprocess.PIPE, text=True)
    try:

        def listens() -> bool:
            assert process.poll() is None, process.communicate()[1]
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", ports["without"])) == 0

        eventually(listens, "HAProxy listens")
        yield ports
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LIMIT_S)


@pytest.mark.parametrize(
    ("how", "source"),
    [
        ("v1", "127.0.0.3"),
        ("v1", "::1"),
        ("v2", "127.0.0.3"),
        ("v2", "::1"),
        ("unix", "127.0.0.3"),
        ("endpoint", "127.0.0.3"),
    ],
)
def test_haproxy_announces_its_client(haproxy: dict[str, int], how: str, source: str) -> None:
    with From(source, haproxy[how]) as wire:
        found = seen(wire)
        assert found["client"] == list(wire.socket.getsockname()[:2])
        assert found["server"] == ["::1" if ":" in source else "127.0.0.1", haproxy[how]]
        with connect("ws://test/", sock=From(source, haproxy[how]).socket) as client:
            assert json.loads(client.recv(LIMIT_S))["client"][0] == source


def test_haproxy_without_an_announcement_is_refused(haproxy: dict[str, int]) -> None:
    with From("127.0.0.3", haproxy["without"]) as wire:
        assert _nothing_more(wire.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"))


def test_its_health_checks_are_no_clients(haproxy: dict[str, int], places: Places) -> None:
    """Which are announced as the proxy's own connections, or say nothing at all."""
    with From("127.0.0.3", haproxy["v2"]) as wire:
        assert seen(wire)["client"][0] == "127.0.0.3"
    assert "Traceback" not in places.server.output
