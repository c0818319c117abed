"""The live view: what keys do, and what is on the screen. The terminal itself is tried in `tests.e2e.test_admin`."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ifserver.observe.viewer.top import Screen, keys_of
from ifserver.status import Child, GroupStatus
from tests.observe.viewer.stage import facts, status, stream


class Stage:
    """A screen, and what it has closed."""

    def __init__(self, *numbers: int) -> None:
        self.closed: list[str] = []
        self.screen = Screen(self._close)
        if numbers:
            self.screen.update(status(*map(stream, numbers)))

    def _close(self, channel: str) -> str:
        self.closed.append(channel)
        return "closed"

    def press(self, *keys: str) -> Stage:
        for key in keys:
            self.screen.key(key)
        return self

    def lines(self, height: int = 40) -> list[str]:
        console = Console(file=io.StringIO(), width=160, height=height, force_terminal=True, color_system=None)
        console.print(self.screen.render(height, 160))
        file: Any = console.file
        return str(file.getvalue()).splitlines()

    def streams(self, height: int = 40) -> str:
        """The last characters of the streams that are shown, in order."""
        return "".join(line.split()[0][-1] for line in self.lines(height) if line.startswith("!east.front00000."))


def test_before_there_is_an_answer() -> None:
    stage = Stage()
    assert stage.lines() == ["asking"]
    stage.screen.failed("Connection refused")
    assert stage.lines() == ["Connection refused"]
    stage.press("down", "c", "s", "y")
    assert stage.closed == []


def test_all_of_it() -> None:
    text = "\n".join(Stage(1, 2, 3).lines())
    for word in ("ready", "http.request", "supervisor", "worker0000", "/3", "q quit", "3 of 3 streams, by age"):
        assert word in text


def test_what_is_old_says_so() -> None:
    stage = Stage(1)
    stage.screen.failed("timed out")
    assert stage.lines()[0] == "no answer: timed out"
    assert stage.streams() == "1"
    stage.screen.update(status(stream(1)))
    assert "no answer" not in stage.lines()[0]


def test_rows_that_no_stream_needs_are_for_processes() -> None:
    children = tuple(Child(pid=100 + i) for i in range(20))
    stage = Stage()
    supervisor = facts(kind="supervisor", children=children)
    stage.screen.update(status(stream(1), processes=(supervisor,)))
    lines = stage.lines(40)
    assert (sum("worker, not ready" in line for line in lines), "more" in "".join(lines)) == (20, False)
    assert len(lines) <= 40
    stage.screen.update(status(*map(stream, range(100)), processes=(supervisor,)))
    lines = stage.lines(24)
    assert "more" in "".join(lines)
    assert len(lines) == 24


def test_sorting() -> None:
    stage = Stage(1, 3, 2)
    assert stage.streams() == "321"
    assert stage.press("r").streams() == "123"
    assert "by age, reversed" in stage.lines()[-1]
    assert "by unsent" in stage.press("s", "r").lines()[-1]
    for _ in range(5):
        stage.press("s")
    assert "by age" in stage.lines()[-1]


def test_filtering() -> None:
    stage = Stage(1, 2, 13)
    stage.press("/", *"/q3")
    assert stage.lines()[-1] == "filter: /q3_"
    assert not stage.screen.over
    stage.press("backspace", "backspace", *"13", "enter")
    assert stage.streams() == "3"
    assert "1 of 3 streams, by age, with '/13'" in stage.lines()[-1]
    stage.press("/", "escape")
    assert len(stage.streams()) == 3


def test_closing() -> None:
    stage = Stage(1, 2, 3)
    stage.press("c", "y")
    assert stage.closed == []
    stage.press("down", "c")
    assert stage.lines()[-1] == "close !east.front00000.3? y/n"
    stage.press("n")
    assert stage.lines()[-2] == "not closed"
    stage.press("down", "c", "y")
    assert stage.closed == ["!east.front00000.2"]
    assert stage.lines()[-2] == "closed"


def test_what_is_selected_stays_so_where_it_moves() -> None:
    stage = Stage(1, 2, 3)
    stage.press("down", "r", "s")
    stage.screen.update(status(*map(stream, (1, 2, 3, 4, 5))))
    stage.press("c", "y")
    assert stage.closed == ["!east.front00000.3"]
    # What is gone is not selected, and the next move begins at the top.
    stage.screen.update(status(stream(1)))
    stage.press("down", "c", "y")
    assert stage.closed[-1] == "!east.front00000.1"


def test_the_selection_ends_at_both_ends() -> None:
    stage = Stage(1, 2)
    stage.press(*["down"] * 9, "c", "y", *["up"] * 9, "c", "y")
    assert [channel[-1] for channel in stage.closed] == ["1", "2"]


@pytest.mark.parametrize("height", [20, 25, 60])
def test_it_fits_the_terminal_and_shows_what_is_selected(height: int) -> None:
    stage = Stage(*range(100, 200))
    lines = stage.lines(height)
    assert len(lines) <= height
    assert lines[-1].startswith("100 of 100")
    stage.press(*["down"] * 50)
    lines = stage.lines(height)
    assert len(lines) <= height
    assert any(line.startswith("!east.front00000.150 ") for line in lines)


@pytest.mark.parametrize("height", [20, 40])
def test_many_processes_leave_room_for_streams(height: int) -> None:
    stage = Stage()
    many = tuple(facts(process=f"front{i:05}") for i in range(100))
    stage.screen.update(status(*map(stream, range(100, 200)), processes=many))
    lines = stage.lines(height)
    assert len(lines) <= height
    assert len(stage.streams(height)) >= 3
    assert any(line.startswith("... 9") and line.strip().endswith("more") for line in lines)


@pytest.mark.parametrize("height", [20, 24, 25, 26, 27, 40])
def test_groups_where_there_is_room_for_them(height: int) -> None:
    stage = Stage()
    groups = tuple(GroupStatus(name=f"room-{i}", members=200 - i) for i in range(100))
    many = tuple(facts(process=f"front{i:05}") for i in range(100))
    stage.screen.update(status(*map(stream, range(100, 200)), processes=many, groups=groups, groups_total=100))
    lines = stage.lines(height)
    assert len(lines) <= height
    assert len(stage.streams(height)) >= 3
    assert any(line.split() == ["room-0", "200"] for line in lines) is (height >= 24)


@pytest.mark.parametrize("key", ["q", "escape"])
def test_quitting(key: str) -> None:
    assert Stage(1).press(key).screen.over


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[Bs", ["up", "down", "s"]),
        (b"\x1bOA", ["up"]),
        (b"\x1b", ["escape"]),
        (b"\r\x7f", ["enter", "backspace"]),
        (b"\xff", ["\ufffd"]),
        (b"", []),
    ],
)
def test_keys(data: bytes, keys: list[str]) -> None:
    assert keys_of(data) == keys
