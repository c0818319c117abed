"""Workers that are killed or frozen: what their clients see, and that nobody else notices."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.e2e.running import APPS, LIMIT_S, Gate, Running, eventually, frozen
from tests.e2e.wire import Cut, Wire, close_of

#: An answer that tells of a worker's death is there within 0.1 s; this much is granted on a busy machine.
SOON_S = 3.0


@pytest.fixture
def zoo() -> Iterator[Running]:
    """Two workers, new for each test: those that die in a row are replaced more and more slowly."""
    with Running("run", "zoo:app", "-p", "0", "--workers", "2", app_dir=APPS) as server:
        yield server.ready()


@pytest.fixture
def wire(zoo: Running) -> Iterator[Wire]:
    with Wire(("127.0.0.1", zoo.port)) as wire:
        yield wire


def test_a_get_is_answered_by_another_worker(zoo: Running, wire: Wire, gate: Gate) -> None:
    wire.send(f"GET /wait?gate={gate} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    [first] = gate.reached()
    os.kill(first, signal.SIGKILL)
    [_, second] = gate.reached(2)
    assert second != first
    gate.open()
    reply = wire.receive()
    assert (reply.status, reply.body) == (200, str(second).encode())
    zoo.said(rf"worker {first} was killed \(SIGKILL\); its 1 request or WebSocket goes to another worker")
    assert wire.get("/").status == 200


def test_a_get_is_offered_once_more_and_not_for_ever(wire: Wire, gate: Gate) -> None:
    wire.send(f"GET /wait?gate={gate} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    for times in (1, 2):
        os.kill(gate.reached(times)[-1], signal.SIGKILL)
    assert wire.receive().status == 502
    assert len(gate.arrivals()) == 2


def test_a_get_that_its_worker_has_not_read_in_time_runs_once(zoo: Running, gate: Gate) -> None:
    """Its worker is blocked or frozen, so that it is offered once more. The other one is, too, until then."""
    gate.open()
    workers = zoo.workers()
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(("127.0.0.1", zoo.port))) for _ in range(4)]
        # Whoever answers this asks for the next request, for a second.
        assert wires[0].get("/").status == 200
        with frozen(*workers):
            for wire in wires:
                wire.send(f"GET /wait?gate={gate} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            zoo.said("offered to another worker: the worker that took it has not begun it")
        assert [wire.receive().status for wire in wires] == [200] * 4
    assert len(gate.arrivals()) == 4
    zoo.said(r"the event loop was blocked .*: \d requests? .* to the queue")


def test_a_post_is_answered_with_502_at_once(zoo: Running, tmp_path: Path) -> None:
    for size in (0, 200_000):
        gate = Gate(tmp_path / f"gate-{size}")
        with Wire(("127.0.0.1", zoo.port)) as wire:
            head = f"POST /wait?gate={gate} HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n"
            wire.send(head.encode() + bytes(size))
            [worker] = gate.reached()
            os.kill(worker, signal.SIGKILL)
            killed = time.monotonic()
            assert wire.receive().status == 502
            assert time.monotonic() - killed < SOON_S
            assert gate.arrivals() == [worker]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_behind_a_complete_response_no_request_notices(zoo: Running, wire: Wire, tmp_path: Path, method: str) -> None:
    """The application has not ended it when its client already sends the next request."""
    gate, next_gate = Gate(tmp_path / "gate"), Gate(tmp_path / "next")
    reply = wire.get(f"/complete?gate={gate}", method=method)
    assert (reply.status, reply.body) == (200, b"done" if method == "GET" else b"")
    [worker] = gate.reached()
    assert wire.get("/").status == 200
    wire.send(f"GET /wait?gate={next_gate} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    next_gate.reached()
    os.kill(worker, signal.SIGKILL)
    zoo.said(rf"worker {worker} was killed \(SIGKILL\)")
    zoo.said(r"the client has its whole response, but the application has not ended it: .* has died")
    next_gate.open()
    assert wire.receive().status == 200


def test_an_application_may_end_a_complete_response_later(zoo: Running, wire: Wire, tmp_path: Path) -> None:
    """Also when its client has left: that its last, empty event fails would be seen in the log."""
    gates = [Gate(tmp_path / name) for name in ("stays", "leaves")]
    with Wire(("127.0.0.1", zoo.port)) as leaving:
        for each, gate in zip((wire, leaving), gates, strict=True):
            assert each.get(f"/complete?gate={gate}").body == b"done"
            gate.reached()
    for gate in gates:
        gate.open()
    assert wire.get("/").status == 200


def test_half_a_response_is_cut_and_does_not_look_whole(zoo: Running, tmp_path: Path) -> None:
    # Chunked, with a Content-Length, and until the connection is closed.
    for version, length in (("1.1", ""), ("1.1", "100"), ("1.0", "")):
        gate = Gate(tmp_path / f"gate-{version}-{length}")
        with Wire(("127.0.0.1", zoo.port)) as wire:
            wire.send(f"GET /half?gate={gate}&length={length} HTTP/{version}\r\nhost: a\r\n\r\n".encode())
            assert wire.head()[0] == 200
            [worker] = gate.reached()
            assert wire.read(1) != b""
            os.kill(worker, signal.SIGKILL)
            killed = time.monotonic()
            with pytest.raises(Cut):
                wire.rest()
            assert time.monotonic() - killed < SOON_S


def test_its_websockets_are_closed_with_1012_and_others_stay_open(zoo: Running) -> None:
    url = zoo.url.replace("http", "ws", 1) + "/ws"
    with ExitStack() as stack:
        clients: dict[int, list[ClientConnection]] = {}
        while len(clients) < 2 or any(len(held) < 2 for held in clients.values()):
            client = stack.enter_context(connect(url))
            assert client.response is not None
            clients.setdefault(int(client.response.headers["x-pid"]), []).append(client)
            assert sum(map(len, clients.values())) < 200
        killed, *others = clients
        os.kill(killed, signal.SIGKILL)
        at = time.monotonic()
        assert {close_of(client)[0] for client in clients[killed]} == {1012}
        assert time.monotonic() - at < SOON_S
        for client in [client for other in others for client in clients[other]]:
            client.send("still here?")
            assert client.recv(LIMIT_S) == "still here?"


def test_all_workers_are_killed_while_they_wait(zoo: Running, wire: Wire) -> None:
    wire.get("/")
    workers = zoo.workers()
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    # The same connection, and at once: one that is just being killed may take the request along, unheard of.
    assert int(wire.get("/").body) not in workers


def test_requests_under_load_are_all_answered(zoo: Running, pool: ThreadPoolExecutor) -> None:
    def client(_: int) -> list[int]:
        with httpx.Client(timeout=LIMIT_S) as http:
            return [http.get(f"{zoo.url}/status?body={i}").status_code for i in range(40)]

    running = [pool.submit(client, number) for number in range(8)]
    os.kill(zoo.workers()[0], signal.SIGKILL)
    assert [code for each in running for code in each.result()] == [200] * 320


@pytest.mark.parametrize("whom", ["all workers", "their fork server"])
def test_all_that_die_at_once_cost_no_get_its_answer(zoo: Running, pool: ThreadPoolExecutor, whom: str) -> None:
    """One that had it is dead, and the next that takes it dies in the same moment, unheard of."""

    def client(_: int) -> list[tuple[int, float]]:
        with httpx.Client(timeout=LIMIT_S) as http:
            answers = [http.get(f"{zoo.url}/status?body={i}") for i in range(40)]
        return [(answer.status_code, answer.elapsed.total_seconds()) for answer in answers]

    running = [pool.submit(client, number) for number in range(8)]
    victims = zoo.workers() if whom == "all workers" else zoo.fork_servers()
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    answers = [answer for each in running for answer in each.result()]
    assert {status for status, _ in answers} == {200}
    # Nobody knows for 2 to 3 s who had it, and then there must be workers again.
    assert max(took_s for _, took_s in answers) < 20.0


def test_a_frozen_worker_keeps_only_its_own_clients_waiting(zoo: Running, pool: ThreadPoolExecutor, gate: Gate) -> None:
    with Wire(("127.0.0.1", zoo.port)) as held:
        held.send(f"POST /wait?gate={gate} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n".encode())
        [frozen] = gate.reached()
        os.kill(frozen, signal.SIGSTOP)
        try:
            # It has one read outstanding, which takes one request at most (or eight that come at once).
            answers = [pool.submit(httpx.get, f"{zoo.url}/status?body={i}", timeout=LIMIT_S) for i in range(8)]
            eventually(lambda: any(answer.done() for answer in answers), "the other worker answers")
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert {answer.result().status_code for answer in answers} == {200}
        gate.open()
        assert held.receive().body == str(frozen).encode()
