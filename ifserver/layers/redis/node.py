"""A Redis 7 or Valkey 7.2 as a node.

One connection sends, and asks (`ifserver.layers.redis.views`); each pull that waits has a connection to itself
(`ifserver.layers.redis.readers`), and one receives what is published in groups (`ifserver.layers.redis.subscriber`).

Keys are prefix + epoch + ``:`` + channel. The epoch is the server's ``run_id``, new at every start: a Redis that loads
a snapshot gives back messages that had been popped, under keys that nobody reads any more. Where Sentinels say which
Redis it is (`ifserver.layers.redis.sentinel`), their ``config-epoch`` belongs to it: a replica has such messages too.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.interfaces import IStreamClientEndpoint

from ifserver.clock import Clock, Timer
from ifserver.config.node_urls import Address, NodeSettings, written
from ifserver.errors import ConfigurationError, NodeRefused, PushInDoubt
from ifserver.layers.node import MAX_BATCH_BYTES, Limits, Pulled, Pushed, check
from ifserver.layers.reconnection import Link
from ifserver.layers.redis import sentinel
from ifserver.layers.redis.connection import Connection, ErrorReply, Named, Server, group_key, pack_with
from ifserver.layers.redis.readers import PAUSES, SENTINEL_PAUSES, Readers
from ifserver.layers.redis.sentinel import Sentinels, named_by
from ifserver.layers.redis.subscriber import GroupLink
from ifserver.layers.redis.views import Key, RedisViews, first_error
from ifserver.layers.subscriptions import FormerNames, Subscriptions
from ifserver.logs import events
from ifserver.net.endpoints import StreamClientEndpoint, tls_context

__all__ = ["RedisEndpoints", "RedisNode", "redis_node"]

_log = logging.getLogger(__name__)


#: How often the sending connection asks whether it still speaks with the same Redis (see
#: docs/explanation/architecture.rst, Epochs).
_EPOCH_S: Final = 5.0
#: More than this in one ``RPUSH`` would let others wait for milliseconds; and it is no longer all or nothing if split.
_PLAIN_MESSAGES: Final = 1000
_PLAIN_BYTES: Final = 4 * 1024 * 1024


class _Publisher:
    """What is to be published at the end of this turn, with one write."""

    def __init__(self, node: RedisNode, server: Server, answered: Callable[[Any, Any, Any], None]) -> None:
        self._node = node
        self._server = server
        self._answered = answered
        #: The connection that can be used.
        self.connection: Connection | None = None
        self._commands: list[bytes] = []
        self._results: list[Deferred[int]] = []

    def publish(self, key: bytes, payload: bytes) -> Deferred[int]:
        """Fires with how many connections it was handed to."""
        if self.connection is None:
            return fail(self._server.unreachable())
        result: Deferred[int] = Deferred()
        self._commands.append(pack_with((b"PUBLISH", key), (payload,)))
        self._results.append(result)
        if len(self._results) == 1:
            self._node.soon(self._send)
        return result

    def _send(self) -> None:
        commands, self._commands = self._commands, []
        results, self._results = self._results, []
        if self.connection is not None:
            self.connection.ask_all(commands, self._answered, results, PushInDoubt)
            return
        for result in results:
            result.errback(self._server.unreachable())


class RedisNode(RedisViews):
    """One Redis primary, reached through endpoints that `endpoint` makes, one for each connection.

    Args:
        sentinels: who made `endpoint`, if Sentinels know where the primary is. They start and stop with the node.
        prefix: of every key, so that a Redis can be shared with other things.
        username: of an ACL user; None for Redis' default user.
        password: None if Redis asks for none. Never in a log or an error.
        database: the number to ``SELECT``.
        former: what all nodes of this process know of those that call groups by other names; None: it is the only one.
    """

    def __init__(
        self,
        name: str,
        requests: Limits,
        inboxes: Limits,
        clock: Clock,
        endpoint: Callable[[], IStreamClientEndpoint],
        *,
        sentinels: Sentinels | None = None,
        prefix: str = "ifserver:",
        username: str | None = None,
        password: str | None = None,
        database: int = 0,
        former: FormerNames | None = None,
    ) -> None:
        super().__init__(Server(name, prefix, username, password, database), requests, inboxes, clock)
        self._endpoint = endpoint()
        self._sentinels = sentinels
        pauses = PAUSES if sentinels is None else SENTINEL_PAUSES
        self._link = Link(self._endpoint, self._build, clock, pauses, self._troubles.add)
        #: The newest connection, which may not be one that can be used yet.
        self._latest: Connection | None = None
        self._epoch_timer: Timer | None = None
        self._readers = Readers(self._server, clock, endpoint, self._troubles, self._look, pauses)
        self._subscriptions = Subscriptions(self, clock, self._server.unreachable)
        self._former = FormerNames() if former is None else former
        self._groups = GroupLink(self._server, clock, endpoint, self._subscriptions, self._look, pauses, self._former)
        self._publisher = _Publisher(self, self._server, self._answered)
        self._stopped = False
        #: Since when there is no connection, or the last one that there was gave no answer.
        self._gone_at = clock.seconds()
        #: What is called when the time to live of a list could not be set.
        self._renewal = self._done_without, ("PEXPIRE",)
        self._pushed = self._withdrawn = self._scripts = 0

    def unreachable_s(self) -> float:
        since = self._gone_at if self._sending is None else self._sending.silent_since
        return 0.0 if since is None else self._clock.seconds() - since

    def start(self) -> None:
        if self._sentinels is not None:
            self._sentinels.start(self._moved)
        self._link.start()
        self._groups.start()

    def stop(self) -> Deferred[None]:
        self._stopped = True
        self._disconnect()
        parts = (self._link, self._readers, self._groups, self._sentinels)
        return gatherResults([part.stop() for part in parts if part is not None]).addCallback(lambda _: None)

    def ready(self) -> Deferred[None]:
        return Deferred() if self._stopped else self._link.ready()

    def push(self, channel: str, payloads: Sequence[bytes], limits: Limits | None = None) -> Deferred[Pushed]:
        connection = self._sending
        if connection is None:
            check(channel)
            return fail(self._server.unreachable())
        key = self._keys[channel] if limits is None else self._keys.with_limits(channel, limits)
        count = len(payloads)
        result: Deferred[Pushed] = Deferred()
        also = None
        # None at all may not go in an ``RPUSH``: Redis calls that a syntax error.
        is_plain = count == 1 or (0 < count <= _PLAIN_MESSAGES and sum(map(len, payloads)) <= _PLAIN_BYTES)
        if is_plain and key.length + key.flying + count <= key.plain:
            answered, then, now = self._appended, b"", self._clock.seconds()
            if key.was_empty or now >= key.renew_at:
                # Let the list live on: one write, and one read of both answers.
                key.renew_at = now + key.renew_s
                then, also = key.pexpire, self._renewal
            command = pack_with((b"RPUSH", key.key), payloads, then)
        else:
            # No more than can fit: the list has at least no messages.
            payloads = payloads[: key.capacity]
            if sum(map(len, payloads)) > MAX_BATCH_BYTES:
                return fail(NodeRefused(f"node {self.name}: a batch of more than {MAX_BATCH_BYTES} bytes"))
            command, answered = key.push_what_fits(payloads), self._script_ran
            self._scripts += 1
        key.flying += count
        connection.ask(command, answered, result, (key, count, also is not None), PushInDoubt, also=also)
        return result

    def pull(self, names: Sequence[str], count: int, wait_s: float) -> Deferred[Pulled | None]:
        for name in names:
            check(name)
        if self._sending is None:
            return fail(self._server.unreachable())
        return self._readers.pull(names, count, wait_s)

    # There is no `end_pulls`, so pulls end by their timeout. ``CLIENT UNBLOCK`` that arrives before the read does
    # nothing, closing the connection loses what Redis has just popped for it, and both the command and the question for
    # one's client id are rights that an application's user should not have.

    def withdraw(self, channel: str, payload: bytes) -> Deferred[bool]:
        if self._sending is None:
            check(channel)
            return fail(self._server.unreachable())

        def removed(count: int) -> bool:
            self._withdrawn += count
            return count > 0

        return self._simple((b"LREM", self._keys[channel].key, 1, payload), PushInDoubt).addCallback(removed)

    def _publish(self, group: str, payload: bytes) -> Deferred[int]:
        prefix, database = self._server.prefix, self._server.database
        publishing = self._publisher.publish(group_key(prefix, group, database), payload)
        if not (database and self._former.in_use):
            return publishing
        # Who has subscribed to both names drops what comes twice (`ifserver.layers.groups`).
        both = gatherResults(
            [publishing, self._publisher.publish(group_key(prefix, group), payload)], consumeErrors=True
        )
        return both.addCallbacks(max, first_error)

    def subscribe(self, groups: Sequence[str]) -> Deferred[None]:
        subscribing = self._subscriptions.subscribe(groups)
        if groups:
            self._groups.needed()
        return subscribing

    def unsubscribe(self, groups: Sequence[str]) -> None:
        self._subscriptions.unsubscribe(groups)

    def statistics(self) -> dict[str, int]:
        return {
            "connected": int(self.connected),
            "waiting": len(self._sending.waiting) if self._sending is not None else 0,
            "keys": len(self._keys),
            "pushed": self._pushed,
            "withdrawn": self._withdrawn,
            "scripts": self._scripts,
            "connections_lost": self.losses,
            **self.publishes,
            **self._readers.statistics(),
            **self._groups.statistics(),
        }

    # Answers on the sending connection.

    def _appended(self, reply: Any, result: Deferred[Pushed], about: tuple[Key, int, bool]) -> None:
        key, count, renewed = about
        key.flying -= count
        if type(reply) is not int:
            self._refuse(reply, result)
            return
        key.length = reply
        self._pushed += count
        key.was_empty = reply == count
        if key.was_empty and not renewed and self._sending is not None:
            key.renew_at = self._clock.seconds() + key.renew_s
            self._sending.ask(key.pexpire, self._done_without, None, "PEXPIRE")
        result.callback(Pushed(count, reply))

    def _script_ran(self, reply: Any, result: Deferred[Pushed], about: tuple[Key, int, bool]) -> None:
        key, count, _ = about
        key.flying -= count
        if type(reply) is not list:
            self._refuse(reply, result)
            return
        taken, key.length = reply[:2]
        if len(reply) > 2:
            self._done_without(ErrorReply(reply[2].decode()), None, "PEXPIRE")
        if taken:
            self._pushed += taken
            key.renew_at = self._clock.seconds() + key.renew_s
        result.callback(Pushed(taken, key.length))

    # What the connections and the Sentinels call.

    def _build(self) -> Connection:
        named = named_by(self._endpoint)
        self._latest = Connection(self._server, self._clock, self._looked, self._closed, named)
        return self._latest

    def _moved(self, named: Named) -> None:
        if self._latest is not None:
            self._latest.leave_unless(named)
        self._readers.leave_unless(named)
        self._groups.leave_unless(named)

    def _looked(self, connection: Connection, lead_s: float) -> None:
        if self._stopped:
            return
        self._lead_is(lead_s)
        if self.epoch not in (None, connection.epoch):
            text = "node %s: it was restarted or replaced, what was queued there is lost"
            events.report(_log, logging.INFO, events.Mark.NODE_RESTARTED, text, self.name)
            self._keys.clear()
        self.epoch = self._readers.epoch = connection.epoch
        self._keys.prefix = connection.prefix
        self._groups.epoch_is(connection.epoch)
        if self._epoch_timer is not None and self._epoch_timer.active():
            self._epoch_timer.cancel()
        self._epoch_timer = self._clock.callLater(_EPOCH_S, connection.look)
        if self._server.database:
            # Before that nothing is published or subscribed to, as it might be what concerns another database.
            keys = self._alive(""), self._alive("groups")
            self._groups.look_for_former_names(connection, keys, self.clock(), lambda: self._use(connection))
        else:
            self._use(connection)

    def _use(self, connection: Connection) -> None:
        if self._sending is None and not (connection.closed or self._stopped):
            self._sending = self._publisher.connection = connection
            self.connected = True
            self._troubles.over()
            self._link.settle()

    def _closed(self, connection: Connection, why: str) -> None:
        if self._stopped:
            return
        if connection is not self._sending:
            self._troubles.add(why)
            return
        self.losses += 1
        self._troubles.lost(why)
        self._disconnect()

    def _disconnect(self) -> None:
        if self._sending is not None:
            silent_since = self._sending.silent_since
            self._gone_at = self._clock.seconds() if silent_since is None else silent_since
        self._sending = self._publisher.connection = None
        self.connected = False
        self._link.unsettle()
        # Others push meanwhile, and what was flying may have landed.
        self._keys.clear()
        if self._epoch_timer is not None and self._epoch_timer.active():
            self._epoch_timer.cancel()
        self._readers.give_back()


#: How long a connection to Redis may take to be made, TLS included.
_CONNECT_S: Final = 5.0


class RedisEndpoints:
    """Makes the endpoints of one node.

    Raises:
        ConfigurationError: a file for TLS cannot be used; the text names the node.
    """

    def __init__(self, node: NodeSettings, loop: asyncio.AbstractEventLoop) -> None:
        self._node = node
        self._loop = loop
        self._tls: ssl.SSLContext | None = None
        if node.tls is not None:
            try:
                self._tls = tls_context(node.tls)
            except ConfigurationError as error:
                raise ConfigurationError(f"node {node.name}: {error}") from error

    def endpoint(self) -> StreamClientEndpoint:
        """One to where the settings say that the Redis is."""
        return StreamClientEndpoint(self._loop, self._node.address, self._node.path, _CONNECT_S, self._tls)

    def primary(self, address: Address) -> StreamClientEndpoint:
        """One to the primary that a Sentinel has named."""
        return StreamClientEndpoint(self._loop, address, None, _CONNECT_S, self._tls)

    def sentinels(self) -> list[sentinel.Place]:
        """Those to the Sentinels; none if there are none."""
        settings = self._node.sentinel
        return [
            sentinel.Place(
                written(address), StreamClientEndpoint(self._loop, address, None, sentinel.ANSWER_S, self._tls)
            )
            for address in (settings.addresses if settings is not None else ())
        ]

    def login(self, prefix: str) -> Server:
        """How the Redis is logged in to."""
        node = self._node
        return Server(node.name, prefix, node.username, node.password, node.database)

    def sentinel_login(self) -> Server:
        """How its Sentinels are logged in to."""
        settings = self._node.sentinel
        username, password = (settings.username, settings.password) if settings is not None else (None, None)
        return Server(self._node.name, "", username, password, 0, is_sentinel=True)


def redis_node(
    node: NodeSettings,
    requests: Limits,
    inboxes: Limits,
    prefix: str,
    clock: Clock,
    loop: asyncio.AbstractEventLoop,
    former: FormerNames | None = None,
) -> RedisNode:
    """The node that `node` describes, not started.

    Args:
        former: as of a `RedisNode`.

    Raises:
        ConfigurationError: a file for TLS cannot be used.
    """
    places = RedisEndpoints(node, loop)
    sentinels = None
    if node.sentinel is not None:
        sentinels = Sentinels(
            node.name, node.sentinel.service, places.sentinels(), places.sentinel_login(), clock, places.primary
        )
    return RedisNode(
        node.name,
        requests,
        inboxes,
        clock,
        places.endpoint if sentinels is None else sentinels.endpoint,
        sentinels=sentinels,
        prefix=prefix,
        username=node.username,
        password=node.password,
        database=node.database,
        former=former,
    )
