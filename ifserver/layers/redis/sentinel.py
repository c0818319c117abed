"""A Redis node whose primary is found through Sentinels, and left when they name another.

Before each connection, and twice a second, a Sentinel is asked which Redis is the primary, and how many failovers there
were: the last one that has answered first, the others in turn. While none answers, a connection that there is is kept,
and none is made. (https://redis.io/docs/latest/develop/reference/sentinel-clients/)
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred, FirstError, gatherResults, succeed
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from ifserver.clock import Clock, Timer
from ifserver.errors import NodeError, NodeRefused, NodeUnreachable
from ifserver.layers.redis.client import Client, connect
from ifserver.layers.redis.connection import Named, Server
from ifserver.logs import events

__all__ = ["ANSWER_S", "Place", "SentinelEndpoint", "Sentinels", "ask", "named_by"]

#: How often a Sentinel is asked, more or less. A process is to have left a primary 3 s after another was promoted, of
#: which a Sentinel itself may need the first.
_EVERY_S: Final = 0.5
#: How long a Sentinel may take to answer, or to accept a connection, before the next is asked. One that shares a
#: machine with the primary is often lost along with it.
ANSWER_S: Final = 1.0

_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a Sentinel is."""

    #: Host and port, for people.
    where: str
    endpoint: IStreamClientEndpoint


async def ask(client: Client, service: str) -> tuple[Named, dict[str, str]]:
    """What a Sentinel says of `service`: the primary, and all fields of ``SENTINEL MASTER``.

    Raises:
        NodeRefused: it does not know the service, or not let us ask.
        NodeUnreachable: it does not answer.
    """
    # Both at once: while replicas are still being told of the new primary, only the first names it, and the second has
    # its config-epoch already.
    questions = client.ask_together(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service), ("SENTINEL", "MASTER", service))
    try:
        address, described = await gatherResults(questions, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
    try:
        words = [word.decode() for word in described]
        fields = dict(zip(words[::2], words[1::2], strict=True))
        return Named((address[0].decode(), int(address[1])), int(fields["config-epoch"])), fields
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise NodeRefused(f"it answers what is no Sentinel's answer: {error!r}") from error


def named_by(endpoint: IStreamClientEndpoint) -> Named | None:
    """What Sentinel has said before the latest connection of `endpoint` was made; None where there is no Sentinel."""
    return endpoint.named if isinstance(endpoint, SentinelEndpoint) else None


class Sentinels:
    """The Sentinels of one node.

    Args:
        node: its name, for the log.
        service: the name under which they monitor its Redis.
        places: where they are.
        login: how they are logged in to.
        endpoint: makes an endpoint to the primary at an address.
    """

    def __init__(
        self,
        node: str,
        service: str,
        places: Sequence[Place],
        login: Server,
        clock: Clock,
        endpoint: Callable[[tuple[str, int]], IStreamClientEndpoint],
    ) -> None:
        self._node = node
        self._service = service
        self._clock = clock
        self._endpoint = endpoint
        #: The last that has answered comes first.
        self._sentinels = [_Sentinel(place, login, clock) for place in places]
        self._moved: Callable[[Named], None] = _nobody
        #: What was said last.
        self.named: Named | None = None
        self._asking: Deferred[Named] | None = None
        self._waiting: dict[Deferred[Named], None] = {}
        self._connecting: dict[Deferred[Any], Named] = {}
        self._timer: Timer | None = None
        self._silent = self._stopped = False

    def start(self, moved: Callable[[Named], None]) -> None:
        """Begin to ask. `moved` is called when another primary is named than the last time."""
        self._moved = moved
        self._watch()

    def stop(self) -> Deferred[None]:
        """Ask no more; fires when the sockets are closed."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()
        return gatherResults([sentinel.close() for sentinel in self._sentinels]).addCallback(lambda _: None)

    def endpoint(self) -> SentinelEndpoint:
        """An endpoint that asks before it connects; for one connection at a time."""
        return SentinelEndpoint(self)

    def find(self) -> Deferred[Named]:
        """Ask; fails with `NodeUnreachable` when no Sentinel knows."""
        waiting: Deferred[Named] = Deferred(lambda cancelled: self._waiting.pop(cancelled, None))
        self._waiting[waiting] = None
        if self._asking is None:
            asking = self._asking = Deferred.fromCoroutine(self._ask_in_turn())
            asking.addCallbacks(self._told, self._failed)
        return waiting

    async def connect(self, to: SentinelEndpoint, factory: IProtocolFactory) -> Any:
        """Ask, and connect to the primary that is named."""
        named = to.named = await self.find()
        connecting = self._endpoint(named.address).connect(factory)
        self._connecting[connecting] = named
        try:
            return await connecting
        finally:
            del self._connecting[connecting]

    async def _ask_in_turn(self) -> Named:
        whys: list[str] = []
        for sentinel in list(self._sentinels):
            try:
                named = await sentinel.ask(self._service)
            except NodeError as error:
                whys.append(f"{sentinel.where}: {error}")
                continue
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            return named
        raise NodeUnreachable(f"no Sentinel says where {self._service!r} is: {'; '.join(whys)}")

    def _told(self, named: Named) -> None:
        self._asking = None
        before, self.named = self.named, named
        if before is not None and before != named:
            text = "node %s: Sentinel names another primary, %s:%d (failover %d)"
            events.report(_log, logging.WARNING, events.Mark.FAILOVER, text, self._node, *_flat(named))
            for connecting, to in list(self._connecting.items()):
                if to != named:
                    connecting.cancel()
            self._moved(named)
        waiting, self._waiting = self._waiting, {}
        for deferred in waiting:
            deferred.callback(named)

    def _failed(self, failure: Failure) -> None:
        self._asking = None
        waiting, self._waiting = self._waiting, {}
        for deferred in waiting:
            deferred.errback(failure)

    def _watch(self) -> None:
        self.find().addCallbacks(self._heard, self._heard_nothing).addBoth(self._wait)

    def _heard(self, named: Named) -> None:
        if self._silent:
            _log.info("node %s: Sentinel answers again", self._node)
        self._silent = False

    def _heard_nothing(self, failure: Failure) -> None:
        if not self._silent and not self._stopped:
            _log.warning("node %s: %s; trying again", self._node, failure.getErrorMessage())
        self._silent = True

    def _wait(self, result: object) -> None:
        if not self._stopped:
            # Not all processes at once, and not for ever in the same order.
            self._timer = self._clock.callLater(_EVERY_S * random.uniform(0.8, 1.2), self._watch)


@implementer(IStreamClientEndpoint)
class SentinelEndpoint:
    """Connects to the Redis that is primary by then."""

    def __init__(self, sentinels: Sentinels) -> None:
        self._sentinels = sentinels
        #: What was said before the latest connection was made.
        self.named: Named | None = None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._sentinels.connect(self, protocolFactory))


class _Sentinel:
    """One of them, and the connection that is kept to it."""

    def __init__(self, place: Place, login: Server, clock: Clock) -> None:
        self.where = place.where
        self._endpoint = place.endpoint
        self._login = login
        self._clock = clock
        self._client: Client | None = None

    async def ask(self, service: str) -> Named:
        """See `ask`."""
        if self._client is None or self._client.lost is not None:
            self._client = await connect(self._endpoint, self._login, self._clock, ANSWER_S)
        named, _ = await ask(self._client, service)
        return named

    def close(self) -> Deferred[None]:
        """Close the connection; fires when its socket is closed."""
        return self._client.close() if self._client is not None else succeed(None)


def _flat(named: Named) -> tuple[str, int, int]:
    return (*named.address, named.config_epoch)


def _nobody(named: Named) -> None:
    pass
