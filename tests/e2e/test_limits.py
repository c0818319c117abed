"""Limits towards clients, and guards towards applications, across real processes."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.certificates import Certificates
from tests.e2e.running import APPS, LIMIT_S, Running, command_line, eventually
from tests.e2e.wire import Cut, Wire, handshake
from tests.front.fakes import BINARY, CONTINUATION, TEXT, frame

EDGES = ("run", "edges:app", "--workers", "1", "-b", "127.0.0.1", "-p", "0")
MIB = 1024 * 1024
#: The largest body that is allowed: more than the kernel keeps for both ends.
LARGEST = 8 * MIB
SHORT = ("--header-timeout", "1", "--body-timeout", "1", "--write-timeout", "1", "--keep-alive-timeout", "1")


@pytest.fixture(scope="module")
def strict() -> Iterator[Running]:
    """A server with little patience."""
    words = (*SHORT, "--max-body-bytes", str(LARGEST), "--no-websocket-compression")
    words += ("--allowed-origins", "https://www.example.com,https://two.example:8443")
    with Running(*EDGES, *words, app_dir=APPS) as server:
        yield server.ready()
        # Of those that come from one place within 10 s, one is told.
        server.tracebacks = server.output.count("Traceback (most recent call last)")


@pytest.fixture(scope="module")
def few() -> Iterator[Running]:
    """A server with room for few."""
    words = ("--max-connections", "4", "--max-connections-per-client", "2")
    with Running(*EDGES, *words, app_dir=APPS) as server:
        yield server.ready()


def wire(server: Running, source: str = "127.0.0.1") -> Wire:
    """A connection from that address."""
    opened = Wire.__new__(Wire)
    opened.socket = socket.create_connection(("127.0.0.1", server.port), 25, (source, 0))
    opened._file = opened.socket.makefile("rb")
    return opened


def resident_bytes(server: Running) -> int:
    """Memory of the interface server."""
    return int(Path("/proc", str(server.pid), "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def post(target: str, length: int, body: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (target.encode(), length, body)


# Time.


def test_a_head_that_does_not_end(strict: Running) -> None:
    with wire(strict) as client:
        reply = client.send(b"GET / HTTP/1.1\r\nhost:").receive()
        assert reply.status == 408
        assert client.closed()


@pytest.mark.parametrize("length", [1000, 100_000])
def test_a_body_that_stops(strict: Running, length: int, tmp_path: Path) -> None:
    report = tmp_path / "report"
    with wire(strict) as client:
        reply = client.send(post(f"/read?report={report}", length, b"x" * 500)).receive()
        assert reply.status == 408
        assert client.closed()
    if length > 64 * 1024:
        assert eventually(lambda: report.exists() and report.read_text(), "the application is told") == (
            "http.disconnect 500"
        )


def test_a_body_that_stops_behind_the_begin_of_its_response(strict: Running, tmp_path: Path) -> None:
    report = tmp_path / "report"
    with wire(strict) as client:
        client.send(post(f"/read?early&report={report}".replace("early", "early=1"), 100_000, b"x"))
        status, _, _ = client.head()
        assert (status, client.chunk()) == (200, b"early")
        with pytest.raises(Cut):
            client.chunk()
    assert eventually(lambda: report.exists() and report.read_text(), "the application is told") == "http.disconnect 1"


def test_a_body_that_we_do_not_read_is_not_late(strict: Running, tmp_path: Path) -> None:
    """Its application reads nothing yet, so that the windows are full."""
    report, gate = tmp_path / "report", tmp_path / "gate"
    with wire(strict) as client:
        head = post(f"/gate?report={report}&gate={gate}", LARGEST)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        client.send(head)
        eventually(report.exists, "the application has it")
        sent = _fill(client.socket, LARGEST)
        assert sent < LARGEST
        test_a_head_that_does_not_end(strict)  # which takes a second
        gate.touch()
        client.send(bytes(LARGEST - sent))
        assert client.receive().body == b"%d" % LARGEST


def _fill(sock: socket.socket, limit: int) -> int:
    """Send until nothing goes out any more; how much did."""
    sent = 0
    sock.settimeout(0.5)
    try:
        while sent < limit:
            sent += sock.send(bytes(min(65536, limit - sent)))
    except TimeoutError:
        pass
    sock.settimeout(LIMIT_S)
    return sent


def test_a_client_that_stops_reading_is_cut_and_a_slow_one_is_not(strict: Running, tmp_path: Path) -> None:
    stuck, slow = tmp_path / "stuck", tmp_path / "slow"
    with wire(strict) as one, wire(strict) as other:
        for client, report in ((one, stuck), (other, slow)):
            client.send(f"GET /flood?report={report} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            client.head()

        def gone() -> bool:
            assert other.read(65536)
            return stuck.exists()

        eventually(gone, "the one that does not read is cut")
        assert not slow.exists()
        kind, sent = stuck.read_text().split()
        assert kind == "ClientDisconnected"
        assert int(sent) < 20 * MIB
        assert other.read(MIB)
    assert eventually(lambda: slow.exists() and slow.read_text(), "the other has left").split()[0] == (
        "ClientDisconnected"
    )


def test_half_heads_of_clients_that_have_gone_fill_no_memory() -> None:
    """There are 15 MB of them at once."""
    half = b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"x" * 60_000
    with Running(*EDGES, app_dir=APPS) as server:
        server.ready()
        before = resident_bytes(server)
        for _ in range(8):
            with ExitStack() as stack:
                clients = [stack.enter_context(wire(server)) for _ in range(250)]
                for client in clients:
                    client.send(half)
                for client in clients:
                    client.socket.shutdown(socket.SHUT_WR)
                for client in clients:
                    client.rest()
        assert resident_bytes(server) - before < 32 * MIB


def test_requests_without_reading_the_answers_fill_no_memory(strict: Running) -> None:
    with wire(strict) as client:
        before = resident_bytes(strict)
        requests = b"GET /page HTTP/1.1\r\nhost: a\r\n\r\n" * 4000
        _send_some(client.socket, requests)
        assert resident_bytes(strict) - before < 30 * MIB


def _send_some(sock: socket.socket, data: bytes) -> None:
    """Send what goes out, until the connection is cut or nothing goes out for a while."""
    sock.settimeout(1.5)
    try:
        while data:
            data = data[sock.send(data[:65536]) :]
        sock.recv(1, socket.MSG_PEEK)
        # What it got is there; now wait for the end.
        while sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1:
            sock.send(b"\r\n")
    except OSError:
        pass


def test_an_idle_connection(strict: Running) -> None:
    with wire(strict) as client:
        assert client.get("/").status == 200
        assert client.closed()


# Sizes.


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post("/", LARGEST + 1), 413),
        (
            b"POST /read HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n" % (LARGEST + MIB)
            + bytes(LARGEST + MIB),
            413,
        ),
        (b"POST /read HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffe\r\n", 413),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 100 + b"\r\n", 431),
    ],
)
def test_what_is_too_large(strict: Running, request_: bytes, status: int) -> None:
    with wire(strict) as client:
        try:
            client.send(request_)
        except ConnectionError:
            pass  # refused before all of it was sent
        assert client.head()[0] == status


# Pipelines, and what is between requests.

CHUNKED = b"POST /read HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
GET = b"GET /page HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.mark.parametrize("pipeline", [[CHUNKED] * 34, [*[GET] * 65, CHUNKED, GET]])
def test_a_pipeline_is_answered_to_its_end(strict: Running, pipeline: list[bytes]) -> None:
    with wire(strict) as client:
        client.send(b"".join(pipeline))
        for request in pipeline:
            reply = client.receive()
            assert reply.status == 200
            assert request is GET or reply.body == b"3"


def test_trailers_say_nothing_about_the_connection(strict: Running) -> None:
    with wire(strict) as client:
        for trailer in (b"connection: close", b"connection: upgrade\r\nupgrade: h2c", b"host: b"):
            upload = CHUNKED[:-2] + trailer + b"\r\n\r\n"
            assert client.send(upload).receive().body == b"3"
        assert client.get("/page").status == 200


def test_close_wins_over_keep_alive(strict: Running) -> None:
    with wire(strict) as client:
        assert client.get("/page", "connection: keep-alive", version="1.0").header("connection") == "keep-alive"
        assert client.get("/page", "connection: keep-alive, close", version="1.0").header("connection") == "close"
        assert client.closed()


def test_many_empty_lines_before_a_request(strict: Running) -> None:
    with wire(strict) as client:
        assert client.send(b"\r\n" * 4).get("/page").status == 200
        assert client.send(b"\r\n" * 5).receive().status == 400
        assert client.closed()


# Connections.


def turned_away(server: Running, source: str) -> bool:
    """Whether a further connection from there is answered 503, with all that belongs to it."""
    with wire(server, source) as client:
        try:
            reply = client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").receive()
        except BrokenPipeError:
            reply = client.receive()
        if reply.status == 200:
            return False
        assert (reply.status, reply.header("retry-after"), reply.header("connection")) == (503, "1", "close")
        assert client.closed()
        return True


def test_connections_of_one_client_and_in_all(few: Running) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(wire(few))
        assert first.get("/").status == 200
        socket_ = stack.enter_context(wire(few))
        assert socket_.send(handshake("/")).head()[0] == 101
        assert turned_away(few, "127.0.0.1")
        assert not turned_away(few, "127.0.0.2")
        for _ in range(2):
            assert stack.enter_context(wire(few, "127.0.0.2")).get("/").status == 200
        assert turned_away(few, "127.0.0.3")
        few.said(r"turning clients away with 503: a client has 2 connections")
        few.said(r"turning clients away with 503: there are 4 connections")
    eventually(lambda: not turned_away(few, "127.0.0.1"), "there is room again")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls", "ssl:", "proxy"])
def test_when_files_run_out_clients_are_turned_away_until_there_are_some(kind: str, tmp_path: Path) -> None:
    """However they are listened for."""
    with ExitStack() as stack:
        files = stack.enter_context(Certificates("localhost"))
        certificate, key = files.path("server.pem"), files.path("server.key")
        path = str(tmp_path / "s")
        words = {
            "tcp": ("-p", "0"),
            "unix": ("--unix", path),
            "tls": ("-p", "0", "--certfile", certificate, "--keyfile", key),
            "ssl:": ("-e", f"ssl:{free_port()}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"),
            "proxy": ("-p", "0", "--proxy-protocol", "--proxy-protocol-networks", "127.0.0.1"),
        }[kind]
        command = command_line("run", "edges:app", "--workers", "1", *words, "--app-dir", str(APPS))
        server = stack.enter_context(Running(["bash", "-c", 'ulimit -n 100 && exec "$@"', "bash", *command]))
        server.ready()
        where: tuple[str, int] | str = path
        if kind == "ssl:":
            where = ("127.0.0.1", int(server.said(r"listening on ssl:(\d+)")[1]))
        elif kind != "unix":
            where = ("127.0.0.1", server.port)
        with ExitStack() as clients:
            for _ in range(150):
                with contextlib.suppress(ConnectionResetError):
                    clients.enter_context(Wire(where))
            server.said("turning clients away with 503: this process may have no more than 100 files and sockets open")
            server.said(r"raise the limit, LimitNOFILE= of systemd or ulimit -n, or lower max_connections")
            assert server.workers()

        def answered() -> bool:
            client = stack.enter_context(Wire(where))
            if kind in ("tls", "ssl:"):
                context = ssl.create_default_context(cafile=files.path("ca.pem"))
                client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
            if kind == "proxy":
                client.socket.sendall(b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 80\r\n")
            client.socket.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            got = client.socket.recv(1000)
            client.socket.close()
            return got.startswith(b"HTTP/1.1 200")

        def answered_again() -> bool:
            try:
                return answered()
            except OSError:
                return False  # those before it have not left yet

        eventually(answered_again, "there is room again")
        assert server.output.count("turning clients away") == 1


def test_handshakes_that_do_not_begin_count_and_end() -> None:
    """Connections without a byte, where TLS is spoken."""
    with Certificates("localhost") as files, ExitStack() as stack:
        words = ("--certfile", files.path("server.pem"), "--keyfile", files.path("server.key"))
        server = stack.enter_context(Running(*EDGES, *words, "--max-connections", "20", app_dir=APPS))
        server.ready()
        clients = []
        for _ in range(300):
            clients.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), LIMIT_S)))
        server.said(r"turning clients away with 503: there are 20 connections")
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
        context = ssl.create_default_context(cafile=files.path("ca.pem"))
        with socket.create_connection(("127.0.0.1", server.port), LIMIT_S) as plain:
            client = stack.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_one_too_many_is_answered_over_tls_as_well() -> None:
    with Certificates("localhost") as files, ExitStack() as stack:
        words = ("--certfile", files.path("server.pem"), "--keyfile", files.path("server.key"))
        server = stack.enter_context(Running(*EDGES, *words, "--max-connections", "1", app_dir=APPS))
        server.ready()
        context = ssl.create_default_context(cafile=files.path("ca.pem"))
        clients = []
        for _ in range(2):
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), LIMIT_S))
            clients.append(stack.enter_context(context.wrap_socket(plain, server_hostname="localhost")))
        assert clients[1].recv(1000).startswith(b"HTTP/1.1 503")


def test_fewer_files_than_connections_are_told_of() -> None:
    words = command_line("serve", "--cluster", "none=redis+unix:///nowhere", "-p", "0", "--max-connections", "900")
    with Running(["bash", "-c", 'ulimit -n 600 && exec "$@"', "bash", *words]) as server:
        server.said(r"max_connections is 900, but no more than 600 files may be open")
    with Running(["bash", "-c", 'ulimit -S -n 600 && exec "$@"', "bash", *words]) as server:
        server.said("listening on")
        limits = Path("/proc", str(server.pid), "limits").read_text()
        allowed = re.search(r"Max open files +(\d+) ", limits)
        assert allowed is not None
        assert int(allowed[1]) >= 900 + 1024  # and those that are sent


# WebSockets.


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("https://www.example.com", True),
        ("https://two.example:8443", True),
        ("https://two.example", False),
        ("http://www.example.com", False),
        ("null", False),
    ],
)
def test_the_origin_of_a_websocket(strict: Running, origin: str | None, allowed: bool) -> None:
    with ExitStack() as stack:
        if not allowed:
            refused = stack.enter_context(pytest.raises(InvalidStatus))
        stack.enter_context(connect(f"ws://127.0.0.1:{strict.port}/", origin=origin))  # type: ignore[arg-type]
    if not allowed:
        assert refused.value.response.status_code == 403


def test_compression_can_be_switched_off(strict: Running, few: Running) -> None:
    for server, negotiated in ((strict, False), (few, True)):
        with connect(f"ws://127.0.0.1:{server.port}/", compression="deflate") as client:
            assert client.response is not None
            assert ("sec-websocket-extensions" in client.response.headers) is negotiated


def test_subprotocols_keep_their_order(strict: Running) -> None:
    offered = ["zebra", "ant", "mole"]
    with connect(f"ws://127.0.0.1:{strict.port}/", subprotocols=offered) as client:  # type: ignore[arg-type]
        assert client.subprotocol == "zebra"
        assert '"subprotocols": ["zebra", "ant", "mole"]' in str(client.recv(LIMIT_S))


def test_a_bomb_is_stopped_at_the_limit(few: Running) -> None:
    """A GiB in one MiB."""
    deflate = zlib.compressobj(9, wbits=-15)
    # What is flushed fully can be repeated.
    bomb = (deflate.compress(bytes(MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)) * 1024
    # In several frames, each of which is allowed.
    size = 200_000
    starts = range(0, len(bomb), size)
    with connect(f"ws://127.0.0.1:{few.port}/", compression="deflate") as client:
        client.recv(LIMIT_S)
        before = resident_bytes(few)
        for start in starts:
            piece = bomb[start : start + size]
            opcode, rsv = (BINARY, 4) if start == 0 else (CONTINUATION, 0)
            try:
                client.socket.sendall(frame(opcode, piece, fin=start == starts[-1], rsv=rsv))
            except OSError:
                break
        with pytest.raises(ConnectionClosed):
            client.recv(LIMIT_S)
        assert client.close_code == 1009
        assert resident_bytes(few) - before < 20 * MIB


def test_what_is_compressed_stays_so_until_the_application_takes_it(few: Running) -> None:
    """Each of these messages is allowed, and all of them are read at once."""
    deflate = zlib.compressobj(9, wbits=-15)
    message = deflate.compress(bytes(MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
    with connect(f"ws://127.0.0.1:{few.port}/", compression="deflate") as client:
        client.recv(LIMIT_S)
        before = resident_bytes(few)
        # The application sends them back, and nobody reads that: so it stops to take them.
        client.socket.sendall(frame(BINARY, message[:-4], rsv=4) * 200)
        with wire(few) as bystander:
            for _ in range(20):
                bystander.get("/")
        assert resident_bytes(few) - before < 40 * MIB


def test_frames_of_one_message_are_bounded(few: Running) -> None:
    with connect(f"ws://127.0.0.1:{few.port}/") as client:
        client.recv(LIMIT_S)
        empty = frame(CONTINUATION, b"", fin=False)
        client.socket.sendall(frame(TEXT, b"a", fin=False) + empty * 65_535 + frame(CONTINUATION, b"b"))
        assert client.recv(LIMIT_S) == "ab"
        client.socket.sendall(frame(TEXT, b"a", fin=False) + empty * 65_537)
        with pytest.raises(ConnectionClosed):
            client.recv(LIMIT_S)
        assert client.close_code == 1009


# Responses.

#: How each ends: a status; ``cut``; ``full``, where the client has got all that Content-Length promised before the
#: application went wrong, so that nothing is wrong for the client.
GUARDED = {
    "cr": 500, "lf": 500, "crlf": 500, "nul": 500, "name": 500, "name-colon": 500, "name-empty": 500, "name-crlf": 500,
    "text": 500, "status-0": 500, "status-99": 500, "status-100": 500, "status-101": 500, "status-600": 500,
    "status-text": 500, "length-none": 500, "length-signed": 500, "length-two": 500, "longer": 500, "shorter": 500,
    "longer-late": "full", "shorter-late": "cut", "twice": 200, "twice-begun": "cut", "body-first": 500,
    "body-text": 500, "unknown": 500,
}  # fmt: skip


@pytest.mark.parametrize(("how", "expected"), GUARDED.items())
def test_what_no_application_may_send(strict: Running, how: str, expected: int | str, tmp_path: Path) -> None:
    """An exception in the application, and an honest answer; the connection is never left in confusion."""
    report = tmp_path / "report"
    with wire(strict) as client:
        target = f"/bad?how={how}&report={report}"
        if expected == "cut":
            with pytest.raises(Cut):
                client.get(target)
        else:
            reply = client.get(target)
            assert not {name for name, _ in reply.headers} & {"x", "y", "set-cookie"}
            if expected == "full":
                assert (reply.status, reply.body) == (200, b"abc")
            else:
                assert reply.status == expected
            assert client.get("/").status == 200
    # It must have been raised by `send`.
    assert eventually(lambda: report.exists() and report.read_text(), "the application was told") == "ApplicationError"


def test_the_cases_are_those_of_the_application() -> None:
    from tests.e2e import edges

    assert set(edges.BAD) == set(GUARDED)
