"""Which node a request is offered on, decided alone; with nodes that answer it is in ``test_clusters.py``."""

from __future__ import annotations

from collections import Counter

import pytest

from ifserver.layers.placement import Placement, Policy

CLUSTERS = {"east": ["east-1", "east-2"], "west": ["west-1"]}
REQUEST = "http.request"


def make(policy: Policy = Policy.HOME_FIRST) -> Placement:
    return Placement(CLUSTERS, "east", policy)


def choices(placement: Placement, now: float = 0.0, excluded: tuple[str, ...] = ()) -> set[str | None]:
    return {placement.choose(REQUEST, now, excluded) for _ in range(50)}


def test_home_is_preferred_and_spreading_prefers_nothing() -> None:
    assert choices(make()) == {"east-1", "east-2"}
    assert choices(make(Policy.SPREAD)) == {"east-1", "east-2", "west-1"}


def test_the_shorter_queue_wins_on_its_channel_alone_until_it_is_emptied() -> None:
    placement = make()
    placement.told("east-1", REQUEST, 5)
    placement.told("east-2", REQUEST, 4)
    assert choices(placement) == {"east-2"}
    assert {placement.choose("websocket.connect", 0.0) for _ in range(50)} == {"east-1", "east-2"}
    placement.emptied("east-1", REQUEST)
    assert choices(placement) == {"east-1"}


def test_what_is_excluded_is_never_chosen() -> None:
    placement = make()
    assert choices(placement, excluded=("east-1",)) == {"east-2"}
    assert choices(placement, excluded=("east-1", "east-2")) == {"west-1"}
    assert choices(placement, excluded=("east-1", "east-2", "west-1")) == {None}
    placement.unwell("west-1", "full", 0.0)
    assert placement.has_well(REQUEST)
    assert not placement.has_well(REQUEST, ("east-1", "east-2"))


def read_by(placement: Placement, **channels: str | None) -> None:
    """Of each node which channels are read there, with blanks between; None: it is not known."""
    placement.read(
        {
            name.replace("_", "-"): None if names is None else frozenset(names.split())
            for name, names in channels.items()
        }
    )


def test_a_node_that_nobody_reads_is_offered_nothing_while_another_is_read() -> None:
    placement = make()
    read_by(placement, east_1="", east_2="", west_1="")
    assert choices(placement) == {"east-1", "east-2"}, "nobody is anywhere"
    assert placement.is_read(REQUEST) is False
    assert placement.idle_nodes() == frozenset()
    read_by(placement, west_1=REQUEST)
    assert choices(placement) == {"west-1"}
    assert placement.unread(REQUEST) == placement.idle_nodes() == {"east-1", "east-2"}
    assert placement.is_read(REQUEST) is True
    read_by(placement, east_2=REQUEST)
    assert choices(placement) == {"east-2"}
    read_by(placement, east_1=REQUEST)
    assert choices(placement) == {"east-1", "east-2"}
    assert placement.idle_nodes() == frozenset()
    read_by(placement, east_1="", east_2="", west_1="")
    assert choices(placement) == {"east-1", "east-2"}


def test_what_is_known_is_known_of_each_channel_alone() -> None:
    placement = make()
    read_by(placement, east_1=REQUEST, east_2="websocket.connect", west_1=f"{REQUEST} http.request.gpu")
    assert choices(placement) == {"east-1"}
    assert {placement.choose("websocket.connect", 0.0) for _ in range(50)} == {"east-2"}
    assert {placement.choose("http.request.gpu", 0.0) for _ in range(50)} == {"west-1"}
    assert {placement.choose("http.request.new", 0.0) for _ in range(50)} == {"east-1", "east-2"}
    assert placement.idle_nodes() == frozenset(), "each is read by somebody"


def test_a_node_of_which_nothing_is_known_may_be_read() -> None:
    placement = make()
    assert placement.is_read(REQUEST) is None
    read_by(placement, east_1="", west_1=REQUEST)
    assert choices(placement) == {"east-2"}
    read_by(placement, west_1=None)
    assert choices(placement) == {"east-1", "east-2"}
    assert placement.is_read(REQUEST) is None


def test_to_be_unwell_and_read_is_better_than_to_be_well_and_unread() -> None:
    placement = make(Policy.SPREAD)
    read_by(placement, east_1=REQUEST, east_2=REQUEST, west_1="")
    assert placement.behind("east-1", REQUEST, 0.0)
    assert not placement.behind("east-2", REQUEST, 0.0), "of two that share the work, one is behind"
    assert not placement.has_well(REQUEST, ("east-2",))
    assert placement.has_well("websocket.connect", ("east-2",))
    placement.unwell("east-2", "full", 0.0)
    assert choices(placement, now=-1.0) == {"east-1", "east-2"}
    assert choices(placement, now=100.0) == {"east-1", "east-2"}
    assert choices(placement, excluded=("east-1",)) == {"east-2"}
    # Rather than nowhere.
    assert choices(placement, excluded=("east-1", "east-2")) == {"west-1"}
    placement.unwell("west-1", "failed", 0.0)
    assert "west-1" not in choices(placement, now=100.0), "it gets no probe"


def test_of_a_cluster_that_nobody_reads_no_node_counts_as_well() -> None:
    placement = make()
    read_by(placement, east_1=REQUEST, east_2=REQUEST, west_1="")
    assert placement.behind("east-1", REQUEST, 0.0)
    assert not placement.behind("east-2", REQUEST, 0.0)


@pytest.mark.parametrize(("why", "chosen"), [("behind", {"east-1"}), ("full", {"east-2"})])
def test_readers_that_come_are_not_those_that_were_too_slow(why: str, chosen: set[str]) -> None:
    placement = make()
    read_by(placement, east_1="", east_2="", west_1="")
    placement.unwell("east-1", why, 0.0)
    placement.told("east-2", REQUEST, 1)
    read_by(placement, east_1=REQUEST, east_2=REQUEST)
    assert choices(placement, now=-1.0) == chosen


def test_what_was_withdrawn_elsewhere_is_no_probe() -> None:
    placement = make()
    placement.unwell("east-1", "failed", 0.0)
    assert choices(placement, now=100.0, excluded=("west-1",)) == {"east-2"}


@pytest.mark.parametrize(
    ("unwell", "chosen"),
    [
        (["east-1"], {"east-2"}),
        (["east-1", "east-2"], {"west-1"}),
        (["east-1", "east-2", "west-1"], {"east-1", "east-2"}),
    ],
)
def test_nodes_that_are_well_come_first_and_then_those_at_home(unwell: list[str], chosen: set[str]) -> None:
    placement = make()
    for name in unwell:
        assert placement.unwell(name, "full", 0.0)
        assert not placement.unwell(name, "failed", 0.0), "it is not new"
    assert choices(placement) == chosen
    assert placement.statistics() == dict.fromkeys(unwell, "failed")
    assert placement.unwell_nodes == len(unwell)


def test_an_unwell_node_is_probed_after_pauses_that_grow_and_is_well_when_it_answers() -> None:
    placement = make()
    placement.unwell("east-1", "failed", 0.0)
    probed = [now / 100 for now in range(1000) if placement.choose(REQUEST, now / 100) == "east-1"]
    pauses = [after - before for before, after in zip([0.0, *probed], probed, strict=False)]
    assert 0.7 * 0.25 <= pauses[0] <= 1.3 * 0.25 + 0.01
    assert 0.7 * 0.5 <= pauses[1] <= 1.3 * 0.5 + 0.01
    assert all(0.7 <= pause <= 1.3 + 0.01 for pause in pauses[2:])
    assert placement.well("east-1")
    assert not placement.well("east-1"), "it is not new"
    assert choices(placement) == {"east-1", "east-2"}
    assert placement.statistics() == {}


def test_no_more_than_half_of_the_nodes_that_share_the_work_are_behind() -> None:
    placement = make(Policy.SPREAD)
    assert [placement.behind(name, REQUEST, 0.0) for name in ("east-1", "east-2", "west-1")] == [True, True, False]
    # Those at home are relieved by another cluster as long as one of its nodes is well.
    placement = make()
    assert [placement.behind(name, REQUEST, 0.0) for name in ("east-1", "east-2", "west-1")] == [True, True, True]
    placement = Placement({"east": ["east-1", "east-2"]}, "east", Policy.HOME_FIRST)
    assert [placement.behind(name, REQUEST, 0.0) for name in ("east-1", "east-2")] == [True, False]


def test_of_many_nodes_the_longest_queue_is_never_chosen() -> None:
    names = [f"east-{number}" for number in range(4)]
    placement = Placement({"east": names}, "east", Policy.HOME_FIRST)
    for length, name in enumerate(names):
        placement.told(name, REQUEST, length)
    chosen = Counter(placement.choose(REQUEST, 0.0) for _ in range(300))
    assert set(chosen) == set(names[:-1])
