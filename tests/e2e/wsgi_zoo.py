"""A WSGI application for tests that look at it from outside."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

FILE_BYTES = 20 * 1024 * 1024
PLAIN = ("Content-Type", "text/plain")


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """What it answers depends on the path; where that is unknown, which process it is.

    ``/half?gate=`` says which, and then waits for a file in the middle of its response.
    """
    path, begin = environ["PATH_INFO"], start_response
    if path == "/half":
        begin("200 OK", [PLAIN])
        return half(str(os.getpid()).encode(), parse_qs(environ["QUERY_STRING"])["gate"][0])
    if path == "/grows":
        begin("200 OK", [PLAIN, ("Content-Length", "10")])
        return iter([b"0123", b"456789", b"more", b"and more"])
    if path == "/hops":
        begin("200 OK", [PLAIN, ("Connection", "keep-alive"), ("Keep-Alive", "timeout=5"), ("X-A", "1")])
        return [b"data: 1\n\n"]
    if path == "/file":
        file = tempfile.TemporaryFile()  # noqa: SIM115 (it is closed with the response)
        file.write(b"0123456789abcdef" * (FILE_BYTES // 16))
        file.seek(0)
        begin("200 OK", [PLAIN, ("Content-Length", str(FILE_BYTES))])
        return environ["wsgi.file_wrapper"](file, 8192)  # type: ignore[no-any-return]
    if path == "/whole":
        begin("200 OK", [PLAIN, ("Content-Length", str(FILE_BYTES))])
        return [b"0123456789abcdef" * (FILE_BYTES // 16)]
    if path == "/pieces":
        begin("200 OK", [PLAIN])
        return (b"x" * 8192 for _ in range(FILE_BYTES // 8192))
    if path == "/echo":
        begin("200 OK", [PLAIN])
        return iter(lambda: environ["wsgi.input"].read1(65_536), b"")
    if path == "/closed":
        begin("200 OK", [PLAIN])
        return [str(Closing.count).encode()]
    if path == "/closing":
        begin("200 OK", [PLAIN])
        return Closing([b"one", b"two"])
    if path.startswith("/show"):
        begin("200 OK", [PLAIN])
        shown = {key: value for key, value in environ.items() if isinstance(value, str)}
        return [json.dumps(shown).encode()]
    begin("200 OK", [PLAIN])
    return [str(os.getpid()).encode()]


class Closing(list[bytes]):
    """A list with a method ``close()``."""

    count = 0

    def close(self) -> None:
        Closing.count += 1


def half(pid: bytes, gate: str) -> Iterator[bytes]:
    yield pid
    while not os.path.exists(gate):
        time.sleep(0.01)
    yield b"end"
