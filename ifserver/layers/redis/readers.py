"""The connections on which a Redis node's pulls wait.

Redis answers in order, so whatever is asked behind a blocked read waits as long as it does: each pull that waits has a
connection to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IStreamClientEndpoint

from ifserver.clock import Clock, Timer
from ifserver.layers.node import Pulled, Pulling
from ifserver.layers.reconnection import Link, Pauses, Troubles
from ifserver.layers.redis.connection import ANSWER_S, Connection, ErrorReply, Named, Server, pack
from ifserver.layers.redis.sentinel import named_by

__all__ = ["PAUSES", "SENTINEL_PAUSES", "Readers"]

#: A restarting Redis is asked soon and a dead one seldom; it is in use again within 3 s, with its login.
PAUSES: Final = Pauses(first_s=0.1, longest_s=2.0)
#: Where Sentinel may take a second to say that another Redis was promoted, and it is to be in use within 3 s as well.
SENTINEL_PAUSES: Final = Pauses(first_s=0.1, longest_s=1.0)
#: Idle connections that are kept. A worker waits with one or two pulls at a time.
_IDLE_READERS: Final = 4
#: Redis takes a timeout of 0 for "forever".
_LEAST_WAIT_S: Final = 0.001


class Readers:
    """The reading connections of a node, as many as there are pulls at a time.

    Args:
        look: is called when a connection finds another epoch than the node knows.
    """

    def __init__(
        self,
        server: Server,
        clock: Clock,
        endpoint: Callable[[], IStreamClientEndpoint],
        troubles: Troubles,
        look: Callable[[], None],
        pauses: Pauses = PAUSES,
    ) -> None:
        self.server = server
        self.clock = clock
        self._endpoint = endpoint
        self._troubles = troubles
        self._look = look
        self.pauses = pauses
        #: The node's epoch. A connection of another one is not used.
        self.epoch: str | None = None
        #: Messages that were taken.
        self.pulled = 0
        self._idle: list[_Reader] = []
        self._busy: dict[_Reader, None] = {}
        #: Those whose sockets may be open, in use or not.
        self._all: dict[_Reader, None] = {}
        self._stopped = False

    def pull(self, names: Sequence[str], count: int, wait_s: float) -> Pulling:
        """See `Node.pull`."""
        if self._idle:
            reader = self._idle.pop()
        else:
            reader = _Reader(self, self._endpoint())
            self._all[reader] = None
        self._busy[reader] = None
        ask = _Ask(Pulling(), names, count, wait_s)
        connection = reader.connection
        if connection is not None and connection.epoch == self.epoch:
            reader.send(connection, ask)
        else:
            reader.wait(ask)
        return ask.result

    def give_back(self) -> None:
        """Let the pulls fail that still wait for a connection."""
        for reader in list(self._busy):
            reader.give_back()

    def leave_unless(self, named: Named) -> None:
        """Close the connections that were not made to whom Sentinel names now, and let their pulls fail.

        What a read pops there meanwhile is lost with all else that is queued there.
        """
        for reader in list(self._all):
            reader.leave_unless(named)

    def stop(self) -> Deferred[None]:
        """Close all connections; fires when their sockets are closed."""
        self._stopped = True
        return gatherResults([reader.stop() for reader in list(self._all)]).addCallback(lambda _: None)

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
        return {"readers": len(self._all), "pulls": len(self._busy), "pulled": self.pulled}

    # What a reader calls.

    def release(self, reader: _Reader) -> None:
        """It has nothing more to do."""
        self._busy.pop(reader, None)
        if self._stopped:
            return
        if len(self._idle) < _IDLE_READERS:
            self._idle.append(reader)
        else:
            reader.stop().addCallback(lambda _: self._all.pop(reader, None))

    def opened(self, epoch: str | None) -> None:
        """Its connection knows whom it speaks with."""
        if epoch != self.epoch:
            self._look()

    def failed(self, why: str) -> None:
        """Its connection did not come so far."""
        if not self._stopped:
            self._troubles.add(why)


class _Ask(NamedTuple):
    """A pull, as it was asked."""

    result: Pulling
    names: Sequence[str]
    most: int
    wait_s: float


class _Reader:
    """A connection for one pull at a time."""

    def __init__(self, readers: Readers, endpoint: IStreamClientEndpoint) -> None:
        self._readers = readers
        self._server = readers.server
        self._clock = readers.clock
        self._endpoint = endpoint
        self._link = Link(endpoint, self._build, self._clock, readers.pauses, readers.failed)
        #: The newest connection.
        self._latest: Connection | None = None
        #: The one that can be used.
        self.connection: Connection | None = None
        #: The pull that waits for the connection, and until when it does.
        self._ask: _Ask | None = None
        self._timer: Timer | None = None
        self._link.start()

    def stop(self) -> Deferred[None]:
        """Close the connection; fires when its socket is closed."""
        self.give_back()
        return self._link.stop()

    def send(self, connection: Connection, ask: _Ask) -> None:
        """Carry out `ask`."""
        result, names, most, wait_s = ask
        command = _command(connection.prefix, tuple(names), most, wait_s)
        connection.ask(command, self._answered, result, connection.prefix, wait_s=wait_s)

    def wait(self, ask: _Ask) -> None:
        """Carry out `ask` as soon as there is a connection, other than that of an earlier epoch."""
        if self.connection is not None:
            self.connection.give_up("the node has another epoch by now")
        self._ask = ask
        self._timer = self._clock.callLater(ANSWER_S, self.give_back)

    def give_back(self) -> None:
        """Let a pull fail that still waits for the connection."""
        ask = self._take_ask()
        if ask is not None:
            self._readers.release(self)
            ask.result.errback(self._server.unreachable())

    def leave_unless(self, named: Named) -> None:
        """See `Readers.leave_unless`."""
        if self._latest is not None:
            self._latest.leave_unless(named)

    def _build(self) -> Connection:
        self._latest = Connection(self._server, self._clock, self._opened, self._closed, named_by(self._endpoint))
        return self._latest

    def _take_ask(self) -> _Ask | None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        ask, self._ask, self._timer = self._ask, None, None
        return ask

    def _opened(self, connection: Connection, lead_s: float) -> None:
        self.connection = connection
        self._link.settle()
        self._readers.opened(connection.epoch)
        ask = self._take_ask()
        if ask is not None:
            self.send(connection, ask)

    def _closed(self, connection: Connection, why: str) -> None:
        if connection is not self.connection:
            self._readers.failed(why)
            return
        self.connection = None
        self._link.unsettle()
        if connection.waiting:
            # Its pull fails when the socket is closed; the reader connects anew meanwhile.
            self._readers.release(self)

    def _answered(self, reply: Any, result: Deferred[Pulled | None], prefix: bytes) -> None:
        if isinstance(reply, ErrorReply):
            # A replica by now, or loading, or without the right: a new connection finds out, after a pause.
            connection = self.connection
            if connection is not None:
                self._readers.release(self)
                connection.give_up(self._server.clean(f"it refuses a pull: {reply}"))
            result.errback(self._server.refused(reply))
            return
        self._readers.release(self)
        if reply is None:
            result.callback(None)
        else:
            key, payloads = reply
            self._readers.pulled += len(payloads)
            result.callback(Pulled(key[len(prefix) :].decode(), payloads))


# A process asks for the same again and again, but for the number of messages.
@lru_cache(256)
def _command(prefix: bytes, names: tuple[str, ...], most: int, wait_s: float) -> bytes:
    """The packed command of a pull."""
    keys = [prefix + name.encode() for name in names]
    command: tuple[Any, ...] = (len(keys), *keys, b"LEFT", b"COUNT", most)
    return pack((b"BLMPOP", max(_LEAST_WAIT_S, wait_s), *command) if wait_s > 0 else (b"LMPOP", *command))
