"""The log of what happens, by Python's own ``logging``: on standard error or in the journal, for people or programs.

Only the loggers ``ifserver`` and ``twisted`` are ours; the application's own logging is its own affair. What Twisted
logs comes to the second, failures with their tracebacks, and so do Python's warnings, but not those of an application.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import time
import warnings
from typing import TYPE_CHECKING, Any, Final

from ifserver.logs import journal
from ifserver.logs.repeats import Repeats, ThreadClock

if TYPE_CHECKING:
    from ifserver.clock import Clock
    from ifserver.config.settings import LogSettings

__all__ = [
    "HumanFormatter",
    "JournalHandler",
    "JsonFormatter",
    "ShortFormatter",
    "about",
    "at",
    "configure",
    "enable",
    "iso_time",
    "masked",
]

#: Ours and Twisted's, and their levels by ``log.verbosity``.
_OURS: Final = ("ifserver", "twisted")
_LEVELS: Final = (("WARNING", "WARNING"), ("INFO", "WARNING"), ("DEBUG", "WARNING"), ("DEBUG", "DEBUG"))
#: The fields of a line beside its text, which `about` adds.
_FIELDS: Final = ("stream", "request_id")
#: What stands before the host of a URL (RFC 3986 3.2.1); passwords that are not encoded may hold an @.
_USERINFO: Final = re.compile(r"(?<=://)[^/?#\s]*@")
#: What a terminal may take for an order, or for the end of a line; but no line break and no tab.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
#: syslog(3)
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG: Final = 7

_twisted_is_joined = False
#: How Python shows warnings, before Twisted's logger takes them; a fork has inherited what its parent has set.
_shows_warnings = warnings.showwarning


def configure(
    settings: LogSettings,
    clock: Clock | None = None,
    journal_socket: str = journal.SOCKET,
    python_warnings: bool = True,
) -> None:
    """Let our loggers write as `settings` ask, and no others. May be called again.

    Args:
        python_warnings: whether Python's warnings are logged. Otherwise they go where Python writes them.

    Raises:
        ConfigurationError: the journal is asked for, and there is none.
    """
    stderr = logging.StreamHandler()
    stderr.setFormatter(_FORMATTERS[settings.log_format]())
    if settings.log_format == "short":
        stderr.addFilter(_concerns_developers)
    handler: logging.Handler = stderr
    if settings.log_to == "journal":
        handler = JournalHandler(journal.open_journal("log.log_to", journal_socket), stderr)
        handler.setFormatter(JsonFormatter() if settings.log_format == "json" else HumanFormatter("%(message)s"))
    once = Repeats(handler, clock or ThreadClock())
    for name in _OURS:
        logger = logging.getLogger(name)
        for old in logger.handlers:
            old.close()
        logger.handlers = [once]
        logger.propagate = False
    at(settings.verbosity)
    _join_twisted()
    if not python_warnings:
        warnings.showwarning = _shows_warnings


def at(verbosity: int) -> None:
    """From now on log as much as ``log.verbosity`` asks for."""
    for name, level in zip(_OURS, _LEVELS[verbosity], strict=True):
        logging.getLogger(name).setLevel(level)


def _join_twisted() -> None:
    """Let Twisted log to the logger ``twisted``, once in a process: it refuses to begin twice."""
    global _twisted_is_joined, _shows_warnings
    if not _twisted_is_joined:
        _twisted_is_joined = True
        from twisted.logger import STDLibLogObserver, globalLogBeginner

        _shows_warnings = warnings.showwarning
        globalLogBeginner.beginLoggingTo([STDLibLogObserver()], redirectStandardIO=False, discardBuffer=True)


def enable() -> None:
    """Undo what ``logging.config.dictConfig`` does by its default to loggers that it does not name."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] in _OURS and isinstance(logger, logging.Logger):
            logger.disabled = False


def about(stream: str, request_id: str) -> dict[str, str]:
    """The argument ``extra`` of a line about a stream: its channel's name, and the request's id if it has one."""
    return {"stream": stream, "request_id": request_id} if request_id else {"stream": stream}


def masked(text: str) -> str:
    """`text` with no user and no password in its URLs."""
    return _USERINFO.sub("***@", text) if "@" in text and "://" in text else text


def iso_time(seconds: float) -> str:
    """A time in ISO 8601, local, with milliseconds and the distance from UTC: ``2026-03-01T12:00:00.250+01:00``."""
    # Rounded first: 59.9999 s are no 59.1000.
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    second, offset = _iso_second(whole)
    return f"{second}.{milliseconds:03}{offset}"


@functools.lru_cache(maxsize=4)
def _iso_second(whole: int) -> tuple[str, str]:
    local = time.localtime(whole)
    offset = time.strftime("%z", local)
    return time.strftime("%Y-%m-%dT%H:%M:%S", local), f"{offset[:3]}:{offset[3:5]}"


class HumanFormatter(logging.Formatter):
    """Lines for people. What others have a hand in, such as the text of an exception, can hold no control characters;
    and a line break only where our own text has some, or in a traceback."""

    def __init__(self, form: str = "%(asctime)s %(levelname)-7s [%(process)d] %(message)s") -> None:
        super().__init__(form)

    def format(self, record: logging.LogRecord) -> str:
        return _CONTROL.sub(_escaped, masked(super().format(record)))

    def formatMessage(self, record: logging.LogRecord) -> str:
        if "\n" not in str(record.msg):
            record.message = record.message.replace("\n", r"\n")
        return super().formatMessage(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        # With the distance from UTC: Django changes the zone of its process, whose lines stand beside those of others.
        return iso_time(record.created)


def _escaped(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


class ShortFormatter(HumanFormatter):
    """Lines for the terminal of somebody who writes code: the text, and whether it is more than an event."""

    def __init__(self) -> None:
        super().__init__("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname}: {text}"


def _concerns_developers(record: logging.LogRecord) -> bool:
    """Whether the short format has a line: not which processes come and go, but which file has changed."""
    return record.levelno != logging.INFO or record.name == "ifserver.process.reload"


class JsonFormatter(logging.Formatter):
    """One JSON object (RFC 8259) in ASCII for each line; a traceback is one text in it."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": iso_time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": masked(record.getMessage()),
        }
        fields |= _fields_of(record)
        if record.exc_info:
            fields["exception"] = masked(self.formatException(record.exc_info))
        if record.stack_info:
            fields["stack"] = masked(record.stack_info)
        return json.dumps(fields)


_FORMATTERS: Final = {"human": HumanFormatter, "json": JsonFormatter, "short": ShortFormatter}


class JournalHandler(logging.Handler):
    """Sends to the journal. What that does not take goes to `otherwise`, so that nothing is lost."""

    def __init__(self, where: journal.Journal, otherwise: logging.Handler) -> None:
        super().__init__()
        self._journal = where
        self._otherwise = otherwise
        self._failing = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._journal.send(self._entry(record))
        except OSError as error:
            if not self._failing:
                self._failing = True
                words = "the journal cannot be written, so this goes to standard error: %s"
                place = (logging.ERROR, record.pathname, record.lineno)
                self._otherwise.handle(logging.LogRecord(__name__, *place, words, (error.strerror or error,), None))
            self._otherwise.handle(record)
        else:
            self._failing = False

    def _entry(self, record: logging.LogRecord) -> bytes:
        fields: dict[str, str | int | None] = {
            "MESSAGE": self.format(record),
            "PRIORITY": next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG),
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName,
            "LOGGER": record.name,
        }
        fields |= {f"IFSERVER_{name.upper()}": value for name, value in _fields_of(record).items()}
        return journal.encode(fields)

    def close(self) -> None:
        self._journal.close()
        self._otherwise.close()
        super().close()


def _fields_of(record: logging.LogRecord) -> dict[str, str]:
    return {name: getattr(record, name) for name in _FIELDS if getattr(record, name, None)}
