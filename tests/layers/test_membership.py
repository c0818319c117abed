"""Who is in a group: what one process asks, and what the others answer."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest
from twisted.internet.task import Clock

from ifserver.errors import ChannelNameError, NodeRefused, NodeUnreachable
from ifserver.layers.groups import Groups
from ifserver.layers.membership import Member, Members, Membership, Question
from ifserver.messages import Broadcast
from ifserver.metrics import Counters
from tests.layers.seats import Seat


class Site:
    """A node, and the processes that it hands to each other what they publish."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.seats: list[Seat] = []

    def process(self, name: str, **groups: dict[str, str]) -> Process:
        """One that hears these groups, and has these streams in them, with their tags."""
        seat = Seat(self)
        self.seats.append(seat)
        return Process(name, seat, self.clock, groups)


class Process:
    def __init__(self, name: str, seat: Seat, clock: Clock, here: dict[str, dict[str, str]]) -> None:
        node: Any = seat
        self.seat = seat
        self.groups = Groups(name, [node], node, clock, Counters())
        self.membership = Membership(self.groups, name, clock)
        self.told: list[Any] = []
        for group in here:
            self.groups.subscribe(group, self)
        if any(here.values()):
            self.membership.here = lambda group: here[group].items()

    def ask(self, group: str, which: bool = False) -> list[Any]:
        """The answer, or the error; nothing while there is neither."""
        found: list[Any] = []
        self.membership.ask(group, which).addCallbacks(found.append, lambda failure: found.append(failure.value))
        return found

    def heard(self, group: str, broadcast: Broadcast) -> None:
        self.told.append(broadcast)

    def gap(self, group: str, missed: int | None) -> None:
        self.told.append(missed)


def test_all_who_have_members_answer() -> None:
    site = Site()
    one = site.process("front00001", news={"front00001.1": "ann", "front00001.2": ""}, chess={"front00001.3": ""})
    two = site.process("front00002", news={"front00002.1": "bob"})
    other = site.process("front00003", chess={"front00003.1": ""})
    asker = site.process("shell00000")
    assert asker.ask("news") == [Members(3, [])]
    [members] = asker.ask("news", True)
    assert members.count == 3
    assert sorted(members.streams) == [
        Member("front00001.1", "ann"),
        Member("front00001.2", ""),
        Member("front00002.1", "bob"),
    ]
    # One that has members itself may ask as well.
    assert one.ask("chess") == [Members(2, [])]
    # No application hears of it, and nothing is left of it.
    assert one.told == two.told == other.told == []
    assert asker.seat.groups == set()
    assert other.seat.published == ["!members.front00001.0"]


def test_nobody_is_there() -> None:
    asker = Site().process("shell00000")
    assert asker.ask("news", True) == [Members(0, [])]


def test_processes_that_hear_a_group_and_have_no_streams_answer_so() -> None:
    site = Site()
    site.process("front00001", news={"front00001.1": ""})
    site.process("worker0001", news={})
    assert site.process("shell00000").ask("news") == [Members(1, [])]


def test_whoever_does_not_answer_is_missing_and_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    site.process("front00001", news={"front00001.1": ""})
    frozen = site.process("front00002", news={"front00002.1": ""})
    frozen.seat.subscriber = type("Nobody", (), {"published": lambda self, group, payload: None})()
    asker = site.process("shell00000")
    found = asker.ask("news")
    site.clock.advance(1.9)
    assert found == []
    with caplog.at_level(logging.WARNING):
        site.clock.advance(0.1)
    assert found == [Members(1, [])]
    assert "who is in group news: 1 of 2 processes have answered" in caplog.text
    assert asker.seat.groups == set()


def test_an_answer_that_comes_twice_counts_once() -> None:
    site = Site()
    one = site.process("front00001", news={"front00001.1": ""})
    two = site.process("front00002", news={"front00002.1": ""})
    answer, two.groups.asked = two.groups.asked, lambda *about: None
    asker = site.process("shell00000")
    found = asker.ask("news")
    one.groups.asked("news", "!members.shell00000.0", False)
    assert found == []
    answer("news", "!members.shell00000.0", False)
    assert found == [Members(2, [])]


def test_a_node_that_does_not_answer() -> None:
    site = Site()
    asker = site.process("shell00000")
    asker.seat.answers = False
    found = asker.ask("news")
    site.clock.advance(2)
    assert [type(error) for error in found] == [NodeUnreachable]
    assert str(found[0]) == "group news: no answer from a node within 2 s"


def test_a_node_that_refuses() -> None:
    site = Site()
    asker = site.process("shell00000")
    asker.seat.refuses = NodeRefused("node east: NOPERM")
    [error] = asker.ask("news")
    assert isinstance(error, NodeRefused)
    assert asker.seat.groups == set()


def test_one_that_may_not_publish_cannot_answer(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    one = site.process("front00001", news={"front00001.1": ""})
    one.seat.refuses = NodeRefused("node east: NOPERM")
    found = site.process("shell00000").ask("news")
    site.clock.advance(2)
    assert found == [Members(0, [])]


def test_a_bug_in_an_answer_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    one = site.process("front00001", news={"front00001.1": ""})
    one.membership.here = lambda group: 1 // 0  # type: ignore[return-value]
    with caplog.at_level(logging.ERROR):
        site.process("shell00000").ask("news")
    assert "a question about group news could not be answered" in caplog.text
    one.groups.publish("news", text="x")
    assert [broadcast.text for broadcast in one.told] == ["x"]


def test_a_name_that_is_none() -> None:
    with pytest.raises(ChannelNameError):
        raise Site().process("shell00000").ask("a b")[0]


def test_a_question_that_is_thrown_away_while_it_waits_to_be_put() -> None:
    site = Site()
    asker = site.process("shell00000")
    asker.seat.answers = False
    putting = Question(asker.groups, "!answers", site.clock).put("news", ask=True)
    waiting = putting.send(None)
    putting.close()
    assert not waiting.called


def test_an_answer_that_cannot_be_read_costs_itself_alone(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    asker, server = site.process("shell00000"), site.process("front00001", news={"front00001.1": "ann"})
    bad = site.process("front00002", news={})

    def answer(payload: bytes) -> None:
        bad.groups.asked = lambda group, answer_in, which: bad.groups.publish(answer_in, message=payload) and None

    for payload in (b"\x93", b"\x92\xff\x90", msgspec.msgpack.encode([2**63, []]), b"\x91" * 5000):
        answer(payload)
        found = asker.ask("news", True)
        site.clock.advance(2.0)
        assert found == [Members(1, [Member("front00001.1", "ann")])], payload
        assert "an answer about group news cannot be read" in caplog.text
    # A later release may say more.
    answer(msgspec.msgpack.encode([1, [["front00002.1", "bob", 7]], "more"]))
    [members] = asker.ask("news", True)
    assert Member("front00002.1", "bob") in members.streams
    assert server.told == []
