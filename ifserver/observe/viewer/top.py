"""``ifserver top``: a status that is asked for each second, and keys that sort, filter and close streams."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ifserver.observe.viewer import tables

if TYPE_CHECKING:
    from ifserver.observe.viewer.client import Client
    from ifserver.status import Status, StreamStatus

__all__ = ["Screen", "keys_of", "run"]

#: How often it asks, in seconds.
_REFRESH_S: Final = 1.0
#: So many streams are shown at least, however small the terminal is.
_LEAST_ROWS: Final = 3
#: On smaller terminals groups have no place, and on narrower ones what is the same for all processes.
_HEIGHT_FOR_GROUPS: Final = 24
_WIDTH_FOR_PLACES: Final = 112
#: What the keys of terminals send (ECMA-48; ``\x1bO`` in application mode).
_KEYS: Final = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down", b"\x1b": "escape"}
_KEYS_BY_BYTE: Final = {b"\r": "enter", b"\n": "enter", b"\x7f": "backspace", b"\x08": "backspace"}
_HELP: Final = "q quit   up/down select   s sort   r reverse   / filter   c close"


class Screen:
    """What is shown, and what keys change about it."""

    def __init__(self, close: Callable[[str], str]) -> None:
        self._close = close
        self._status: Status | None = None
        self._trouble = ""
        self._sort = next(iter(tables.SORTS))
        self._reverse = False
        self._filter = ""
        #: Whether keys are for the filter; the stream that is about to be closed.
        self._typing = False
        self._closing = ""
        #: The selected stream: it stays selected where it moves.
        self._selected = ""
        self._answer = ""
        self.over = False

    def update(self, status: Status) -> None:
        """There is a new status."""
        self._status = status
        self._trouble = ""

    def failed(self, why: str) -> None:
        """There is none: what was shown is old."""
        self._trouble = why

    def key(self, key: str) -> None:
        """A key was pressed: a character, or a name of several letters."""
        if self._typing:
            self._type(key)
        elif self._closing:
            channel, self._closing = self._closing, ""
            self._answer = self._close(channel) if key == "y" else "not closed"
        elif key in ("q", "escape"):
            self.over = True
        else:
            self._command(key)

    def _type(self, key: str) -> None:
        if key in ("enter", "escape"):
            self._typing = False
            self._filter = self._filter if key == "enter" else ""
        elif key == "backspace":
            self._filter = self._filter[:-1]
        elif len(key) == 1 and key.isprintable():
            self._filter += key

    def _command(self, key: str) -> None:
        self._answer = ""
        if key == "s":
            names = list(tables.SORTS)
            self._sort = names[(names.index(self._sort) + 1) % len(names)]
        elif key == "r":
            self._reverse = not self._reverse
        elif key == "/":
            self._typing = True
        elif key in ("up", "down"):
            self._move(-1 if key == "up" else 1)
        elif key == "c":
            self._closing = self._selected

    def _move(self, by: int) -> None:
        found = [stream.channel for stream in self._streams()]
        if not found:
            return
        at = found.index(self._selected) + by if self._selected in found else 0
        self._selected = found[max(0, min(at, len(found) - 1))]

    def _streams(self) -> list[StreamStatus]:
        status = self._status
        return [] if status is None else tables.ordered(status, self._sort, self._reverse, self._filter)

    def render(self, height: int, width: int) -> RenderableType:
        """The screen, in so many lines and columns."""
        status = self._status
        if status is None:
            return Text(self._trouble or "asking", "bold red" if self._trouble else "")
        found = self._streams()
        # Of many nodes and processes some are shown: `ifserver status` shows all.
        with_groups = status.groups and height >= _HEIGHT_FOR_GROUPS
        limit = max(_LEAST_ROWS, (height - 11) // 4 if with_groups else (height - 9) // 3)
        narrow = width < _WIDTH_FOR_PLACES
        makers: list[Callable[[int], Table]] = [
            lambda limit: tables.nodes(status, limit),
            lambda limit: tables.processes(status, limit, narrow),
        ]
        # Of pools there is a table where some share requests, so that somebody compares them.
        if any(pool.canary_of for pool in status.pools):
            makers.append(lambda limit: tables.pools(status.pools))
        if with_groups:
            makers.append(lambda limit: tables.groups(status, limit))
        shown_tables = [make(limit) for make in makers]
        # The head, and two lines at the foot; of each table the titles and an empty line, of that of the streams too.
        rows = max(_LEAST_ROWS, height - sum(table.row_count + 2 for table in shown_tables) - 5)
        spare = rows - max(_LEAST_ROWS, len(found))
        for place, make in enumerate(makers):
            if spare > 0:
                before, shown_tables[place] = shown_tables[place].row_count, make(limit + spare)
                spare -= shown_tables[place].row_count - before
        channels = [stream.channel for stream in found]
        at = channels.index(self._selected) if self._selected in channels else None
        first = 0 if at is None else max(0, at - rows + 1)
        shown = found[first : first + rows]
        selected = None if at is None else at - first
        empty = Text()
        return Group(
            Text(f"no answer: {self._trouble}", "bold red") if self._trouble else tables.head(status),
            *(part for table in shown_tables for part in (empty, table)),
            *(empty, tables.streams(shown, selected)),
            self._foot(len(found), status.streams_total),
        )

    def _foot(self, found: int, total: int) -> Text:
        if self._closing:
            return Text(f"close {self._closing}? y/n", "bold")
        if self._typing:
            return Text(f"filter: {self._filter}_", "bold")
        order = f"by {self._sort}{', reversed' if self._reverse else ''}"
        wanted = f", with {self._filter!r}" if self._filter else ""
        return Text(f"{self._answer or _HELP}\n{found} of {total} streams, {order}{wanted}", "dim")


def run(client: Client, console: Console | None = None) -> None:
    """Show the status and follow keys until one quits. Standard input is a terminal."""
    console = console or Console()
    screen = Screen(lambda channel: _closed(client, channel))
    due = 0.0
    with _keys(sys.stdin.fileno()) as read, Live(console=console, screen=True, auto_refresh=False) as live:
        while not screen.over:
            if time.monotonic() >= due:
                _ask(client, screen)
                due = time.monotonic() + _REFRESH_S
            live.update(screen.render(console.height, console.width), refresh=True)
            for key in read(max(0.0, due - time.monotonic())):
                screen.key(key)


def _ask(client: Client, screen: Screen) -> None:
    try:
        screen.update(client.status())
    except (OSError, ValueError) as error:
        screen.failed(str(error))


def _closed(client: Client, channel: str) -> str:
    try:
        return client.close(channel)
    except OSError as error:
        return str(error)


@contextlib.contextmanager
def _keys(fd: int) -> Iterator[Callable[[float], list[str]]]:
    """Keys as they are pressed, without an echo; what is given waits so many seconds for some."""

    def read(seconds: float) -> list[str]:
        ready, _, _ = select.select([fd], [], [], seconds)
        return keys_of(os.read(fd, 1024)) if ready else []

    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield read
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def keys_of(data: bytes) -> list[str]:
    """The keys in what a terminal has sent at once."""
    keys = []
    while data:
        size = 3 if data[:3] in _KEYS else 1
        part, data = data[:size], data[size:]
        keys.append(_KEYS.get(part) or _KEYS_BY_BYTE.get(part) or part.decode("ascii", "replace"))
    return keys
