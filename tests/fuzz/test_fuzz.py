"""A short run of the fuzzer, always of the same cases, and that it sees what is wrong. ``make fuzz`` runs on."""

from __future__ import annotations

from random import Random

import pytest

from ifserver.front.http1 import connection, parser
from tests.fuzz import targets

#: Cases of each; a second, or less.
CASES = {"http": 600, "splits": 3000, "websocket": 300, "proxy": 600, "messages": 600}


def play(target: str, cases: int) -> None:
    for case in range(cases):
        try:
            targets.TARGETS[target](Random(f"{target} {case}"))
        except Exception as error:
            error.add_note(f"case {case} of {target}")
            raise


@pytest.mark.parametrize("target", targets.TARGETS)
def test_a_short_run(target: str) -> None:
    play(target, CASES[target])


def test_it_sees_what_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, incoming: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(connection.Http1Connection, "_complete", broken)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        play("http", 100)


def test_it_sees_a_parser_that_depends_on_how_bytes_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser.RequestParser, "_end_of_piece", lambda self, data, start: len(data))
    with pytest.raises(AssertionError, match="in pieces"):
        play("splits", 2000)
