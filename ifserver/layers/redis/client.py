"""A connection for a few questions to a Redis or a Sentinel: those of `ifserver.layers.redis.sentinel` and of
``ifserver check``.

Messages take another way (`ifserver.layers.redis.connection`), which is faster and does not tell errors apart.
"""

from __future__ import annotations

from collections import deque
from typing import Any, TypeAlias

import hiredis
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from ifserver.clock import Clock, Timer
from ifserver.errors import IfserverError, NodeError, NodeRefused, NodeUnreachable
from ifserver.layers.redis.connection import Server, pack

__all__ = ["Client", "Command", "connect"]

#: A command and its arguments.
Command: TypeAlias = tuple[str | bytes | int | float, ...]


class Client(Protocol):
    """A connection for questions. It is closed when an answer takes longer than `patience_s`."""

    transport: Any

    def __init__(self, server: Server, clock: Clock, patience_s: float) -> None:
        self._server = server
        self._clock = clock
        self._patience_s = patience_s
        self._reader: Any = hiredis.Reader()
        self._waiting: deque[Deferred[Any]] = deque()
        self._timer: Timer | None = None
        #: Why it cannot be used; None while it can.
        self.lost: NodeError | None = None
        self._gone: Deferred[None] = Deferred()

    def ask(self, *command: str | bytes | int | float) -> Deferred[Any]:
        """Fires with the answer.

        It fails with `NodeRefused` if that is an error, and with `NodeUnreachable` if there is none, or no login.
        """
        return self.ask_together(command)[0]

    def ask_together(self, *commands: Command) -> list[Deferred[Any]]:
        """Ask so that nothing comes between: the other side reads all commands at once."""
        if self.lost is not None:
            return [fail(self.lost) for _ in commands]
        answers: list[Deferred[Any]] = [Deferred() for _ in commands]
        self._waiting += answers
        self.transport.write(b"".join(map(pack, commands)))
        self._watch()
        return answers

    def close(self) -> Deferred[None]:
        """Close the connection; fires when its socket is closed."""
        gone = self._gone
        self._give_up(NodeUnreachable("the connection was closed"))
        return gone

    # What Twisted calls.

    def connectionMade(self) -> None:
        server = self._server
        if server.password is not None:
            words = [word for word in (server.username, server.password) if word is not None]
            self.ask("AUTH", *words).addErrback(self._not_let_in, "AUTH")
        if server.database:
            self.ask("SELECT", server.database).addErrback(self._not_let_in, "SELECT")

    def dataReceived(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                answer = self._waiting.popleft()
                if isinstance(reply, hiredis.ReplyError):
                    answer.errback(NodeRefused(self._server.clean(str(reply))))
                else:
                    answer.callback(reply)
        except (hiredis.ProtocolError, IndexError):
            self._give_up(NodeUnreachable("it does not speak Redis' protocol"))
        self._watch()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._fail(NodeUnreachable(f"the connection broke: {reason.getErrorMessage()}"))
        self._gone.callback(None)

    def _not_let_in(self, failure: Failure, command: str) -> None:
        if failure.check(NodeRefused):
            self._give_up(NodeUnreachable(f"{command}: {failure.getErrorMessage()}"))

    def _watch(self) -> None:
        """Be patient anew, if anything is waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and self.lost is None:
            self._timer = self._clock.callLater(self._patience_s, self._late)

    def _late(self) -> None:
        self._timer = None
        self._give_up(NodeUnreachable(f"no answer for {self._patience_s:g} s"))

    def _give_up(self, why: NodeError) -> None:
        self._fail(why)
        if not self._gone.called:
            self.transport.abortConnection()

    def _fail(self, why: NodeError) -> None:
        if self.lost is None:
            self.lost = why
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, deque()
        for answer in waiting:
            answer.errback(self.lost)


class _Factory(Factory):
    noisy = False

    def __init__(self, client: Client) -> None:
        self._client = client

    def buildProtocol(self, addr: IAddress | None) -> Client:
        return self._client


async def connect(endpoint: IStreamClientEndpoint, server: Server, clock: Clock, patience_s: float) -> Client:
    """A new connection, logging in.

    Raises:
        NodeUnreachable: there is none to be had.
    """
    client = Client(server, clock, patience_s)
    try:
        await endpoint.connect(_Factory(client))
    except (CancelledError, IfserverError):
        raise
    except Exception as error:
        raise NodeUnreachable(f"cannot connect: {str(error) or type(error).__name__}") from error
    return client
