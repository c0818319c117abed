"""The groups to which a process has subscribed on a node that it is connected to: held over reconnections."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Final, Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from ifserver.clock import Clock, Timer
from ifserver.errors import NodeError, NodeRefused
from ifserver.layers.node import Node, check_group

__all__ = ["FormerNames", "Subscriptions", "Wire", "batched"]

#: Groups in one command, so that no command keeps a node busy for more than a few milliseconds.
_MOST: Final = 5_000


class FormerNames:
    """Whether processes of 1.0.0 are alive, to which groups have the same names in all databases of a Redis. As long as
    one is, on any node, groups are published and subscribed to under both names."""

    def __init__(self) -> None:
        self._nodes: set[str] = set()
        #: Are called when that changes.
        self.followers: list[Callable[[bool], None]] = []

    @property
    def in_use(self) -> bool:
        """Whether there are any."""
        return bool(self._nodes)

    def found(self, node: str, some: bool) -> None:
        """Whether there are `some` on that node."""
        before = self.in_use
        (self._nodes.add if some else self._nodes.discard)(node)
        if self.in_use is not before:
            for follow in self.followers:
                follow(self.in_use)


class Wire(Protocol):
    """A connection to the node, as it is used for subscriptions."""

    def subscribe(self, groups: list[str]) -> Deferred[None]:
        """Fires when the node has done it; fails with `NodeRefused`, or when the connection breaks first."""

    def unsubscribe(self, groups: list[str]) -> None:
        """Needs no answer."""

    def refused(self, why: str) -> None:
        """The node does not subscribe again to what it has subscribed to before: it is to be connected to anew, after
        a pause."""


class _Asked:
    """Groups that were subscribed to with one command."""

    __slots__ = ("answered", "groups", "wire")

    def __init__(self, groups: list[str], wire: Wire) -> None:
        self.groups = groups
        self.wire = wire
        self.answered = False


class _Waiting:
    """Somebody who waits for `left` groups."""

    __slots__ = ("left", "result")

    def __init__(self) -> None:
        self.left = 0
        self.result: Deferred[None] = Deferred()

    def one_less(self) -> None:
        """One of them is there."""
        self.left -= 1
        if not self.left and not self.result.called:
            self.result.callback(None)

    def failed(self, failure: Failure | NodeError) -> None:
        """One of them will not be there."""
        if not self.result.called:
            self.result.errback(failure)


class Subscriptions:
    """What a node does about groups, whatever its connections are.

    Args:
        node: whose `Node.subscriber` hears.
        unreachable: the error of what is asked of a node that was stopped.
    """

    def __init__(self, node: Node, clock: Clock, unreachable: Callable[[], NodeError]) -> None:
        self._node = node
        self._clock = clock
        self._unreachable = unreachable
        #: The groups, and whether they were heard already; then whoever hears is told when they are again.
        self._wanted: dict[str, bool] = {}
        #: Those that the node was asked for, on the present connection.
        self._asked: dict[str, _Asked] = {}
        #: Those that are to be asked for, or no longer, at the end of this turn.
        self._changed: dict[str, None] = {}
        self._waiting: dict[str, list[_Waiting]] = {}
        self._wire: Wire | None = None
        self._timer: Timer | None = None
        self._stopped = False
        self._heard = self._interruptions = 0

    def subscribe(self, groups: Sequence[str]) -> Deferred[None]:
        """See `Node.subscribe`."""
        for group in groups:
            check_group(group)
        if self._stopped:
            return fail(self._unreachable())
        waiting = _Waiting()
        for group in dict.fromkeys(groups):
            asked = self._asked.get(group)
            if asked is not None and asked.answered:
                self._wanted[group] = True
                continue
            self._wanted.setdefault(group, False)
            if asked is None:
                self._changed[group] = None
            waiting.left += 1
            self._waiting.setdefault(group, []).append(waiting)
        if not waiting.left:
            return succeed(None)
        self._change_soon()
        return waiting.result

    def unsubscribe(self, groups: Sequence[str]) -> None:
        """See `Node.unsubscribe`."""
        for group in groups:
            check_group(group)
            if self._wanted.pop(group, None) is not None:
                self._changed[group] = None
                for waiting in self._waiting.pop(group, ()):
                    waiting.one_less()
        if self._changed and not self._stopped:
            self._change_soon()

    def stop(self) -> None:
        """Hear nothing more."""
        self._stopped = True
        self.lost()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wanted.clear()
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            for one in each:
                one.failed(self._unreachable())

    @property
    def any(self) -> bool:
        """Whether there are groups."""
        return bool(self._wanted)

    @property
    def asked(self) -> list[str]:
        """The groups that the node was asked for, on the present connection."""
        return list(self._asked)

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
        return {"groups": len(self._wanted), "heard": self._heard, "interruptions": self._interruptions}

    # What the connection calls.

    def connected(self, wire: Wire) -> None:
        """There is a new connection, on which nothing is subscribed to yet."""
        self._asked.clear()
        self._wire = wire
        self._ask(wire, self._wanted)

    def lost(self) -> None:
        """The connection cannot be used any more."""
        self._wire = None
        self._asked.clear()

    def published(self, group: str, payload: bytes) -> None:
        """This has come."""
        subscriber = self._node.subscriber
        if group in self._wanted and subscriber is not None:
            self._heard += 1
            subscriber.published(group, payload)

    def interrupted(self, groups: Collection[str]) -> None:
        """Of these, something may be lost."""
        groups = [group for group in groups if group in self._wanted]
        if groups:
            self._interruptions += len(groups)
            if self._node.subscriber is not None:
                self._node.subscriber.interrupted(groups)

    def _change_soon(self) -> None:
        if self._wire is not None and self._timer is None:
            self._timer = self._clock.callLater(0, self._change)

    def _change(self) -> None:
        self._timer = None
        changed, self._changed = self._changed, {}
        wire, asked, wanted = self._wire, self._asked, self._wanted
        if wire is None:
            return  # with the next connection all are asked for
        over = [group for group in changed if group in asked and group not in wanted]
        if over:
            for group in over:
                del asked[group]
            for some in batched(over):
                wire.unsubscribe(some)
        self._ask(wire, [group for group in changed if group in wanted and group not in asked])

    def _ask(self, wire: Wire, groups: Collection[str]) -> None:
        for some in batched(groups):
            asked = _Asked(some, wire)
            self._asked.update(dict.fromkeys(some, asked))
            wire.subscribe(some).addCallbacks(self._answered, self._failed, (asked,), errbackArgs=(asked,))

    def _answered(self, _: object, asked: _Asked) -> None:
        if asked.wire is not self._wire:
            return
        asked.answered = True
        again: list[str] = []
        ready: list[_Waiting] = []
        for group in asked.groups:
            if self._asked.get(group) is asked and group in self._wanted:
                if self._wanted[group]:
                    again.append(group)
                self._wanted[group] = True
                ready += self._waiting.pop(group, ())
        self.interrupted(again)
        for waiting in ready:
            waiting.one_less()

    def _failed(self, failure: Failure, asked: _Asked) -> None:
        failure.trap(NodeError)
        if asked.wire is not self._wire or not failure.check(NodeRefused):
            return  # the connection is lost: it is asked again on the next
        again = False
        refused: list[_Waiting] = []
        for group in asked.groups:
            if self._asked.get(group) is asked:
                del self._asked[group]
                if self._wanted.get(group):
                    again = True
                else:
                    self._wanted.pop(group, None)
                    refused += self._waiting.pop(group, ())
        if again:
            asked.wire.refused(failure.getErrorMessage())
        for waiting in refused:
            waiting.failed(failure)


def batched(groups: Collection[str]) -> list[list[str]]:
    """`groups` in parts for one command each."""
    rest = iter(groups)
    return [list(islice(rest, _MOST)) for _ in range(0, len(groups), _MOST)]
