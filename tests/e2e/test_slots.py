"""What holds no slot of a worker: clients that send slowly, and event sources that say nothing yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.running import APPS, Gate, Running
from tests.e2e.wire import Wire, handshake

TIMEOUT_S = 2.0
#: Slots of all workers together, and clients that would take them all if they held one each.
CONCURRENCY = 4
CLIENTS = 20
LENGTH = 200_000
UPLOAD = f"POST /whole HTTP/1.1\r\nhost: test\r\ncontent-length: {LENGTH}\r\n\r\n".encode()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    patience = ("--queue-timeout", f"{TIMEOUT_S}s", "--response-timeout", f"{TIMEOUT_S}s")
    workers = ("--workers", "2", "--concurrency", str(CONCURRENCY // 2))
    with Running("run", "zoo:app", "-p", "0", *workers, *patience, app_dir=APPS) as running:
        yield running.ready()


def wire(server: Running, stack: ExitStack) -> Wire:
    return stack.enter_context(Wire(("127.0.0.1", server.port)))


def test_uploads_that_stand_still_keep_nobody_waiting_and_go_on(server: Running) -> None:
    with ExitStack() as stack:
        uploads = [wire(server, stack).send(UPLOAD + b"x" * 100) for _ in range(CLIENTS)]
        other = wire(server, stack)
        for _ in range(CLIENTS):
            assert other.get("/").status == 200
        # All the uploads go on at once, which makes more work than there are slots.
        for each in uploads:
            each.send(b"x" * (LENGTH - 200))
        for _ in range(CLIENTS):
            assert other.get("/").status == 200
        for each in uploads:
            each.send(b"x" * 100)
        for each in uploads:
            reply = each.receive()
            assert (reply.status, len(reply.body)) == (200, LENGTH)
        assert other.get("/").status == 200


def test_the_head_of_an_event_source_that_says_nothing_is_seen_and_holds_no_slot(server: Running, gate: Gate) -> None:
    with ExitStack() as stack:
        sources = [wire(server, stack) for _ in range(CLIENTS)]
        for each in sources:
            status, _, headers = each.send(f"GET /source?gate={gate} HTTP/1.1\r\nhost: test\r\n\r\n".encode()).head()
            assert (status, dict(headers)["transfer-encoding"]) == (200, "chunked")
        # Longer than a response may take to begin: these have begun.
        other = Gate(gate.path.with_name("other"))
        assert wire(server, stack).get(f"/wait?gate={other}").status == 504
        other.open()
        gate.open()
        for each in sources:
            assert each.chunks() == b"data: x\n\n"
            assert each.get("/").status == 200, "the connection goes on"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_head_that_leaves_early_is_framed_as_its_client_needs_it(
    server: Running, gate: Gate, method: str, version: str
) -> None:
    with ExitStack() as stack:
        client = wire(server, stack)
        client.send(f"{method} /source?gate={gate} HTTP/{version}\r\nhost: test\r\n\r\n".encode())
        status, _, headers = client.head()
        fields = dict(headers)
        assert (status, fields["content-type"]) == (200, "text/event-stream")
        gate.open()
        if version == "1.0":
            assert fields["connection"] == "close"
            assert client.rest() == (b"" if method == "HEAD" else b"data: x\n\n")
        elif method == "GET":
            assert client.chunks() == b"data: x\n\n"


def test_a_handshake_that_is_denied_slowly_is_answered_at_once(server: Running, gate: Gate) -> None:
    with ExitStack() as stack:
        client = wire(server, stack)
        status, _, _ = client.send(handshake(f"/deny-late?gate={gate}")).head()
        assert status == 403
        gate.open()
        assert client.read(2) == b"no"
