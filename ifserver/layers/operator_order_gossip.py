"""Orders of operators on their way: sent to all servers of all clusters through a group, and answered by each.

A server that begins to hear the group, or may have missed something of it, asks what is in force: it was just started,
or cut off from its node, or the node was restarted or failed over. Nobody else keeps it, so that a node may lose all
that it has. Every few seconds one of those who know of something in force repeats it, for whoever was not heard when it
asked; and who hears somebody say something that is out of date contradicts.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import Struct
from twisted.internet.defer import Deferred

from ifserver.channels import new_process_name
from ifserver.clock import Timer, WallClock
from ifserver.errors import NodeError, UndecodableError
from ifserver.layers.groups import Groups
from ifserver.layers.membership import Question
from ifserver.layers.operator_orders import Board, Fact, Here, Order, Said, encode, read, read_here
from ifserver.messages import Broadcast

if TYPE_CHECKING:
    from ifserver.layers.clusters import Clusters

__all__ = ["GROUP", "Found", "Obedient", "OperatorOrderGossip", "ask", "order"]

#: The group that every server hears.
GROUP: Final = "!control"
#: After how many seconds somebody repeats what is in force: whoever is first. The others then wait as long again.
_REPEAT_S: Final = (3.0, 5.0)
#: After how many at most somebody contradicts.
_CONTRADICT_S: Final = 0.2
#: How often an order is given, where somebody knows of a later one: then its time was behind theirs.
_ATTEMPTS: Final = 3

_log = logging.getLogger(__name__)


class Obedient(Protocol):
    """A server that does what it is told to."""

    def ordered(self, facts: Sequence[Fact]) -> None:
        """This holds from now on."""

    def here(self, orders: list[Order]) -> Here[Order]:
        """What it answers; `orders` are those that it knows."""


class OperatorOrderGossip:
    """The orders that one server knows, from `start` to `stop`.

    Args:
        clock: the reactor.
        wall: tells the time of day.
    """

    def __init__(self, groups: Groups, process: str, clock: Any, wall: WallClock, server: Obedient) -> None:
        self.process = process
        self.clock = clock
        self.board = Board(clock, wall)
        self._server = server
        self._ears = [_Ear(groups, self)]
        self._timer: Timer | None = None
        #: Whether it is a contradiction that is about to be said.
        self._contradicts = False
        self._stopped = self._unreadable_logged = False

    def start(self) -> Deferred[None]:
        """Begin to hear orders; fires once those are known that others know. While no node answers it does not."""
        return self._ears[0].start()

    def join(self, groups: Groups) -> Deferred[None]:
        """Hear other servers too, and let these and those know of each other's orders; fires as `start`."""
        ear = _Ear(groups, self)
        self._ears.append(ear)
        return ear.start()

    def stop(self) -> None:
        """Hear nothing any more."""
        self._stopped = True
        for ear in self._ears:
            ear.stop()
        self._put_off()

    def take(self, orders: Sequence[Order], ear: _Ear) -> None:
        """This was ordered, as was heard from there."""
        if self._stopped:
            return
        news = self.board.take(orders)
        if not news:
            return
        for other in self._ears:
            if other is not ear:
                other.say(self.said())
        try:
            self._server.ordered([each.fact for each in news])
        except Exception:
            _log.exception("this is a defect of ifserver: an order could not be carried out")
        self._repeat_later()

    def compare(self, orders: Sequence[Order]) -> None:
        """Somebody has said that this is all that was ordered."""
        if not self.board.knows_more_than(orders):
            self._repeat_later()
        elif not self._contradicts:
            self._put_off()
            self._contradicts = True
            self._timer = self.clock.callLater(random.uniform(0.0, _CONTRADICT_S), self._repeat)

    def said(self, answer_in: str = "") -> Said[Order]:
        """All that is known."""
        return Said(self.board.orders(), answer_in)

    def answer(self) -> Here[Order]:
        """The answer of this server."""
        return self._server.here(self.board.orders())

    def unreadable(self, whose: str, error: UndecodableError) -> None:
        """Orders cannot be read. Others may come every few seconds, so that is logged once."""
        log = _log.debug if self._unreadable_logged else _log.error
        self._unreadable_logged = True
        log("orders of %s cannot be read, and further ones are not logged: %s", whose, error)

    def _repeat_later(self) -> None:
        self._put_off()
        # What has ended need not be repeated: who takes it for something in force says so, and is contradicted.
        if self.board.in_force and not self._stopped:
            self._timer = self.clock.callLater(random.uniform(*_REPEAT_S), self._repeat)

    def _put_off(self) -> None:
        self._contradicts = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _repeat(self) -> None:
        says = self._contradicts or self.board.in_force
        self._repeat_later()
        if says:
            for ear in self._ears:
                ear.say(self.said())


class _Ear:
    """Hears what is ordered on one set of nodes (a `Listener`)."""

    def __init__(self, groups: Groups, control: OperatorOrderGossip) -> None:
        self._groups = groups
        self._control = control
        #: Whether it asks, and must ask once more after that.
        self._asks = self._asks_again = False

    def start(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        try:
            await self._groups.subscribe(GROUP, self)
        except NodeError as error:
            _log.debug("this server hears no orders: %s", error)
        else:
            await self._ask()

    def stop(self) -> None:
        self._groups.unsubscribe(GROUP, self)

    def say(self, said: Said[Order]) -> None:
        """Tell everybody."""
        saying = self._groups.publish(GROUP, message=encode(said))
        saying.addErrback(lambda failure: _log.debug("orders were not repeated: %s", failure.value))

    async def _ask(self) -> None:
        """Ask what was ordered. It is known when all have answered, and as far as some have, before that."""
        if self._asks:
            self._asks_again = True
            return
        control = self._control
        self._asks = self._asks_again = True
        while self._asks_again:
            self._asks_again = False
            question = Question(self._groups, _answers(control.process), control.clock, self._answered)
            try:
                await question.put(GROUP, message=encode(control.said(question.name)))
            except NodeError as error:
                _log.debug("what was ordered is not known: %s", error)
        self._asks = False

    def _answered(self, answer: bytes) -> None:
        try:
            orders = read_here(answer).orders
        except UndecodableError as error:
            self._control.unreadable("another server", error)
        else:
            self._control.take(orders, self)

    # As a `Listener`.

    def heard(self, group: str, broadcast: Broadcast) -> None:
        if broadcast.message is None:
            return
        control = self._control
        try:
            said = read(broadcast.message)
        except UndecodableError as error:
            control.unreadable(f"process {broadcast.publisher[:40]!r}", error)
            return
        control.take(said.orders, self)
        if not said.answer_in:
            control.compare(said.orders)
            return
        answering = self._groups.publish(said.answer_in, message=encode(control.answer()))
        answering.addErrback(lambda failure: _log.debug("no answer about orders: %s", failure.value))

    def gap(self, group: str, missed: int | None) -> None:
        Deferred.fromCoroutine(self._ask())


class Found(Struct, frozen=True):
    """What all servers together have answered."""

    #: How many processes were asked.
    asked: int
    #: What each has answered.
    here: list[Here[Order]]
    #: The latest orders that one of them knows.
    board: Board
    #: The pools whose pause was ended by what was ordered. None: no end was ordered.
    resumed: list[str] | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait for the end of a pause."""
        return sum(each.waiting for each in self.here)

    @property
    def under_way(self) -> int:
        """Requests of the pools that are paused that were there before."""
        return sum(each.under_way for each in self.here)


async def ask(clusters: Clusters, clock: Any, wall: WallClock) -> Found:
    """Ask all servers what was ordered.

    Args:
        wall: tells the time of day.

    Raises:
        NodeError: no node has taken it, or it is not known.
    """
    return await _put(clusters, clock, wall, [])


async def order(clusters: Clusters, clock: Any, wall: WallClock, facts: Sequence[Fact], board: Board) -> Found:
    """Order this of all servers, and hear what they say to that.

    Args:
        wall: tells the time of day.
        board: what is known here of orders before.

    Raises:
        NodeError: no node has taken it, or it is not known; or somebody else has ordered something else meanwhile.
    """
    at = board.stamp(wall())
    for _ in range(_ATTEMPTS):
        orders = [Order(at, clusters.process, fact) for fact in facts]
        found = await _put(clusters, clock, wall, orders)
        if not found.board.has_later_than(orders):
            return found
        at = found.board.stamp(at)
    raise NodeError("others order the same at this moment, and theirs counts")


async def _put(clusters: Clusters, clock: Any, wall: WallClock, orders: list[Order]) -> Found:
    question = Question(clusters.groups, _answers(clusters.process), clock)
    answers = await question.put(GROUP, message=encode(Said(orders, question.name)))
    here = []
    board = Board(clock, wall)
    for process, answer in answers.items():
        try:
            here.append(read_here(answer))
        except UndecodableError as error:
            _log.error("what server %.40r has answered cannot be read: %s", process, error)
        else:
            board.take(here[-1].orders)
    return Found(question.expected, here, board)


def _answers(process: str) -> str:
    """The group for the answers to one question of that process."""
    return f"!orders.{process}.{new_process_name()}"
