"""A Redis 7 or Valkey 7.2 as a node.

One connection sends, and asks (`ifserver.layers.redis.views`); each pull that waits has a connection to itself
(`ifserver.layers.redis.readers`), and one hears what is published in groups (`ifserver.layers.redis.subscriber`).

Keys are prefix + epoch + ``:`` + channel. The epoch is the server's ``run_id``, new at every start: a Redis that loads
a snapshot gives back messages that had been popped, under keys that nobody reads any more. Where Sentinels say which
Redis it is (`ifserver.layers.redis.sentinel`), their ``config-epoch`` belongs to it: a replica has such messages too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.interfaces import IStreamClientEndpoint

from ifserver.clock import Clock, Timer
from ifserver.errors import NodeRefused, PushInDoubt
from ifserver.layers.node import MAX_BATCH_BYTES, Limits, Pulled, Pushed, check
from ifserver.layers.reconnection import Link
from ifserver.layers.redis.connection import Connection, ErrorReply, Named, Server, pack, pack_with
from ifserver.layers.redis.keys import Key
from ifserver.layers.redis.readers import PAUSES, SENTINEL_PAUSES, Readers
from ifserver.layers.redis.sentinel import Sentinels, named_by
from ifserver.layers.redis.subscriber import GroupLink, group_key
from ifserver.layers.redis.views import RedisViews, first_error
from ifserver.layers.subscriptions import FormerNames, Subscriptions
from ifserver.logs import events

__all__ = ["RedisNode"]

#: How often the sending connection asks whether it still speaks with the same Redis (see
#: docs/explanation/architecture.rst, Epochs).
_EPOCH_S: Final = 5.0
#: More than this in one ``RPUSH`` would let others wait for milliseconds; and it is no longer all or nothing if split.
_PLAIN_MESSAGES: Final = 1000
_PLAIN_BYTES: Final = 4 * 1024 * 1024

_log = logging.getLogger(__name__)


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
        #: Who is alive, while it is asked which of them are of 1.0.0.
        self._census: Any = None
        #: What is to be published at the end of this turn, and who waits for that.
        self._unpublished: list[bytes] = []
        self._publishing: list[Deferred[int]] = []
        self._stopped = False
        #: Since when there is no connection, or the last one that there was gave no answer.
        self._gone_at = clock.seconds()
        #: Who hears that the time to live of a list could not be set.
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

    def end_pulls(self) -> None:
        """Does nothing: pulls end by their timeout.

        ``CLIENT UNBLOCK`` that arrives before the read does nothing, closing the connection loses what Redis has just
        popped for it, and both the command and the question for one's client id are rights that an application's user
        should not have.
        """

    def withdraw(self, channel: str, payload: bytes) -> Deferred[bool]:
        connection = self._sending
        if connection is None:
            check(channel)
            return fail(self._server.unreachable())
        result: Deferred[bool] = Deferred()
        command = pack((b"LREM", self._keys[channel].key, 1, payload))
        connection.ask(command, self._removed, result, None, PushInDoubt)
        return result

    def _publish(self, group: str, payload: bytes) -> Deferred[int]:
        prefix, database = self._server.prefix, self._server.database
        publishing = self._publish_as(group_key(prefix, group, database), payload)
        if not (database and self._former.in_use):
            return publishing
        # Whoever hears both names drops what comes twice (`ifserver.layers.groups`).
        both = gatherResults([publishing, self._publish_as(group_key(prefix, group), payload)], consumeErrors=True)
        return both.addCallbacks(max, first_error)

    def _publish_as(self, key: bytes, payload: bytes) -> Deferred[int]:
        if self._sending is None:
            return fail(self._server.unreachable())
        result: Deferred[int] = Deferred()
        self._unpublished.append(pack_with((b"PUBLISH", key), (payload,)))
        self._publishing.append(result)
        if len(self._publishing) == 1:
            self.soon(self._send_published)
        return result

    def _send_published(self) -> None:
        commands, self._unpublished = self._unpublished, []
        results, self._publishing = self._publishing, []
        if self._sending is not None:
            self._sending.ask_all(commands, self._answered, results, PushInDoubt)
            return
        for result in results:
            result.errback(self._server.unreachable())

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

    def _removed(self, reply: Any, result: Deferred[bool], about: None) -> None:
        if isinstance(reply, ErrorReply):
            self._refuse(reply, result)
            return
        self._withdrawn += reply
        result.callback(reply > 0)

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
            self._look_for_former_names(connection)
        else:
            self._use(connection)

    def _look_for_former_names(self, connection: Connection) -> None:
        """Look whether processes of 1.0.0 are alive, which say nothing of groups when they beat; then use `connection`.
        Before that nothing is published or subscribed to, as it might be what concerns another database."""

        def alive(reply: Any, result: None, about: None) -> None:
            self._census = reply

        def by_database(reply: Any, result: None, about: None) -> None:
            # Where that may not be asked, all may be of 1.0.0.
            known = type(self._census) is type(reply) is list
            self._former.found(self.name, not known or not set(self._census) <= set(reply))
            self._groups.looked_for_former_names(self._former.in_use)
            self._use(connection)

        now = self.clock()
        connection.ask(pack((b"ZRANGEBYSCORE", self._alive(""), now, b"+inf")), alive, None)
        connection.ask(pack((b"ZRANGEBYSCORE", self._alive("groups"), now, b"+inf")), by_database, None)

    def _use(self, connection: Connection) -> None:
        if self._sending is None and not (connection.closed or self._stopped):
            self._sending = connection
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
        self._sending = None
        self.connected = False
        self._link.unsettle()
        # Others push meanwhile, and what was flying may have landed.
        self._keys.clear()
        if self._epoch_timer is not None and self._epoch_timer.active():
            self._epoch_timer.cancel()
        self._readers.give_back()
