"""Files that an application answers with: the ASGI extension ``http.response.pathsend``, a header such as X-Sendfile,
and WSGI's ``wsgi.file_wrapper``.

Middleware that compresses, such as Starlette's, leaves a file alone that is sent by its path. So the extension is only
offered where the path of the request shows that compressing gains nothing (`COMPRESSED`).

The worker opens the file, as the application would, and asks the server to send it. The server finds it by its path,
and must have the same one. Where it cannot, the worker reads and sends the file that it has open
(`ifserver.worker.response`), so clients see no difference.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import re
import stat
import tempfile
from typing import Any, Final

from ifserver.errors import ApplicationError
from ifserver.messages import Headers, ResponseFile

__all__ = ["COMPRESSED", "PATHSEND", "Source", "open_source", "read", "source_of"]

#: The extension's event: https://asgi.readthedocs.io/en/latest/extensions.html#path-send
PATHSEND: Final = "http.response.pathsend"
#: What the names of files end in that are compressed already.
COMPRESSED: Final = frozenset({
    "7z", "aac", "apk", "apng", "avif", "br", "bz2", "deb", "dmg", "docx", "epub", "flac", "gif", "gz", "heic",
    "iso", "jar", "jpeg", "jpg", "jxl", "lz4", "m4a", "m4v", "mkv", "mov", "mp3", "mp4", "mpeg", "mpg", "odp", "ods",
    "odt", "oga", "ogg", "ogv", "opus", "pdf", "png", "pptx", "rar", "rpm", "tgz", "webm", "webp", "whl", "woff",
    "woff2", "xlsx", "xz", "zip", "zst",
})  # fmt: skip

#: A FIFO must not make the loop wait, nor a terminal become ours.
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
#: Reading from these reads the file under them, and nothing else.
_PLAIN: Final = (io.FileIO, io.BufferedReader, io.BufferedRandom)
#: RFC 9110 14.4. No file is longer than a number of so many digits.
_CONTENT_RANGE: Final = re.compile(rb"bytes (\d{1,19})-(\d{1,19})/(?:(\d{1,19})|\*)", re.IGNORECASE)


class Source:
    """What is sent of a file: up to `count` bytes from `offset` on. It has a descriptor of its own, until `close`.

    Raises:
        OSError: `fd` is not open.
    """

    __slots__ = ("_stat", "count", "fd", "offset")

    def __init__(self, fd: int, offset: int = 0) -> None:
        self.fd = fd
        self._stat = os.fstat(fd)
        self.offset = offset
        self.count = max(0, self._stat.st_size - offset)

    @property
    def is_regular(self) -> bool:
        """Whether it is a file with bytes, no directory, device or FIFO."""
        return stat.S_ISREG(self._stat.st_mode)

    def take_range(self, content_range: bytes) -> bool:
        """Of a whole file, send the part that a header Content-Range names. False: it names none of this file."""
        match = _CONTENT_RANGE.fullmatch(content_range)
        if match is None:
            return False
        first, last = int(match[1]), int(match[2])
        if not first <= last < self.count or int(match[3] or self.count) != self.count:
            return False
        self.offset, self.count = first, last - first + 1
        return True

    def message(
        self, stream: str, attempt: int, worker: str, seq: int, status: int, headers: Headers, count: int
    ) -> ResponseFile | None:
        """Asks the server to send `count` bytes of it. None: it has no path by which the server could find it."""
        found = self._stat
        if not found.st_nlink:
            return None  # it is deleted
        try:
            # The path as the kernel has it: absolute, and without symbolic links, wherever they were.
            path = os.readlink(b"/proc/self/fd/%d" % self.fd)
        except OSError:
            return None
        return ResponseFile(
            stream, attempt, worker, seq, status, headers, path, self.offset, count,
            found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns,
        )  # fmt: skip

    def close(self) -> None:
        """Close it. What is in `read` still reads nothing that anybody sees."""
        os.close(self.fd)


def open_source(what: str, path: Any) -> Source:
    """The whole file at `path`.

    In the loop, and not in a thread: for a file that an application has just looked up the kernel needs microseconds.

    Raises:
        ApplicationError: there is none that can be read; `what` names who has named it.
    """
    try:
        fd = os.open(path, _FLAGS)
    except (OSError, TypeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ApplicationError(f"{what}: cannot send the file {_shown(path)}: {why}") from error
    source = Source(fd)
    if not source.is_regular:
        source.close()
        raise ApplicationError(f"{what}: cannot send {_shown(path)}: not a regular file")
    return source


def source_of(file: Any) -> Source | None:
    """What is left of an open file, as of the one in a ``wsgi.file_wrapper`` (PEP 3333, "Optional Platform-Specific
    File Handling"). None: it is no regular file, or not read as it is, as one that is compressed.

    The caller closes both.
    """
    file = _under(file)
    if type(file) not in _PLAIN:
        return None
    try:
        source = Source(os.dup(file.fileno()), file.tell())
    except (OSError, ValueError):
        return None  # it is closed, or has no position
    if source.is_regular:
        return source
    source.close()
    return None


async def read(loop: asyncio.AbstractEventLoop, source: Source, size: int) -> bytes:
    """The next bytes, up to `size`; empty at the end of the file. In a thread if they are not in the page cache.

    Raises:
        OSError: it cannot be read.
    """
    fd, offset = source.fd, source.offset
    buffer = bytearray(size)
    try:
        count = os.preadv(fd, (buffer,), offset, os.RWF_NOWAIT)
    except OSError as error:
        # Network file systems do not support it, for example.
        if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        data = await loop.run_in_executor(None, os.pread, fd, size, offset)
    else:
        data = bytes(memoryview(buffer)[:count])
    source.offset += len(data)
    return data


def _under(file: Any) -> Any:
    """The file under Django's File and a temporary file's wrapper, which read it as it is."""
    for _ in range(3):
        inner = getattr(file, "file", None)
        if inner is None:
            break
        if type(file) is not tempfile._TemporaryFileWrapper and getattr(file, "read", None) != getattr(
            inner, "read", inner
        ):
            break
        file = inner
    return file


def _shown(path: Any) -> str:
    return ascii(path if isinstance(path, str | bytes) else str(path))[:300]
