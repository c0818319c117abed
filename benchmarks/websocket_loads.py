"""What is asked of a server over WebSockets, by picows: its client costs less than any server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import uvloop
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.outcome import Result, result_of

__all__ = ["connects", "echo", "idle_websockets"]

#: Connections that one address is good for; further ones come from another.
_PORTS = 20_000


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


async def _open(port: int, hub: _Hub, count: int) -> Sequence[tuple[WSTransport, _Client]]:
    opened = []
    for i in range(count):
        client, local = _Client(hub), (f"127.0.0.{2 + i // _PORTS}", 0)
        transport, _ = await ws_connect(lambda client=client: client, f"ws://127.0.0.1:{port}/ws", local_addr=local)
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
