"""How far the clock of a Redis is ahead of ours, now and before."""

from __future__ import annotations

import pytest

from ifserver.layers.redis.clock import REMEMBERED_S, Leads, lead_of


def test_a_lead_is_measured_in_the_middle_of_question_and_answer() -> None:
    assert lead_of([b"1000", b"250000"], 9.0, 11.0) == 990.25


def test_nothing_is_known_at_first() -> None:
    leads = Leads()
    assert (leads.now_s, leads.least_s(0.0)) == (0.0, 0.0)


@pytest.mark.parametrize(("by", "least"), [(3600.0, 1000.0), (-3600.0, -2600.0)])
def test_after_a_step_the_smaller_one_counts_as_long_as_it_is_remembered(by: float, least: float) -> None:
    leads = Leads()
    leads.measured(1000.0, 10.0)
    leads.measured(1000.0, 50.0)
    leads.measured(1000.0 + by, 55.0)
    assert leads.now_s == 1000.0 + by
    assert leads.least_s(50.0 + REMEMBERED_S) == least
    leads.measured(1000.0 + by, 50.0 + REMEMBERED_S)
    assert leads.least_s(50.0 + REMEMBERED_S) == least
    assert leads.least_s(51.0 + REMEMBERED_S) == 1000.0 + by


def test_a_lead_is_remembered_from_when_it_was_measured_last() -> None:
    leads = Leads()
    for at in range(0, 3 * int(REMEMBERED_S), 5):
        leads.measured(1000.0, at)
    leads.measured(2000.0, at + 5)
    assert leads.least_s(at + REMEMBERED_S) == 1000.0


def test_a_lead_that_creeps_is_one_and_the_least_of_it_counts() -> None:
    leads = Leads()
    for number in range(100):
        leads.measured(1000.0 - number * 0.01, number)
    assert leads.least_s(100.0) == leads.now_s == pytest.approx(999.01)
    leads.measured(999.5, 101.0)
    assert leads.now_s == 999.5
    assert leads.least_s(101.0) == pytest.approx(999.01)


def test_where_nothing_was_measured_for_long_the_last_one_counts() -> None:
    leads = Leads()
    leads.measured(1000.0, 0.0)
    assert leads.least_s(10 * REMEMBERED_S) == 1000.0


def test_steps_that_are_over_are_forgotten() -> None:
    leads = Leads()
    for at in range(10_000):
        leads.measured(float(at % 2 * 3600), at)
    assert len(leads._known) <= REMEMBERED_S + 1
