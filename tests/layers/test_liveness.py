"""Who is taken for dead, by what one node answers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ifserver.layers.liveness import BEAT_S, BEATS_BETWEEN_QUESTIONS, SERVER_LIFE_S, SUPERVISOR_LIFE_S, LivenessWatch

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
