"""Groups as one process sees them: it publishes on every node of every cluster, and receives on its home node.

Each broadcast has a number: its position among all that one process has published in one group. A receiver drops what
comes a second time, and counts and reports what is missing. The lower 32 bits count from 0. The upper bits number the
counts: a publisher that has forgotten a group begins a new one, higher than all before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ifserver.clock import Clock, Timer
from ifserver.errors import NodeError, NodeRefused, NodeUnreachable, PushInDoubt, UndecodableError
from ifserver.layers.node import MAX_PAYLOAD_BYTES, Node, check_group
from ifserver.logs import events
from ifserver.messages import Broadcast, decode_broadcast, encode
from ifserver.metrics import BROADCASTS_HEARD, BROADCASTS_PUBLISHED, Counters

__all__ = ["Groups", "Listener"]

#: A count begins at a multiple of this.
_COUNT: Final = 1 << 32
#: How long a publisher remembers a group at least, and how many of them. One that is forgotten costs nothing.
_PUBLISHED_S: Final = 60.0
_PUBLISHED_MOST: Final = 10_000
#: The same of receivers, for each publisher: longer than the publisher may remember, which is twice as long.
_RECEIVED_S: Final = 120.0
_RECEIVED_MOST: Final = 50_000
#: What is published on a node that does not answer, before more is refused: it is kept in memory until it has left.
_UNANSWERED_BYTES: Final = MAX_PAYLOAD_BYTES
#: Lines in the log about what is lost are no closer than this, in seconds.
_LOG_S: Final = 10.0
#: How long to wait after a node has refused the groups that were moved there.
_RETRY_S: Final = 5.0

_FAILURES: Final[tuple[tuple[type[NodeError], str], ...]] = (
    # The first that has happened says what a broadcast failed with that no node has taken.
    (PushInDoubt, "in_doubt"),
    (NodeRefused, "refused"),
    (NodeUnreachable, "unreachable"),
)

_log = logging.getLogger(__name__)

K = TypeVar("K")


class Listener(Protocol):
    """Receives what is published in groups. What its methods raise is logged."""

    def heard(self, group: str, broadcast: Broadcast) -> None:
        """This was published in `group`."""

    def gap(self, group: str, missed: int | None) -> None:
        """So many broadcasts of one publisher did not come; None: something may have been lost. What comes next was
        published behind that."""


def _unanswered(group: str, answer_in: str, which: bool) -> None:
    """No process here can answer."""


class _Group:
    """One group of this process."""

    __slots__ = ("listeners", "waiting", "was_received")

    def __init__(self) -> None:
        #: Another tuple with every change, so that it can be gone through meanwhile: most often there is one, for good.
        self.listeners: tuple[Listener, ...] = ()
        #: Whether it was received before, from any node.
        self.was_received = False
        #: What waits until it is received.
        self.waiting: tuple[Deferred[None], ...] = ()

    def end_waiting(self, failure: Failure | None = None) -> None:
        """Fire what waits."""
        if self.waiting:
            waiting, self.waiting = self.waiting, ()
            for each in waiting:
                if each.called:
                    continue  # cancelled
                if failure is None:
                    each.callback(None)
                else:
                    each.errback(failure)


class _Recent(Generic[K]):
    """The numbers of what was used lately: in the last `keep_s` seconds, unless there are more than `most`.

    It holds those of twice that at most. What is forgotten is forgotten all at once, which costs the least.
    """

    __slots__ = ("_clock", "_keep_s", "_most", "_new", "_old", "_over_at", "forgotten")

    def __init__(self, clock: Clock, keep_s: float, most: int) -> None:
        self._clock = clock
        self._keep_s = keep_s
        self._most = most
        self._new: dict[K, int] = {}
        self._old: dict[K, int] = {}
        self._over_at = clock.seconds() + keep_s
        #: How often something was.
        self.forgotten = 0

    def get(self, key: K) -> int | None:
        """The number of `key`."""
        number = self._new.get(key)
        return self._old.get(key) if number is None else number

    def put(self, key: K, number: int) -> None:
        """The number of `key` is this one."""
        new = self._new
        new[key] = number
        now = self._clock.seconds()
        if now >= self._over_at or len(new) > self._most:
            self.forgotten += bool(self._old)
            # What was used last before that may not have been used for as long.
            lapsed = now >= self._over_at + self._keep_s
            self._old = {key: number} if lapsed else new
            self.forgotten += lapsed
            self._new = {}
            self._over_at = now + self._keep_s


class _Publishing:
    """One broadcast that is being published on `left` nodes."""

    __slots__ = ("errors", "group", "handed", "left", "number", "result", "size", "taken")

    def __init__(self, group: str, number: int, size: int, nodes: int) -> None:
        self.group = group
        self.number = number
        self.size = size
        self.left = nodes
        self.handed = 0
        self.taken = False
        self.errors: list[NodeError] = []
        self.result: Deferred[int] = Deferred()


class Groups:
    """The groups of the process `process`.

    Args:
        process: under this name its broadcasts are numbered, from the beginning: no two processes may have the same.
        nodes: of all clusters.
        home: where this process receives.
    """

    def __init__(self, process: str, nodes: Sequence[Node], home: Node, clock: Clock, counters: Counters) -> None:
        self._process = process
        self._nodes = nodes
        self._home = home
        self._clock = clock
        self._counters = counters
        self._cells = counters.cells
        for node in nodes:
            node.subscriber = self
        #: Bytes published on each node that it has not answered.
        self._unanswered = dict.fromkeys(nodes, 0)
        #: The number that each group was last sent.
        self._numbers: _Recent[str] = _Recent(clock, _PUBLISHED_S, _PUBLISHED_MOST)
        #: The groups that are received here.
        self._groups: dict[str, _Group] = {}
        #: The number that came last of each publisher. The groups are those of `_groups`: what came before this process
        #: left one means nothing.
        self._received: _Recent[tuple[_Group, str]] = _Recent(clock, _RECEIVED_S, _RECEIVED_MOST)
        #: Former homes, whose subscriptions go on until those at the present one are there.
        self._former: dict[Node, None] = {}
        #: Until when nothing is logged, what is to be then, and the pause after a refusal.
        self._log_timer: Timer | None = None
        self._unlogged = 0
        self._retry_timer: Timer | None = None
        self._undecodable_logged = False
        #: Answers questions for the members of a group: in which group, and whether with their names.
        self.asked: Callable[[str, str, bool], None] = _unanswered

    def stop(self) -> None:
        """Do nothing more by itself. What this process receives ends with the nodes."""
        for timer in (self._log_timer, self._retry_timer):
            if timer is not None and timer.active():
                timer.cancel()

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics; what is counted over time is in the counters."""
        # Without those that ifserver itself uses.
        listeners = [len(group.listeners) for name, group in self._groups.items() if not name.startswith("!")]
        return {"groups": len(listeners), "group_listeners": sum(listeners)}

    # Publishing.

    def publish(
        self,
        group: str,
        *,
        text: str | None = None,
        data: bytes | None = None,
        close: tuple[int, str] | None = None,
        message: bytes | None = None,
        exclude: str = "",
        ask: tuple[str, bool] | None = None,
    ) -> Deferred[int]:
        """Send one of `text`, `data`, `close` and `message` to all members of `group` but `exclude`, or `ask` who they
        are (`ifserver.layers.membership`).

        Fires with the number of processes that it was handed to, when all nodes have answered and at least one has
        taken it. What is in doubt is not repeated. Broadcasts to one group arrive in the order of the calls.

        Fails, if no node has taken it, with

        * `PushInDoubt`: one of them may have,
        * `NodeRefused`: one has refused it, because it is too long or this process lacks the right,
        * `NodeUnreachable`: there is no connection to any of them.

        Raises:
            ChannelNameError: that is no name of a group.
            UnicodeEncodeError: a text holds a lone surrogate, which UTF-8 cannot express.
            ValueError: there is not just one of the five.
        """
        check_group(group)
        if (text is None) + (data is None) + (close is None) + (message is None) + (ask is None) != 4:
            raise ValueError("one of text, data, close, message and ask is to be sent")
        last = self._numbers.get(group)
        number = self._numbers.forgotten * _COUNT if last is None else last + 1
        payload = encode(Broadcast(self._process, number, exclude, text, data, close, message, ask))
        self._numbers.put(group, number)
        about = _Publishing(group, number, len(payload), len(self._nodes))
        for node in self._nodes:
            if not node.connected:
                self._failed(NodeUnreachable(f"node {node.name}: there is no connection"), about)
            elif self._unanswered[node] >= _UNANSWERED_BYTES:
                self._failed(NodeRefused(f"node {node.name}: it does not answer, and too much waits for that"), about)
            else:
                self._unanswered[node] += about.size
                publishing = node.publish(group, payload)
                publishing.addCallbacks(self._taken, self._not_taken, (about, node), errbackArgs=(about, node))
        return about.result

    def _taken(self, count: int, publishing: _Publishing, node: Node) -> None:
        self._unanswered[node] -= publishing.size
        publishing.handed += count
        publishing.taken = True
        publishing.left -= 1
        if not publishing.left:
            self._all_answered(publishing)

    def _not_taken(self, failure: Failure, publishing: _Publishing, node: Node) -> None:
        self._unanswered[node] -= publishing.size
        failure.trap(NodeError)
        assert isinstance(failure.value, NodeError)
        self._failed(failure.value, publishing)

    def _failed(self, error: NodeError, publishing: _Publishing) -> None:
        for kind, reason in _FAILURES:
            if isinstance(error, kind):
                self._counters.add("broadcasts_failed", label=reason)
        publishing.errors.append(error)
        publishing.left -= 1
        if not publishing.left:
            self._all_answered(publishing)

    def _all_answered(self, publishing: _Publishing) -> None:
        if publishing.taken:
            self._cells[BROADCASTS_PUBLISHED] += 1
            publishing.result.callback(publishing.handed)
            return
        errors = publishing.errors
        kind = next(kind for kind, _ in _FAILURES if any(isinstance(error, kind) for error in errors))
        if kind is not PushInDoubt and self._numbers.get(publishing.group) == publishing.number:
            # No process has received it, and nothing was sent behind it: no gap is to be seen where it was.
            self._numbers.put(publishing.group, publishing.number - 1)
        publishing.result.errback(kind("; ".join(str(error) for error in errors)))

    # Receiving.

    def subscribe(self, group: str, listener: Listener) -> Deferred[None]:
        """Let `listener` receive from `group`; fires once everything that is published then is received.

        It waits while there is no connection to the home node, and follows a change of home. It may be cancelled; the
        subscription goes on.

        Fails with `NodeRefused` if this process lacks the right to it, and then nobody receives the group; and with
        `NodeUnreachable` when the process stops.

        Raises:
            ChannelNameError: that is no name of a group.
        """
        state = self._groups.get(group)
        if state is None:
            state = self._groups[check_group(group)] = _Group()
        if listener not in state.listeners:
            state.listeners += (listener,)
        waiting: Deferred[None] = Deferred()
        state.waiting += (waiting,)
        # Also where others receive the group already: the node knows whether that holds just now.
        self._subscribe([group])
        return waiting

    def unsubscribe(self, group: str, listener: Listener) -> None:
        """Let `listener` receive nothing more from `group`. Nothing happens if it receives nothing."""
        state = self._groups.get(group)
        if state is None or listener not in state.listeners:
            return
        state.listeners = tuple(each for each in state.listeners if each is not listener)
        if not state.listeners:
            del self._groups[group]
            for node in (self._home, *self._former):
                node.unsubscribe([group])
            state.end_waiting()

    def moved(self, node: Node) -> None:
        """This process has its home on `node` from now on: its groups are received there."""
        if node is self._home:
            return
        self._former[self._home] = None
        self._former.pop(node, None)
        self._home = node
        if self._groups:
            self._subscribe()
        else:
            self._former.clear()

    def _subscribe(self, groups: list[str] | None = None) -> None:
        """Subscribe at home; without `groups`, to all that is received elsewhere."""
        node, moving = self._home, groups is None
        groups = list(self._groups) if groups is None else groups
        about = (node, {group: self._groups[group] for group in groups}, moving)
        node.subscribe(groups).addCallbacks(self._subscribed, self._refused, about, errbackArgs=about)

    def _subscribed(self, _: None, node: Node, states: dict[str, _Group], moving: bool) -> None:
        if node is not self._home:
            return
        moved: list[str] = []
        for group, state in states.items():
            if self._groups.get(group) is state:
                if moving and state.was_received:
                    moved.append(group)
                state.was_received = True
                state.end_waiting()
        if moving:
            former, self._former = self._former, {}
            for each in former:
                each.unsubscribe(list(self._groups))
            self.interrupted(moved)

    def _refused(self, failure: Failure, node: Node, states: dict[str, _Group], moving: bool) -> None:
        failure.trap(NodeError)
        if node is not self._home:
            return
        stopped = failure.check(NodeUnreachable) is not None
        again = False
        for group, state in states.items():
            if self._groups.get(group) is not state:
                continue
            if stopped:
                state.end_waiting(failure)
            elif state.was_received:
                again = True
            else:
                del self._groups[group]
                state.end_waiting(failure)
        if again:
            _log.error(
                "node %s does not let us subscribe to groups: %s; trying again", node.name, failure.getErrorMessage()
            )
            if self._retry_timer is None or not self._retry_timer.active():
                self._retry_timer = self._clock.callLater(_RETRY_S, self._subscribe)

    # What the nodes call (`ifserver.layers.node.Subscriber`).

    def published(self, group: str, payload: bytes) -> None:
        state = self._groups.get(group)
        if state is None:
            return
        try:
            broadcast = decode_broadcast(payload)
        except UndecodableError as error:
            self._counters.add("broadcasts_undecodable")
            if not self._undecodable_logged:
                self._undecodable_logged = True
                _log.error("a broadcast to group %s cannot be decoded: %s; further ones are only counted", group, error)
            return
        number = broadcast.number
        key = (state, broadcast.publisher)
        last = self._received.get(key)
        if last is not None and number != last + 1:
            if number <= last:
                self._counters.add("broadcasts_repeated")
                return
            # What a new count lacks is what is missing from its beginning; of the one before, nobody knows the end.
            missed = number % _COUNT if number // _COUNT != last // _COUNT else number - last - 1
            if missed:
                self._lost(group, missed)
                self._report_gap(state, group, missed)
        self._received.put(key, number)
        self._cells[BROADCASTS_HEARD] += 1
        if broadcast.ask is not None:
            self._asked(group, *broadcast.ask)
            return
        listeners = state.listeners
        for listener in listeners:
            if state.listeners is listeners or listener in state.listeners:
                try:
                    listener.heard(group, broadcast)
                except Exception:
                    _log.exception("a broadcast to group %s could not be handled", group)

    def _asked(self, group: str, answer_in: str, which: bool) -> None:
        try:
            self.asked(group, answer_in, which)
        except Exception:
            _log.exception("a question about group %s could not be answered", group)

    def interrupted(self, groups: Collection[str]) -> None:
        states = [(group, state) for group in groups if (state := self._groups.get(group)) is not None]
        if not states:
            return
        # Those that ifserver itself uses are no affair of the operator.
        public = [each for each in states if not each[0].startswith("!")]
        if public:
            self._counters.add("groups_interrupted", len(public))
            _log.warning("broadcasts to %s may be lost: the node did not reach us for a while", _named(public))
        for group, state in states:
            self._report_gap(state, group, None)

    def _report_gap(self, state: _Group, group: str, missed: int | None) -> None:
        listeners = state.listeners
        for listener in listeners:
            if state.listeners is listeners or listener in state.listeners:
                try:
                    listener.gap(group, missed)
                except Exception:
                    _log.exception("a gap in group %s could not be handled", group)

    def _lost(self, group: str, count: int) -> None:
        self._counters.add("broadcasts_lost", count)
        if self._log_timer is not None and self._log_timer.active():
            self._unlogged += count
        else:
            text = "%d broadcasts to group %s were lost"
            events.report(_log, logging.WARNING, events.Mark.BROADCASTS_LOST, text, count, group)
            self._log_timer = self._clock.callLater(_LOG_S, self._log_lost)

    def _log_lost(self) -> None:
        if self._unlogged:
            _log.warning("%d more broadcasts were lost", self._unlogged)
            self._unlogged = 0
            self._log_timer = self._clock.callLater(_LOG_S, self._log_lost)


def _named(states: Sequence[tuple[str, _Group]]) -> str:
    """One group by its name, many by their number."""
    return f"group {states[0][0]}" if len(states) == 1 else f"{len(states)} groups"
