"""What a node is: one place that holds channels. `MemoryNode`, `LocalNode` and `RedisNode` are nodes.

Every kind of node passes ``tests/layers/conformance``; that suite is the specification of what is said here in words.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from ifserver import channels
from ifserver.clock import Clock, Soon
from ifserver.errors import NodeError, NodeRefused, NodeUnreachable, PushInDoubt

if TYPE_CHECKING:
    from ifserver.config.settings import LayerSettings

__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_PAYLOAD_BYTES",
    "UNREACHABLE_S",
    "Limits",
    "Node",
    "OptionalCalls",
    "Pulled",
    "Pulling",
    "Pushed",
    "Queue",
    "Reading",
    "Refusal",
    "Subscriber",
    "check",
    "check_group",
]

#: The largest payload a node must carry: a WebSocket message of the largest size anybody configures, and its envelope.
MAX_PAYLOAD_BYTES: Final = 64 * 1024 * 1024
#: The largest batch, payloads only; half of the 1 GiB of one command at which Redis closes the connection.
MAX_BATCH_BYTES: Final = 512 * 1024 * 1024

#: How long a node may give no sign of life before it is taken for unreachable, in seconds.
UNREACHABLE_S: Final = 1.0

#: How publishes are counted that have failed (`Node.publishes`).
_UNPUBLISHED: Final[dict[type[NodeError], str]] = {
    NodeUnreachable: "publishes_unreachable",
    NodeRefused: "publishes_refused",
    PushInDoubt: "publishes_in_doubt",
}

#: `ifserver.channels.check` with a memory: the same names come again and again. (What raises is not remembered.)
check: Callable[[str], str] = lru_cache(maxsize=4096)(channels.check)
#: `ifserver.channels.check_subject`, likewise.
check_group: Callable[[str], str] = lru_cache(maxsize=4096)(channels.check_subject)


class Pushed(NamedTuple):
    """How a push ended: the first `taken` payloads were appended, the channel was full for the rest."""

    taken: int
    #: Messages on the channel right after the push, before anybody who waits has taken any.
    length: int


class Pulled(NamedTuple):
    """What a pull brought: `payloads` of `channel`, oldest first, at least one."""

    channel: str
    payloads: list[bytes]


class Refusal(enum.Enum):
    """Why an offer was not taken."""

    FULL = "full"
    UNREACHABLE = "unreachable"
    #: The connection broke before the answer: somebody may have it.
    IN_DOUBT = "in doubt"


class Queue(NamedTuple):
    """What waits on a channel: how many messages, and the oldest of them."""

    length: int
    oldest: bytes | None


class Reading(NamedTuple):
    """Which request channels one process, or its children, read on a node; and how long ago it said so, in seconds."""

    channels: tuple[str, ...]
    age_s: float


class Subscriber(Protocol):
    """Whoever hears what is published in groups: one for each node and process. Its methods must not raise."""

    def published(self, group: str, payload: bytes) -> None:
        """Something was published in a group to which this process has subscribed on this node."""

    def interrupted(self, groups: Collection[str]) -> None:
        """These subscriptions hold again, or the node has dropped something for us: what was published in these groups
        meanwhile may be lost."""


class Pulling(Deferred["Pulled | None"]):
    """A pull that is under way somewhere else. Cancelling it does nothing: what it has taken would be lost."""

    def cancel(self) -> None:
        """Ignored."""


class Limits(NamedTuple):
    """What one channel may hold, and how long it is kept when nobody reads it."""

    capacity: int
    expiry_s: float

    @classmethod
    def of(cls, settings: LayerSettings) -> tuple[Limits, Limits]:
        """The limits of request channels and of inboxes."""
        return (
            cls(settings.request_capacity, settings.request_expiry_s),
            cls(settings.inbox_capacity, settings.inbox_expiry_s),
        )


class OptionalCalls:
    """What some nodes can do, and what becomes of a site where they cannot.

    These are the answers of a node that cannot: it refuses, as a Redis user without the right to ask does.
    """

    name: str

    def end_pulls(self) -> None:
        """Let the pulls that now wait end early with None, if the node can do so without losing a message.

        Without it they end by their timeout, and a process that stops waits for that.
        """

    def withdraw(self, channel: str, payload: bytes) -> Deferred[bool]:
        """Take back one message that is equal to `payload`; True says that it was still there and nobody gets it.

        Without it a request that nobody takes is answered 504 and not 503, what its client has left is started all the
        same, and none that has waited for long goes to another node.
        """
        check(channel)
        return self._cannot("take messages back")

    def holds(self, channel: str, payload: bytes) -> Deferred[bool]:
        """Whether a message equal to `payload` still waits on `channel`.

        Without it, that the worker of a request has died may be noticed later: when a request behind it is claimed, or
        when it is to be offered elsewhere.
        """
        check(channel)
        return self._cannot("tell whether a message waits")

    def census(self) -> Deferred[dict[str, bytes]]:
        """The last `beat` of every process that has one which is not over. For people: its cost grows with them.

        Without it ``ifserver status`` shows the refusal in place of the node's state, and a node that was taken for
        overloaded is used again only after a probe.
        """
        return self._cannot("tell who is alive")

    def readers(self) -> Deferred[list[Reading]]:
        """What every process reads here whose last `beat` has said so, and is not over.

        Without it a server learns that nobody reads a node from requests that wait there for a second.
        """
        return self._cannot("tell who reads")

    def look(self, channel: str) -> Deferred[Queue]:
        """What waits on `channel`. Nothing is taken.

        Without it ``ifserver status`` shows the refusal in place of the node's state.
        """
        check(channel)
        return self._cannot("tell what waits")

    def _cannot(self, what: str) -> Deferred[Any]:
        return fail(NodeRefused(f"node {self.name}: it cannot {what}"))


def _now(call: Callable[[], None]) -> None:
    call()


class Node(OptionalCalls, ABC):
    """One place that holds channels: what every node must do.

    All methods must be called on the reactor's thread; none of them blocks. A node connects by itself, also again,
    from `start` to `stop`, and says so in the log; whoever needs it waits for `ready`.

    Every asking method returns a Deferred that fails with

    * `NodeUnreachable`: there is no connection; nothing was asked,
    * `PushInDoubt` (pushes and withdrawals) or `NodeUnreachable` (pulls and questions): the connection broke meanwhile,
    * `NodeRefused`: the node answered with an error,

    and that raises `ChannelNameError` at once for a name that `ifserver.channels.check` refuses.
    """

    def __init__(self, name: str, requests: Limits, inboxes: Limits, clock: Clock) -> None:
        self.name = name
        self._requests = requests
        self._inboxes = inboxes
        self._clock = clock
        #: How far the node's own clock is ahead of `clock`, in seconds, as well as it is known here.
        self.lead_s = 0.0
        #: Whether the node can be asked right now, as far as is known.
        self.connected = False
        #: Changes whenever the node has lost its memory; None before the first connection
        #: (docs/explanation/architecture.rst, Epochs).
        self.epoch: str | None = None
        #: How many connections were lost that could be used.
        self.losses = 0
        #: Who hears what is published in the groups of `subscribe`. Set before the first of these.
        self.subscriber: Subscriber | None = None
        #: When what is published leaves, all at once: set by `Clusters` to the end of each turn, and at once before.
        self.soon: Soon = _now
        #: How many publishes ended how.
        self.publishes = {"published": 0, **dict.fromkeys(_UNPUBLISHED.values(), 0)}

    def limits(self, channel: str) -> Limits:
        """The limits of `channel`."""
        return self._inboxes if channels.is_inbox(channel) else self._requests

    @abstractmethod
    def unreachable_s(self) -> float:
        """How long there has been no connection, or no answer to what was asked, in seconds; 0: all is well."""

    def is_reachable(self) -> bool:
        """Whether it is connected, and gives signs of life."""
        return self.connected and self.unreachable_s() < UNREACHABLE_S

    @abstractmethod
    def start(self) -> None:
        """Begin to connect. Never fails: what cannot be reached is logged and tried again."""

    @abstractmethod
    def stop(self) -> Deferred[None]:
        """Disconnect for good; what is under way fails. Fires when all sockets are closed."""

    @abstractmethod
    def ready(self) -> Deferred[None]:
        """Fires when the node is connected, at once if it is. May be cancelled. Never fires after `stop`."""

    @abstractmethod
    def push(self, channel: str, payloads: Sequence[bytes], limits: Limits | None = None) -> Deferred[Pushed]:
        """Append `payloads`, in order, as far as the channel's capacity allows.

        Pushes to one channel from one process are carried out in the order in which they were asked. A batch of more
        than `MAX_BATCH_BYTES` may be refused.

        `limits` are those of a channel that is not one of ifserver's own, the same in each push of this process.
        """

    @abstractmethod
    def pull(self, names: Sequence[str], count: int, wait_s: float) -> Deferred[Pulled | None]:
        """Take up to `count` of the oldest messages of the first of `names` that has any.

        Waits up to `wait_s` seconds for one to come, then fires with None. A message is handed to one pull only.
        Cancelling a pull loses no message: it is ignored, unless the node hands a message over in one step.
        """

    def publish(self, group: str, payload: bytes) -> Deferred[int]:
        """Hand `payload` to every process that has subscribed to `group`, at most once; fires with how many there were.

        What one process publishes in one group arrives in that order. Nothing is kept: who is not there hears nothing.
        It fails as a push does; with `NodeRefused` also if `payload` is longer than `MAX_PAYLOAD_BYTES`.
        """
        check_group(group)
        if len(payload) > MAX_PAYLOAD_BYTES:
            why = NodeRefused(f"node {self.name}: a payload is longer than {MAX_PAYLOAD_BYTES} bytes")
            return fail(self._not_published(Failure(why)))
        return self._publish(group, payload).addCallbacks(self._was_published, self._not_published)

    @abstractmethod
    def _publish(self, group: str, payload: bytes) -> Deferred[int]:
        """Do what `publish` says, of what was checked."""

    def _was_published(self, count: int) -> int:
        self.publishes["published"] += 1
        return count

    def _not_published(self, failure: Failure) -> Any:
        kind = failure.check(*_UNPUBLISHED)
        if kind is not None:
            self.publishes[_UNPUBLISHED[kind]] += 1
        return failure

    @abstractmethod
    def subscribe(self, groups: Sequence[str]) -> Deferred[None]:
        """Let `subscriber` hear what is published in `groups`. Fires once that is so for all that is published then.

        The node subscribes again after each reconnection, and says so (`Subscriber.interrupted`). While there is no
        connection, this waits. It may be cancelled; the subscription goes on. The calls of one turn go as one command.

        It fails with `NodeRefused`, and those groups are not subscribed to; or with `NodeUnreachable` once the node is
        stopped.
        """

    @abstractmethod
    def unsubscribe(self, groups: Sequence[str]) -> None:
        """Let `subscriber` hear nothing more of `groups`, from now on."""

    @abstractmethod
    def beat(self, process: str, value: bytes, life_s: float, reads: Sequence[str] = ()) -> Deferred[None]:
        """Let it be known for `life_s` seconds that `process` is alive, and `value`, in place of what was before; and
        that it, or its children, read the request channels `reads` on this node, and no others."""

    @abstractmethod
    def beats(self, processes: Sequence[str]) -> Deferred[list[bytes | None]]:
        """The last `beat` of each of `processes`; None: there was none, or it is over."""

    def clock(self) -> float:
        """The node's own clock, in seconds, as well as it is known here: about the same for every process, so that a
        deadline can be sent to another one."""
        return self._clock.seconds() + self.lead_s

    def least_clock(self) -> Deferred[float]:
        """The earliest time that some process may take it to be at the node; the node is asked again for it. A deadline
        before that is over for everybody. Never fails: without an answer it is what is known here."""
        return succeed(self.clock())

    @abstractmethod
    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
