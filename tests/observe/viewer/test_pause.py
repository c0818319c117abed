"""The commands ``pause`` and ``resume``: what they say, and their exit codes."""

from __future__ import annotations

import argparse
import io
from typing import Any

import pytest

from ifserver.errors import ConfigurationError
from ifserver.observe.viewer import pause
from ifserver.status import Paused


class Endpoint:
    """Answers what it is told to, one after the other."""

    url = "http://a"

    def __init__(self, *answers: Paused) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Any, ...]] = []

    def pause(self, *arguments: Any) -> Paused:
        self.asked.append(arguments)
        return self.answers.pop(0)


def paused(
    under_way: int = 0, servers: int = 2, asked: int = 2, resumed: list[str] | None = None, **pools: float
) -> Paused:
    return Paused(servers=servers, asked=asked, pools=pools, waiting=1, under_way=under_way, resumed=resumed)


def run(endpoint: Endpoint, *words: str, command: str = "pause") -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    pause.add_arguments(parser, command)
    given = parser.parse_args(words)
    given.command = command
    out = io.StringIO()
    return pause.carry_out(endpoint, given, "token", out), out.getvalue()  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_pause_between_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pause, "_LOOK_S", 0.0)


def test_it_says_what_is_paused_and_where() -> None:
    endpoint = Endpoint(paused(3, web=60.0))
    text = "paused on 2 servers: pool web for 60 s; 3 requests are under way, 1 waits\n"
    assert run(endpoint, "web", "--for", "1m") == (0, text)
    assert endpoint.asked == [("pause", "web", "token", 60.0)]


def test_it_waits_for_what_is_under_way() -> None:
    endpoint = Endpoint(paused(3, web=60.0), paused(1, web=59.0), paused(0, web=58.0))
    status, text = run(endpoint, "--wait")
    assert (status, text.splitlines()[-1]) == (0, "no request is under way")
    assert endpoint.asked == [("pause", "", "token", None), ("", "", "token"), ("", "", "token")]


def test_a_pause_that_is_over_before_that_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Endpoint(paused(3, web=1.0), paused()), "--wait")[0] == 1
    assert "the pause is over" in capsys.readouterr().err


@pytest.mark.parametrize(("servers", "asked"), [(1, 2), (0, 0)])
def test_servers_that_do_not_answer_are_an_error(servers: int, asked: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Endpoint(paused(servers=servers, asked=asked, web=1.0)), "--wait")[0] == 1
    assert f"{servers} of {asked} servers have answered" in capsys.readouterr().err


def test_the_end_of_a_pause() -> None:
    assert run(Endpoint(paused(resumed=[""])), command="resume") == (0, "resumed on 2 servers: all pools\n")
    assert run(Endpoint(paused(resumed=[])), command="resume") == (0, "nothing was paused on 2 servers\n")
    # An older server does not tell what was.
    assert run(Endpoint(paused()), command="resume") == (0, "nothing is paused on 2 servers\n")
    status, text = run(Endpoint(paused(1, resumed=["web"], reports=9.0)), "web", command="resume")
    assert (status, text.splitlines()) == (
        0,
        [
            "resumed on 2 servers: pool web",
            "still paused on 2 servers: pool reports for 9 s; 1 request is under way, 1 waits",
        ],
    )
    status, text = run(Endpoint(paused(reports=9.0)), "web", command="resume")
    assert (status, text.startswith("still paused on 2 servers: pool reports for 9 s")) == (0, True)


def test_a_duration_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="pause: --for: expected a duration"):
        run(Endpoint(), "--for", "long")
