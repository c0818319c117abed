"""A connection for a few questions to a Redis or a Sentinel, and which commands its user may not use: for
`ifserver.layers.redis.sentinel` and ``ifserver check``.

Messages take another way (`ifserver.layers.redis.connection`), which is faster and does not tell errors apart.
"""

from __future__ import annotations

import secrets
from collections import deque
from typing import Any, Final, NamedTuple, TypeAlias

import hiredis
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from ifserver.clock import Clock, Timer
from ifserver.errors import IfserverError, NodeError, NodeRefused, NodeUnreachable
from ifserver.layers.redis.connection import Server, group_key, pack

__all__ = ["GROUPS", "MESSAGES", "VIEWS", "Client", "Command", "Right", "connect", "lacking", "try_a_message"]


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


#: What a right is needed for.
MESSAGES: Final = "messages"
VIEWS: Final = "views of all processes and the search for free workers"
GROUPS: Final = "groups"


class Right(NamedTuple):
    """A command that is used, with keys of the kind that it is used on."""

    name: str
    command: Command
    needed_for: str = MESSAGES


def _rights(prefix: str, database: int = 0) -> tuple[Right, ...]:
    """Every command that a node uses, in an order in which they leave nothing behind when they are really sent."""
    key = f"{prefix}check:{secrets.token_hex(8)}"
    beat, census = f"{key}:alive", f"{key}:census"
    group = group_key(prefix, f"!check.{secrets.token_hex(8)}", database)
    return (
        Right("RPUSH", ("RPUSH", key, "x")),
        Right("PEXPIRE", ("PEXPIRE", key, 10_000)),
        Right("LLEN", ("LLEN", key)),
        Right("EVAL", ("EVAL", "return redis.call('LLEN', KEYS[1])", 1, key)),
        Right("LINDEX", ("LINDEX", key, 0), VIEWS),
        Right("LPOS", ("LPOS", key, "x")),
        Right("LREM", ("LREM", key, 1, "x")),
        Right("LMPOP", ("LMPOP", 1, key, "LEFT", "COUNT", 10)),
        Right("BLMPOP", ("BLMPOP", 0.001, 1, key, "LEFT", "COUNT", 10)),
        Right("SET", ("SET", beat, "x", "PX", 100)),
        Right("MGET", ("MGET", beat)),
        Right("ZADD", ("ZADD", census, 1, "x"), VIEWS),
        Right("ZRANGEBYSCORE", ("ZRANGEBYSCORE", census, 0, 2), VIEWS),
        Right("ZREMRANGEBYSCORE", ("ZREMRANGEBYSCORE", census, 0, 2), VIEWS),
        Right("INFO", ("INFO", "server")),
        Right("TIME", ("TIME",)),
        Right("PUBLISH", ("PUBLISH", group, "x"), GROUPS),
        # Last, for there is little else that a connection may do that has subscribed.
        Right("SUBSCRIBE", ("SUBSCRIBE", group), GROUPS),
        Right("UNSUBSCRIBE", ("UNSUBSCRIBE", group), GROUPS),
    )


async def lacking(client: Client, prefix: str, database: int = 0) -> dict[Right, str]:
    """The rights that the user of `client` lacks, each with why.

    Redis is asked (``ACL DRYRUN``) by a user who may ask; otherwise each command is sent.
    """
    user = await _user(client)
    found: dict[Right, str] = {}
    for right in _rights(prefix, database):
        why = await _why_not(client, right, user)
        if why is not None:
            found[right] = why
    return found


async def try_a_message(client: Client, prefix: str) -> None:
    """Push a message and take it back.

    Raises:
        NodeRefused: it was not taken, for whatever reason.
    """
    push, expire, *_ = _rights(prefix)
    for command in (push.command, expire.command, ("LREM", push.command[1], 1, "x")):
        await client.ask(*command)


async def _user(client: Client) -> str | None:
    """The user's name, if the user may ask what users may do."""
    try:
        user: str = (await client.ask("ACL", "WHOAMI")).decode()
        await client.ask("ACL", "DRYRUN", user, "PING")
    except NodeRefused:
        return None
    return user


async def _why_not(client: Client, right: Right, user: str | None) -> str | None:
    """Why `right` is missing; None: it is not."""
    try:
        if user is None:
            await client.ask(*right.command)
            return None
        answer = (await client.ask("ACL", "DRYRUN", user, *right.command)).decode()
        return None if answer == "OK" else _meant(answer)
    except NodeRefused as error:
        return _meant(str(error))


def _meant(refusal: str) -> str:
    """What Redis means: its versions say it differently, and quote the key, which is of no interest."""
    if "permission" not in refusal:
        return refusal
    what = next((what for what in ("channel", "key") if what in refusal), None)
    return f"the user has no right to the {f'{what}s' if what is not None else 'command'}"
