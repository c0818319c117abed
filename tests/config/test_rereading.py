"""What is told of settings that have changed."""

from __future__ import annotations

from msgspec.structs import replace

from ifserver.config.configuration import all_settings
from ifserver.config.pools import PoolSettings
from ifserver.config.rereading import LIVE, describe_changes, differences, pools_of, rules_of, updated
from ifserver.config.settings import FrontSettings, ListenSettings


def test_the_settings_that_change_exist() -> None:
    assert set(LIVE) - set(all_settings()) == set()


def test_differences() -> None:
    old = {"front": FrontSettings(max_headers=3), "listen": ListenSettings(port=1)}
    assert differences(old, old) == []
    new = {"front": FrontSettings(max_headers=4, root_path="/a"), "listen": ListenSettings(port=2)}
    assert differences(old, new) == ["front.max_headers", "front.root_path", "listen.port"]
    assert differences({}, new) == [], "of what was not known before nothing is said"


def test_what_is_told() -> None:
    first = {"front": FrontSettings(max_headers=3), "listen": ListenSettings(port=1)}
    second = {"front": FrontSettings(max_headers=4, root_path="/a"), "listen": ListenSettings(port=1)}
    third = {"front": FrontSettings(max_headers=4, root_path="/b"), "listen": ListenSettings(port=2)}
    live = {"front.max_headers", "front.root_path"}
    assert describe_changes(first, first, first, live) == ["no setting has changed"]
    assert describe_changes(first, first, second, live) == [
        "changed, for what begins now: front.max_headers, front.root_path"
    ]
    assert describe_changes(first, second, third, live) == [
        "changed, for what begins now: front.root_path",
        "changed, but a restart is needed for: listen.port",
    ]
    assert describe_changes(first, third, third, live) == ["changed, but a restart is needed for: listen.port"], (
        "it still is"
    )
    assert describe_changes(first, third, first, live) == [
        "changed, for what begins now: front.max_headers, front.root_path"
    ]


def test_what_needs_a_restart_stays_as_it_is() -> None:
    old, new = FrontSettings(max_headers=3, access_log="a"), FrontSettings(max_headers=4, access_log="b")
    assert updated("front", old, new) == FrontSettings(max_headers=4, access_log="a")


def test_pools() -> None:
    one = PoolSettings(name="one", application="a:b", paths=("/a",))
    other = PoolSettings(name="other", application="a:b")
    old = {"front": FrontSettings(), "pools.one": one}
    new = {"front": FrontSettings(), "pools.one": replace(one, paths=("/b",), processes=3), "pools.other": other}
    assert differences(old, new) == ["pools.one.paths", "pools.one.processes", "pools.other"]
    assert differences(new, old)[-1] == "pools.other"
    assert pools_of(new) == (new["pools.one"], other)
    assert describe_changes(old, old, new, rules_of(new)) == [
        "changed, for what begins now: pools.one.paths",
        "changed, but a restart is needed for: pools.one.processes, pools.other",
    ]


def test_what_could_not_be_taken_over_has_not_changed_and_needs_no_restart() -> None:
    old = {"front": FrontSettings()}
    new = {"front": FrontSettings(file_roots=("/no",), max_headers=4)}
    assert describe_changes(old, old, new, LIVE - {"front.file_roots"}) == [
        "changed, for what begins now: front.max_headers"
    ]
