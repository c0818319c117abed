"""The access log, in the Combined Log Format of NCSA and Apache."""

from __future__ import annotations

import logging
import sys
import time
from typing import Final, Protocol, TextIO

from ifserver import headers
from ifserver.errors import ConfigurationError
from ifserver.messages import Headers

__all__ = ["AccessLog", "CombinedLog", "NoLog", "open_log"]

_log = logging.getLogger(__name__)

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class AccessLog(Protocol):
    """Where finished requests are written down."""

    #: False: nobody reads it, so that nothing need be prepared.
    enabled: bool

    def write(self, host: str, line: str, status: int, sent: int, request_headers: Headers) -> None:
        """One request has ended: `line` is its request line, `sent` the bytes of the response's body."""

    def close(self) -> None:
        """No more will come."""


class NoLog:
    """Writes nothing."""

    enabled = False

    def write(self, host: str, line: str, status: int, sent: int, request_headers: Headers) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """Nothing is open."""


class CombinedLog:
    """Writes one line for each request."""

    enabled = True

    def __init__(self, stream: TextIO, close: bool) -> None:
        self._stream = stream
        self._close = close
        self._failing = False

    def write(self, host: str, line: str, status: int, sent: int, request_headers: Headers) -> None:
        referer = _quoted(headers.find(request_headers, b"referer"))
        agent = _quoted(headers.find(request_headers, b"user-agent"))
        request = _quoted(line.encode("latin-1", "replace"))
        try:
            self._stream.write(f"{host or '-'} - - [{_now()}] {request} {status} {sent} {referer} {agent}\n")
            self._stream.flush()
        except OSError as error:
            self._failed(error)
        else:
            self._failing = False

    def close(self) -> None:
        if self._close:
            try:
                self._stream.close()
            except OSError as error:
                self._failed(error)

    def _failed(self, error: OSError) -> None:
        """A disk that is full costs lines of this log, and is told once; it must not cost the requests."""
        if not self._failing:
            self._failing = True
            _log.error("the access log cannot be written: %s", error)


def open_log(path: str | None) -> AccessLog:
    """The access log for the setting ``front.access_log``.

    Raises:
        ConfigurationError: the file cannot be opened.
    """
    if path is None:
        return NoLog()
    if path == "-":
        return CombinedLog(sys.stdout, close=False)
    try:
        return CombinedLog(open(path, "a", encoding="utf-8", errors="backslashreplace"), close=True)
    except OSError as error:
        raise ConfigurationError(f"front.access_log: {path!r}: {error.strerror}") from error


def _quoted(value: bytes | None) -> str:
    """`value` in quotes, with nothing in it that could end the quote or the line."""
    if value is None:
        return '"-"'
    text = value.decode("latin-1").replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() and c.isascii() else f"\\x{ord(c):02x}" for c in text) + '"'


def _now() -> str:
    # Not strftime's %b, which speaks the locale's language.
    now = time.localtime()
    return f"{now.tm_mday:02}/{_MONTHS[now.tm_mon - 1]}/{time.strftime('%Y:%H:%M:%S %z', now)}"
