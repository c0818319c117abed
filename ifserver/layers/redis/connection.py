"""One connection to a Redis: logging in, commands and their answers in order, and who it is that answers.

This is the only module that imports txredisapi; importing it installs a reactor unless one is installed before.
txredisapi sets connections up (``AUTH``, ``SELECT``). Commands take a shorter way: hiredis packs them, a deque holds
who waits, hiredis parses the answers.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import hiredis
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from ifserver.clock import Clock, Timer
from ifserver.config.node_urls import SENTINEL_PASSWORD, Credentials
from ifserver.errors import NodeError, NodeRefused, NodeUnreachable
from ifserver.net.lean_imports import is_lean, stand_ins
from ifserver.net.standard_library import pickling_kept

#: What txredisapi connects with. We do not, and save 140 ms of CPU and 14 MB in each process.
_UNUSED: Final = {
    "twisted.application.internet": ["ClientService"],
    "twisted.internet.endpoints": ["HostnameEndpoint", "UNIXClientEndpoint"],
    "twisted.internet.ssl": ["ClientContextFactory"],
    "twisted.protocols.tls": ["TLSMemoryBIOFactory"],
}


def _import_txredisapi() -> Any:
    if "txredisapi" in sys.modules:
        return sys.modules["txredisapi"]
    if is_lean():
        with contextlib.suppress(ImportError), stand_ins(_UNUSED):  # another release may need more of them
            import txredisapi

            # An application that uses it imports it whole.
            return sys.modules.pop("txredisapi")
    with pickling_kept():  # it imports twisted.application
        import txredisapi
    return txredisapi


txredisapi: Any = _import_txredisapi()

__all__ = ["ANSWER_S", "Connection", "ErrorReply", "Named", "ProtocolError", "Server", "pack", "pack_with"]

#: How long Redis may take to answer, beyond what it was asked to wait. A pause for a fork or a big script is shorter.
ANSWER_S: Final = 5.0
#: How much longer it gets once that has passed, see `Connection._check`.
_LAST_CHANCE_S: Final = 0.1
#: How long a connection that is left in order may take to bring the answers that are due on it.
_LEAVE_S: Final = 1.0

#: What Redis answers when it refuses; ``str()`` of it is its text.
ErrorReply: Final[type[Exception]] = txredisapi.ResponseError
#: What is raised where the answers are not Redis' protocol.
ProtocolError: Final[type[Exception]] = txredisapi.InvalidData
#: A command and its arguments as Redis reads them.
pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command

#: Bytes of payload from which on hiredis is slow: it takes 47 us to pack 64 KiB.
_LARGE: Final = 8 * 1024


def pack_with(head: tuple[Any, ...], payloads: Sequence[bytes], then: bytes = b"") -> bytes:
    """A command that ends with `payloads`, as Redis reads it, and the packed commands in `then`."""
    if sum(map(len, payloads)) < _LARGE:
        return pack((*head, *payloads)) + then
    # The head is packed as a command of its own, whose number of arguments is put right: 2 us for 64 KiB.
    packed = pack(head)
    pieces = [b"*%d\r\n" % (len(head) + len(payloads)), packed[packed.index(b"\n") + 1 :]]
    for payload in payloads:
        pieces += (b"$%d\r\n" % len(payload), payload, b"\r\n")
    pieces.append(then)
    return b"".join(pieces)


_INFO: Final = pack((b"INFO", b"server", b"replication", b"persistence"))
_TIME: Final = pack((b"TIME",))

#: Is called with the reply to a command, and the `result` and `about` that it was asked with.
_Answered: TypeAlias = Callable[[Any, Any, Any], None]


@dataclass(frozen=True, slots=True)
class Server:
    """How a node's Redis is logged in to, how its keys begin, and how it is spoken of."""

    node: str
    prefix: str
    username: str | None
    password: str | None = field(repr=False)
    database: int
    is_sentinel: bool = False

    def prefix_of(self, epoch: str | None) -> bytes:
        """What the keys of an epoch begin with."""
        return f"{self.prefix}{epoch}:".encode()

    def clean(self, text: str) -> str:
        """`text` without the password and without a command's arguments, which Redis quotes when it knows no such.

        Where a password is missing or wrong, it also says which variables may hold it.
        """
        text = text.partition(", with args beginning")[0]
        text = text.replace(self.password, "***") if self.password else text
        return f"{text}{self._login_hint(text)}"

    def _login_hint(self, text: str) -> str:
        if self.is_sentinel:
            variables = SENTINEL_PASSWORD
        else:
            variables = "{}, or {} for this node alone".format(*Credentials.password_variables(self.node))
        if "NOAUTH" in text:
            return f" Set {variables}"
        if "WRONGPASS" in text:
            return f" The password is that of the URL, or else of {variables}"
        return ""

    def unreachable(self) -> NodeUnreachable:
        """The error of what was asked in vain."""
        return NodeUnreachable(f"node {self.node}: there is no connection")

    def refused(self, reply: object) -> NodeRefused:
        """The error of what Redis has answered with `reply`."""
        return NodeRefused(self.clean(f"node {self.node}: {reply}"))


def group_key(prefix: str, group: str, database: int = 0) -> bytes:
    """The Pub/Sub channel of a group, whose database is in the name, since Pub/Sub knows no databases. That of database
    0 has the name that 1.0.0 gives those of all databases. No epoch: nothing is kept that could come back."""
    return f"{prefix}group@{database}:{group}".encode() if database else f"{prefix}group:{group}".encode()


def lead_of(reply: Sequence[bytes], asked: float, now: float) -> float:
    """The lead in seconds by an answer to ``TIME`` that was asked at `asked` and has come `now`, by our clock: wrong by
    half of the time between at most."""
    seconds, microseconds = map(int, reply)
    return seconds + microseconds / 1e6 - (asked + now) / 2


class Named(NamedTuple):
    """What Sentinel says of a node."""

    #: Host and port of its primary.
    address: tuple[str, int]
    #: Counts the failovers: one that went there and back leaves the primary's ``run_id`` as it was.
    config_epoch: int


#: A command whose answer is awaited: by when it is due, by our clock; what it was asked with, `result` of which fails
#: with the error that is fourth if the connection breaks before the answer; and whether only an error is told.
_Waiting: TypeAlias = tuple[float, _Answered, "Deferred[Any] | None", Any, type[NodeError], bool]


class Connection(txredisapi.RedisProtocol):  # type: ignore[misc]  # txredisapi has no types
    """One connection to Redis.

    `looked` is called when Redis has said who it is, with that and with its clock's lead over ours in seconds: once,
    and again each time `look` is called. `closed` is called once, as soon as the connection can no longer be used.
    `named` is what Sentinel said before it was made.
    """

    #: What txredisapi asks of its factory, beside the two methods below.
    isLazy = False
    transport: Any

    def __init__(
        self,
        server: Server,
        clock: Clock,
        looked: Callable[[Connection, float], None],
        closed: Callable[[Connection, str], None],
        named: Named | None = None,
    ) -> None:
        super().__init__(
            charset=None,
            convertNumbers=False,
            username=server.username,
            password=server.password,
            # A connection starts with database 0, and a user may lack the right to select it.
            dbid=server.database or None,
        )
        self.factory = self  # txredisapi's own would reconnect by itself
        self._server = server
        self._clock = clock
        self._when_looked = looked
        self._when_closed = closed
        self._reader: Any = hiredis.Reader(protocolError=ProtocolError, replyError=ErrorReply)
        self._timer: Timer | None = None
        self._timer_due = 0.0
        self._last_chance = False
        #: Whether it can be used no more; what was asked before may still be answered.
        self.closed = False
        self._leaving = False
        #: What was sent and is not yet answered, oldest first.
        self.waiting: deque[_Waiting] = deque()
        self._run_id = ""
        self.named = named
        #: The server's ``run_id``, and Sentinel's ``config-epoch``; None until it has told the first, and the time.
        self.epoch: str | None = None
        #: What the keys of that epoch begin with.
        self.prefix = b""

    # What txredisapi and Twisted call.

    def stopTrying(self) -> None:
        """The factory would give up for good; a `Link` goes on."""

    def connectionError(self, why: str) -> None:
        """``AUTH`` or ``SELECT`` was refused."""
        self.give_up(self._server.clean(why.removeprefix("Redis error: ")))

    def connectionMade(self) -> None:
        self.whenConnected().addCallback(lambda _: self.look())
        super().connectionMade()

    def execute_command(self, *args: Any, **_: Any) -> Deferred[Any]:
        """Fires with the reply, which may be an error."""
        result: Deferred[Any] = Deferred()
        self.ask(pack(args), _hand_over, result)
        return result

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        reader, waiting = self._reader, self.waiting
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                _, answered, result, about, _, only_errors = waiting.popleft()
                if not only_errors or isinstance(reply, ErrorReply):
                    answered(reply, result, about)
        except (ProtocolError, IndexError) as error:
            self.give_up(f"it does not speak Redis' protocol: {error!r}")
        if self._leaving and not waiting:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connected = 0
        why = reason.getErrorMessage()
        self._close(f"connection lost: {why}" if self.epoch is not None else f"closed before it said who it is: {why}")
        waiting, self.waiting = self.waiting, deque()
        for _, _, result, _, when_lost, _ in waiting:
            if result is not None:
                text = f"node {self._server.node}: the connection broke before the answer: {why}"
                result.errback(when_lost(text))

    # What a node calls.

    @property
    def silent_since(self) -> float | None:
        """When that was asked which is still not answered; None: all was. Without meaning where a read is blocked."""
        return self.waiting[0][0] - ANSWER_S if self.waiting else None

    def ask(
        self,
        command: bytes,
        answered: _Answered,
        result: Deferred[Any] | None,
        about: Any = None,
        when_lost: type[NodeError] = NodeUnreachable,
        wait_s: float = 0.0,
        also: tuple[_Answered, Sequence[str]] | None = None,
    ) -> None:
        """Send a packed command that Redis may take `wait_s` to answer.

        Args:
            also: what is called with a refusal of a further command in `command`, and what each of these is for.
        """
        due = self._clock.seconds() + ANSWER_S + wait_s
        self.waiting.append((due, answered, result, about, when_lost, False))
        if also is not None:
            refused, purposes = also
            for purpose in purposes:
                self.waiting.append((due, refused, None, purpose, when_lost, True))
        if (self._timer is None or due < self._timer_due) and not self.closed:
            self._watch(due)
        self.transport.write(command)

    def ask_all(
        self,
        commands: Sequence[bytes],
        answered: _Answered,
        results: Sequence[Deferred[Any]],
        when_lost: type[NodeError],
    ) -> None:
        """Send several packed commands with one write."""
        due = self._clock.seconds() + ANSWER_S
        self.waiting += [(due, answered, result, None, when_lost, False) for result in results]
        if (self._timer is None or due < self._timer_due) and not self.closed:
            self._watch(due)
        self.transport.write(b"".join(commands))

    def look(self) -> None:
        """Ask Redis who it is, and for the time."""
        if not self.closed:
            self.ask(_INFO, self._described, None)
            self.ask_the_time(self._told_the_time)

    def ask_the_time(self, answered: _Answered, result: Deferred[Any] | None = None) -> None:
        """Ask Redis for the time. `answered` is called with the reply, `result`, and when it was asked by our clock."""
        self.ask(_TIME, answered, result, self._clock.seconds())

    def leave_unless(self, named: Named) -> None:
        """Close the connection at once, unless it was made to whom Sentinel names now."""
        if self.named != named and not self.closed:
            self.give_up("Sentinel names another primary")

    def give_up(self, why: str) -> None:
        """Close the connection at once."""
        self._close(why)
        self.transport.abortConnection()

    def _leave(self, why: str) -> None:
        """Use the connection no more; but what was asked already is not in doubt, for the answers are on their way."""
        self._close(why)
        self._leaving = True
        self._timer = self._clock.callLater(_LEAVE_S, self.transport.abortConnection)

    def _described(self, reply: Any, result: None, about: None) -> None:
        if type(reply) is not bytes:
            # At once, since Redis closes the connection behind some of its refusals ("max number of clients reached").
            self.give_up(self._server.clean(f"it refuses INFO: {reply}"))
            return
        lines = (line.partition(b":") for line in reply.split(b"\r\n"))
        description = {name: value for name, _, value in lines}
        if description.get(b"loading") == b"1":
            self.give_up("it is still loading its data")
        elif description.get(b"role", b"master") != b"master":
            leave = self.give_up if self.epoch is None else self._leave
            leave("it is a replica, not a primary")
        elif not description.get(b"run_id"):
            self.give_up("its INFO has no run_id")
        else:
            self._run_id = description[b"run_id"].decode("ascii", "replace")

    def _told_the_time(self, reply: Any, result: None, asked: float) -> None:
        if self.closed:
            return
        if type(reply) is not list:
            self.give_up(self._server.clean(f"it refuses TIME: {reply}"))
            return
        self.epoch = self._run_id if self.named is None else f"{self._run_id}.{self.named.config_epoch}"
        self.prefix = self._server.prefix_of(self.epoch)
        self._when_looked(self, lead_of(reply, asked, self._clock.seconds()))

    def _close(self, why: str) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if not self.closed:
            self.closed = True
            self._when_closed(self, why)

    def _watch(self, due: float) -> None:
        """One timer for the connection, moved when it goes off or something is due earlier: commands are many."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._check)

    def _check(self) -> None:
        self._timer = None
        if not self.waiting:
            self._last_chance = False
            return
        due = self.waiting[0][0]
        if due > self._clock.seconds():
            self._last_chance = False
            self._watch(due)
        elif not self._last_chance:
            # It may be this process that was frozen or blocked: what has arrived meanwhile is read before the verdict.
            self._last_chance = True
            self._watch(self._clock.seconds() + _LAST_CHANCE_S)
        else:
            self.give_up(f"no answer for {ANSWER_S:g} s")


def _hand_over(reply: Any, result: Deferred[Any], about: Any) -> None:
    result.callback(reply)
