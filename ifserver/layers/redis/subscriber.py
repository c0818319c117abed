"""The connection on which a Redis node receives what is published in groups (``SUBSCRIBE``).

Redis lets a connection that has subscribed do little else, so it is one of its own. It is made for the first group and
kept from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint

from ifserver.clock import Clock, Timer
from ifserver.layers.reconnection import Link, Pauses, Troubles
from ifserver.layers.redis.connection import Connection, ErrorReply, Named, ProtocolError, Server, group_key, pack
from ifserver.layers.redis.sentinel import named_by
from ifserver.layers.subscriptions import FormerNames, Subscriptions, batched

__all__ = ["GroupConnection", "GroupLink"]

#: How often Redis is asked whether it is still there, while it has nothing to say.
_PING_S: Final = 5.0

_log = logging.getLogger(__name__)


class _Command:
    """A command that is answered once for each of its groups, or with one error."""

    __slots__ = ("left",)

    def __init__(self, groups: int) -> None:
        self.left = groups


class GroupConnection(Connection):
    """A connection that may subscribe once it has been looked up who Redis is (`Connection`).

    `published` is called with a group and what was published there.
    """

    def __init__(
        self,
        server: Server,
        clock: Clock,
        looked: Callable[[Connection, float], None],
        closed: Callable[[Connection, str], None],
        named: Named | None,
        published: Callable[[str, bytes], None],
    ) -> None:
        super().__init__(server, clock, looked, closed, named)
        self._published = published
        #: Whether groups are subscribed to under their former names as well (`FormerNames`).
        self.both = False

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        reader, waiting = self._reader, self.waiting
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                if type(reply) is list and len(reply) == 3:
                    if reply[0] == b"message":
                        # No name of a group has a colon.
                        self._published(reply[1][reply[1].rindex(b":") + 1 :].decode(), reply[2])
                        continue
                    command = waiting[0][3]
                    if type(command) is _Command:
                        command.left -= 1
                        if command.left:
                            continue
                _, answered, result, about, _, _ = waiting.popleft()
                answered(reply, result, about)
        except (ProtocolError, IndexError) as error:
            self.give_up(f"it does not speak Redis' protocol: {error!r}")

    def subscribe(self, groups: list[str]) -> Deferred[None]:
        """See `Wire.subscribe`."""
        result: Deferred[None] = Deferred()
        self._ask_for(b"SUBSCRIBE", groups, result)
        return result

    def unsubscribe(self, groups: list[str]) -> None:
        """See `Wire.unsubscribe`."""
        self._ask_for(b"UNSUBSCRIBE", groups, None)

    def ping(self) -> None:
        """Let Redis show that it is there. (``PING`` would be one more right; to leave no group is as good.)"""
        self._ask_for(b"UNSUBSCRIBE", ["!ping"], None)

    def refused(self, why: str) -> None:
        """See `Wire.refused`."""
        self.give_up(why)

    def change(self, both: bool, groups: list[str]) -> None:
        """Subscribe to the former names of `groups` as well, or no longer."""
        if self.both is not both:
            self.both = both
            for some in batched(groups):
                keys = [group_key(self._server.prefix, group) for group in some]
                self._ask_for_keys(b"SUBSCRIBE" if both else b"UNSUBSCRIBE", keys, None)

    def _ask_for(self, name: bytes, groups: list[str], result: Deferred[None] | None) -> None:
        prefix, database = self._server.prefix, self._server.database
        keys = [group_key(prefix, group, database) for group in groups]
        if self.both:
            keys += [group_key(prefix, group) for group in groups]
        self._ask_for_keys(name, keys, result)

    def _ask_for_keys(self, name: bytes, keys: list[bytes], result: Deferred[None] | None) -> None:
        self.ask(pack((name, *keys)), self._done, result, _Command(len(keys)))

    def _done(self, reply: Any, result: Deferred[None] | None, about: _Command) -> None:
        if not isinstance(reply, ErrorReply):
            if result is not None:
                result.callback(None)
        elif result is not None:
            result.errback(self._server.refused(reply))
        else:
            self.give_up(self._server.clean(f"it refuses SUBSCRIBE or UNSUBSCRIBE: {reply}"))


class GroupLink:
    """Keeps a `GroupConnection`: from the first group after `start`, to `stop`.

    Args:
        look: is called when a connection finds another epoch than the node knows.
        former: whether it matters that groups had other names.
    """

    def __init__(
        self,
        server: Server,
        clock: Clock,
        endpoint: Callable[[], IStreamClientEndpoint],
        subscriptions: Subscriptions,
        look: Callable[[], None],
        pauses: Pauses,
        former: FormerNames,
    ) -> None:
        self._server = server
        self._clock = clock
        self._subscriptions = subscriptions
        self._look = look
        self._troubles = Troubles(f"{server.node} (groups)")
        self._endpoint = endpoint()
        self._link = Link(self._endpoint, self._build, clock, pauses, self._troubles.add)
        #: Whether the node is in use, and whether this has begun to connect.
        self._started = self._connects = False
        self._stopped = False
        #: The newest connection, and the one that can be used.
        self._latest: GroupConnection | None = None
        self._connection: GroupConnection | None = None
        self._ping_timer: Timer | None = None
        #: The node's epoch.
        self._epoch: str | None = None
        self._losses = 0
        #: Whether groups are subscribed to under their former names as well; None: that is not known yet.
        self._both: bool | None = None if server.database else False
        self._former = former
        former.followers.append(self._changed)

    def start(self) -> None:
        """Connect if there are groups, and as soon as there are."""
        self._started = True
        if self._subscriptions.any:
            self.needed()

    def needed(self) -> None:
        """There are groups."""
        if self._started and not (self._connects or self._stopped):
            self._connects = True
            self._link.start()

    def stop(self) -> Deferred[None]:
        """Disconnect for good; fires when the socket is closed."""
        self._stopped = True
        self._disconnect()
        self._subscriptions.stop()
        return self._link.stop()

    def epoch_is(self, epoch: str | None) -> None:
        """The node has this epoch. Who publishes does so there, so a connection of another one is left."""
        self._epoch = epoch
        connection = self._connection
        if connection is not None and connection.epoch != epoch:
            connection.give_up("the node has another epoch by now")

    def look_for_former_names(
        self, connection: Connection, keys: tuple[bytes, bytes], now: float, done: Callable[[], None]
    ) -> None:
        """Look whether processes of 1.0.0 are alive, which do not report that they know groups by database.

        Args:
            keys: of who is alive, and of who knows groups by database.
        """
        census: Any = None

        def alive(reply: Any, result: None, about: None) -> None:
            nonlocal census
            census = reply

        def by_database(reply: Any, result: None, about: None) -> None:
            # Where that may not be asked, all may be of 1.0.0.
            known = type(census) is type(reply) is list
            self._former.found(self._server.node, not known or not set(census) <= set(reply))
            self.use_former_names(self._former.in_use)
            done()

        for key, answered in zip(keys, (alive, by_database), strict=True):
            connection.ask(pack((b"ZRANGEBYSCORE", key, now, b"+inf")), answered, None)

    def use_former_names(self, both: bool) -> None:
        """It is known whether groups are to be subscribed to under their former names as well."""
        first, self._both = self._both is None, both
        if self._connection is not None:
            if first:
                self._connected(self._connection)
            else:
                self._connection.change(both, self._subscriptions.asked)

    def _changed(self, both: bool) -> None:
        if self._both is not None and self._server.database:
            self.use_former_names(both)

    def leave_unless(self, named: Named) -> None:
        """Close the connection if it was not made to whom Sentinel names now."""
        if self._latest is not None:
            self._latest.leave_unless(named)

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
        return {"group_connections_lost": self._losses, **self._subscriptions.statistics()}

    # What the connection calls.

    def _build(self) -> GroupConnection:
        self._latest = GroupConnection(
            self._server,
            self._clock,
            self._looked,
            self._closed,
            named_by(self._endpoint),
            self._subscriptions.published,
        )
        return self._latest

    def _looked(self, connection: Connection, lead_s: float) -> None:
        if self._stopped or not isinstance(connection, GroupConnection):
            return
        if self._epoch is not None and connection.epoch != self._epoch:
            self._look()  # one of the two speaks with a Redis that is no longer the node's
        self._connection = connection
        self._troubles.over()
        self._link.settle()
        self._ping_timer = self._clock.callLater(_PING_S, self._ping)
        if self._both is not None:
            self._connected(connection)

    def _connected(self, connection: GroupConnection) -> None:
        connection.both = bool(self._both)
        self._subscriptions.connected(connection)

    def _closed(self, connection: Connection, why: str) -> None:
        if self._stopped:
            return
        if connection is self._connection:
            self._losses += 1
            self._troubles.lost(why)
            self._disconnect()
        else:
            self._troubles.add(why)

    def _ping(self) -> None:
        self._ping_timer = self._clock.callLater(_PING_S, self._ping)
        if self._connection is not None and not self._connection.waiting:
            self._connection.ping()

    def _disconnect(self) -> None:
        self._connection = None
        if self._ping_timer is not None:
            self._ping_timer.cancel()
            self._ping_timer = None
        self._link.unsettle()
        self._subscriptions.lost()
