"""Fewer lines: a repeated error is logged once, and then how often it came; one event of many streams is one line."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Any, Final

from ifserver.clock import Clock, Timer

__all__ = ["MergedLogLines", "Repeats", "ThreadClock"]

#: How long equal lines are counted before the count is logged, in seconds.
_WINDOW_S: Final = 10.0
#: Kinds of lines that are counted at a time; lines of more kinds are all logged.
_MAX_KINDS: Final = 256
#: How many exceptions are looked at that one was raised from.
_MAX_CAUSES: Final = 8
#: How long more streams of the same event are waited for after the first, in seconds.
_WAIT_S: Final = 0.25
#: How many kinds of such lines may wait at a time; further ones are logged at once.
_MAX_MERGED_KINDS: Final = 64

_log = logging.getLogger(__name__)


class ThreadClock:
    """The time outside of any reactor (`ifserver.clock.Clock`): there is none yet when the first lines are logged."""

    def seconds(self) -> float:
        """Seconds since some time in the past, which nobody sets."""
        return time.monotonic()

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> Timer:
        """Call `callable` in `delay` seconds, in a thread that keeps no process from ending."""
        timer = _ThreadTimer(delay, callable, args, kwargs)
        timer.daemon = True
        timer.start()
        return timer


class _ThreadTimer(threading.Timer):
    """`ifserver.clock.Timer`."""

    def active(self) -> bool:
        """Whether it is still to be made."""
        return not self.finished.is_set()


class _Kind:
    """Lines that are equal, since the first of them was logged."""

    __slots__ = ("count", "last", "over_at", "timer")

    def __init__(self, over_at: float) -> None:
        self.over_at = over_at
        #: Of those after the first.
        self.count = 0
        self.last: logging.LogRecord | None = None
        self.timer: Timer | None = None


class Repeats(logging.Handler):
    """Hands the first of equal lines to `handler`, counts those of the next `window_s` seconds, and then logs how many
    they were and the text of the last one. Anything below a warning is handed on as it is.

    Equal are lines of one logger, level and format, whatever numbers and streams they name; their other words must be
    the same, so that two nodes which fail have a line each. With an exception, its type and all places in its traceback
    must be the same too.
    """

    def __init__(self, handler: logging.Handler, clock: Clock, window_s: float = _WINDOW_S) -> None:
        super().__init__()
        self._handler = handler
        self._clock = clock
        self._window_s = window_s
        self._kinds: dict[Hashable, _Kind] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            self._handler.handle(record)
            return
        key, now = _key_of(record), self._clock.seconds()
        kind = self._kinds.get(key)
        if kind is not None and now < kind.over_at:
            kind.count += 1
            kind.last = record
            if kind.timer is None:
                kind.timer = self._clock.callLater(kind.over_at - now, self._over, key)
            return
        if kind is not None:
            self._log_count(key)
        self._forget(now)
        if len(self._kinds) < _MAX_KINDS:
            self._kinds[key] = _Kind(now + self._window_s)
        self._handler.handle(record)

    def statistics(self) -> dict[str, int]:
        """Counts of what has not been logged."""
        return {"log_kinds": len(self._kinds), "log_untold": sum(kind.count for kind in self._kinds.values())}

    def flush(self) -> None:
        """Log all that was counted."""
        self.acquire()
        try:
            for key in list(self._kinds):
                self._log_count(key)
        finally:
            self.release()
        self._handler.flush()

    def close(self) -> None:
        self.flush()
        self._handler.close()
        super().close()

    def _forget(self, now: float) -> None:
        """Make room: of kinds that are over and have no timer, there was one line each."""
        if len(self._kinds) >= _MAX_KINDS:
            for key in [key for key, kind in self._kinds.items() if kind.timer is None and kind.over_at <= now]:
                del self._kinds[key]

    def _over(self, key: Hashable) -> None:
        """The window is over."""
        self.acquire()
        try:
            self._log_count(key)
        finally:
            self.release()

    def _log_count(self, key: Hashable) -> None:
        kind = self._kinds.pop(key, None)
        if kind is None:
            return
        if kind.timer is not None and kind.timer.active():
            kind.timer.cancel()
        last = kind.last
        if last is not None:
            words = "... and %d more like this, the last: %s"
            arguments = (kind.count, last.getMessage())
            place = (last.pathname, last.lineno)
            self._handler.handle(logging.LogRecord(last.name, last.levelno, *place, words, arguments, None))


def _key_of(record: logging.LogRecord) -> Hashable:
    """What equal lines have in common."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    # A channel's name with a leading "!" is that of one stream or process; numbers are statuses, counts and ids.
    words = tuple(each for each in arguments if type(each) is str and not each.startswith("!"))
    error = record.exc_info[1] if record.exc_info else None
    return record.name, record.levelno, str(record.msg), words, _places_of(error)


def _places_of(error: BaseException | None) -> tuple[object, ...]:
    """The types of `error` and of what it was raised from, and the lines of their tracebacks."""
    found: list[object] = []
    for _ in range(_MAX_CAUSES):
        if error is None:
            break
        found.append(type(error))
        traceback: TracebackType | None = error.__traceback__
        while traceback is not None:
            found += (traceback.tb_frame.f_code, traceback.tb_lineno)
            traceback = traceback.tb_next
        error = error.__cause__ or error.__context__
    return tuple(found)


class MergedLogLines:
    """Counts the streams to which the same happens for the same reason, and logs it once, at the level INFO."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: The streams, in their order, by what happens to them and why. It may happen to one several times.
        self._waiting: dict[tuple[str, str], dict[str, None]] = {}

    def add(self, what: str, why: str, channel: str) -> None:
        """`what` happens to the stream `channel`, and `why`."""
        if not _log.isEnabledFor(logging.INFO):
            return
        key = what, why
        streams = self._waiting.get(key)
        if streams is not None:
            streams[channel] = None
        elif len(self._waiting) < _MAX_MERGED_KINDS:
            self._waiting[key] = {channel: None}
            self._clock.callLater(_WAIT_S, self._log_them, key)
        else:
            _log.info("%s: %s: %s", channel, what, why)

    def _log_them(self, key: tuple[str, str]) -> None:
        first, *more = self._waiting.pop(key)
        others = f" and {len(more)} more" if more else ""
        _log.info("%s%s: %s: %s", first, others, *key)
