"""HTTP/1.1 by hand: libraries would retry, and hide how an answer has ended."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["Connection", "Ended", "Wrong"]

_PIECE = 16 * 1024


class Wrong(Exception):
    """What came must not have come."""


class Ended(Exception):
    """The connection could not be had (``refused``), or ended before the response (``reset``) or in it (``cut``)."""


class Connection:
    """One connection, with one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        #: Whether another request may follow.
        self.reusable = True

    @classmethod
    async def to(cls, port: int) -> Connection:
        """Connect; raises `Ended`."""
        try:
            return cls(*await asyncio.open_connection("127.0.0.1", port))
        except OSError:
            raise Ended("refused") from None

    def close(self) -> None:
        """End it at once."""
        transport: Any = self._writer.transport
        transport.abort()

    def surprise(self) -> bool:
        """Whether it was ended, or something came, while nothing was asked."""
        buffered: Any = self._reader
        return self._reader.at_eof() or bool(buffered._buffer) or self._reader.exception() is not None

    async def ask(self, method: str, target: str, body: bytes, answer: bytes, chunked: bool) -> str:
        """Send a request and read its response: ``ok`` if that is `answer`, or else the status.

        Raises:
            Ended: the connection did, before the response was complete.
            Wrong: the response is not what it must be.
        """
        sending = asyncio.ensure_future(self._send(method, target, body, chunked))
        try:
            status, headers = await self._head()
            received = await self._body(headers, answer if status == 200 else None)
        finally:
            # A response may begin, and end, before the request's body was taken.
            if not sending.done():
                self.reusable = False
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        if headers.get("connection", "").lower() == "close":
            self.reusable = False
        if status != 200:
            if status == 503 and not headers.get("retry-after", "").isdecimal():
                raise Wrong("503 without Retry-After")
            return str(status)
        if received != answer:
            raise Wrong(
                f"a body of {len(received)} bytes, of which {_common(received, answer)} of {len(answer)} are right"
            )
        return "ok"

    async def _send(self, method: str, target: str, body: bytes, chunked: bool) -> None:
        head = f"{method} {target} HTTP/1.1\r\nhost: chaos\r\n"
        if method == "POST":
            head += "transfer-encoding: chunked\r\n" if chunked else f"content-length: {len(body)}\r\n"
        self._writer.write(f"{head}\r\n".encode())
        try:
            for start in range(0, len(body), _PIECE):
                piece = body[start : start + _PIECE]
                self._writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                await self._writer.drain()
            if chunked and method == "POST":
                self._writer.write(b"0\r\n\r\n")
            await self._writer.drain()
        except OSError:
            pass  # reading tells how it ended

    async def _head(self) -> tuple[int, dict[str, str]]:
        while True:
            try:
                data = await self._reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, OSError) as error:
                partial = getattr(error, "partial", b"")
                raise Ended("cut" if partial else "reset") from None
            first, *lines = data.decode("latin-1").split("\r\n")[:-2]
            version, status, *_ = first.split(" ")
            if version != "HTTP/1.1" or not status.isdecimal():
                raise Wrong(f"a status line {first!r}")
            if not status.startswith("1"):
                fields = (line.partition(":") for line in lines)
                return int(status), {name.lower(): value.strip() for name, _, value in fields}

    async def _body(self, headers: dict[str, str], answer: bytes | None) -> bytes:
        """The body; of a response that is cut, what came must be right as well."""
        received = bytearray()
        try:
            if headers.get("transfer-encoding") == "chunked":
                while size := int(await self._reader.readuntil(b"\r\n"), 16):
                    await self._read(size, received)
                    if await self._reader.readexactly(2) != b"\r\n":
                        raise Wrong("a chunk without its end")
                await self._reader.readuntil(b"\r\n")
            else:
                await self._read(int(headers["content-length"]), received)
        except (asyncio.IncompleteReadError, OSError):
            if answer is not None and not answer.startswith(received):
                right = _common(received, answer)
                raise Wrong(f"of {len(received)} bytes before the cut {right} are right") from None
            raise Ended("cut") from None
        return bytes(received)

    async def _read(self, count: int, received: bytearray) -> None:
        end = len(received) + count
        while len(received) < end:
            data = await self._reader.read(min(_PIECE, end - len(received)))
            if not data:
                raise asyncio.IncompleteReadError(b"", count)
            received += data


def _common(one: bytes | bytearray, other: bytes) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
