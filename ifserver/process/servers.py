"""Several interface servers that share their addresses: started, watched, replaced when they end, and told to end.

They share nothing but the listening sockets, which their parent holds as well: what connects while a server is being
replaced waits for the next one.
"""

from __future__ import annotations

import enum
import logging
import random
import signal
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
from twisted.internet.defer import Deferred

from ifserver.clock import Clock, Timer

__all__ = ["REPORT_S", "Report", "Server", "Servers", "Start"]

#: How often a server reports.
REPORT_S: Final = 1.0
#: How often its parent looks; one that looks so late has stood still itself, and knows nothing of the time between.
_LOOK_S: Final = 1.0
_LATE_S: Final = 3.0
#: A server runs no application, so that nothing should keep it for long from reporting. Then it is killed.
_STALLED_S: Final = 15.0
#: How long one may take to get ready.
_START_S: Final = 60.0
#: The delay before one that has crashed is replaced: doubles with each crash in a row, starts anew with one that has
#: lived for so long. Clients wait meanwhile, so it stays short.
_RESTART_S: Final = 0.1
_MAX_RESTART_S: Final = 2.0
_LIVED_S: Final = 10.0
_JITTER: Final = (0.7, 1.3)
#: What a server is given to end beyond the time that its settings allow: for its nodes, and Python's own shutdown.
_GRACE_S: Final = 5.0
#: Exit code for what the operator has to mend (`ifserver.cli`).
_MEND: Final = 2

_log = logging.getLogger(__name__)


class Report(msgspec.Struct, frozen=True, array_like=True):
    """How a server does."""

    connections: int
    streams: int


class Server(Protocol):
    """A process: `ifserver.process.children.Child`, or what tests put in its place."""

    pid: int
    status: int | None

    @property
    def ending(self) -> str:
        """How it has ended, for people."""

    def kill(self) -> None:
        """End it (SIGKILL)."""

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens once it has ended."""


class Start(Protocol):
    """Starts a server."""

    def __call__(
        self, number: int, ready: Callable[[], None], heard: Callable[[Report], None], ended: Callable[[], None], /
    ) -> Server:
        """The one of that number, from 0; raises `OSError`."""


class _State(enum.Enum):
    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"


class _Place:
    """Where one server is wanted: it has one, or a timer that will start one."""

    __slots__ = ("crashes", "heard_at", "missed", "number", "ready", "report", "server", "started_at", "timer")

    def __init__(self, number: int) -> None:
        self.number = number
        self.server: Server | None = None
        self.started_at = 0.0
        self.ready = False
        #: Signals that it gets once it is ready to handle them.
        self.missed: set[signal.Signals] = set()
        self.heard_at = 0.0
        self.report = Report(0, 0)
        self.crashes = 0
        self.timer: Timer | None = None


class Servers:
    """Keeps `count` servers running, from `start` to `stop`.

    Args:
        ready: is called once, when all are.
        failed: is called if one cannot be before any was ready, with its exit code.
    """

    def __init__(
        self, count: int, start: Start, clock: Clock, ready: Callable[[], None], failed: Callable[[int], None]
    ) -> None:
        self._start_server = start
        self._clock = clock
        self._announce: Callable[[], None] | None = ready
        self._failed = failed
        self._state = _State.RUNNING
        self._places = [_Place(number) for number in range(count)]
        self._looked_at = clock.seconds()
        self._timers: list[Timer] = []
        self._waiters: list[Deferred[None]] = []

    def start(self) -> None:
        """Start them."""
        for place in self._places:
            self._fill(place)
        self._look()

    def stop(self, number: signal.Signals, patience_s: float) -> Deferred[None]:
        """Tell all to end by signal `number`, and kill those that have not within `patience_s` and a few seconds more.
        Fires when all have ended."""
        if self._state is _State.RUNNING:
            self._state = _State.ENDING
            for place in self._places:
                self._cancel(place)
            for timer in self._timers:
                timer.cancel()
            self._timers = [self._clock.callLater(patience_s + _GRACE_S, self._kill_all)]
            for place in self._places:
                if place.server is not None:
                    # One that is starting handles nothing yet, and ends by the first signal that there is.
                    place.server.signal(number if place.ready else signal.SIGTERM)
        stopped: Deferred[None] = Deferred()
        self._waiters.append(stopped)
        self._look_whether_ended()
        return stopped

    def forward(self, number: signal.Signals) -> None:
        """Send all a signal."""
        for place in self._places:
            if place.server is None:
                continue
            if place.ready:
                place.server.signal(number)
            else:
                place.missed.add(number)

    def report(self) -> Report:
        """What all report together."""
        reports = [place.report for place in self._places if place.ready]
        return Report(sum(each.connections for each in reports), sum(each.streams for each in reports))

    def serving(self) -> int:
        """How many are ready."""
        return sum(place.ready for place in self._places)

    # Starting.

    def _fill(self, place: _Place) -> None:
        place.timer = None
        place.ready = False
        place.missed.clear()
        place.started_at = self._clock.seconds()
        try:
            place.server = self._start_server(
                place.number, lambda: self._ready(place), lambda report: self._heard(place, report),
                lambda: self._ended(place),
            )  # fmt: skip
        except OSError as error:
            delay = self._delay(place)
            _log.error("cannot start a server: %s; trying again in %.1f s", error, delay)
            place.timer = self._clock.callLater(delay, self._fill, place)

    def _ready(self, place: _Place) -> None:
        place.ready = True
        place.heard_at = self._clock.seconds()
        for number in place.missed:
            assert place.server is not None
            place.server.signal(number)
        if self._announce is not None and self._state is _State.RUNNING and all(each.ready for each in self._places):
            announce, self._announce = self._announce, None
            announce()

    def _heard(self, place: _Place, report: Report) -> None:
        place.heard_at = self._clock.seconds()
        place.report = report

    # Ending.

    def _ended(self, place: _Place) -> None:
        server, place.server = place.server, None
        was_ready, place.ready = place.ready, False
        place.report = Report(0, 0)
        assert server is not None
        if self._state is not _State.RUNNING:
            self._look_whether_ended()
            return
        if server.status == _MEND and self._announce is not None:
            # It has said why. The others could not be either, and nobody relies on them yet.
            self._announce = None
            self._failed(_MEND)
            return
        lived_s = self._clock.seconds() - place.started_at if was_ready else 0.0
        delay = self._delay(place, lived_s)
        _log.error("server %d has ended (%s); a new server starts in %.1f s", server.pid, server.ending, delay)
        place.timer = self._clock.callLater(delay, self._fill, place)

    def _delay(self, place: _Place, lived_s: float = 0.0) -> float:
        if lived_s >= _LIVED_S:
            place.crashes = 0
        delay = min(_RESTART_S * 2.0 ** min(place.crashes, 60), _MAX_RESTART_S)
        place.crashes += 1
        return delay * random.uniform(*_JITTER)

    def _look_whether_ended(self) -> None:
        if self._state is _State.ENDING and not any(place.server for place in self._places):
            self._state = _State.ENDED
            for timer in self._timers:
                if timer.active():
                    timer.cancel()
        if self._state is _State.ENDED:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.callback(None)

    def _kill_all(self) -> None:
        for place in self._places:
            if place.server is not None:
                _log.warning("server %d has not stopped in time: killing it", place.server.pid)
                place.server.kill()

    def _cancel(self, place: _Place) -> None:
        timer, place.timer = place.timer, None
        if timer is not None:
            timer.cancel()

    # Watching.

    def _look(self) -> None:
        now = self._clock.seconds()
        late, self._looked_at = now - self._looked_at > _LATE_S, now
        for place in self._places:
            if place.server is None:
                continue
            if late:
                place.heard_at = now
            since, limit = (place.heard_at, _STALLED_S) if place.ready else (place.started_at, _START_S)
            if now - since >= limit:
                what = "reported nothing" if place.ready else "not got ready"
                _log.error("server %d has %s for %.0f s: killing it", place.server.pid, what, now - since)
                place.server.kill()
        self._timers = [self._clock.callLater(_LOOK_S, self._look)]
