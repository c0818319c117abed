"""A room on the bare event loop, and nothing else: ``python -m benchmarks.bare_room PORT``.

It shows what uvloop and the kernel take for a broadcast. It trusts its clients, who send one request in one piece, and
forgets who has left.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import sys
from typing import Final

import uvloop

from benchmarks.application import HELLO, NEWS

__all__ = ["main"]

#: RFC 6455 1.3.
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY: Final = re.compile(rb"^sec-websocket-key: *(\S+)", re.I | re.M)
#: A text in one frame (RFC 6455 5.2).
_FRAME: Final = bytes((0x81, len(NEWS))) + NEWS.encode()
_ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(HELLO), HELLO)


class _Connection(asyncio.Protocol):
    #: The transports of all members.
    members: Final[dict[asyncio.BaseTransport, None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.members.pop(self._transport, None)

    def data_received(self, data: bytes) -> None:
        write = self._transport.write  # type: ignore[attr-defined]
        key = _KEY.search(data)
        if key is not None:
            accept = base64.b64encode(hashlib.sha1(key[1] + _GUID).digest())
            write(
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
                b"sec-websocket-accept: %b\r\n\r\n" % accept
            )
            self.members[self._transport] = None
        elif data.startswith(b"GET "):
            if data.startswith(b"GET /news "):
                for member in self.members:
                    member.write(_FRAME)  # type: ignore[attr-defined]
            write(_ANSWER)


async def main(port: int) -> None:
    """Serve on a port of 127.0.0.1."""
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
