"""A WSGI application for tests that look at it from outside."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Which process it is; ``/half?gate=`` says so and then waits for a file, in the middle of its response."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    pid = str(os.getpid()).encode()
    if environ["PATH_INFO"] == "/half":
        return half(pid, parse_qs(environ["QUERY_STRING"])["gate"][0])
    return [pid]


def half(pid: bytes, gate: str) -> Iterator[bytes]:
    yield pid
    while not os.path.exists(gate):
        time.sleep(0.01)
    yield b"end"
