"""What is tried again and again: one connection that is kept, and periodic work."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint, ITransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from ifserver.clock import Clock, Timer
from ifserver.logs import events

__all__ = ["CATCH_UP_S", "Link", "Pauses", "Periodic", "Troubles"]

_log = logging.getLogger(__name__)


#: How long the end of a connection waits for what is still to be written to a peer that does not read.
_CLOSE_S: Final = 1.0
#: Distinct messages that are remembered as logged; a peer that makes up new ones gets the log to itself no longer.
_MAX_TROUBLES: Final = 20


class Pauses(NamedTuple):
    """Seconds between two attempts: half to one and a half times `first_s`, doubled each time, at most `longest_s`."""

    first_s: float
    longest_s: float

    def after(self, attempts: int) -> float:
        """The pause after so many attempts in a row that came to nothing."""
        return min(self.first_s * 2.0 ** min(attempts - 1, 20), self.longest_s / 1.5) * random.uniform(0.5, 1.5)


#: How the reasons begin of attempts that have not even reached the node.
CANNOT_CONNECT: Final = "cannot connect"


class Troubles:
    """Why a node cannot be used, in the log: each message once, until it can be used again.

    When one that could be used goes and comes back, that is one warning, and one line when it is back.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._counts: dict[str, int] = {}
        self._was_lost = False

    def lost(self, why: str) -> None:
        """It could be used until now."""
        text = "node %s: %s; connecting again", self._name, why.rstrip(".")
        if self._counts:
            _log.debug(*text)  # another connection has told the same
        else:
            events.report(_log, logging.WARNING, events.Mark.NODE_LOST, *text)
        self._was_lost = True

    def add(self, why: str) -> None:
        """One more attempt has failed."""
        if why not in self._counts and len(self._counts) < _MAX_TROUBLES:
            # Of a node that was lost nothing else is expected.
            text = "node %s: %s; trying again", self._name, why.rstrip(".")
            if self._was_lost and why.startswith(CANNOT_CONNECT):
                _log.debug(*text)
            else:
                events.report(_log, logging.WARNING, events.Mark.NODE_LOST, *text)
            self._counts[why] = 0
        if why in self._counts:
            self._counts[why] += 1

    def over(self) -> None:
        """The node can be used."""
        failed = sum(self._counts.values())
        self._counts.clear()
        if failed:
            text = "node %s: connected after %d failed attempts"
            events.report(_log, logging.INFO, events.Mark.NODE_BACK, text, self._name, failed)
        elif self._was_lost:
            events.report(_log, logging.INFO, events.Mark.NODE_BACK, "node %s: connected", self._name)
        else:
            # Which is what everybody expects.
            _log.debug("node %s: connected", self._name)
        self._was_lost = False


class Link:
    """Keeps one connection, from `start` to `stop`.

    The protocol says when the connection can be used (`settle`) and when it no longer can (`unsettle`): pauses between
    attempts grow until then, so that a peer who accepts and then refuses is not run down either.

    Does what Twisted's ``ClientService`` does, which belongs to ``twisted.application``: importing that takes 30 ms
    and changes how this process pickles functions, methods and modules (``twisted.persisted.styles``).

    Args:
        build: makes the protocol of a new connection.
        troubled: is told why an attempt to connect has failed.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        build: Callable[[], Protocol],
        clock: Clock,
        pauses: Pauses,
        troubled: Callable[[str], None],
    ) -> None:
        # mypy cannot see that it implements the interface.
        self._endpoint: Any = endpoint
        self._clock = clock
        self._pauses = pauses
        self._troubled = troubled
        self._attempts = 0
        self._waiting: dict[Deferred[None], None] = {}
        self._factory = _Factory(build, self._lost)
        #: The attempt to connect that is under way, and the pause before the next one.
        self._connecting: Deferred[Any] | None = None
        self._again: Timer | None = None
        #: Who waits for the end; None: it has not been asked for.
        self._stopping: list[Deferred[None]] | None = None
        #: Whether the connection can be used.
        self.up = False

    def start(self) -> None:
        """Begin to connect."""
        self._connect()

    def stop(self) -> Deferred[None]:
        """Disconnect for good; fires when the socket is closed."""
        self._waiting.clear()
        first = self._stopping is None
        stopped: Deferred[None] = Deferred()
        self._stopping = [*(self._stopping or ()), stopped]
        if self._again is not None and self._again.active():
            self._again.cancel()
        if first and self._connecting is not None:
            self._connecting.cancel()
        elif first and self._factory.watched is not None:
            self._close()
        if self._connecting is None and self._factory.watched is None:
            self._tell_stopped()
        return stopped

    def abort(self) -> None:
        """Close the connection at once; it is made again unless the link is stopped."""
        transport: Any = self._factory.watched.transport if self._factory.watched is not None else None
        if transport is not None:
            transport.abortConnection()

    def ready(self) -> Deferred[None]:
        """Fires when the connection can be used."""
        if self.up:
            return succeed(None)
        waiting: Deferred[None] = Deferred(lambda cancelled: self._waiting.pop(cancelled, None))
        self._waiting[waiting] = None
        return waiting

    def settle(self) -> None:
        """The connection can be used."""
        self.up = True
        self._attempts = 0
        waiting, self._waiting = self._waiting, {}
        for deferred in waiting:
            deferred.callback(None)

    def unsettle(self) -> None:
        """The connection can no longer be used."""
        self.up = False

    def _connect(self) -> None:
        self._connecting = connecting = self._endpoint.connect(self._factory)
        connecting.addCallbacks(self._connected, self._failed)

    def _connected(self, _: object) -> None:
        self._connecting = None
        if self._factory.watched is None:
            self._over()  # it has been lost meanwhile
        elif self._stopping is not None:
            self._close()

    def _failed(self, failure: Failure) -> None:
        self._connecting = None
        self._factory.watched = None
        if not failure.check(CancelledError):
            what = failure.getErrorMessage() or type(failure.value).__name__
            self._troubled(f"{CANNOT_CONNECT}: {what}")
        self._over()

    def _lost(self) -> None:
        """The protocol has been told that its connection is lost."""
        if self._connecting is None:
            self._over()

    def _over(self) -> None:
        """There is no connection, and no attempt to make one."""
        if self._stopping is not None:
            self._tell_stopped()
            return
        self._attempts += 1
        self._again = self._clock.callLater(self._pauses.after(self._attempts), self._connect)

    def _close(self) -> None:
        """Close the connection in order; `abort` it if that takes too long."""
        watched = self._factory.watched
        assert watched is not None
        watched.abort = self._clock.callLater(_CLOSE_S, self.abort)
        transport: Any = watched.transport
        transport.loseConnection()

    def _tell_stopped(self) -> None:
        stopping, self._stopping = self._stopping, []
        for stopped in stopping or ():
            stopped.callback(None)


class _Watched(Protocol):
    """Another protocol, of whose end is told."""

    def __init__(self, protocol: Protocol, lost: Callable[[_Watched], None]) -> None:
        self._protocol = protocol
        self._lost = lost
        # No call in between for each time that something arrives. Transports look it up before `makeConnection`.
        self.dataReceived = protocol.dataReceived  # type: ignore[method-assign]
        #: Calls `Link.abort`, once the connection is to be closed.
        self.abort: Timer | None = None

    def makeConnection(self, transport: ITransport) -> None:
        self.transport = transport
        self._protocol.makeConnection(transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        try:
            self._protocol.connectionLost(reason)
        finally:
            # Behind that: whoever hears of the loss may stop the link.
            if self.abort is not None and self.abort.active():
                self.abort.cancel()
            self._lost(self)


class _Factory(Factory):
    noisy = False

    def __init__(self, build: Callable[[], Protocol], lost: Callable[[], None]) -> None:
        self._build = build
        self._tell_lost = lost
        #: The protocol of the connection that there is.
        self.watched: _Watched | None = None

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        self.watched = _Watched(self._build(), self._lost)
        return self.watched

    def _lost(self, watched: _Watched) -> None:
        if self.watched is watched:
            self.watched = None
            self._tell_lost()


#: How long a process that comes late has to read what has arrived, in seconds.
CATCH_UP_S: Final = 0.1


class Periodic:
    """Looks every `every_s` seconds, and a moment later where it would come late itself.

    Late is a whole round or more. It puts off one look and never two in succession, so a loop that is always late looks
    all the same.

    Args:
        look: returns whether to go on.
    """

    def __init__(self, clock: Clock, every_s: float, look: Callable[[], bool]) -> None:
        self._clock = clock
        self._every_s = every_s
        self._look = look
        self._timer: Timer | None = None
        self.running = False

    def start(self) -> None:
        """Begin, with the first look in `every_s` seconds; nothing if it has begun."""
        if not self.running:
            self.running = True
            self._later()

    def stop(self) -> None:
        """Look no more."""
        self.running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _later(self) -> None:
        self._timer = self._clock.callLater(self._every_s, self._due, self._clock.seconds() + self._every_s)

    def _due(self, due: float) -> None:
        if self._clock.seconds() - due >= self._every_s:
            self._timer = self._clock.callLater(CATCH_UP_S, self._round)
        else:
            self._round()

    def _round(self) -> None:
        # First, so that whatever goes wrong with this look, it goes on.
        self._later()
        if not self._look():
            self.stop()
