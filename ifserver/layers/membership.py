"""Who is in a group: asked of all processes that hear it, through the groups themselves.

Members are streams, which the servers have, so no process knows all members of a group. A question goes to the group,
as everything that is sent to it, and the nodes tell how many processes they have handed it to. Each of these answers in
a group that the asker alone hears. So whoever can publish can ask, also a program that has no inbox.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred, TimeoutError

from ifserver.errors import NodeUnreachable
from ifserver.layers.groups import Groups
from ifserver.messages import UNDECODABLE, Broadcast, Count

__all__ = ["Member", "Members", "Membership", "Question"]

#: How long each step may take, in seconds: to hear the answers, to ask, and to be answered.
_WAIT_S: Final = 2.0

_log = logging.getLogger(__name__)


class Member(NamedTuple):
    """A WebSocket or a response in a group."""

    #: Its name, the ``stream`` in a scope.
    stream: str
    #: What the application gave when it joined; empty: nothing.
    tag: str


class Members(Struct, frozen=True):
    """How many members a group has, and, where that was asked, which."""

    count: int
    streams: list[Member]


class _Member(Struct, array_like=True):
    """A `Member` on its way: a later release may say more of it."""

    stream: str
    tag: str


class _Answer(Struct, array_like=True):
    """The members that one server has."""

    count: Count
    streams: list[_Member]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Answer).decode


def _nobody(group: str) -> Iterable[tuple[str, str]]:
    return ()


class Membership:
    """Asks who is in a group, and answers others who do.

    Args:
        process: the name of this process.
        clock: the reactor.
    """

    def __init__(self, groups: Groups, process: str, clock: Any) -> None:
        groups.asked = self._asked
        self._groups = groups
        self._process = process
        self._clock = clock
        self._numbers = count()
        #: The streams of this process in a group, with their tags. Servers have some.
        self.here: Callable[[str], Iterable[tuple[str, str]]] = _nobody

    def ask(self, group: str, which: bool = False) -> Deferred[Members]:
        """How many members `group` has on all servers together, and if `which`, what they are.

        A server that does not answer in time is missing, and a warning says so.

        Fails as `Groups.publish`, also with `NodeUnreachable` if there is no answer from any node, and with
        `ChannelNameError` if that is no name of a group.
        """
        question = Question(self._groups, f"!members.{self._process}.{next(self._numbers)}", self._clock)
        return Deferred.fromCoroutine(self._ask(question, group, which))

    async def _ask(self, question: Question, group: str, which: bool) -> Members:
        answers = []
        for answer in (await question.put(group, ask=which)).values():
            try:
                answers.append(_decode(answer))
            except UNDECODABLE as error:
                _log.error("an answer about group %s cannot be read: %s", group, error)
        if len(answers) < question.expected:
            text = "who is in group %s: %d of %d processes have answered"
            _log.warning(text, group, len(answers), question.expected)
        streams = [Member(each.stream, each.tag) for answer in answers for each in answer.streams]
        return Members(sum(answer.count for answer in answers), streams)

    def _asked(self, group: str, answer_in: str, which: bool) -> None:
        streams = list(self.here(group))
        answer = _encode((len(streams), streams if which else []))
        answering = self._groups.publish(answer_in, message=answer)
        answering.addErrback(lambda failure: _log.debug("no answer about group %s: %s", group, failure.value))


class Question:
    """One question (a `Listener`): it hears its answers in the group `name`.

    Args:
        each: is called with each answer at once.
    """

    def __init__(self, groups: Groups, name: str, clock: Any, each: Callable[[bytes], None] | None = None) -> None:
        self._groups = groups
        self.name = name
        self._clock = clock
        self._each = each
        #: By the process that answers.
        self._answers: dict[str, bytes] = {}
        #: How many processes were asked.
        self.expected = 0
        self._asked = False
        self._complete: Deferred[None] = Deferred()

    async def put(self, group: str, *, ask: bool | None = None, message: bytes | None = None) -> dict[str, bytes]:
        """Ask who is in `group` (`ask`: also which they are), or something else by a `message` that says where to
        answer. The answers that came in time, by the process.

        Raises:
            NodeError: as `Groups.publish`; `NodeUnreachable` also if no node answers in time.
        """
        subscribing = self._groups.subscribe(self.name, self)
        try:
            await subscribing.addTimeout(_WAIT_S, self._clock)
            members = None if ask is None else (self.name, ask)
            asking = self._groups.publish(group, ask=members, message=message)
            self.expected = await asking.addTimeout(_WAIT_S, self._clock)
            self._asked = True
        except TimeoutError:
            raise NodeUnreachable(f"group {group}: no answer from a node within {_WAIT_S:g} s") from None
        else:
            await self._answered()
        finally:
            # If not, nobody waits any more, and this coroutine is being thrown away: it must not be resumed by that.
            if subscribing.called:
                self._groups.unsubscribe(self.name, self)
        return self._answers

    async def _answered(self) -> None:
        if len(self._answers) >= self.expected:
            return
        with contextlib.suppress(TimeoutError):
            await self._complete.addTimeout(_WAIT_S, self._clock)

    # As a `Listener`.

    def heard(self, group: str, broadcast: Broadcast) -> None:
        if broadcast.message is None:
            return
        self._answers[broadcast.publisher] = broadcast.message
        if self._each is not None:
            self._each(broadcast.message)
        if self._asked and len(self._answers) == self.expected and not self._complete.called:
            self._complete.callback(None)

    def gap(self, group: str, missed: int | None) -> None:
        """What is missing then is missed at the end."""
