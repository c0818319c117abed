"""What holds no slot of a worker: clients that send slowly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.running import APPS, Running
from tests.e2e.wire import Wire

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
