"""One connection to a node that is kept: made, and made again when it is lost, without flooding the node or the log."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from twisted.application.internet import ClientService
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IAddress, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ifserver.clock import Clock, Timer

__all__ = ["Link", "Pauses", "Troubles"]

#: How long the end of a connection waits for what is still to be written to a peer that does not read.
_CLOSE_S: Final = 1.0
#: Distinct messages that are remembered as logged; a peer that makes up new ones gets the log to itself no longer.
_MAX_TROUBLES: Final = 20

_log = logging.getLogger(__name__)


class Pauses(NamedTuple):
    """Seconds between two attempts: half to one and a half times `first_s`, doubled each time, at most `longest_s`."""

    first_s: float
    longest_s: float

    def after(self, attempts: int) -> float:
        """The pause after so many attempts in a row that came to nothing."""
        return min(self.first_s * 2.0 ** min(attempts - 1, 20), self.longest_s / 1.5) * random.uniform(0.5, 1.5)


class Troubles:
    """Why a node cannot be used, in the log: each message once, until it can be used again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._counts: dict[str, int] = {}

    def add(self, why: str) -> None:
        """One more attempt has failed."""
        if why not in self._counts and len(self._counts) < _MAX_TROUBLES:
            _log.warning("node %s: %s; trying again", self._name, why)
            self._counts[why] = 0
        if why in self._counts:
            self._counts[why] += 1

    def over(self) -> None:
        """The node can be used."""
        failed = sum(self._counts.values())
        self._counts.clear()
        _log.info("node %s: connected%s", self._name, f" after {failed} failed attempts" if failed else "")


class Link:
    """Keeps one connection with Twisted's ``ClientService``, from `start` to `stop`.

    The protocol says when the connection can be used (`settle`) and when it no longer can (`unsettle`): pauses between
    attempts grow until then, so that a peer who accepts and then refuses is not run down either.

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
        self._clock = clock
        self._pauses = pauses
        self._attempts = 0
        self._waiting: dict[Deferred[None], None] = {}
        self._factory = _Factory(build)
        # mypy cannot see what these implement; of ``IReactorTime`` nothing is used beyond `Clock`.
        watched: Any = _Endpoint(endpoint, troubled)
        factory: Any = self._factory
        reactor: Any = clock
        self._service = ClientService(watched, factory, retryPolicy=self._pause, clock=reactor)
        self._closed = False
        #: Whether the connection can be used.
        self.up = False

    def start(self) -> None:
        """Begin to connect."""
        self._service.startService()

    def stop(self) -> Deferred[None]:
        """Disconnect for good; fires when the socket is closed."""
        self._waiting.clear()
        # ``ClientService`` cannot be asked again by whom it has just told.
        if self._closed:
            return succeed(None)
        abort = self._clock.callLater(_CLOSE_S, self.abort)
        return self._service.stopService().addCallback(self._stopped, abort)

    def _stopped(self, result: None, abort: Timer) -> None:
        self._closed = True
        if abort.active():
            abort.cancel()

    def abort(self) -> None:
        """Close the connection at once; it is made again unless the link is stopped."""
        transport: Any = self._factory.latest.transport if self._factory.latest is not None else None
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

    def _pause(self, _attempts: int) -> float:
        self._attempts += 1
        return self._pauses.after(self._attempts)


class _Factory(Factory):
    noisy = False

    def __init__(self, build: Callable[[], Protocol]) -> None:
        self._build = build
        self.latest: Protocol | None = None

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        self.latest = self._build()
        return self.latest


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """Another endpoint, whose failures are told: ``ClientService`` keeps them to itself."""

    def __init__(self, endpoint: IStreamClientEndpoint, troubled: Callable[[str], None]) -> None:
        self._endpoint: Any = endpoint
        self._troubled = troubled

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        connecting: Deferred[Any] = self._endpoint.connect(protocolFactory)
        return connecting.addErrback(self._failed)

    def _failed(self, failure: Failure) -> Failure:
        if not failure.check(CancelledError):
            what = failure.getErrorMessage() or type(failure.value).__name__
            self._troubled(f"cannot connect: {what}")
        return failure
