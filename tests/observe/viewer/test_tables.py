"""Tables, as they stand on a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from ifserver.observe.viewer import tables
from ifserver.status import Child, ClusterStatus, Event, GroupStatus
from tests.observe.viewer.stage import facts, node, status, stream


def text(what: RenderableType, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    file: Any = console.file
    return str(file.getvalue())


def words(what: RenderableType) -> list[list[str]]:
    return [line.split() for line in text(what).splitlines()]


def test_the_head() -> None:
    assert text(tables.head(status())).endswith("process id 1, ifserver 1: ready\n")
    assert "not ready: one; two" in text(tables.head(status(unready=("one", "two"))))


def test_nodes() -> None:
    silent = node("west", answers=False, round_trip_s=None, why="no answer within 1 s", queues=())
    clusters = (
        ClusterStatus(name="a", home=True, nodes=(node(),)),
        ClusterStatus(name="b", home=False, nodes=(silent,)),
    )
    rows = words(tables.nodes(status(clusters=clusters)))
    assert rows[1] == ["a", "(home)", "east", "in", "1.2", "ms", "http.request", "5", "2.5", "s"]
    assert rows[2] == ["b", "west", "no", "answer", "within", "1", "s"]


def test_processes_and_what_each_holds() -> None:
    rows = words(tables.processes(status()))
    assert rows[1] == ["server,", "this", "one", "front00000", "h", "1", "east", "100", "s", "4", "12"]
    assert rows[2] == ["supervisor", "sup0000000", "h", "7", "east", "100", "s", "3", "2", "98"]
    assert rows[3] == ["worker", "worker0000", "8", "3", "2", "98"]
    assert rows[4] == ["worker,", "not", "ready", "9", "0", "0", "0"]
    assert "server, not listening" in text(tables.processes(status(processes=(facts(listening=False),))))


def test_a_narrow_terminal_cuts_long_texts_and_no_numbers() -> None:
    children = tuple(Child(pid=26_650 + i, process=f"k3v9x2aq0{i}", ready=True, free=100) for i in range(2))
    supervisor = facts(process="q8v9x2aq7m", kind="supervisor", host="host-17.example", pid=26_640, children=children)
    told = status(processes=(facts(process="k3v9x2aq7m", host="host-17.example", pid=26_640), supervisor))
    lines = text(tables.processes(told, narrow=True), 80).splitlines()
    assert max(map(len, lines)) <= 80
    titles = ["what", "process", "pid", "up", "streams", "unanswered", "free", "connections"]
    assert lines[0].split() == titles, "host and node are the same for all"
    assert lines[3].split() == ["worker", "k3v9x2aq00", "26650", "0", "0", "100"]
    # Hosts that differ are shown.
    told = status(processes=(facts(), supervisor))
    assert "host-17.example" in text(tables.processes(told, narrow=True))
    long = stream(1, path="/" + 100 * "x")
    row = text(tables.streams([long]), 80).splitlines()[1]
    assert row.startswith("!east.front00000.1  http  claimed  1.0 s  worker0000  GET /xxx")
    assert (len(row) <= 80, "\N{HORIZONTAL ELLIPSIS}" in row) == (True, True)


def test_pools_are_shown_where_there_are_some() -> None:
    children = (Child(pid=8, ready=True, pool="reports"), Child(pid=9, pool="default"))
    rows = words(tables.processes(status(processes=(facts(kind="supervisor", children=children),))))
    assert rows[2][:5] == ["worker", "of", "pool", "reports", "8"]
    assert rows[3][:7] == ["worker", "of", "pool", "default,", "not", "ready", "9"]
    rows = words(tables.streams([stream(1, pool="reports"), stream(2)]))
    assert (rows[0][-1], rows[1][-1]) == ("pool", "reports")
    assert words(tables.streams([stream(1)]))[0][-1] == "unsent"
    assert len(tables.ordered(status(streams=(stream(1, pool="reports"), stream(2))), wanted="reports")) == 1


def test_events_the_newest_last() -> None:
    many = [Event(number=n, at=float(n), kind="deploy", label=f"number {n}", text="t", process="p") for n in range(11)]
    last = Event(number=1, at=98.0, kind="fault", label="worker killed", text="worker 7", process="sup", times=3)
    _, first, *_, end = words(tables.events(status(events=(*many, last))))
    assert first[:5] == ["98", "s", "ago", "number", "2"]
    assert end == ["2.0", "s", "ago", "worker", "killed", "\u00d73", "sup", "worker", "7"]


def test_groups() -> None:
    groups = (GroupStatus(name="news", members=12), GroupStatus(name="room-7", members=3))
    assert words(tables.groups(status(groups=groups))) == [["group", "members"], ["news", "12"], ["room-7", "3"]]
    assert words(tables.groups(status(groups=groups), 1))[1] == ["...", "2", "more"]


@pytest.mark.parametrize(
    ("sort", "reverse", "expected"),
    [
        ("age", False, "321"),
        ("age", True, "123"),
        ("unsent", False, "132"),
        ("channel", False, "123"),
        ("request", False, "213"),
        ("worker", False, "312"),
        ("state", False, "231"),
    ],
)
def test_orders(sort: str, reverse: bool, expected: str) -> None:
    found = status(
        stream(1, unsent_bytes=9, path="/b", owner="b", state="open"),
        stream(2, unsent_bytes=0, path="/a", owner="c", state="claimed"),
        stream(3, unsent_bytes=5, path="/c", owner="a", state="closing"),
    )
    assert "".join(each.channel[-1] for each in tables.ordered(found, sort, reverse)) == expected


def test_a_stream_whose_age_is_not_known() -> None:
    found = status(stream(1), stream(2, age_s=None))
    assert [each.age_s for each in tables.ordered(found)] == [1.0, None]
    assert text(tables.streams(found.streams))


@pytest.mark.parametrize("wanted", ["front00000.2", "HTTP", "get /2", "/2", "worker0000"])
def test_the_filter(wanted: str) -> None:
    found = status(stream(1, path="/x", kind="x", owner="", method=""), stream(2))
    assert [each.channel for each in tables.ordered(found, wanted=wanted)] == ["!east.front00000.2"]


def test_streams() -> None:
    rows = words(tables.streams([stream(1, unsent_bytes=4096), stream(2, owner="")]))
    assert rows[1] == ["!east.front00000.1", "http", "claimed", "1.0", "s", "worker0000", "GET", "/1", "4096"]
    assert rows[2] == ["!east.front00000.2", "http", "claimed", "2.0", "s", "GET", "/2"]


def test_what_clients_send_gives_the_terminal_no_orders() -> None:
    shown = text(tables.streams([stream(1, path="/\x1b[2J\x1b]0;x\x07\r\n\x9b31m[red]x[/red]\u202e")]))
    assert not any(c in shown for c in "\x1b\x07\r\x9b\u202e")
    assert "[red]x[/red]" in shown
    assert shown.count("\n") == 2


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0.0 s"), (9.94, "9.9 s"), (119.0, "119 s"), (120.0, "2 min"), (7200.0, "2 h"), (200_000.0, "2 d")],
)
def test_ages(seconds: float, shown: str) -> None:
    assert f" {shown} " in text(tables.streams([stream(1, age_s=seconds)]))
