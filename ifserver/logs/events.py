"""Events: what is logged and kept as well, to be seen later: deploys, faults, and the end of faults.

Like the log itself they belong to the process, which reports them in its beats (`ifserver.status.Facts`); the admin
endpoint shows them beside its figures. Only what operators look for is an event: a failure of one request is none, for
there may be thousands of them.
"""

from __future__ import annotations

import enum
import logging
import time
from collections import deque
from typing import Final

from ifserver.logs import masked
from ifserver.status import Event

__all__ = ["MAX_AGE_S", "MAX_EVENTS", "Mark", "keep", "recent", "report"]

#: How many are kept: more than happen in the minutes that are shown, and some 20 KB.
MAX_EVENTS: Final = 100
#: Older ones are reported no more, in seconds: beats need not carry them for ever.
MAX_AGE_S: Final = 900.0
#: The longest text, in characters: it is sent with every beat.
_MAX_TEXT: Final = 200
#: What has the same label within the first time is one event (eight workers are killed at once), and so is what has the
#: same text within the second (an overload that comes and goes). In seconds.
_SAME_TIME_S: Final = 1.0
_SAME_TEXT_S: Final = 60.0


class Mark(enum.Enum):
    """What an event is about: its kind, and its label, a few words that find room beside a chart.

    ``deploy``: somebody changes what runs. ``fault``: something is broken. ``mended``: it is no longer. ``order``: an
    operator wants something else.
    """

    STARTED = ("deploy", "started")
    STOPPING = ("deploy", "stopping")
    STOPPED = ("deploy", "stopped")
    GONE = ("fault", "process gone")
    ROLLING = ("deploy", "rolling restart")
    ROLLED = ("deploy", "restart done")
    NEW_CODE = ("deploy", "new code")
    SETTINGS = ("deploy", "settings read")
    TAKEOVER = ("deploy", "takeover")
    DEPLOY_FAILED = ("fault", "deploy failed")
    WORKER_KILLED = ("fault", "worker killed")
    WORKER_ENDED = ("fault", "worker ended")
    WORKER_STALLED = ("fault", "worker blocked")
    WORKER_BACK = ("mended", "worker back")
    NO_PROCESS = ("fault", "no worker starts")
    PROCESS_LOST = ("fault", "process lost")
    NODE_LOST = ("fault", "node lost")
    NODE_UNWELL = ("fault", "node unwell")
    NODE_RESTARTED = ("fault", "node restarted")
    NODE_BACK = ("mended", "node back")
    NODE_WELL = ("mended", "node well")
    FAILOVER = ("fault", "failover")
    INBOX_MOVED = ("fault", "inbox moved")
    QUEUE_FULL = ("fault", "queue full")
    BEHIND = ("fault", "workers behind")
    IN_TIME = ("mended", "in time again")
    NO_READER = ("fault", "no workers")
    READER = ("mended", "workers read")
    TURNED_AWAY = ("fault", "clients refused")
    MESSAGES_DROPPED = ("fault", "messages lost")
    BROADCASTS_LOST = ("fault", "broadcasts lost")
    PAUSED = ("order", "paused")
    RESUMED = ("order", "resumed")
    WEIGHTS = ("order", "weights")

    @property
    def kind(self) -> str:
        """``deploy``, ``fault``, ``mended`` or ``order``."""
        return self.value[0]

    @property
    def label(self) -> str:
        """What is written beside a chart."""
        return self.value[1]


_events: deque[Event] = deque(maxlen=MAX_EVENTS)
_number = 0


def report(logger: logging.Logger, level: int, mark: Mark, text: str, *arguments: object) -> None:
    """Log a line, and keep it as an event, whether or not the log is as talkative as that."""
    logger.log(level, text, *arguments, stacklevel=2)
    keep(mark, text % arguments if arguments else text)


def keep(mark: Mark, text: str) -> None:
    """Keep an event whose line in the log has other words."""
    global _number
    now = time.time()
    [line, *_] = text.splitlines() or [""]
    line = masked(line)[:_MAX_TEXT]
    for index in range(len(_events) - 1, -1, -1):
        last = _events[index]
        if now - last.at > _SAME_TEXT_S:
            break
        if last.label == mark.label and (last.text == line or now - last.at <= _SAME_TIME_S):
            _events[index] = Event(
                number=last.number, at=last.at, kind=last.kind, label=last.label, text=last.text, times=last.times + 1
            )
            return
    _number += 1
    _events.append(Event(number=_number, at=round(now, 3), kind=mark.kind, label=mark.label, text=line))


def recent(count: int = MAX_EVENTS) -> tuple[Event, ...]:
    """The newest events of this process that are not old, oldest first."""
    since = time.time() - MAX_AGE_S
    return tuple([event for event in _events if event.at >= since][-count:]) if _events else ()
