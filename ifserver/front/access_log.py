"""The access log: one line for each request that has ended, in the formats of NCSA and Apache or as JSON."""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec
from msgspec.structs import replace

from ifserver.errors import ConfigurationError
from ifserver.front.log_writer import FileOutput, JournalOutput, LogWriter, Output, StandardOutput
from ifserver.logs import iso_time, journal, masked

__all__ = ["AccessLog", "Entry", "NoLog", "WrittenLog", "as_combined", "as_common", "as_json", "open_log"]

#: ``front.access_log_format``
Format: TypeAlias = Literal["common", "combined", "json"]

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
#: How long the journal may take to have room, in seconds; a thread of its own waits for it.
_JOURNAL_S: Final = 5.0
#: RFC 6455 7.4.1.
_NO_CODE: Final = 1005
_ABNORMAL: Final = 1006
#: syslog(3): informational.
_PRIORITY: Final = 6


class Entry(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A request that has ended."""

    #: When it ended: the time of day, in seconds since the epoch. No duration is made of it.
    at: float
    #: The client's address; empty if it has none.
    client: str
    #: Method, target and version are empty as far as a request that was refused had not come.
    method: str
    target: bytes
    http_version: str
    #: 0: there was no response.
    status: int
    #: Of the response's body.
    sent_bytes: int
    #: Since its head had come.
    duration_s: float
    #: Of that, until a worker claimed it; None: none has before there was the whole response.
    queue_s: float | None
    #: Its reply channel's process and stream; empty: it was refused before it had one.
    stream: str
    #: Empty: it has none.
    request_id: str
    referer: bytes | None
    user_agent: bytes | None
    #: How a WebSocket was closed (RFC 6455 7.4.1).
    close_code: int | None = None
    #: Empty: there are no pools, or none has had it.
    pool: str = ""


class Closed(Protocol):
    """A WebSocket that is over, as autobahn has it."""

    wasClean: bool
    closedByMe: bool

    @property
    def localCloseCode(self) -> int | None:
        """What we have sent."""

    @property
    def remoteCloseCode(self) -> int | None:
        """What the client has sent."""


def closed(entry: Entry, at: float, open_s: float, websocket: Closed) -> Entry:
    """The entry of an accepted handshake, now that the WebSocket is over: with the code of the side that closed first.

    1005: it gave none. 1006: neither side has closed it (RFC 6455 7.4.1).

    Args:
        at: the time of day, in seconds since the epoch.
        open_s: how long it was open, in seconds.
    """
    code = websocket.localCloseCode if websocket.closedByMe else websocket.remoteCloseCode
    if code is None:
        code = _NO_CODE if websocket.wasClean else _ABNORMAL
    return replace(entry, at=at, duration_s=entry.duration_s + open_s, close_code=code)


class AccessLog(Protocol):
    """Where requests are written down when they have ended."""

    #: False: it is not read, so that nothing need be prepared.
    enabled: bool

    def change(self, style: Format, queries: bool) -> None:
        """Write in this format from now on, with or without query strings."""

    def write(self, entry: Entry) -> None:
        """A request has ended."""

    def reopen(self) -> None:
        """Somebody has moved the file away: go on in a new one."""

    def close(self) -> None:
        """No more will come."""

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""


class NoLog:
    """Writes nothing."""

    enabled = False

    def change(self, style: Format, queries: bool) -> None:
        """Nothing has a format."""

    def write(self, entry: Entry) -> None:
        """Nothing is written."""

    def reopen(self) -> None:
        """Nothing is open."""

    def close(self) -> None:
        """Nothing is open."""

    def statistics(self) -> dict[str, int]:
        return {}


class WrittenLog:
    """Writes to `output`, as entries of the journal if that is what it is."""

    enabled = True

    def __init__(self, output: Output) -> None:
        self._writer = LogWriter(output)
        self._is_journal = isinstance(output, JournalOutput)
        self._format: Callable[[Entry, bool], bytes] = as_combined
        self._queries = True

    def change(self, style: Format, queries: bool) -> None:
        self._format = _FORMATS[style]
        self._queries = queries

    def write(self, entry: Entry) -> None:
        line = self._format(entry, self._queries)
        self._writer.put(_for_journal(entry, self._queries, line) if self._is_journal else line)

    def reopen(self) -> None:
        self._writer.reopen()

    def close(self) -> None:
        self._writer.close()

    def statistics(self) -> dict[str, int]:
        return self._writer.statistics()


def open_log(path: str | None, journal_socket: str = journal.SOCKET) -> AccessLog:
    """The access log for the setting ``front.access_log``.

    Raises:
        ConfigurationError: the file cannot be opened, there is no journal, or standard output is closed.
    """
    if path is None:
        return NoLog()
    if path == "journal":
        return WrittenLog(JournalOutput(journal.open_journal("front.access_log", journal_socket, _JOURNAL_S)))
    if path == "-":
        if sys.__stdout__ is None:
            # Then its number is that of something else by now.
            raise ConfigurationError("front.access_log: '-': standard output is closed")
        return WrittenLog(StandardOutput(1))
    try:
        return WrittenLog(FileOutput(path))
    except OSError as error:
        raise ConfigurationError(f"front.access_log: {path!r}: {error.strerror}") from error


# Formats. Each ends its line.


def as_common(entry: Entry, queries: bool = True) -> bytes:
    """The Common Log Format of NCSA: client, identity, user, time, request line, status, bytes."""
    return f"{_common(entry, queries)}\n".encode("ascii", "backslashreplace")


def as_combined(entry: Entry, queries: bool = True) -> bytes:
    """Apache's Combined Log Format: the same, with Referer and User-Agent."""
    referer, agent = _quoted(_shown(entry.referer, queries)), _quoted(_shown(entry.user_agent))
    return f"{_common(entry, queries)} {referer} {agent}\n".encode("ascii", "backslashreplace")


def as_json(entry: Entry, queries: bool = True) -> bytes:
    """One JSON object (RFC 8259) in UTF-8, in which bytes that are no UTF-8 are escaped as ``\\\\xff``."""
    fields: dict[str, Any] = {
        "time": iso_time(entry.at),
        "client": entry.client or None,
        "method": entry.method or None,
        "target": _shown(entry.target, queries, "utf-8") or None,
        "protocol": f"HTTP/{entry.http_version}" if entry.http_version else None,
        "status": entry.status,
        "bytes": entry.sent_bytes,
        "duration_ms": round(entry.duration_s * 1000, 3),
        "queue_ms": None if entry.queue_s is None else round(entry.queue_s * 1000, 3),
        "request_id": entry.request_id or None,
        "stream": entry.stream or None,
        "referer": _shown(entry.referer, queries, "utf-8"),
        "user_agent": _shown(entry.user_agent, True, "utf-8"),
    }
    if entry.close_code is not None:
        fields["close_code"] = entry.close_code
    if entry.pool:
        fields["pool"] = entry.pool
    return _to_json(fields) + b"\n"


_to_json: Final = msgspec.json.Encoder().encode
_FORMATS: Final[Mapping[str, Callable[[Entry, bool], bytes]]] = {
    "common": as_common,
    "combined": as_combined,
    "json": as_json,
}


def _for_journal(entry: Entry, queries: bool, line: bytes) -> bytes:
    fields: dict[str, str | int | None] = {
        "MESSAGE": line.decode().rstrip("\n"),
        "PRIORITY": _PRIORITY,
        "IFSERVER_CLIENT": entry.client or None,
        "IFSERVER_METHOD": entry.method or None,
        "IFSERVER_TARGET": _shown(entry.target, queries, "utf-8") or None,
        "IFSERVER_STATUS": entry.status,
        "IFSERVER_DURATION_MS": f"{entry.duration_s * 1000:.3f}",
        "IFSERVER_STREAM": entry.stream or None,
        "IFSERVER_REQUEST_ID": entry.request_id or None,
        "IFSERVER_CLOSE_CODE": entry.close_code,
        "IFSERVER_POOL": entry.pool or None,
    }
    return journal.encode(fields)


def _common(entry: Entry, queries: bool) -> str:
    line = [entry.method, _shown(entry.target, queries), f"HTTP/{entry.http_version}" if entry.http_version else ""]
    request = _quoted(" ".join(part for part in line if part) or None)
    return f"{entry.client or '-'} - - [{_clf_time(int(entry.at))}] {request} {entry.status} {entry.sent_bytes}"


@functools.lru_cache(maxsize=4)
def _clf_time(second: int) -> str:
    # Not strftime's %b, which speaks the locale's language.
    local = time.localtime(second)
    return f"{local.tm_mday:02}/{_MONTHS[local.tm_mon - 1]}/{time.strftime('%Y:%H:%M:%S %z', local)}"


#: What is written of a target or a header's value, in bytes; of longer ones the begin. To escape more would cost time.
_MAX_BYTES: Final = 4096


def _shown(value: bytes | None, queries: bool = True, encoding: Literal["latin-1", "utf-8"] = "latin-1") -> str | None:
    """A target or a header's value without what is secret: users and passwords, and queries if `queries` is false."""
    if value is None:
        return None
    if len(value) > _MAX_BYTES:
        # A user and a password that are cut have no @ by which to find them.
        text = masked(value[:_MAX_BYTES].decode(encoding, "backslashreplace") + "@")[:-1] + "..."
    else:
        text = masked(value.decode(encoding, "backslashreplace"))
    return text if queries else text.partition("?")[0]


#: What could end a quote or a line, or is not ASCII; and what is written instead.
_NOT_PLAIN: Final = re.compile(r"[^ !#-\[\]-~]")
_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0x100))} | {34: r"\"", 92: r"\\"}


def _quoted(text: str | None) -> str:
    """`text`, which is Latin-1, in quotes, with nothing in it that could end the quote or the line."""
    if text is None:
        return '"-"'
    return f'"{text.translate(_ESCAPES) if _NOT_PLAIN.search(text) else text}"'
