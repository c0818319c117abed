"""What is asked of a server over WebSockets, by picows: its client costs less than any server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import uvloop
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.outcome import Result, result_of

__all__ = ["broadcasts", "connects", "echo", "idle_websockets"]

#: Connections that one address is good for; further ones come from another.
_PORTS = 20_000
#: How long a broadcast is waited for, in seconds.
_PATIENCE_S = 5.0


class _Hub:
    """All connections of one load."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.running = False
        self.latencies_s: list[float] = []
        self.lost = 0


class _Client(WSListener):
    """One WebSocket that says the same again as soon as it has come back."""

    def __init__(self, hub: _Hub) -> None:
        self._hub = hub
        self._sent_at = 0.0

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        hub = self._hub
        if hub.running and frame.msg_type is not WSMsgType.CLOSE:
            hub.latencies_s.append(time.perf_counter() - self._sent_at)
            self.say()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._hub.lost += self._hub.running

    def say(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.send(WSMsgType.TEXT, self._hub.payload)


async def _open(port: int, hub: _Hub, count: int, path: str = "/ws") -> Sequence[tuple[WSTransport, _Client]]:
    opened = []
    for i in range(count):
        client, local = _Client(hub), (f"127.0.0.{2 + i // _PORTS}", 0)
        transport, _ = await ws_connect(lambda client=client: client, f"ws://127.0.0.1:{port}{path}", local_addr=local)
        opened.append((transport, client))
    return opened


def echo(connections: int, size: int) -> Callable[[int, float], Result]:
    """On each of so many WebSockets, a text of `size` bytes goes there and back, again and again."""

    async def main(port: int, seconds: float) -> Result:
        hub = _Hub(b"x" * size)
        clients = await _open(port, hub, connections)
        hub.running = True
        began_at = time.perf_counter()
        for _, client in clients:
            client.say()
        await asyncio.sleep(seconds)
        hub.running = False
        took_s = time.perf_counter() - began_at
        for transport, _ in clients:
            transport.disconnect(graceful=False)
        return result_of(hub.latencies_s, took_s, hub.lost)

    return lambda port, seconds: uvloop.run(main(port, seconds))


class _Room(WSListener):
    """The members of a room, all of them one listener."""

    def __init__(self, members: int) -> None:
        self._members = members
        self._due = 0
        self._all_have_it = asyncio.Event()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is not WSMsgType.CLOSE:
            self._due -= 1
            if not self._due:
                self._all_have_it.set()

    async def hears(self, publish: Callable[[], object]) -> int:
        """Have something sent to all, and wait until all have it; how many do not in time."""
        self._due = self._members
        self._all_have_it.clear()
        await asyncio.gather(asyncio.to_thread(publish), self._wait())
        return self._due

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_have_it.wait(), _PATIENCE_S)


def broadcasts(members: int) -> Callable[[int, float, Callable[[], object], Callable[[], object]], Result]:
    """One message after another is sent to so many WebSockets; each delivery is one piece of work, and a latency is the
    time until the last member has a message. The third argument is called when all have joined, and before they leave;
    the fourth sends a message, and waits for that.
    """

    async def main(port: int, seconds: float, mark: Callable[[], object], publish: Callable[[], object]) -> Result:
        room = _Room(members)
        transports = []
        for i in range(members):
            local = (f"127.0.0.{2 + i // _PORTS}", 0)
            transport, _ = await ws_connect(lambda: room, f"ws://127.0.0.1:{port}/room", local_addr=local)
            transports.append(transport)
        latencies_s: list[float] = []
        lost = await room.hears(publish)  # the first
        mark()
        end = time.perf_counter() + seconds
        while (began_at := time.perf_counter()) < end:
            lost += await room.hears(publish)
            latencies_s += [time.perf_counter() - began_at] * members
        mark()
        for transport in transports:
            transport.disconnect(graceful=False)
        return result_of(latencies_s, seconds, lost)

    return lambda port, seconds, mark, publish: uvloop.run(main(port, seconds, mark, publish))


def connects(at_a_time: int) -> Callable[[int, float], Result]:
    """Connect, shake hands, and close in order, one after another on so many connections at a time."""

    async def one(port: int, end: float, latencies_s: list[float]) -> None:
        while (began_at := time.perf_counter()) < end:
            ((transport, _),) = await _open(port, _Hub(b""), 1)
            transport.send_close(WSCloseCode.OK)
            await transport.wait_disconnected()
            latencies_s.append(time.perf_counter() - began_at)

    async def main(port: int, seconds: float) -> Result:
        latencies_s: list[float] = []
        began_at = time.perf_counter()
        await asyncio.gather(*(one(port, began_at + seconds, latencies_s) for _ in range(at_a_time)))
        return result_of(latencies_s, time.perf_counter() - began_at)

    return lambda port, seconds: uvloop.run(main(port, seconds))


async def idle_websockets(port: int, count: int, opened: Callable[[], Any]) -> None:
    """Open `count` WebSockets that say nothing, call `opened`, and cut them."""
    clients = await _open(port, _Hub(b""), count)
    await asyncio.sleep(2)
    opened()
    for transport, _ in clients:
        transport.disconnect(graceful=False)
