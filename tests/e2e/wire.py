"""HTTP by hand, for tests of what clients' libraries hide."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

__all__ = ["Cut", "Reply", "Wire", "close_of", "handshake", "heard_over_tls"]

LIMIT_S = 120.0


class Cut(Exception):
    """The connection ended before the response did."""


class Reply(NamedTuple):
    """A response, as it came."""

    status: int
    version: str
    headers: list[tuple[str, str]]
    body: bytes
    #: How the end of the body was told: ``length``, ``chunked``, ``close`` or ``none``.
    framing: str

    def header(self, name: str) -> str | None:
        """The first value of that name."""
        return next((value for key, value in self.headers if key == name), None)


class Wire:
    """One connection. `address` is a host and port, or the path of a Unix socket."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(LIMIT_S)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address, LIMIT_S)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> Wire:
        """Send bytes."""
        self.socket.sendall(data)
        return self

    def get(self, target: str, *headers: str, method: str = "GET", version: str = "1.1") -> Reply:
        """One request without a body, and its response."""
        lines = [f"{method} {target} HTTP/{version}", "host: test", *headers, "", ""]
        return self.send("\r\n".join(lines).encode("latin-1")).receive(method)

    def head(self) -> tuple[int, str, list[tuple[str, str]]]:
        """Status, version and headers of the next response; its body is not read."""
        first = self._line()
        version, status = first.split(" ")[:2]
        headers = []
        while line := self._line():
            name, _, value = line.partition(":")
            headers.append((name.lower(), value.strip()))
        return int(status), version, headers

    def receive(self, method: str = "GET") -> Reply:
        """The next response, interim ones included.

        Raises:
            Cut: it is not complete.
        """
        status, version, headers = self.head()
        fields = dict(headers)
        if method == "HEAD" or status in (204, 304) or status < 200:
            return Reply(status, version, headers, b"", "none")
        if fields.get("transfer-encoding") == "chunked":
            return Reply(status, version, headers, self.chunks(), "chunked")
        if "content-length" in fields:
            return Reply(status, version, headers, self.read(int(fields["content-length"])), "length")
        return Reply(status, version, headers, self.rest(), "close")

    def read(self, count: int) -> bytes:
        """So many bytes; raises `Cut`."""
        try:
            data = self._file.read(count)
        except ConnectionResetError as error:
            raise Cut("reset") from error
        if len(data) < count:
            raise Cut(f"{len(data)} of {count} bytes")
        return data

    def closed(self) -> bool:
        """Wait for the end of the connection: whether it came in good order and nothing before it."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return False

    def rest(self) -> bytes:
        """All that comes until the connection ends; raises `Cut` where it is reset."""
        try:
            return self._file.read()
        except ConnectionResetError as error:
            raise Cut("reset") from error

    def _line(self) -> str:
        try:
            line = self._file.readline()
        except ConnectionResetError as error:
            raise Cut("reset") from error
        if not line.endswith(b"\r\n"):
            raise Cut(f"in a line: {line!r}")
        return line[:-2].decode("latin-1")

    def chunk(self) -> bytes:
        """The next chunk of a chunked body."""
        size = int(self._line(), 16)
        data = self.read(size)
        assert self.read(2) == b"\r\n"
        return data

    def chunks(self) -> bytes:
        """The rest of a chunked body."""
        body = b""
        while piece := self.chunk():
            body += piece
        return body


def handshake(target: str) -> bytes:
    """A WebSocket's handshake."""
    key = "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=="
    lines = [f"GET {target} HTTP/1.1", "host: test", "connection: upgrade", "upgrade: websocket", key]
    return ("\r\n".join([*lines, "sec-websocket-version: 13"]) + "\r\n\r\n").encode()


def close_of(client: ClientConnection) -> tuple[int | None, str | None]:
    """Wait until a WebSocket is closed; with what code and reason."""
    try:
        while True:
            client.recv(LIMIT_S)
    except ConnectionClosed:
        return client.close_code, client.close_reason


def heard_over_tls(url: str, *sent: str | bytes | None, **options: Any) -> list[str | bytes]:
    """What a WebSocket over TLS says after each of `sent`; None: without being told anything.

    Not by the client that is used elsewhere: its two threads would share one of OpenSSL's connections, of which a
    Python before 3.13 takes no care. One handshake in a hundred failed by that, and now and then the process crashed.
    """

    async def hear(messages: Iterable[str | bytes | None]) -> list[str | bytes]:
        heard = []
        async with connect(url, **options) as client:
            for message in messages:
                if message is not None:
                    await client.send(message)
                heard.append(await asyncio.wait_for(client.recv(), LIMIT_S))
        return heard

    # In a thread of its own, since a reactor may run in this one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(hear(sent))).result()
