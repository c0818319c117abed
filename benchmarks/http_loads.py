"""What is asked of a server over HTTP: by wrk, as fast as it answers; and at a rate of the clients' own."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Final

import uvloop

from benchmarks.application import HELLO
from benchmarks.outcome import Result, result_of

__all__ = ["TEN_KB_POSTS", "beside_slow_ones", "wrk"]

_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}

#: For `wrk`: each request has a body of 10 KB.
TEN_KB_POSTS: Final = """
wrk.method = "POST"
wrk.body = string.rep("x", 10240)
"""


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


class _Connection(asyncio.Protocol):
    """One connection, for one request at a time; every answer ends with `HELLO`."""

    def __init__(self, lost: Callable[[_Connection], None]) -> None:
        self._lost = lost
        self._answer = b""
        self.answered: asyncio.Future[bool] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._answer.endswith(HELLO):
            right, self._answer = self._answer.startswith(b"HTTP/1.1 200 "), b""
            self._settle(right)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(self)
        self._settle(False)

    async def ask(self, path: str) -> bool:
        """Whether the request is answered with 200."""
        self.answered = asyncio.get_running_loop().create_future()
        self._transport.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return await self.answered

    def close(self) -> None:
        self._transport.abort()

    def _settle(self, right: bool) -> None:
        answered, self.answered = self.answered, None
        if answered is not None:
            answered.set_result(right)


def beside_slow_ones(rate: float, share: float, least_s: float) -> Callable[[int, float], Result]:
    """Requests that come at random, `rate` a second, whatever becomes of those before them; `share` of them are slow.

    The result is that of the others: from when each was due until its answer was there. The same requests for all
    subjects, for `least_s` seconds or more.
    """

    async def main(port: int, seconds: float) -> Result:
        loop = asyncio.get_running_loop()
        chance = random.Random(1)
        free: set[_Connection] = set()
        latencies_s: list[float] = []
        failed = 0

        async def one(due: float, is_slow: bool) -> None:
            nonlocal failed
            if free:
                connection = free.pop()
            else:
                _, connection = await loop.create_connection(lambda: _Connection(free.discard), "127.0.0.1", port)
            if not await connection.ask("/slow" if is_slow else "/"):
                failed += 1
                return
            free.add(connection)
            if not is_slow:
                latencies_s.append(time.perf_counter() - due)

        began_at = due = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            while due < began_at + max(seconds, least_s):
                due += chance.expovariate(rate)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.create_task(one(due, chance.random() < share))
        result = result_of(latencies_s, time.perf_counter() - began_at, failed)
        for connection in list(free):
            connection.close()
        return result

    return lambda port, seconds: uvloop.run(main(port, seconds))
