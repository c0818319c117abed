"""``ifserver run``: HTTP and WebSocket as clients see them, and how requests are spread over the workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from websockets.sync.client import connect

from tests.e2e.running import APPS, LIMIT_S, Gate, Running, eventually
from tests.e2e.wire import Cut, Wire, close_of, handshake

BYTES = bytes(range(256)) * 4096  # 1 MiB, every value


@pytest.fixture(scope="module")
def zoo() -> Iterator[Running]:
    with Running("run", "zoo:app", "-p", "0", "--workers", "2", app_dir=APPS) as server:
        yield server.ready()


@pytest.fixture(scope="module")
def narrow() -> Iterator[Running]:
    """Each of two workers works on one request at a time."""
    with Running("run", "zoo:app", "-p", "0", "--workers", "2", "--concurrency", "1", app_dir=APPS) as server:
        yield server.ready()


class Odd(NamedTuple):
    """A server that is told to do everything in another way."""

    server: Running
    access_log: Path


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    log = tmp_path_factory.mktemp("odd") / "access.log"
    where = ("-p", "0", "--root-path", "/sub", "--no-server-name", "--access-log", str(log), "--proxy-headers")
    with Running("run", "zoo:app", *where, "--workers", "1", "--max-streams", "3", app_dir=APPS) as server:
        yield Odd(server.ready(), log)


@pytest.fixture
def wire(zoo: Running) -> Iterator[Wire]:
    with Wire(("127.0.0.1", zoo.port)) as wire:
        yield wire


def socket_url(server: Running, path: str) -> str:
    return server.url.replace("http", "ws", 1) + path


def test_a_page(zoo: Running) -> None:
    response = httpx.get(zoo.url)
    assert response.status_code == 200
    assert int(response.text) in zoo.workers()
    assert response.headers["server"] == "ifserver"
    assert response.headers["content-length"] == str(len(response.text))
    assert "date" in response.headers


def test_the_start_says_what_listens_where_and_with_how_many_workers(zoo: Running) -> None:
    zoo.said(r"listening on http://127\.0\.0\.1:\d+$")
    zoo.said(r"starting 2 workers$")
    zoo.said(r"2 workers run zoo:app \(ASGI, up to 100 requests at a time each\)")


def test_a_healthy_start_and_end_warn_of_nothing_even_where_somebody_asks_at_once(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(2.5)\nfrom zoo import app\n")
    arguments = ("run", "slow:app", "-p", "0", "--workers", "1")
    with Running(*arguments, app_dir=tmp_path, environment={"PYTHONPATH": str(APPS)}) as server:
        server.said("listening on")
        with ThreadPoolExecutor() as pool:
            asked = [pool.submit(httpx.get, server.url, timeout=60) for _ in range(20)]
            assert {each.result().status_code for each in asked} == {200}
        os.killpg(server.pid, signal.SIGINT)
        server.ended()
        assert "waiting for the first worker" in server.output
        assert "WARNING" not in server.output
        assert server.output.count("stopping") == 1, "one for all processes"


def test_who_asks_before_the_application_has_failed_to_load_is_answered_and_holds_up_nothing(tmp_path: Path) -> None:
    gate = tmp_path / "asked"
    (tmp_path / "late.py").write_text(
        "import os, time\n"
        f"while not os.path.exists({str(gate)!r}):\n    time.sleep(0.01)\n"
        "raise RuntimeError('no database')\n"
    )
    arguments = ("run", "late:app", "-p", "0", "--workers", "1", "--queue-timeout", "1h")
    with Running(*arguments, app_dir=tmp_path, status=2) as server, ThreadPoolExecutor() as pool:
        asked = pool.submit(httpx.get, server.url, timeout=60)
        server.said("waiting for the first worker")
        gate.touch()
        assert asked.result().status_code == 503
        server.ended()
        assert "killed" not in server.output
        assert server.output.splitlines()[-1].startswith("ifserver: error: application 'late:app': RuntimeError: no")


def test_the_start_says_how_a_wsgi_application_runs_and_that_clusters_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("def app(environ, start_response):\n    raise NotImplementedError\n")
    (tmp_path / "ifserver.toml").write_text('[clusters]\nmain = ["redis://127.0.0.1:1"]\n')
    with Running("run", "plain:app", "-p", "0", "--workers", "1", cwd=tmp_path) as server:
        server.ready()
        server.said(r"1 worker runs plain:app \(WSGI, 8 threads\)")
        server.said(r"WARNING .* \[clusters\] \(.*ifserver.toml:1\) is not used: .* serve and ifserver worker")


def test_head_has_the_fields_and_no_body(wire: Wire) -> None:
    head, get = wire.get("/status?body=abc", method="HEAD"), wire.get("/status?body=abc")
    assert (head.status, head.body, get.body) == (200, b"", b"abc")
    assert head.header("etag") == get.header("etag") == '"x"'


@pytest.mark.parametrize("status", [204, 205, 304])
def test_a_status_without_a_body_leaves_the_connection_in_step(wire: Wire, status: int) -> None:
    assert wire.get(f"/status?status={status}&body=dropped").status == status
    assert wire.get("/status?body=next").body == b"next"


def test_a_response_without_a_length_is_chunked(wire: Wire) -> None:
    reply = wire.get("/stream")
    assert (reply.framing, reply.body) == ("chunked", b"one,two,three")
    assert wire.get("/status?body=next").body == b"next"


def test_a_chunked_request_is_echoed(zoo: Running) -> None:
    pieces = [b"a", b"", b"b" * 70_000, b"c" * 200_000]
    response = httpx.post(f"{zoo.url}/echo", content=iter(pieces))
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.content == b"".join(pieces)


@pytest.mark.parametrize("path", ["/echo", "/whole"])
def test_a_mebibyte_is_echoed(zoo: Running, path: str) -> None:
    response = httpx.post(zoo.url + path, content=BYTES)
    assert response.headers.get("content-length") == (str(len(BYTES)) if path == "/echo" else None)
    assert response.content == BYTES


def test_sixteen_mebibytes_are_streamed(zoo: Running) -> None:
    with httpx.stream("GET", f"{zoo.url}/large?pieces=256") as response:
        assert sum(len(piece) for piece in response.iter_raw()) == 256 * 65536


@pytest.mark.parametrize("length", [10, 100_000])
def test_a_client_that_expects_100_is_told_to_go_on(wire: Wire, length: int) -> None:
    head = f"POST /whole HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
    assert wire.send(head.encode()).receive().status == 100
    reply = wire.send(b"x" * length).receive()
    assert (reply.status, reply.body) == (200, b"x" * length)


def test_pipelined_requests_are_answered_in_order(wire: Wire, gate: Gate) -> None:
    targets = [f"/wait?gate={gate}", *(f"/status?body={i}" for i in range(10))]
    wire.send("".join(f"GET {target} HTTP/1.1\r\nhost: test\r\n\r\n" for target in targets).encode())
    gate.reached()
    gate.open()
    assert wire.receive().body.isdigit()
    assert [wire.receive().body for _ in range(10)] == [str(i).encode() for i in range(10)]


def test_http_1_0(wire: Wire) -> None:
    reply = wire.get("/status?body=abc", version="1.0")
    assert (reply.body, reply.header("connection")) == (b"abc", "close")
    assert wire.closed()


def test_http_1_0_is_kept_alive_on_request(wire: Wire) -> None:
    assert wire.get("/status?body=abc", "connection: keep-alive", version="1.0").header("connection") == "keep-alive"
    reply = wire.get("/stream", "connection: keep-alive", version="1.0")
    assert (reply.framing, reply.body) == ("close", b"one,two,three")


def test_keep_alive_and_its_end(wire: Wire) -> None:
    for _ in range(3):
        assert wire.get("/").header("connection") is None
    assert wire.get("/", "connection: close").header("connection") == "close"
    assert wire.closed()


def test_a_bad_request_never_reaches_the_application(wire: Wire) -> None:
    assert wire.send(b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").receive().status == 400
    assert wire.closed()


def test_websocket_text_binary_and_subprotocol(zoo: Running) -> None:
    with connect(socket_url(zoo, "/ws"), subprotocols=["a", "b"]) as client:  # type: ignore[list-item]
        assert client.subprotocol == "b"
        assert client.response is not None
        assert int(client.response.headers["x-pid"]) in zoo.workers()
        for message in ("text", "", "é\N{SNOWMAN}", b"", BYTES[:256], BYTES):
            client.send(message)
            assert client.recv(LIMIT_S) == message


def test_both_workers_are_used(zoo: Running) -> None:
    with httpx.Client() as client:
        seen: set[str] = set()
        eventually(lambda: seen.add(client.get(zoo.url).text) or len(seen) == 2, "an answer of each worker")
    assert sorted(map(int, seen)) == zoo.workers()


def test_the_application_raises(zoo: Running, wire: Wire) -> None:
    assert wire.get("/fails").status == 500
    assert wire.get("/status?body=next").body == b"next"
    zoo.tracebacks += 1
    zoo.said(r"ERROR .* GET '/fails' \(!local\.\w+\.\w+\): the application has raised")
    zoo.said("RuntimeError: before the start")


def test_the_application_raises_in_the_middle(zoo: Running, wire: Wire) -> None:
    with pytest.raises(Cut):
        wire.get("/fails-late")
    zoo.tracebacks += 1
    zoo.said("RuntimeError: after the start")


@pytest.mark.parametrize("compression", ["deflate", None])
def test_an_application_may_send_more_than_clients_may(zoo: Running, compression: str | None) -> None:
    with connect(f"ws://127.0.0.1:{zoo.port}/large", compression=compression, max_size=None) as client:
        assert [client.recv(LIMIT_S), client.recv(LIMIT_S)] == ["large!" * 500_000, b"large!" * 500_000]
        client.send(b"x" * 3_000_000)
        assert close_of(client)[0] == 1009


def test_the_application_raises_in_a_websocket(zoo: Running) -> None:
    with connect(socket_url(zoo, "/fails-late")) as client:
        assert close_of(client) == (1011, "")
    zoo.tracebacks += 1
    zoo.said("RuntimeError: after the accept")


def test_the_application_says_nothing(zoo: Running, wire: Wire) -> None:
    assert wire.get("/returns").status == 500
    zoo.said(r"GET '/returns' \(!local\.\w+\.\w+\): the application has returned")


@pytest.mark.parametrize("kind", ["wait", "block"])
def test_a_slow_request_does_not_stand_before_a_fast_one(
    narrow: Running, pool: ThreadPoolExecutor, kind: str, gate: Gate
) -> None:
    slow = pool.submit(httpx.get, f"{narrow.url}/{kind}?gate={gate}", timeout=LIMIT_S)
    [busy] = gate.reached()
    answers = list(pool.map(lambda _: httpx.get(narrow.url, timeout=LIMIT_S).text, range(20)))
    assert len(set(answers)) == 1
    assert int(answers[0]) != busy
    assert not slow.done()
    gate.open()
    assert int(slow.result().text) == busy


def test_open_websockets_leave_pages_answered(narrow: Running) -> None:
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(("127.0.0.1", narrow.port))) for _ in range(200)]
        for wire in wires:
            wire.send(handshake("/ws"))
        assert {wire.head()[0] for wire in wires} == {101}
        with httpx.Client() as client:
            assert {client.get(narrow.url).status_code for _ in range(20)} == {200}


def test_max_streams_bounds_all_that_a_worker_holds(odd: Odd) -> None:
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(("127.0.0.1", odd.server.port))) for _ in range(4)]
        held = []
        for wire in wires[:3]:
            held.append(dict(wire.send(handshake("/ws")).head()[2])["x-held"])
        wires[3].send(handshake("/ws"))
        # Masked, with the code 1000.
        wires[0].send(b"\x88\x82\0\0\0\0\x03\xe8")
        held.append(dict(wires[3].head()[2])["x-held"])
        assert held == ["1", "2", "3", "3"]


def test_the_access_log(odd: Odd) -> None:
    httpx.get(f"{odd.server.url}/status?body=abc", headers={"user-agent": 'a"b', "referer": "r"})
    end = r'] "GET /status?body=abc HTTP/1.1" 200 3 "r" "a\"b"'
    [line] = eventually(lambda: [line for line in odd.access_log.read_text().splitlines() if end in line], "its line")
    assert line.startswith("127.0.0.1 - - [")
    assert line.endswith(end)


def test_the_root_path_proxies_and_no_server_header(odd: Odd) -> None:
    headers = {"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https"}
    response = httpx.get(f"{odd.server.url}/show", headers=headers)
    assert "server" not in response.headers
    shown = response.json()
    # ASGI www.rst: `path` and `raw_path` begin with `root_path`.
    assert (shown["root_path"], shown["path"], shown["raw_path"]) == ("/sub", "/sub/show", "/sub/show")
    assert (shown["client"], shown["scheme"]) == ("192.0.2.7", "https")


def test_the_close_code_reaches_the_application(zoo: Running, tmp_path: Path) -> None:
    report = tmp_path / "report"
    with connect(socket_url(zoo, f"/report?report={report}")) as client:
        client.close(4321, "enough")
    eventually(report.exists, "the application was told")
    assert report.read_text() == '[4321, "enough"]'


def test_a_client_that_is_gone_is_told_as_1006(zoo: Running, tmp_path: Path) -> None:
    report = tmp_path / "report"
    with Wire(("127.0.0.1", zoo.port)) as wire:
        assert wire.send(handshake(f"/report?report={report}")).head()[0] == 101
    eventually(report.exists, "the application was told")
    assert report.read_text() == '[1006, ""]'


def test_many_connections_at_once(zoo: Running) -> None:
    start = threading.Barrier(20)

    def client(number: int) -> list[bytes]:
        body = os.urandom(1000 * number)
        start.wait()
        with httpx.Client(timeout=LIMIT_S) as http:
            return [body] if all(http.post(f"{zoo.url}/whole", content=body).content == body for _ in range(5)) else []

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(client, range(20)))
