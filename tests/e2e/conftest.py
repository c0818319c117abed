"""What many of these tests need."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import websockets.asyncio.client
import websockets.sync.client

from tests.e2e.running import LIMIT_S, Gate

# How long these clients wait where a test says nothing else: 5 to 20 s by themselves, which a busy machine may take.
# And they answer pings while a test looks elsewhere, however much they were sent.
for name in ("connect", "read", "write", "pool"):
    setattr(httpx.get.__kwdefaults__["timeout"], name, LIMIT_S)  # one object, of all of httpx
assert httpx.Client().timeout == httpx.AsyncClient().timeout == httpx.Timeout(LIMIT_S)
for opens in (websockets.sync.client.connect, websockets.asyncio.client.connect.__init__):
    opens.__kwdefaults__.update(open_timeout=LIMIT_S, ping_timeout=LIMIT_S, max_queue=None)  # type: ignore[attr-defined]


# httpx reads the system's certificates for each client, and each `httpx.get` makes one: 20 ms of CPU. Once is enough.
transports = httpx._transports.default
transports.create_ssl_context = functools.cache(transports.create_ssl_context)  # type: ignore[attr-defined]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate that opens at the end, also of a test that fails."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads, for clients that wait."""
    with ThreadPoolExecutor(12) as pool:
        yield pool
