"""Who is in a group: asked of all processes that hear it, through the groups themselves.

Members are streams, which the servers have, so no process knows all members of a group. A question goes to the group,
as everything that is sent to it, and the nodes tell how many processes they have handed it to. Each of these answers in
a group that the asker alone hears. So whoever can publish can ask, also a program that has no inbox.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred, TimeoutError

from ifserver.errors import NodeUnreachable
from ifserver.layers.groups import Groups
from ifserver.messages import Broadcast

__all__ = ["Member", "Members", "Membership"]

#: How long each step may take, in seconds: to hear the answers, to ask, and to be answered.
_WAIT_S: Final = 2.0

_log = logging.getLogger(__name__)


class Member(NamedTuple):
    """A WebSocket or a response in a group."""

    #: Its name, the ``stream`` in a scope.
    stream: str
    #: What the application gave when it joined; empty: nothing.
    tag: str


class Members(Struct, frozen=True, array_like=True):
    """How many members a group has, and, where that was asked, which."""

    count: int
    streams: list[Member]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Members).decode


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
        question = _Question(self._groups, f"!members.{self._process}.{next(self._numbers)}", self._clock)
        return Deferred.fromCoroutine(question.put(group, which))

    def _asked(self, group: str, answer_in: str, which: bool) -> None:
        streams = [Member(*each) for each in self.here(group)]
        answer = _encode(Members(len(streams), streams if which else []))
        answering = self._groups.publish(answer_in, message=answer)
        answering.addErrback(lambda failure: _log.debug("no answer about group %s: %s", group, failure.value))


class _Question:
    """One question (a `Listener`): it hears its answers in the group `name`."""

    def __init__(self, groups: Groups, name: str, clock: Any) -> None:
        self._groups = groups
        self._name = name
        self._clock = clock
        #: By the process that answers.
        self._answers: dict[str, Members] = {}
        self._expected: int | None = None
        self._complete: Deferred[None] = Deferred()

    async def put(self, group: str, which: bool) -> Members:
        """Ask, and wait for the answers."""
        subscribing = self._groups.subscribe(self._name, self)
        try:
            await subscribing.addTimeout(_WAIT_S, self._clock)
            asking = self._groups.publish(group, ask=(self._name, which))
            self._expected = await asking.addTimeout(_WAIT_S, self._clock)
        except TimeoutError:
            raise NodeUnreachable(f"group {group}: no answer from a node within {_WAIT_S:g} s") from None
        else:
            await self._answered(group)
        finally:
            self._groups.unsubscribe(self._name, self)
        answers = self._answers.values()
        return Members(sum(each.count for each in answers), [member for each in answers for member in each.streams])

    async def _answered(self, group: str) -> None:
        assert self._expected is not None
        if len(self._answers) >= self._expected:
            return
        try:
            await self._complete.addTimeout(_WAIT_S, self._clock)
        except TimeoutError:
            _log.warning(
                "who is in group %s: %d of %d processes have answered", group, len(self._answers), self._expected
            )

    # As a `Listener`.

    def heard(self, group: str, broadcast: Broadcast) -> None:
        if broadcast.message is None:
            return
        self._answers[broadcast.publisher] = _decode(broadcast.message)
        if len(self._answers) == self._expected and not self._complete.called:
            self._complete.callback(None)

    def gap(self, group: str, missed: int | None) -> None:
        """What is missing then is missed at the end."""
