"""Who is alive: the beat of one process, answers about others, and nodes that cannot be reached."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from ifserver.errors import NodeError, NodeRefused, NodeUnreachable
from ifserver.layers.clusters import Clusters
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Limits
from ifserver.layers.presence import (
    BEAT_S,
    BEATS_BETWEEN_QUESTIONS,
    SERVER_LIFE_S,
    SUPERVISOR_LIFE_S,
    Heartbeat,
    LivenessWatch,
)
from ifserver.metrics import Counters
from ifserver.status import facts_of, names_of, value_of, with_facts
from tests.layers.test_clusters import Place, inbox

ME = "0000000000"
SUPERVISOR = "sssssssss0"
CHILD = "w111111111"
OTHER_CHILD = "w222222222"
SERVER = "f333333333"
LIMITS = Limits(100, 600.0)


class Node(MemoryNode):
    """Counts what it is asked; refuses, is slow and loses connections as it is told to."""

    def __init__(self, name: str, clock: Clock) -> None:
        super().__init__(name, LIMITS, LIMITS, clock, "epoch")
        self.beaten: list[tuple[str, bytes, float]] = []
        self.asked: list[list[str]] = []
        self.error: NodeError | None = None
        self.question_error: NodeError | None = None
        self.slow = self.slow_questions = False
        self._late: list[Callable[[], object]] = []

    def beat(self, process: str, value: bytes, life_s: float, reads: Sequence[str] = ()) -> Deferred[None]:
        self.beaten.append((process, value, life_s))
        return self._answer(self.error, self.slow, lambda: super(Node, self).beat(process, value, life_s, reads))

    def beats(self, processes: Any) -> Deferred[Any]:
        self.asked.append(list(processes))
        slow = self.slow or self.slow_questions
        return self._answer(self.question_error, slow, lambda: super(Node, self).beats(processes))

    def _answer(self, error: NodeError | None, slow: bool, answer: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        if error is not None:
            return fail(error)
        if not slow:
            return answer()
        later: Deferred[Any] = Deferred()
        self._late.append(lambda: answer().chainDeferred(later))
        return later

    def thaw(self) -> None:
        """Answer all that was asked."""
        self.slow = self.slow_questions = False
        late, self._late = self._late, []
        for answer in late:
            answer()

    def lose_connection(self, epoch: str | None = None) -> None:
        """It is made again at once. With `epoch`, the node has lost its memory as well."""
        self.losses += 1
        if epoch is not None:
            self.epoch = epoch
            self._beats.clear()


class Stage:
    """A process that asks for others, on two nodes of two clusters; at first it is a supervisor's child."""

    def __init__(self, beats_on: tuple[str, ...] = ("east",), life_s: float = SERVER_LIFE_S) -> None:
        self.clock = Clock()
        self.east, self.west = Node("east", self.clock), Node("west", self.clock)
        nodes: Any = {"east": [self.east], "west": [self.west]}
        self.clusters = Clusters(ME, nodes, "east", self.clock, lambda call: call(), Counters())
        self.clusters.start()
        self.watched: dict[str, dict[str, str]] = {}
        self.value = b""
        self.dead: list[str] = []
        self.heartbeat = Heartbeat(
            self.clusters,
            lambda: [self.clusters.nodes[name] for name in beats_on],
            self.clock,
            life_s,
            lambda: self.value,
            lambda: self.watched,
            self.dead.append,
        )
        #: Who else beats, what, on which node.
        self.others: dict[tuple[str, str], bytes] = {("east", SUPERVISOR): value_of([CHILD, OTHER_CHILD])}

    def run(self, seconds: float) -> None:
        """Let time pass; the others beat twice a second, where the node lets them."""
        for _ in range(round(seconds * 4)):
            for (name, process), value in self.others.items():
                node = self.clusters.nodes[name]
                assert isinstance(node, Node)
                if node.error is None and not node.slow:
                    MemoryNode.beat(node, process, value, SUPERVISOR_LIFE_S)
            self.clock.advance(0.25)


def watching(**others: Any) -> Stage:
    """One that watches a child, and has done so for a while."""
    stage = Stage(**others)
    stage.watched = {"east": {CHILD: SUPERVISOR}}
    stage.heartbeat.start()
    stage.run(3)
    assert stage.dead == []
    return stage


def test_a_beat_says_what_is_read_and_may_come_between() -> None:
    stage = Stage()
    reads = ["http.request"]
    stage.heartbeat._reads = lambda: reads
    stage.heartbeat.beat_now()
    assert stage.east.beaten == [], "it has not begun"
    stage.heartbeat.start()

    def read() -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        stage.east.readers().addCallback(lambda readings: found.extend(each.channels for each in readings))
        return found

    assert read() == [("http.request",)]
    reads = []
    stage.east.slow = True
    stage.clock.advance(0.5)
    stage.heartbeat.beat_now()
    assert len(stage.east.beaten) == 3, "behind the one that has not been answered"
    stage.east.thaw()
    assert read() == []
    stage.east.error = NodeUnreachable("gone")
    stage.heartbeat.beat_now()
    stage.heartbeat.stop()
    stage.heartbeat.beat_now()
    assert len(stage.east.beaten) == 4


def test_values_are_read_as_they_were_written() -> None:
    assert names_of(value_of([CHILD, OTHER_CHILD])) == {CHILD, OTHER_CHILD}
    assert names_of(value_of([])) == set()
    assert names_of(b"a,\xff") == {"a", "\ufffd"}


@pytest.mark.parametrize("children", [[], [CHILD], [CHILD, OTHER_CHILD]])
@pytest.mark.parametrize("facts", [b"", b"a,b\nc", bytes(range(256))])
def test_facts_stand_behind_the_names_and_are_not_taken_for_names(children: list[str], facts: bytes) -> None:
    value = with_facts(value_of(children), facts)
    assert names_of(value) == set(children)
    assert facts_of(value) == facts


def test_a_child_is_found_in_front_of_facts() -> None:
    stage = watching()
    stage.others["east", SUPERVISOR] = with_facts(value_of([CHILD]), b"whatever,else")
    stage.run(10)
    assert stage.dead == []


def test_it_measures_how_long_nodes_take() -> None:
    stage = Stage(beats_on=("east", "west"))
    stage.west.slow = True
    stage.heartbeat.start()
    stage.run(1)
    stage.west.thaw()
    assert sum(stage.heartbeat.round_trips["east"].counts) == 3
    assert stage.heartbeat.round_trips["east"].sum_s == 0
    assert stage.heartbeat.round_trips["west"].sum_s == pytest.approx(1.0)


def test_it_beats_twice_a_second_with_its_present_value() -> None:
    stage = Stage(life_s=8.0)
    stage.value = b"a"
    stage.heartbeat.start()
    stage.value = b"b"
    stage.run(1)
    assert stage.east.beaten == [(ME, b"a", 8.0), (ME, b"b", 8.0), (ME, b"b", 8.0)]
    assert stage.west.beaten == stage.east.asked == []


def test_it_beats_on_every_node_that_it_was_given() -> None:
    stage = Stage(beats_on=("east", "west"))
    stage.heartbeat.start()
    assert len(stage.east.beaten) == len(stage.west.beaten) == 1


def test_it_asks_once_a_second_right_behind_a_beat_of_its_own() -> None:
    stage = Stage(beats_on=())
    stage.watched = {"west": {CHILD: SUPERVISOR, OTHER_CHILD: SUPERVISOR, SERVER: SERVER}}
    stage.heartbeat.start()
    stage.run(3)
    # One question for all, in which nobody comes twice.
    assert stage.west.asked == [[SERVER, SUPERVISOR]] * 3
    assert stage.west.beaten == [(ME, b"", SERVER_LIFE_S)] * 3
    assert stage.east.beaten == []


def test_it_does_not_ask_where_its_own_beat_is_not_taken() -> None:
    stage = Stage()
    stage.watched = {"east": {CHILD: SUPERVISOR}}
    stage.east.error = NodeRefused("OOM command not allowed")
    stage.heartbeat.start()
    stage.run(3)
    assert stage.east.asked == []
    assert len(stage.east.beaten) == 7


def test_one_who_watches_over_nobody_asks_nothing() -> None:
    stage = Stage()
    stage.heartbeat.start()
    stage.run(3)
    assert stage.east.asked == []


def test_a_node_that_is_not_configured_is_not_asked() -> None:
    stage = Stage()
    stage.watched = {"north": {CHILD: SUPERVISOR}}
    stage.heartbeat.start()
    stage.run(3)
    assert stage.dead == []


def test_a_supervisor_that_beats_no_more_is_dead_with_its_children_within_five_seconds() -> None:
    stage = watching()
    stage.watched["east"][OTHER_CHILD] = SUPERVISOR
    del stage.others["east", SUPERVISOR]
    stage.run(3)
    assert stage.dead == []
    stage.run(2)
    assert stage.dead == [CHILD, OTHER_CHILD]


def test_a_child_that_died_while_its_supervisor_lives() -> None:
    stage = watching()
    stage.watched["east"][OTHER_CHILD] = SUPERVISOR
    stage.others["east", SUPERVISOR] = value_of([OTHER_CHILD])
    stage.run(2)
    assert stage.dead == [CHILD]


def test_a_new_child_is_given_the_time_that_its_supervisors_beat_lives() -> None:
    """The beat may be older than the child, and its supervisor stand still: that is no reason to be quicker."""
    stage = watching()
    stage.watched["east"][OTHER_CHILD] = SUPERVISOR
    stage.others["east", SUPERVISOR] = value_of([CHILD])
    stage.run(3)
    assert stage.dead == []
    stage.others["east", SUPERVISOR] = value_of([CHILD, OTHER_CHILD])
    stage.run(5)
    assert stage.dead == []


def test_a_server_beats_for_itself_whatever_it_says() -> None:
    stage = Stage()
    stage.watched = {"east": {SERVER: SERVER}}
    stage.others["east", SERVER] = b""
    stage.heartbeat.start()
    stage.run(4)
    assert stage.dead == []
    del stage.others["east", SERVER]
    stage.run(5)
    assert stage.dead == [SERVER]


def test_one_who_was_asked_for_once_only_is_not_dead() -> None:
    stage = watching()
    del stage.others["east", SUPERVISOR]
    stage.run(3.25)
    stage.watched = {}
    stage.run(3)
    stage.watched = {"east": {CHILD: SUPERVISOR}}
    stage.run(1)
    assert stage.dead == []
    stage.run(1)
    assert stage.dead == [CHILD]


def test_nodes_are_judged_one_by_one() -> None:
    stage = watching()
    stage.watched["west"] = {SERVER: SERVER}
    stage.east.slow = True
    stage.run(3)
    assert stage.dead == [SERVER]


def test_a_node_that_was_frozen_condemns_nobody() -> None:
    for seconds in (0.75, 1, 2, 2.75, 4, 10):
        stage = watching()
        stage.east.slow = True
        stage.run(seconds)
        # The keys are over when it wakes, and the supervisor needs some time to find it.
        supervisor = stage.others.pop(("east", SUPERVISOR))
        stage.east.thaw()
        stage.run(3)
        stage.others["east", SUPERVISOR] = supervisor
        stage.run(5)
        assert stage.dead == [], seconds
        del stage.others["east", SUPERVISOR]
        stage.run(5)
        assert stage.dead == [CHILD], seconds


def test_a_node_that_does_not_answer_gets_no_more_to_do() -> None:
    stage = watching()
    before = len(stage.east.beaten)
    stage.east.slow = True
    stage.run(5)
    assert len(stage.east.beaten) == before + 1
    stage.east.thaw()
    stage.run(1)
    assert len(stage.east.beaten) == before + 3


def test_a_question_that_is_answered_late_counts_for_nothing() -> None:
    stage = watching()
    del stage.others["east", SUPERVISOR]
    stage.run(3.5)
    stage.east.slow_questions = True
    # Asked at the end of the first second.
    stage.run(1.75)
    stage.east.thaw()
    stage.run(4)
    assert stage.dead == []
    stage.run(1)
    assert stage.dead == [CHILD]


def test_an_emptied_node_condemns_nobody() -> None:
    stage = watching()
    for _ in range(5):
        stage.east._beats.clear()
        stage.run(1)
    assert stage.dead == []


@pytest.mark.parametrize("error", [NodeRefused("OOM"), NodeRefused("READONLY"), NodeUnreachable("gone")], ids=str)
def test_a_node_that_takes_nothing_condemns_nobody(error: NodeError) -> None:
    stage = watching()
    stage.east.error = error
    stage.run(6)
    # Everybody needs up to three seconds to find out that it takes beats again.
    stage.east.error = None
    supervisor = stage.others.pop(("east", SUPERVISOR))
    stage.run(3)
    stage.others["east", SUPERVISOR] = supervisor
    stage.run(3)
    assert stage.dead == []


def test_a_refused_question_counts_for_nothing() -> None:
    stage = watching()
    del stage.others["east", SUPERVISOR]
    stage.run(3.5)
    stage.east.question_error = NodeRefused("NOPERM")
    stage.run(1)
    stage.east.question_error = None
    stage.run(3)
    assert stage.dead == []
    stage.run(2)
    assert stage.dead == [CHILD]


@pytest.mark.parametrize("epoch", [None, "another"], ids=["reconnected", "restarted"])
def test_a_connection_that_was_made_anew_between_two_beats_condemns_nobody(epoch: str | None) -> None:
    """Ours is there again at once; others wait for up to three seconds until they try again."""
    stage = watching()
    stage.east.lose_connection(epoch)
    stage.east._beats.clear()
    supervisor = stage.others.pop(("east", SUPERVISOR))
    stage.run(3)
    stage.others["east", SUPERVISOR] = supervisor
    stage.run(3)
    assert stage.dead == []


def test_a_connection_that_was_lost_before_the_first_question_condemns_nobody() -> None:
    stage = Stage(beats_on=())
    stage.heartbeat.start()
    stage.run(0.5)
    stage.east.lose_connection("another")
    stage.watched = {"east": {CHILD: SUPERVISOR}}
    del stage.others["east", SUPERVISOR]
    stage.run(3.25)
    assert stage.dead == []


def test_a_bug_that_concerns_one_of_the_dead_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    stage = watching()
    stage.watched["east"][OTHER_CHILD] = SUPERVISOR
    del stage.others["east", SUPERVISOR]
    told: list[str] = []

    def lost(process: str) -> None:
        told.append(process)
        if process == CHILD:
            raise RuntimeError("a bug")

    stage.heartbeat._lost = lost
    stage.run(5)
    assert told == [CHILD, OTHER_CHILD]
    assert f"what process {CHILD} leaves behind could not be handled" in caplog.text
    before = len(stage.east.beaten)
    stage.run(1)
    assert len(stage.east.beaten) == before + 2


@pytest.mark.parametrize("which", ["error", "question_error"])
def test_a_refusal_is_said_once_and_again_after_it_was_over(which: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    stage = watching()
    for _ in range(2):
        setattr(stage.east, which, NodeRefused("NOPERM this user has no permissions"))
        stage.run(5)
        setattr(stage.east, which, None)
        stage.run(2)
    assert caplog.text.count("NOPERM") == 2


def test_an_unreachable_node_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    stage = watching()
    stage.east.error = NodeUnreachable("node east: there is no connection")
    stage.run(3)
    assert caplog.text == ""


def test_a_bug_in_the_value_stops_one_beat_only() -> None:
    stage = Stage()
    stage.heartbeat.start()

    def broken() -> bytes:
        raise RuntimeError("a bug")

    value, stage.heartbeat._value = stage.heartbeat._value, broken
    with pytest.raises(RuntimeError, match="a bug"):
        stage.run(0.5)
    stage.heartbeat._value = value
    stage.run(1)
    assert len(stage.east.beaten) == 3


def test_after_its_end_it_does_nothing_more() -> None:
    stage = watching()
    beaten, asked = len(stage.east.beaten), len(stage.east.asked)
    stage.heartbeat.stop()
    stage.run(5)
    assert (len(stage.east.beaten), len(stage.east.asked)) == (beaten, asked)
    assert stage.clock.getDelayedCalls() == [stage.east._sweep]


def test_stopping_what_was_not_started() -> None:
    Stage().heartbeat.stop()
    stage = watching()
    stage.heartbeat.stop()
    stage.heartbeat.stop()


# Who is dead, by the answers of one node.


MISSING = {"a": False, "b": True}


def answers(watch: LivenessWatch, *times: float, epoch: str = "e", took: float = 0.0) -> list[list[str]]:
    """Who is dead by each of the answers to questions at `times`, in which `a` is missing and `b` is not."""
    return [watch.answered(at, at + took, epoch, MISSING) for at in times]


def test_dead_is_who_is_missing_in_two_answers_a_second_apart() -> None:
    assert answers(LivenessWatch(), 1, 2) == [[], ["a"]]


def test_timers_that_are_a_little_early_make_no_difference() -> None:
    assert answers(LivenessWatch(), 1, 1.999) == [[], ["a"]]


def test_answers_that_lie_closer_together_count_as_one() -> None:
    assert answers(LivenessWatch(), 1, 1.5, 1.8, 2) == [[], [], [], ["a"]]


def test_who_is_dead_is_told_once_and_then_counted_anew() -> None:
    assert answers(LivenessWatch(), 1, 2, 3, 4) == [[], ["a"], [], ["a"]]


def test_who_comes_back_is_counted_anew() -> None:
    watch = LivenessWatch()
    answers(watch, 1)
    assert watch.answered(2, 2, "e", {"a": True}) == []
    assert answers(watch, 3, 4) == [[], ["a"]]


def test_who_is_not_asked_for_any_more_is_forgotten() -> None:
    watch = LivenessWatch()
    answers(watch, 1)
    assert watch.answered(2, 2, "e", {"b": True}) == []
    assert answers(watch, 3, 4) == [[], ["a"]]


def test_a_child_that_was_named_and_no_longer_is_counts_as_missing() -> None:
    watch = LivenessWatch()
    assert watch.answered(1, 1, "e", {"a": True}) == []
    assert watch.answered(2, 2, "e", {"a": None}) == []
    assert watch.answered(3, 3, "e", {"a": None}) == ["a"]


def test_a_child_that_was_never_named_may_be_younger_than_the_beat() -> None:
    watch = LivenessWatch()
    assert [watch.answered(at, at, "e", {"a": None}) for at in (1, 2, 3, 4, 5)] == [[], [], [], [], ["a"]]
    # Once it was forgotten, it is new.
    assert watch.answered(6, 6, "e", {}) == []
    assert [watch.answered(at, at, "e", {"a": None}) for at in (7, 8)] == [[], []]


def test_a_young_child_whose_supervisor_is_missing_is_missing() -> None:
    watch = LivenessWatch()
    assert watch.answered(1, 1, "e", {"a": None}) == []
    assert [watch.answered(at, at, "e", {"a": False}) for at in (2, 3)] == [[], ["a"]]


def test_several_die_together() -> None:
    watch = LivenessWatch()
    everybody = dict.fromkeys("abc", False)
    assert watch.answered(1, 1, "e", everybody) == []
    assert watch.answered(2, 2, "e", everybody) == ["a", "b", "c"]


def test_after_something_odd_nothing_counts_for_three_seconds() -> None:
    watch = LivenessWatch()
    answers(watch, 1)
    watch.odd(1.5)
    assert answers(watch, 2, 3, 4, 4.4) == [[], [], [], []]
    assert answers(watch, 4.5, 5.5) == [[], ["a"]]


def test_an_answer_may_take_half_a_second() -> None:
    assert answers(LivenessWatch(), 1, 2, took=0.5) == [[], ["a"]]


def test_a_late_answer_is_odd() -> None:
    watch = LivenessWatch()
    answers(watch, 1)
    assert watch.answered(2, 2.6, "e", MISSING) == []
    assert answers(watch, 3, 4, 5) == [[], [], []]
    assert answers(watch, 5.6, 6.6) == [[], ["a"]]


def test_a_beat_that_was_taken_late_is_odd() -> None:
    watch = LivenessWatch()
    answers(watch, 1)
    assert watch.late(1.5, 2.0) is False
    assert watch.late(1.5, 2.01) is True
    assert answers(watch, 2.5, 3.5, 4.9) == [[], [], []]
    assert answers(watch, 5.1, 6.1) == [[], ["a"]]


def test_a_new_epoch_is_odd_but_the_first_is_none() -> None:
    watch = LivenessWatch()
    assert answers(watch, 1) == [[]]
    assert answers(watch, 2, epoch="f") == [[]]
    assert answers(watch, 3, 4, epoch="f") == [[], []]
    assert answers(watch, 5, 6, epoch="f") == [[], ["a"]]


def test_lives_and_questions_fit_the_times_of_the_failure_table() -> None:
    asking = BEAT_S * BEATS_BETWEEN_QUESTIONS
    # Seen to be missing up to one question after the last beat is over, and dead one question later.
    assert SUPERVISOR_LIFE_S + 2 * asking <= 5
    assert SERVER_LIFE_S + 2 * asking <= 9
    assert SUPERVISOR_LIFE_S >= 6 * BEAT_S


steps = st.lists(
    st.tuples(st.sampled_from(["there", "missing", "odd", "late", "epoch"]), st.floats(0.05, 2.0)), max_size=40
)


@given(steps)
def test_nobody_is_dead_without_two_good_answers_in_a_row(told: list[tuple[str, float]]) -> None:
    watch, now, epoch = LivenessWatch(), 0.0, 0
    missing_since: float | None = None
    counts_from = 0.0
    watch.answered(0, 0, "0", {})
    for what, pause in told:
        now += pause
        if what in ("odd", "late", "epoch"):
            missing_since, counts_from = None, now + 3
        if what == "odd":
            watch.odd(now)
            continue
        epoch += what == "epoch"
        asked_at = now - 0.7 if what == "late" else now
        dead = watch.answered(asked_at, now, str(epoch), {"a": what == "there"})
        good = what in ("there", "missing") and now >= counts_from
        if what == "there":
            missing_since = None if good else missing_since
        expected = good and what == "missing" and missing_since is not None and now - missing_since >= 0.9
        assert dead == (["a"] if expected else [])
        if expected:
            missing_since = None
        elif good and what == "missing" and missing_since is None:
            missing_since = now


# Nodes that cannot be reached.


def test_a_process_whose_node_is_gone_for_long_is_looked_for_on_the_others_of_its_cluster() -> None:
    place = Place()
    east_1, _, east_3 = place.east
    assert place.clusters.outages.elsewhere(inbox("east-1")) == []
    east_1.gone_s, east_3.connected = 29.9, False
    assert place.clusters.outages.elsewhere(inbox("east-1")) == []
    east_1.gone_s = 30.0
    assert place.clusters.outages.elsewhere(inbox("east-1")) == [inbox("east-2")]
    place.west[0].gone_s = 30.0
    assert place.clusters.outages.elsewhere(inbox("west-1")) == []
    assert place.clusters.outages.elsewhere("!north-1.9876543210") == []


def test_and_is_dead_when_it_does_not_say_where_it_is() -> None:
    place = Place()
    assert missing_after(place, 36.0)
    assert not place.clusters.outages.is_missing("!north-1.9876543210")


def missing_after(place: Place, seconds: float) -> bool:
    """Whether a process of east-1 is missing when its node has been gone for so long, asked every second."""
    east_1 = place.east[0]
    for second in range(int(seconds)):
        east_1.gone_s = float(second)
        assert not place.clusters.outages.is_missing(inbox("east-1"))
        place.clock.advance(1.0)
    east_1.gone_s = seconds
    return place.clusters.outages.is_missing(inbox("east-1"))


def test_nobody_is_dead_because_of_nodes_that_are_all_gone() -> None:
    """Then he could not name another. Once one of them is back, he has as long for that as ever."""
    place = Place()
    for east in place.east[1:]:
        east.connected, east.gone_s = False, 3600.0
    assert not missing_after(place, 3600.0)
    place.east[1].connected, place.east[1].gone_s = True, 0.0
    for _ in range(35):
        assert not place.clusters.outages.is_missing(inbox("east-1"))
        place.clock.advance(1.0)
    place.east[0].gone_s = 3635.0
    assert place.clusters.outages.is_missing(inbox("east-1"))


def test_with_a_single_node_nobody_is_ever_missing() -> None:
    assert not missing_after(Place(home=1), 7200.0)


def test_what_was_seen_of_nodes_long_ago_does_not_count() -> None:
    place = Place()
    place.east[0].gone_s = 2.0
    assert not place.clusters.outages.is_missing(inbox("east-1"))
    place.clock.advance(3600.0)
    place.east[0].gone_s = 36.0
    assert not place.clusters.outages.is_missing(inbox("east-1")), "nobody has asked meanwhile"
