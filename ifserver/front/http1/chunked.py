"""Bodies in chunks: decodes the chunked transfer coding (RFC 9112 7.1) strictly. Pure.

llhttp parses the heads of requests, but no bodies in chunks. In these it accepts malformed chunk extensions, refuses
white space that must be accepted, waits for chunks of up to 2^64 bytes, and lets a trailer field decide about the
connection. It also does not tell where such a body ends, so the next request line could not be checked.

This makes no second parser that could disagree with the first: llhttp gets the bytes up to the empty line of the head,
this module gets the bytes from there to the end of the trailers, and neither sees what the other has read.
"""

from __future__ import annotations

import re
from typing import Final

from ifserver.front.incoming_request import BadRequest, Incoming

__all__ = ["ChunkedBody"]

#: The size of a chunk: at most 16 digits, leading zeros included. On more, some parsers overflow and others do not.
_DIGITS: Final = rb"([0-9A-Fa-f]{1,16})"
#: RFC 9110 5.6.2 and 5.6.4. What follows a token is never part of one, so that matching takes linear time without
#: possessive groups, which Python 3.11.2 (Debian 12) takes for matched where they are not.
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t -\x7e\x80-\xff])*"'
_digits: Final = re.compile(_DIGITS).match
#: RFC 9112 7.1.1.
_extension: Final = re.compile(
    rb"[\t ]*;[\t ]*" + _TOKEN + rb"(?:[\t ]*=[\t ]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?"
).match
#: The same without extensions, at the start of a line or behind the data of another chunk.
_plain_size: Final = re.compile(_DIGITS + rb"\r\n").match
_next_plain_size: Final = re.compile(rb"\r\n" + _DIGITS + rb"\r\n").match
#: A trailer field (RFC 9112 5); obs-text is let through, as in headers.
_trailer: Final = re.compile(rb"(" + _TOKEN + rb"):[\t -\x7e\x80-\xff]*\r\n\Z").match
#: RFC 9110 6.5.1: a sender MUST NOT put message framing into trailers. A proxy may have been misled by it.
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})

#: The largest body where no limit is set: what fits into 63 bits, as in other servers.
_MAX_BODY_BYTES: Final = 2**63 - 1
#: Bytes that may come around the chunks for each byte of the body, which may come in chunks of one byte.
_OVERHEAD_PER_BYTE: Final = 16

# What is expected next, unless it is data of a chunk: a size, the line end behind the data, a trailer field.
_SIZE, _DATA_END, _TRAILERS = range(3)


class ChunkedBody:
    """Decodes the body of `incoming`.

    Args:
        max_body_bytes: the limit for the body; None: unlimited.
        max_overhead_bytes: the limit for everything else (sizes, extensions, line ends, trailers); 16 bytes more are
            allowed for each byte of the body.
    """

    __slots__ = ("_expected", "_incoming", "_left", "_line", "_overhead", "_room", "complete")

    def __init__(self, incoming: Incoming, max_body_bytes: int | None, max_overhead_bytes: int) -> None:
        self._incoming = incoming
        #: Whether the body has ended, its trailers included.
        self.complete = False
        # Bytes of the current chunk's data that are still to come. If there are none: what is expected, and the part
        # of its line that has come.
        self._left = 0
        self._expected = _SIZE
        self._line = bytearray()
        # What is left of the two limits.
        self._room = _MAX_BODY_BYTES if max_body_bytes is None else max_body_bytes
        self._overhead = max_overhead_bytes

    def feed(self, data: bytes, start: int) -> int:
        """Decode `data` from `start` on, and return where the body ends in it, or its length.

        The data of the chunks is added to the body of `incoming`.

        Raises:
            BadRequest: 400 for a malformed body, 413 if the size of a chunk shows that the body is too large, 431 for
                too much around the chunks. The status does not depend on how the bytes were split.
        """
        length = len(data)
        while start < length and not self.complete:
            if self._left:
                start = self._take_data(data, start)
            elif self._line or self._expected == _TRAILERS:
                start = self._take_line(data, start)
            else:
                start = self._take_chunks(data, start)
        return start

    def _take_data(self, data: bytes, start: int) -> int:
        piece = data[start : start + self._left]
        self._incoming.body.append(piece)
        self._incoming.body_bytes += len(piece)
        self._left -= len(piece)
        return start + len(piece)

    def _take_chunks(self, data: bytes, start: int) -> int:
        """Decode chunks until one is incomplete or has extensions. There may be many small ones, so this is short."""
        append, room, overhead, length = self._incoming.body.append, self._room, self._overhead, len(data)
        match = _next_plain_size(data, start) if self._expected == _DATA_END else _plain_size(data, start)
        while match is not None:
            size, begin = int(match[1], 16), match.end()
            end = begin + size
            if not size or end > length or size > room or begin - start > overhead:
                break
            append(data[begin:end])
            room -= size
            overhead += _OVERHEAD_PER_BYTE * size - (begin - start)
            start = end
            self._expected = _DATA_END
            match = _next_plain_size(data, start)
        self._incoming.body_bytes += self._room - room
        self._room, self._overhead = room, overhead
        if match is None:
            return self._take_line(data, start) if start < length else start
        self._count(begin - start)
        self._begin_chunk(size)
        return begin

    def _begin_chunk(self, size: int) -> None:
        if size > self._room:
            raise BadRequest(413, "the body is too large")
        self._room -= size
        self._overhead += _OVERHEAD_PER_BYTE * size
        self._left = size
        self._expected = _DATA_END if size else _TRAILERS

    def _count(self, length: int) -> None:
        """Count bytes that are not data."""
        self._overhead -= length
        if self._overhead < 0:
            raise BadRequest(431, "too much around the chunks of the body")

    def _take_line(self, data: bytes, start: int) -> int:
        """Decode one line, if it is complete."""
        end = data.find(b"\n", start) + 1
        if not end:
            self._count(len(data) - start)
            self._line += memoryview(data)[start:]
            return len(data)
        self._count(end - start)
        line = data[start:end]
        if self._line:
            line = bytes(self._line) + line
            self._line.clear()
        self._read_line(line)
        return end

    def _read_line(self, line: bytes) -> None:
        if self._expected == _SIZE:
            self._begin_chunk(_size_of(line))
        elif self._expected == _DATA_END:
            if line != b"\r\n":
                raise BadRequest(400, "chunk data longer than its size")
            self._expected = _SIZE
        else:
            self._read_trailer(line)

    def _read_trailer(self, line: bytes) -> None:
        # They are checked and dropped: ASGI has none, and they must not be merged into the headers (RFC 9110 6.5.1).
        if line == b"\r\n":
            self.complete = True
            return
        match = _trailer(line)
        if match is None:
            raise BadRequest(400, "malformed trailer field")
        if match[1].lower() in _FRAMING:
            raise BadRequest(400, "Content-Length or Transfer-Encoding in a trailer")


def _size_of(line: bytes) -> int:
    """The size in the line before the data of a chunk, whose extensions are checked and dropped."""
    digits = match = _digits(line)
    while match is not None:
        end = match.end()
        match = _extension(line, end)
    if digits is None or line[end:] != b"\r\n":
        raise BadRequest(400, "malformed chunk size or extension")
    return int(digits[1], 16)
