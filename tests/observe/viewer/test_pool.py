"""The command ``pool``: what it asks for, what it shows, and its exit codes."""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping

import msgspec
import pytest

from ifserver.errors import ConfigurationError
from ifserver.observe.viewer import pool
from ifserver.status import Pools, PoolStatus


def told(name: str, canary_of: str = "", weight: float | None = None, requests: int = 0, errors: int = 0) -> PoolStatus:
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


SITE = (told("next", "web", 5, 200, 3), told("reports", requests=7), told("web", "", 95, 3800, 1))


class Endpoint:
    """Answers with what it has, and remembers what it was asked."""

    url = "http://a"

    def __init__(self, *pools: PoolStatus, servers: int = 2, asked: int = 2, agreed: bool = True) -> None:
        self.answer = Pools(servers, asked, 240.0, agreed, list(pools), {each.name: 2 for each in pools})
        self.asked: list[tuple[Mapping[str, str], bool]] = []

    def pools(self, weights: Mapping[str, str], reset: bool, token: str | None) -> Pools:
        assert token == "token"
        self.asked.append((weights, reset))
        return self.answer


def run(endpoint: Endpoint, *words: str) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    pool.add_arguments(parser)
    out = io.StringIO()
    status = pool.carry_out(endpoint, parser.parse_args(words), "token", out)  # type: ignore[arg-type]
    return status, out.getvalue()


def test_the_pools_side_by_side() -> None:
    endpoint = Endpoint(*SITE)
    status, text = run(endpoint)
    assert (status, endpoint.asked) == (0, [({}, False)])
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["pool", "weight", "share", "requests", "errors", "p50", "p95", "p99", "workers"]
    times = ["12.3", "ms", "200", "ms", "1.5", "s", "2"]
    assert rows[1] == ["reports", "7", "0", *times]
    assert rows[2] == ["web", "95", "(settings)", "95", "%", "3800", "1", "0.0263", "%", *times]
    assert rows[3] == ["next,", "canary", "of", "web", "5", "5", "%", "200", "3", "1.5", "%", *times]
    assert text.splitlines()[-1].startswith("on 2 servers, counted for 4 min: since a canary has begun")


def test_no_pools() -> None:
    assert run(Endpoint(servers=1, asked=1)) == (0, "there are no pools on 1 server\n")


def test_weights_are_asked_for() -> None:
    endpoint = Endpoint(*SITE)
    assert run(endpoint, "web=95", "next=5")[0] == 0
    assert run(endpoint, "--reset")[0] == 0
    assert endpoint.asked == [({"web": "95", "next": "5"}, False), ({}, True)]


def test_json() -> None:
    endpoint = Endpoint(*SITE)
    status, text = run(endpoint, "--json")
    assert (status, msgspec.json.decode(text, type=Pools)) == (0, endpoint.answer)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("web",), "pool: 'web': expected NAME=WEIGHT, for example web-next=5"),
        (("web=",), "pool: 'web=': expected NAME=WEIGHT"),
        (("=5",), "pool: '=5': expected NAME=WEIGHT"),
        (("web=5", "web=6"), "pool: web: given twice"),
        (("web=5", "--reset"), "pool: --reset: takes the weights of the settings, so that none can be given"),
    ],
)
def test_what_cannot_be_asked_for(words: tuple[str, ...], said: str) -> None:
    endpoint = Endpoint(*SITE)
    with pytest.raises(ConfigurationError) as caught:
        run(endpoint, *words)
    assert str(caught.value).startswith(said)
    assert endpoint.asked == []


def test_what_is_not_as_it_should_be_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Endpoint(*SITE, servers=1))[0] == 1
    assert "1 of 2 servers have answered" in capsys.readouterr().err
    assert run(Endpoint(servers=0, asked=0))[0] == 1
    assert "0 of 0 servers have answered" in capsys.readouterr().err
    assert run(Endpoint(*SITE, agreed=False))[0] == 0
    assert "the servers do not share requests in the same way" in capsys.readouterr().err
    endpoint = Endpoint(*SITE)
    endpoint.answer.workers.clear()
    endpoint.answer.workers.update({"web": 1, "reports": 0})
    assert run(endpoint)[0] == 0
    text = "ifserver: warning: pool next has a weight of 5 and no worker that is ready: its requests wait\n"
    assert capsys.readouterr().err == text
