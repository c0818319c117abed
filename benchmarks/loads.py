"""What is asked of a server, and how much of it was answered how fast."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Final

import uvloop
from msgspec import Struct

__all__ = ["LOADS", "Load", "Result", "idle_websockets", "wrk"]

_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class Result(Struct, frozen=True):
    """How it went: what was done, in how many seconds; latencies in milliseconds; failures."""

    done: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int = 0


class Load(Struct, frozen=True):
    """One kind of work."""

    name: str
    title: str
    #: Does it for so many seconds against a port.
    run: Callable[[int, float], Result]


def wrk(path: str, connections: int, script: str = "") -> Callable[[int, float], Result]:
    """Requests of ``wrk``, each as soon as the one before it on its connection was answered."""

    def run(port: int, seconds: float) -> Result:
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
            file.write(script)
            file.flush()
            command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
            command += ["-s", file.name] if script else []
            command.append(f"http://127.0.0.1:{port}{path}")
            return _parsed(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    return run


def _parsed(text: str) -> Result:
    """What wrk has printed."""
    done, seconds = re.search(r"(\d+) requests in ([\d.]+\w+)", text).groups()  # type: ignore[union-attr]
    quantiles = dict(re.findall(r"(\d\d)% +([\d.]+\w+)", text))
    failures = re.findall(r"Non-2xx or 3xx responses: (\d+)|(?:connect|read|write|timeout) (\d+)", text)
    failed = sum(int(number) for pair in failures for number in pair if number)
    return Result(
        int(done), _duration(seconds), 1e3 * _duration(quantiles["50"]), 1e3 * _duration(quantiles["99"]), failed
    )


def _duration(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", text).groups()  # type: ignore[union-attr]
    return float(number) * _SECONDS[unit]


_POST: Final = """
wrk.method = "POST"
wrk.body = string.rep("x", 10240)
"""


def _masked(payload: bytes) -> bytes:
    """A frame of a client, masked with zeros (RFC 6455 5.3): nothing here is hidden from anybody."""
    head = bytes([0x81, 0x80 | len(payload)]) if len(payload) < 126 else b"\x81\xfe" + len(payload).to_bytes(2, "big")
    return head + bytes(4) + payload


def _handshake(port: int) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


class _Echo(asyncio.Protocol):
    """One WebSocket that says the same again as soon as it has come back. No library: nothing is cheaper."""

    def __init__(self, hub: _Hub, payload: bytes) -> None:
        self._hub = hub
        self._frame = _masked(payload)
        self._length = len(payload) + (2 if len(payload) < 126 else 4)
        self._open = False
        self._missing = 0
        self._sent_at = 0.0
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.write(_handshake(self._hub.port))

    def data_received(self, data: bytes) -> None:
        if not self._open:
            self._head += data
            if b"\r\n\r\n" not in self._head:
                return
            assert self._head.startswith(b"HTTP/1.1 101"), self._head[:200]
            self._open = True
            self._hub.opened()
        else:
            self._missing -= len(data)
            if self._missing:
                return
            self._hub.echoed(time.perf_counter() - self._sent_at)
        if self._hub.running:
            self.say()

    def say(self) -> None:
        self._missing = self._length
        self._sent_at = time.perf_counter()
        self._transport.write(self._frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._hub.lost += self._hub.running


class _Hub:
    """All connections of one load."""

    def __init__(self, port: int, wanted: int) -> None:
        self.port = port
        self.running = False
        self.lost = 0
        self._wanted = wanted
        self._open = 0
        self.all_open = asyncio.Event()
        self.latencies: list[float] = []

    def opened(self) -> None:
        self._open += 1
        if self._open == self._wanted:
            self.all_open.set()

    def echoed(self, latency: float) -> None:
        self.latencies.append(latency)


def _echo(connections: int, size: int) -> Callable[[int, float], Result]:
    async def main(port: int, seconds: float) -> Result:
        loop = asyncio.get_running_loop()
        hub = _Hub(port, connections)
        clients = [_Echo(hub, b"x" * size) for _ in range(connections)]
        for client in clients:
            await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
        await asyncio.wait_for(hub.all_open.wait(), 30)
        hub.running = True
        began = time.perf_counter()
        for client in clients:
            client.say()
        await asyncio.sleep(seconds)
        hub.running = False
        took = time.perf_counter() - began
        latencies = sorted(hub.latencies)
        for client in clients:
            client._transport.abort()
        p50, p99 = (1e3 * latencies[int(len(latencies) * share)] for share in (0.5, 0.99))
        return Result(len(latencies), took, p50, p99, hub.lost)

    return lambda port, seconds: uvloop.run(main(port, seconds))


def _connects(port: int, seconds: float) -> Result:
    """Connect, shake hands, and close in order, one after another on eight connections at a time."""

    async def one(end: float, latencies: list[float]) -> None:
        while (began := time.perf_counter()) < end:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_handshake(port))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            writer.write(b"\x88\x82" + bytes(4) + (1000).to_bytes(2, "big"))
            while await reader.read(1000):
                pass
            writer.close()
            latencies.append(time.perf_counter() - began)

    async def main() -> Result:
        latencies: list[float] = []
        began = time.perf_counter()
        await asyncio.gather(*(one(began + seconds, latencies) for _ in range(8)))
        took = time.perf_counter() - began
        latencies.sort()
        p50, p99 = (1e3 * latencies[int(len(latencies) * share)] for share in (0.5, 0.99))
        return Result(len(latencies), took, p50, p99)

    return uvloop.run(main())


async def idle_websockets(port: int, count: int, opened: Callable[[], None]) -> None:
    """Open `count` WebSockets that say nothing, call `opened`, and cut them."""
    loop = asyncio.get_running_loop()
    hub = _Hub(port, count)
    clients = [_Echo(hub, b"x") for _ in range(count)]
    # From several addresses, for one has no more ports than that.
    for i, client in enumerate(clients):
        local = (f"127.0.0.{2 + i // 20_000}", 0)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port, local_addr=local)  # type: ignore[misc]
    await asyncio.wait_for(hub.all_open.wait(), 120)
    await asyncio.sleep(2)
    opened()
    for client in clients:
        client._transport.abort()


LOADS: Final = {
    load.name: load
    for load in (
        Load("get", "GET, 13 bytes, 64 connections", wrk("/", 64)),
        Load("one", "GET, one connection", wrk("/", 1)),
        Load("post", "POST 10 KB, answer 10 KB, 32 connections", wrk("/10k", 32, _POST)),
        Load("mib", "GET, 1 MiB, 8 connections", wrk("/mib", 8)),
        Load("echo", "WebSocket echo, 64 bytes, 100 connections", _echo(100, 64)),
        Load("connect", "WebSocket: connect, shake hands, close", _connects),
    )
}
