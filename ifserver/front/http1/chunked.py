"""Bodies in chunks: decodes the chunked transfer coding (RFC 9112 7.1) strictly. Pure.

llhttp parses the heads of requests, but no bodies in chunks. In these it refuses white space that must be accepted,
waits for chunks of up to 2^64 bytes, and lets a trailer field decide about the connection. It also does not report
where such a body ends, so the next request line could not be checked.

This makes no second parser that could disagree with the first: llhttp gets the bytes up to the empty line of the head,
this module gets the bytes from there to the end of the trailers, and neither sees what the other has read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ifserver.front.incoming_request import BadRequest
from ifserver.headers import is_token

if TYPE_CHECKING:
    from ifserver.config.settings import FrontSettings
    from ifserver.front.incoming_request import Incoming

__all__ = ["ChunkedBody"]

#: The size of a chunk: at most 16 digits, leading zeros included. On more, some parsers overflow and others do not.
_SIZE_FIELD: Final = rb"([0-9A-Fa-f]{1,16})"
#: One without extensions or with short ones, at the start of a line or behind the data of another chunk; and any.
_plain_size: Final = re.compile(_SIZE_FIELD + rb"(?:;[\t !#-~\x80-\xff]{0,100})?\r\n").match
_next_plain_size: Final = re.compile(rb"\r\n" + _SIZE_FIELD + rb"(?:;[\t !#-~\x80-\xff]{0,100})?\r\n").match
_size: Final = re.compile(_SIZE_FIELD + rb"(?:\r\n|[\t ]*;)").match
#: What may stand in extensions and in the values of trailers (RFC 9110 5.6.4 and 5.5); obs-text is let through.
_TEXT: Final = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
#: The longest line that is no trailer; extensions are few and short.
_MAX_LINE_BYTES: Final = 4096
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

    The limits are those of `settings`: of the body, and of the trailers those of the headers. Everything else (sizes,
    extensions, line ends) may have as many bytes as the headers, and 16 more for each byte of the body.
    """

    __slots__ = ("_expected", "_incoming", "_left", "_line", "_overhead", "_room", "_settings", "_trailers", "complete")

    def __init__(self, incoming: Incoming, settings: FrontSettings) -> None:
        self._incoming = incoming
        self._settings = settings
        #: Whether the body has ended, its trailers included.
        self.complete = False
        # Bytes of the current chunk's data that are still to come. If there are none: what is expected, and the part
        # of its line that has come.
        self._left = 0
        self._expected = _SIZE
        self._line = bytearray()
        # What is left of the limits, in bytes; and how many trailers have come.
        self._room = _MAX_BODY_BYTES if settings.max_body_bytes is None else settings.max_body_bytes
        self._overhead = settings.max_header_bytes
        self._trailers = 0

    def feed(self, data: bytes, start: int) -> int:
        """Decode `data` from `start` on, and return where the body ends in it, or its length.

        The data of the chunks is added to the body of `incoming`.

        Raises:
            BadRequest: 400 for a malformed body or too much around the chunks, 413 if the size of a chunk shows that
                the body is too large, 431 for too many or too large trailers. The status does not depend on how the
                bytes were split.
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
        """Decode chunks until one is incomplete or has long extensions. Short, since there may be many small ones."""
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
        self._left = size
        if size:
            self._overhead += _OVERHEAD_PER_BYTE * size
            self._expected = _DATA_END
        else:
            self._overhead = self._settings.max_header_bytes
            self._expected = _TRAILERS

    def _count(self, length: int) -> None:
        """Count bytes that are not data."""
        self._overhead -= length
        if self._overhead < 0:
            if self._expected == _TRAILERS:
                raise BadRequest(431, "too large trailer fields")
            raise BadRequest(400, "too much around the chunks of the body")

    def _take_line(self, data: bytes, start: int) -> int:
        """Take more of a line, and decode it if that was its end."""
        end = data.find(b"\n", start) + 1 or len(data)
        self._count(end - start)
        self._line += memoryview(data)[start:end]
        if len(self._line) > _MAX_LINE_BYTES and self._expected != _TRAILERS:
            raise BadRequest(400, "a chunk size or extension that is too long")
        if self._line.endswith(b"\n"):
            line = bytes(self._line)
            self._line.clear()
            self._read_line(line)
        return end

    def _read_line(self, line: bytes) -> None:
        # No bare CR, no bare LF, and nothing else by which another parser might end the line somewhere else.
        if not line.endswith(b"\r\n") or line.translate(None, _TEXT) != b"\r\n":
            raise BadRequest(400, "control characters around the chunks of the body")
        if self._expected == _SIZE:
            match = _size(line)
            if match is None or (b'"' in line and not _is_quoted_whole(line)):
                raise BadRequest(400, "malformed chunk size or extension")
            # RFC 9112 7.1.1: a recipient MUST ignore extensions that it does not know. All are skipped.
            self._begin_chunk(int(match[1], 16))
        elif self._expected == _TRAILERS:
            self._read_trailer(line)
        elif line != b"\r\n":
            raise BadRequest(400, "chunk data longer than its size")
        else:
            self._expected = _SIZE

    def _read_trailer(self, line: bytes) -> None:
        # They are checked and dropped: ASGI has none, and they must not be merged into the headers (RFC 9110 6.5.1).
        if line == b"\r\n":
            self.complete = True
            return
        self._trailers += 1
        if self._trailers > self._settings.max_headers:
            raise BadRequest(431, "too many trailer fields")
        name, colon, _ = line.partition(b":")
        if not colon or not is_token(name):
            raise BadRequest(400, "malformed trailer field")
        if name.lower() in _FRAMING:
            raise BadRequest(400, "Content-Length or Transfer-Encoding in a trailer")


def _is_quoted_whole(line: bytes) -> bool:
    """Whether each quote in a line of extensions ends in it, escapes within quotes included (RFC 9110 5.6.4). Behind a
    quote that is open, another parser might look for its end in the data."""
    pieces = line.replace(rb"\\", b"\0").replace(rb"\"", b"\0").split(b'"')
    return len(pieces) % 2 == 1 and b"\0" not in b'"'.join(pieces[::2])
