"""The embedded broker: a `MemoryNode` that is served to other processes over a Unix socket.

Each process has one connection, over which everything is multiplexed.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IAddress, IPushProducer
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ifserver.errors import ChannelNameError, NodeError
from ifserver.layers.embedded.frames import (
    CALLS,
    VERSION,
    Answer,
    Brought,
    Call,
    EndPulls,
    Hello,
    Interrupted,
    Malformed,
    Nothing,
    Peer,
    Published,
    Pull,
    Push,
    Refused,
    Result,
    Taken,
    decode_ask,
    frame,
    packed,
    pieces_of,
)
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import MAX_BATCH_BYTES, Pulled, Pushed, check_group

__all__ = ["LocalBroker"]

#: What is published for a client while it does not read, before more is dropped. Half of what Redis allows.
_MAX_UNREAD_BYTES: Final = 16 * 1024 * 1024

_log = logging.getLogger(__name__)


class LocalBroker(Factory):
    """Serves `node` to the processes that connect; listened to with ``endpoints.SocketEndpoint``.

    Only processes of this very user and of root are served, where the system tells who asks.
    """

    noisy = False

    def __init__(self, node: MemoryNode) -> None:
        self.node = node
        node.relay = self
        self.connections: dict[_Client, None] = {}
        #: The connections that have subscribed to each group.
        self._groups: dict[str, dict[_Client, None]] = {}
        #: What was published and dropped, since clients did not read.
        self._dropped = 0
        self._closing: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> _Client | None:
        return None if self._closing is not None else _Client(self)

    def close(self) -> Deferred[None]:
        """Close all connections, and accept no new ones; fires when they are closed."""
        if self._closing is None:
            self._closing = Deferred()
            for client in list(self.connections):
                client.close()
            self._close_if_empty()
        done: Deferred[None] = Deferred()
        self._closing.addCallback(done.callback)
        return done

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
        return {
            "connections": len(self.connections),
            "pulls": sum(len(client.pulls) for client in self.connections),
            "groups": len(self._groups),
            "broadcasts_dropped": self._dropped,
        }

    def relay(self, group: str, payload: bytes) -> int:
        clients = self._groups.get(group)
        if clients is None:
            return 0
        data = frame(Published(group, payload))
        taken = sum(client.publish(group, data) for client in clients)
        self._dropped += len(clients) - taken
        return taken

    def join(self, client: _Client, group: str) -> None:
        """It has subscribed to `group`."""
        self._groups.setdefault(group, {})[client] = None

    def leave(self, client: _Client, group: str) -> None:
        """It has not any more."""
        clients = self._groups.get(group)
        if clients is not None and clients.pop(client, self) is None and not clients:
            del self._groups[group]

    def opened(self, client: _Client) -> None:
        """A connection was made."""
        self.connections[client] = None

    def closed(self, client: _Client) -> None:
        """A connection was lost."""
        self.connections.pop(client, None)
        self._close_if_empty()

    def _close_if_empty(self) -> None:
        if self._closing is not None and not self.connections and not self._closing.called:
            self._closing.callback(None)


@implementer(IPushProducer)
class _Client(Peer):
    """The broker's end of one connection."""

    def __init__(self, broker: LocalBroker) -> None:
        super().__init__()
        self._broker = broker
        self._node = broker.node
        #: Bytes of a push that has not come whole.
        self._pushing = 0
        #: The pulls that wait, by their id.
        self.pulls: dict[int, Deferred[Pulled | None]] = {}
        self._groups: set[str] = set()
        #: Whether the client does not read, what was published since then, and the groups of which something was
        #: dropped.
        self._full = False
        self._unread = 0
        self._missed: set[str] = set()

    def connectionMade(self) -> None:
        self._broker.opened(self)
        uid = _peer_uid(self.transport)
        if uid not in (None, 0, os.getuid()):
            _log.warning("embedded broker: refused a connection of user %d", uid)
            self.close()
            return
        # A client that does not read its answers is not asked for more questions.
        self.transport.registerProducer(self, True)
        self.transport.write(frame(Hello(VERSION, self._node.epoch or "")))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end_pulls()
        self.unsubscribe(list(self._groups))
        self._broker.closed(self)

    def close(self) -> None:
        """Close the connection at once. Messages that come from now on are for others."""
        self._end_pulls()
        self.unsubscribe(list(self._groups))
        self.transport.abortConnection()

    def malformed(self, why: str) -> None:
        _log.warning("embedded broker: closed a connection that does not keep to the protocol: %s", why)
        self.close()

    def pauseProducing(self) -> None:
        self._full = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._full = False
        self._unread = 0
        missed, self._missed = self._missed & self._groups, set()
        if missed:
            self.write_soon(frame(Interrupted(sorted(missed))), self._node.soon)
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The connection is lost, which `connectionLost` handles."""

    def message_received(self, body: bytes | memoryview) -> None:
        ask = decode_ask(body)
        if isinstance(ask, EndPulls):
            for id in self._end_pulls():
                self.transport.write(frame(Nothing(id)))
            return
        try:
            if isinstance(ask, Push):
                self._push(ask)
            elif isinstance(ask, Pull):
                self._pull(ask)
            else:
                self._call(ask)
        except ChannelNameError as error:
            self.transport.write(frame(Refused(ask.id, str(error))))

    # What `CALLS` are about this connection, and what becomes of its groups.

    def subscribe(self, groups: list[str]) -> Deferred[None]:
        """See `Node.subscribe`."""
        for group in groups:
            check_group(group)
        for group in groups:
            self._broker.join(self, group)
        self._groups.update(groups)
        return succeed(None)

    def unsubscribe(self, groups: list[str]) -> Deferred[None]:
        """See `Node.unsubscribe`."""
        for group in groups:
            self._broker.leave(self, group)
        self._groups.difference_update(groups)
        return succeed(None)

    def publish(self, group: str, data: bytes) -> bool:
        """Send the frame of what was published in `group`; False: the client does not read, it is dropped."""
        if self._full:
            if self._unread >= _MAX_UNREAD_BYTES:
                self._missed.add(group)
                return False
            self._unread += len(data)
        self.write_soon(data, self._node.soon)
        return True

    def _push(self, ask: Push) -> None:
        payloads = self.whole(ask)
        if payloads is None:
            self._pushing += sum(map(len, ask.payloads))
            if self._pushing > MAX_BATCH_BYTES:
                raise Malformed(f"a push of more than {MAX_BATCH_BYTES} bytes")
            return
        self._pushing = 0
        self._answer(self._node.push(ask.channel, payloads, ask.limits), ask.id, _taken)

    def _pull(self, ask: Pull) -> None:
        pulling = self._node.pull(ask.names, ask.count, ask.wait_s)
        if not pulling.called:
            self.pulls[ask.id] = pulling
        pulling.addCallbacks(self._pulled, self._pull_failed, callbackArgs=(ask.id,), errbackArgs=(ask.id,))

    def _end_pulls(self) -> list[int]:
        """End the pulls that wait. Safe, because a `MemoryNode` hands a message over in one step."""
        pulls, self.pulls = self.pulls, {}
        for pulling in pulls.values():
            pulling.cancel()
        return list(pulls)

    def _answer(self, deferred: Deferred[Any], id: int, answer: Callable[[int, Any], Answer]) -> None:
        def answered(value: Any) -> None:
            self.transport.write(frame(answer(id, value)))

        deferred.addCallbacks(answered, self._refuse, errbackArgs=(id,))

    def _pulled(self, result: Pulled | None, id: int) -> None:
        self.pulls.pop(id, None)
        if result is None:
            self.transport.write(frame(Nothing(id)))
            return
        *pieces, last = pieces_of(result.payloads)
        for piece in pieces:
            self.transport.write(frame(Brought(id, result.channel, list(piece), True)))
        self.transport.write(frame(Brought(id, result.channel, list(last), False)))

    def _pull_failed(self, failure: Failure, id: int) -> None:
        self.pulls.pop(id, None)
        if not failure.check(CancelledError):
            self._refuse(failure, id)

    def _call(self, ask: Call) -> None:
        kind = CALLS.get(ask.name)
        if kind is None:
            raise Malformed(f"there is no call {ask.name!r}")
        call = getattr(self if kind.of_connection else self._node, ask.name)
        self._answer(call(*kind.decode_arguments(ask.arguments)), ask.id, _result)

    def _refuse(self, failure: Failure, id: int) -> None:
        failure.trap(NodeError)
        self.transport.write(frame(Refused(id, failure.getErrorMessage())))


def _taken(id: int, pushed: Pushed) -> Answer:
    return Taken(id, pushed.taken, pushed.length)


def _result(id: int, value: object) -> Answer:
    return Result(id, packed(value))


def _peer_uid(transport: Any) -> int | None:
    """The user at the other end of a Unix socket, where the system tells."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    try:
        credentials = transport.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except (AttributeError, OSError):
        return None  # no socket under it, or none that knows of users
    uid: int = struct.unpack("3i", credentials)[1]
    return uid
