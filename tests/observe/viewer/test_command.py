"""The commands: where they ask, and what they print."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ifserver.errors import ConfigurationError
from ifserver.observe.viewer import command
from ifserver.status import Paused, Pools, PoolStatus
from tests.observe.viewer.test_client import Endpoint

# ``status`` and ``top``.


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


def status(*words: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    out = io.StringIO()
    return command.main(["status", *words], environ or {}, out), out.getvalue()


def test_tables(endpoint: Endpoint) -> None:
    code, text = status("--admin", endpoint.url)
    assert code == 0
    for word in ("front00000", "http.request", "supervisor", "claimed", "GET /1"):
        assert word in text
    assert "\x1b" not in text


def test_json(endpoint: Endpoint) -> None:
    code, text = status("--admin", endpoint.url.removeprefix("http://"), "--json")
    assert (code, json.loads(text)["me"]["process"]) == (0, "front00000")


def test_of_more_streams_than_are_told_it_says_so(endpoint: Endpoint) -> None:
    found = json.loads(endpoint.answer[1])
    endpoint.answer = 200, json.dumps(found | {"streams_total": 5000}).encode()
    assert "5000 streams in all, of which these are the oldest" in status("--admin", endpoint.url)[1]


def test_groups_where_there_are_any(endpoint: Endpoint) -> None:
    assert "members" not in status("--admin", endpoint.url)[1]
    found = json.loads(endpoint.answer[1]) | {"groups": [{"name": "news", "members": 12}], "groups_total": 101}
    endpoint.answer = 200, json.dumps(found).encode()
    text = status("--admin", endpoint.url)[1]
    assert "news        12\n" in text
    assert "101 groups in all, of which these are the largest" in text


def test_the_settings_say_where(endpoint: Endpoint, tmp_path: Path) -> None:
    address = endpoint.url.removeprefix("http://")
    assert status(environ={"IFSERVER_FRONT_ADMIN": address})[0] == 0
    assert status(environ={"IFSERVER_WORKER_ADMIN": address})[0] == 0
    assert status(environ={"IFSERVER_FRONT_ADMIN": address, "IFSERVER_WORKER_ADMIN": "127.0.0.1:1"})[0] == 0
    (tmp_path / "a.toml").write_text(f'[front]\nadmin = "{address}"\n')
    assert status("--config", str(tmp_path / "a.toml"))[0] == 0


def test_nobody_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="status: no admin endpoint is named"):
        status()


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--admin", "127.0.0.1:1") == (1, "")
    error = capsys.readouterr().err
    assert error.startswith("ifserver: error: http://127.0.0.1:1: nobody listens there")
    assert error.count("\n") == 1


def test_what_an_endpoint_refuses(endpoint: Endpoint) -> None:
    endpoint.answer = 421, b"not by this name\n"
    with pytest.raises(ConfigurationError, match=f"status: {endpoint.url}: 421: not by this name"):
        status("--admin", endpoint.url)


def test_a_reader_that_has_had_enough(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as out:
        assert command.main(["status", "--json", "--admin", endpoint.url], {}, out) == 0
    assert capsys.readouterr().err == ""


def test_top_needs_a_terminal(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError, match="needs a terminal"):
        command.main(["top", "--admin", endpoint.url], {}, io.StringIO())


@pytest.mark.parametrize("words", [["status", "--help"], ["top", "--help"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(words, {})
    assert caught.value.code == 0
    assert "--admin HOST:PORT" in capsys.readouterr().out


# ``pause`` and ``resume``.


class PauseEndpoint:
    """Gives these answers, one after the other."""

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


def run_pause(endpoint: PauseEndpoint, *words: str, order: str = "pause") -> tuple[int, str]:
    given = command.make_parser().parse_args([order, *words])
    out = io.StringIO()
    return command.pause(endpoint, given, "token", out), out.getvalue()  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_pause_between_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_LOOK_S", 0.0)


def test_what_is_paused_and_where() -> None:
    endpoint = PauseEndpoint(paused(3, web=60.0))
    text = "paused on 2 servers: pool web for 60 s; 3 requests are under way, 1 waits\n"
    assert run_pause(endpoint, "web", "--for", "1m") == (0, text)
    assert endpoint.asked == [("pause", "web", "token", 60.0)]


def test_it_waits_for_what_is_under_way() -> None:
    endpoint = PauseEndpoint(paused(3, web=60.0), paused(1, web=59.0), paused(0, web=58.0))
    status, text = run_pause(endpoint, "--wait")
    assert (status, text.splitlines()[-1]) == (0, "no request is under way")
    assert endpoint.asked == [("pause", "", "token", None), ("", "", "token"), ("", "", "token")]


def test_a_pause_that_is_over_before_that_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_pause(PauseEndpoint(paused(3, web=1.0), paused()), "--wait")[0] == 1
    assert "the pause is over" in capsys.readouterr().err


@pytest.mark.parametrize(("servers", "asked"), [(1, 2), (0, 0)])
def test_servers_that_do_not_answer_are_an_error(servers: int, asked: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_pause(PauseEndpoint(paused(servers=servers, asked=asked, web=1.0)), "--wait")[0] == 1
    assert f"{servers} of {asked} servers have answered" in capsys.readouterr().err


def test_the_end_of_a_pause() -> None:
    assert run_pause(PauseEndpoint(paused(resumed=[""])), order="resume") == (0, "resumed on 2 servers: all pools\n")
    assert run_pause(PauseEndpoint(paused(resumed=[])), order="resume") == (0, "nothing was paused on 2 servers\n")
    # An older server does not report what was.
    assert run_pause(PauseEndpoint(paused()), order="resume") == (0, "nothing is paused on 2 servers\n")
    status, text = run_pause(PauseEndpoint(paused(1, resumed=["web"], reports=9.0)), "web", order="resume")
    assert (status, text.splitlines()) == (
        0,
        [
            "resumed on 2 servers: pool web",
            "still paused on 2 servers: pool reports for 9 s; 1 request is under way, 1 waits",
        ],
    )
    status, text = run_pause(PauseEndpoint(paused(reports=9.0)), "web", order="resume")
    assert (status, text.startswith("still paused on 2 servers: pool reports for 9 s")) == (0, True)


def test_a_duration_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="pause: --for: expected a duration"):
        run_pause(PauseEndpoint(), "--for", "long")


# ``pool``.


def pool_status(
    name: str, canary_of: str = "", weight: float | None = None, requests: int = 0, errors: int = 0
) -> PoolStatus:
    times = (0.0123, 0.2, 1.5) if requests else (None, None, None)
    return PoolStatus(
        name=name,
        canary_of=canary_of,
        weight=weight,
        is_ordered=weight == 5,
        requests=requests,
        errors=errors,
        p50_s=times[0],
        p95_s=times[1],
        p99_s=times[2],
    )


SITE = (pool_status("next", "web", 5, 200, 3), pool_status("reports", requests=7), pool_status("web", "", 95, 3800, 1))


class PoolEndpoint:
    """Answers with what it has, and remembers what it was asked."""

    url = "http://a"

    def __init__(self, *pools: PoolStatus, servers: int = 2, asked: int = 2, agreed: bool = True) -> None:
        self.answer = Pools(servers, asked, 240.0, agreed, list(pools), {each.name: 2 for each in pools})
        self.asked: list[tuple[Mapping[str, str], bool]] = []

    def pools(self, weights: Mapping[str, str], reset: bool, token: str | None) -> Pools:
        assert token == "token"
        self.asked.append((weights, reset))
        return self.answer


def run_pool(endpoint: PoolEndpoint, *words: str) -> tuple[int, str]:
    given = command.make_parser().parse_args(["pool", *words])
    out = io.StringIO()
    return command.pool(endpoint, given, "token", out), out.getvalue()  # type: ignore[arg-type]


def test_the_pools_side_by_side() -> None:
    endpoint = PoolEndpoint(*SITE)
    status, text = run_pool(endpoint)
    assert (status, endpoint.asked) == (0, [({}, False)])
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["pool", "weight", "share", "requests", "errors", "p50", "p95", "p99", "workers"]
    times = ["12.3", "ms", "200", "ms", "1.5", "s", "2"]
    assert rows[1] == ["reports", "7", "0", *times]
    assert rows[2] == ["web", "95", "(settings)", "95", "%", "3800", "1", "0.0263", "%", *times]
    assert rows[3] == ["next,", "canary", "of", "web", "5", "5", "%", "200", "3", "1.5", "%", *times]
    assert text.splitlines()[-1].startswith("on 2 servers, counted for 4 min: since a canary has begun")


def test_no_pools() -> None:
    assert run_pool(PoolEndpoint(servers=1, asked=1)) == (0, "there are no pools on 1 server\n")


def test_weights_are_asked_for() -> None:
    endpoint = PoolEndpoint(*SITE)
    assert run_pool(endpoint, "web=95", "next=5")[0] == 0
    assert run_pool(endpoint, "--reset")[0] == 0
    assert endpoint.asked == [({"web": "95", "next": "5"}, False), ({}, True)]


def test_the_pools_as_json() -> None:
    endpoint = PoolEndpoint(*SITE)
    status, text = run_pool(endpoint, "--json")
    assert (status, msgspec.json.decode(text, type=Pools)) == (0, endpoint.answer)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("web",), "pool: 'web': expected NAME=WEIGHT, for example web-next=5"),
        (("web=",), "pool: 'web=': expected NAME=WEIGHT"),
        (("=5",), "pool: '=5': expected NAME=WEIGHT"),
        (("web=5", "web=6"), "pool: web: given twice"),
        (("web=5", "--reset"), "pool: --reset: takes the weights of the settings, so that none can be given"),
    ],
)
def test_what_cannot_be_asked_for(words: tuple[str, ...], why: str) -> None:
    endpoint = PoolEndpoint(*SITE)
    with pytest.raises(ConfigurationError) as caught:
        run_pool(endpoint, *words)
    assert str(caught.value).startswith(why)
    assert endpoint.asked == []


def test_what_is_not_as_it_should_be_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_pool(PoolEndpoint(*SITE, servers=1))[0] == 1
    assert "1 of 2 servers have answered" in capsys.readouterr().err
    assert run_pool(PoolEndpoint(servers=0, asked=0))[0] == 1
    assert "0 of 0 servers have answered" in capsys.readouterr().err
    assert run_pool(PoolEndpoint(*SITE, agreed=False))[0] == 0
    assert "the servers do not share requests in the same way" in capsys.readouterr().err
    endpoint = PoolEndpoint(*SITE)
    endpoint.answer.workers.clear()
    endpoint.answer.workers.update({"web": 1, "reports": 0})
    assert run_pool(endpoint)[0] == 0
    text = "ifserver: warning: pool next has a weight of 5 and no worker that is ready: its requests wait\n"
    assert capsys.readouterr().err == text
