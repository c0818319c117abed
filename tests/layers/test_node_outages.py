"""Processes whose nodes are gone: where they may be, and when they are dead."""

from __future__ import annotations

from tests.layers.test_clusters import Place, inbox


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
