"""How many connections there may be: in all, and of one client address."""

from __future__ import annotations

import ipaddress
import logging
from typing import Any, Final, TypeAlias

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ifserver.clock import Clock
from ifserver.config.networks import parse_networks
from ifserver.config.settings import FrontSettings
from ifserver.front.deadlines import Deadlines
from ifserver.logs import events
from ifserver.metrics import Counters
from ifserver.net import sockets

__all__ = ["ConnectionLimits", "Key", "TurnedAway"]

#: Whose connections are counted together; None: they are not counted.
Key: TypeAlias = str | int | None

#: How long one that is turned away has to take its answer, in seconds, with TLS also for its handshake; and what is
#: read of what it sends meanwhile.
_LINGER_S: Final = 2.0
_LINGER_BYTES: Final = 64 * 1024
#: So many may be about to be turned away; others are cut without an answer.
_MAX_TURNED_AWAY: Final = 256
#: So many files are left for what is no client's connection, or an eighth of all if that is less: for workers, nodes,
#: logs, files that are sent, and 100 connections of operators.
_SPARE_FILES: Final = 128
#: A log that grew with an attack would be another one: the reason is logged so often at most, in seconds.
_LOG_PERIOD_S: Final = 60.0

_log = logging.getLogger(__name__)


class ConnectionLimits:
    """Counts connections, and turns away those that are too many.

    They are answered 503 (RFC 9110 15.6.4) instead of not being accepted: a client that waits in the kernel's backlog
    does not know what is wrong, and a load balancer in front of us could not go elsewhere.
    """

    def __init__(self, settings: FrontSettings, clock: Clock, counters: Counters) -> None:
        self._clock = clock
        self._counters = counters
        self.change(settings)
        self._by_key: dict[str | int, int] = {}
        self._reported_at: dict[str, float] = {}
        self.turned_away: set[TurnedAway] = set()
        self.lingering = Deadlines(clock, _LINGER_S, TurnedAway.abort)

    def change(self, settings: FrontSettings) -> None:
        """From now on the limits are those of `settings`. Connections that are there already stay."""
        self._settings = settings
        self._uncounted = parse_networks((*settings.trusted_proxies, *settings.uncounted_networks), "front")

    def key(self, address: Any) -> Key:
        """As whose connection one from `address` (Twisted's) is counted."""
        host = getattr(address, "host", None)
        if host is None:
            return None  # a Unix socket: a proxy of this machine speaks for all clients
        if host in self._uncounted:
            return None
        if ":" not in host:
            return str(host)
        address = ipaddress.IPv6Address(host.partition("%")[0])
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        # A client has all addresses of a /64 (RFC 4291 2.5.4).
        return int(address) >> 64

    def refuses(self, key: Key, connections: int) -> bool:
        """Whether one more is too many, where there are so many `connections` in all."""
        settings = self._settings
        if connections >= settings.max_connections:
            self._report("all", f"there are {connections} connections (max_connections)")
            return True
        if key is not None and self._by_key.get(key, 0) >= settings.max_connections_per_client:
            self._report(
                "client",
                f"a client has {self._by_key[key]} connections (max_connections_per_client; if it is a proxy that "
                "speaks for others, name it in --trusted-proxies)",
            )
            return True
        return self.lacks_files()

    def lacks_files(self) -> bool:
        """Whether so many files and sockets are open that there is no room for one more client.

        Seen before there is none left: the kernel would accept no connection then, without a word to us, and we could
        reach neither nodes nor workers.
        """
        left, limit = sockets.files_left()
        if left > min(_SPARE_FILES, limit // 8):
            return False
        self._report(
            "files",
            f"this process may have no more than {limit} files and sockets open, and {left} are left (raise the limit, "
            "LimitNOFILE= of systemd or ulimit -n, or lower max_connections)",
        )
        return True

    def enter(self, key: Key) -> None:
        """There is one more."""
        if key is not None:
            self._by_key[key] = self._by_key.get(key, 0) + 1

    def leave(self, key: Key) -> None:
        """There is one less."""
        if key is not None:
            left = self._by_key[key] - 1
            if left:
                self._by_key[key] = left
            else:
                del self._by_key[key]

    def turn_away(self, answer: bytes) -> TurnedAway:
        """The protocol of a connection that is too many."""
        room = min(_MAX_TURNED_AWAY, sockets.files_left()[0] // 2)
        return TurnedAway(self, answer if len(self.turned_away) < room else b"")

    def stop(self) -> None:
        """Cut those that are being turned away."""
        for each in list(self.turned_away):
            each.abort()
        self.lingering.stop()

    def _report(self, label: str, why: str) -> None:
        self._counters.add("connections_refused", label=label)
        now = self._clock.seconds()
        if now - self._reported_at.get(label, -_LOG_PERIOD_S) >= _LOG_PERIOD_S:
            self._reported_at[label] = now
            events.report(_log, logging.WARNING, events.Mark.TURNED_AWAY, "turning clients away with 503: %s", why)


class TurnedAway(Protocol):
    """A connection that is one too many."""

    transport: Any

    def __init__(self, admission: ConnectionLimits, answer: bytes) -> None:
        self._admission = admission
        self._answer = answer
        self._discarded = 0

    def connectionMade(self) -> None:
        self._admission.turned_away.add(self)
        transport = self.transport
        if not self._answer:
            transport.abortConnection()
            return
        transport.write(self._answer)
        self._admission.lingering.add(self)
        # Not closed at once: its request is on the way, and to what is sent to a closed connection the kernel answers
        # with a reset, by which the client may lose our answer (RFC 9112 9.6).
        half_close = getattr(transport, "loseWriteConnection", None)
        if half_close is None:
            transport.loseConnection()
        else:
            half_close()

    def dataReceived(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > _LINGER_BYTES:
            self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._admission.turned_away.discard(self)
        self._admission.lingering.pop(self, None)

    def abort(self) -> None:
        """Cut it."""
        self.transport.abortConnection()
