"""Several interface servers that share their addresses: started, watched, replaced when they end, and ended.

They share nothing but the listening sockets, which their parent holds as well: what connects while a server is being
replaced waits for the next one.
"""

from __future__ import annotations

import enum
import logging
import signal
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec
from twisted.internet.defer import Deferred

from ifserver.clock import Clock, Timer
from ifserver.process.children import Child
from ifserver.process.workers import RestartPolicy, Slot, SlotChild

__all__ = ["REPORT_S", "Report", "Servers", "Start"]

#: How often a server reports.
REPORT_S: Final = 1.0
#: How often its parent looks; one that looks so late was frozen itself, and knows nothing of the time between.
_LOOK_S: Final = 1.0
_LATE_S: Final = 3.0
#: A server runs no application, so that nothing should keep it for long from reporting. Then it is killed.
_STALLED_S: Final = 15.0
#: How long one may take to get ready.
_START_S: Final = 60.0
#: Clients wait while a server is replaced, so the delays stay short.
_RESTARTS: Final = RestartPolicy(first_s=0.1, longest_s=2.0, long_life_s=10.0, at_once=False)
#: What a server is given to end beyond the time that its settings allow: for its nodes, and Python's own shutdown.
_GRACE_S: Final = 5.0
#: Exit code for what the operator has to mend (`ifserver.cli`).
_MEND: Final = 2

_log = logging.getLogger(__name__)


class Report(msgspec.Struct, frozen=True, array_like=True):
    """How a server does."""

    connections: int
    streams: int


#: Starts the server of a number, from 0, given what is called when it is ready, when it reports and when it has ended;
#: raises `OSError`.
Start: TypeAlias = Callable[[int, Callable[[], None], Callable[[Report], None], Callable[[], None]], Child]


class _State(enum.Enum):
    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"


class _Server(SlotChild):
    """A server in its slot."""

    __slots__ = ("missed", "report", "reported_at")

    slot: Slot[_Server]

    def __init__(self, slot: Slot[_Server], now: float) -> None:
        super().__init__(slot, now)
        self.report = Report(0, 0)
        #: When it has last reported; before it is ready, when it was started.
        self.reported_at = now
        #: Signals that it gets once it is ready to handle them.
        self.missed: set[signal.Signals] = set()


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
        self._slots = [Slot(self._start, "server", _RESTARTS, clock, number) for number in range(count)]
        self._looked_at = clock.seconds()
        self._timers: list[Timer] = []
        self._waiters: list[Deferred[None]] = []

    @property
    def _servers(self) -> list[_Server]:
        """Those that live."""
        return [slot.current for slot in self._slots if slot.current is not None]

    def start(self) -> None:
        """Start them."""
        for slot in self._slots:
            slot.fill()
        self._look()

    def stop(self, number: signal.Signals, patience_s: float) -> Deferred[None]:
        """End all by signal `number`, and kill those that have not within `patience_s` and a few seconds more.
        Fires when all have ended."""
        if self._state is _State.RUNNING:
            self._state = _State.ENDING
            for slot in self._slots:
                slot.cancel()
            for timer in self._timers:
                timer.cancel()
            self._timers = [self._clock.callLater(patience_s + _GRACE_S, self._kill_all)]
            for server in self._servers:
                # One that is starting handles nothing yet, and ends by the first signal that there is.
                server.child.signal(number if server.ready else signal.SIGTERM)
        stopped: Deferred[None] = Deferred()
        self._waiters.append(stopped)
        self._look_whether_ended()
        return stopped

    def forward(self, number: signal.Signals) -> None:
        """Send all a signal."""
        for server in self._servers:
            if server.ready:
                server.child.signal(number)
            else:
                server.missed.add(number)

    def report(self) -> Report:
        """What all report together."""
        reports = [server.report for server in self._servers if server.ready]
        return Report(sum(each.connections for each in reports), sum(each.streams for each in reports))

    def serving(self) -> int:
        """How many are ready."""
        return sum(slot.ready for slot in self._slots)

    # Starting.

    def _start(self, slot: Slot[_Server]) -> _Server:
        server = _Server(slot, self._clock.seconds())

        def reported(report: Report) -> None:
            server.reported_at = self._clock.seconds()
            server.report = report

        server.child = self._start_server(
            slot.number, lambda: self._ready(server), reported, lambda: self._ended(server)
        )
        return server

    def _ready(self, server: _Server) -> None:
        server.ready_at = server.reported_at = self._clock.seconds()
        for number in server.missed:
            server.child.signal(number)
        if self._announce is not None and self._state is _State.RUNNING and all(slot.ready for slot in self._slots):
            announce, self._announce = self._announce, None
            announce()

    # Ending.

    def _ended(self, server: _Server) -> None:
        child, slot = server.child, server.slot
        slot.current = None
        if self._state is not _State.RUNNING:
            self._look_whether_ended()
            return
        if child.status == _MEND and self._announce is not None:
            # It has logged why. The others could not be either, and no client relies on them yet.
            self._announce = None
            self._failed(_MEND)
            return
        delay = slot.delay_s(server.ready_for_s(self._clock.seconds()))
        _log.error("server %d has ended (%s); a new server starts in %.1f s", child.pid, child.ending, delay)
        slot.fill_later(delay)

    def _look_whether_ended(self) -> None:
        if self._state is _State.ENDING and not self._servers:
            self._state = _State.ENDED
            for timer in self._timers:
                if timer.active():
                    timer.cancel()
        if self._state is _State.ENDED:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.callback(None)

    def _kill_all(self) -> None:
        for server in self._servers:
            _log.warning("server %d has not stopped in time: killing it", server.child.pid)
            server.child.kill()

    # Watching.

    def _look(self) -> None:
        now = self._clock.seconds()
        late, self._looked_at = now - self._looked_at > _LATE_S, now
        for server in self._servers:
            if late:
                server.reported_at = now
            since, limit = (server.reported_at, _STALLED_S) if server.ready else (server.started_at, _START_S)
            if now - since >= limit:
                what = "reported nothing" if server.ready else "not got ready"
                _log.error("server %d has %s for %.0f s: killing it", server.child.pid, what, now - since)
                server.child.kill()
        self._timers = [self._clock.callLater(_LOOK_S, self._look)]
