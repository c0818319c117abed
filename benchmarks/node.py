"""Throughput of one node: ``python -m benchmarks.node``.

Senders and readers in one process, and a Redis beside it: what the channel layer carries when nothing is done with it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import uvloop

from ifserver.process.reactor import install

LOOP = uvloop.new_event_loop()
install(LOOP)

from twisted.internet import reactor  # noqa: E402
from twisted.internet.defer import Deferred  # noqa: E402

from benchmarks.machine import cpu_seconds  # noqa: E402
from ifserver.layers.node import Limits, Node  # noqa: E402
from ifserver.layers.outbox import Outbox  # noqa: E402
from ifserver.layers.redis.node import RedisNode  # noqa: E402
from ifserver.metrics import Counters  # noqa: E402
from ifserver.net.endpoints import StreamClientEndpoint  # noqa: E402
from tests.redis_server import RedisServer  # noqa: E402

__all__ = ["main"]

_PAYLOAD = b"x" * 100
#: Messages of one sender that may be under way.
_AHEAD = 200


class _Sender:
    """Sends to one inbox; as soon as a message has been taken, the next."""

    def __init__(self, outbox: Outbox, inbox: str) -> None:
        self._outbox = outbox
        self._inbox = inbox
        self.running = True
        for _ in range(_AHEAD):
            self._send()

    def _send(self) -> None:
        if self.running:
            self._outbox.send(self._inbox, _PAYLOAD, self._send)


class _Reader:
    """Reads one inbox, and counts."""

    def __init__(self, node: Node, inbox: str) -> None:
        self.count = 0
        self.running = True
        Deferred.fromCoroutine(self._read(node, inbox))

    async def _read(self, node: Node, inbox: str) -> None:
        while self.running:
            pulled = await node.pull((inbox,), 200, 1.0)
            self.count += 0 if pulled is None else len(pulled.payloads)


class _NoAccounting:
    """Keeps none: here, senders and readers count for themselves."""

    def sent(self, inbox: str, count: int) -> None:
        """Nothing."""

    def doubted(self, inbox: str) -> None:
        """Nothing."""


async def _measure(node: Node, senders: int, readers: int, seconds: float) -> tuple[float, float]:
    clock: Any = reactor
    await node.ready()
    inboxes = [f"!node.reader{i:04}" for i in range(readers)]
    reading = [_Reader(node, inbox) for inbox in inboxes]
    outboxes = [Outbox({"node": node}, clock, LOOP.call_soon, Counters(), _NoAccounting()) for _ in range(senders)]
    sending = [_Sender(outbox, inboxes[i % readers]) for i, outbox in enumerate(outboxes)]
    await _pause(1.0)
    before, began = sum(each.count for each in reading), time.perf_counter()
    await _pause(seconds)
    rate = (sum(each.count for each in reading) - before) / (time.perf_counter() - began)
    for sender in sending:
        sender.running = False
    for reader in reading:
        reader.running = False
    await _pause(1.2)
    return rate, float(sum(each.count for each in reading))


def _pause(seconds: float) -> Deferred[None]:
    over: Deferred[None] = Deferred()
    clock: Any = reactor
    clock.callLater(seconds, over.callback, None)
    return over


def main(arguments: Sequence[str] | None = None) -> int:
    """Print messages a second, and the CPU time of Redis for one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.node", description=__doc__)
    parser.add_argument("--senders", type=int, default=32)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args(arguments)
    clock: Any = reactor
    with RedisServer() as redis:
        limits = Limits(100_000, 600.0)
        node = RedisNode(
            "node", limits, limits, clock, lambda: StreamClientEndpoint(LOOP, address=("127.0.0.1", redis.port))
        )
        before = cpu_seconds([redis.pid])
        results: list[tuple[float, float]] = []

        async def run() -> None:
            node.start()
            results.append(await _measure(node, given.senders, given.readers, given.seconds))
            await node.stop()

        Deferred.fromCoroutine(run()).addBoth(lambda result: (clock.stop(), result)[1]).addErrback(print)
        clock.run()
        [(rate, carried)] = results
        cost_us = 1e6 * (cpu_seconds([redis.pid]) - before) / carried
    print(f"{given.senders} senders, {given.readers} readers: {rate:,.0f} messages/s, Redis {cost_us:.2f} us a message")
    return 0


if __name__ == "__main__":
    sys.exit(main())
