"""Canaries in a file: what they are, what of them cannot be, and the weights that nobody gives."""

from __future__ import annotations

import pytest

from ifserver.config.canaries import members_of, shared_out, weights_of
from ifserver.config.configuration import Configuration, Given
from ifserver.config.pools import PoolSettings, hidden_by, without_rules
from ifserver.config.settings import FrontSettings
from ifserver.config.settings_file import from_file
from ifserver.errors import ConfigurationError

WEB = '[pools.web]\napplication = "a:b"\n'
NEXT = '[pools.next]\napplication = "a:c"\ncanary_of = "web"\n'

THIRD = '[pools.third]\napplication = "a:d"\ncanary_of = "next"\n'


def pools_of(text: str, **given: str) -> tuple[PoolSettings, ...]:
    flags = {f"worker.{name}": Given(value, f"--{name}") for name, value in given.items()}
    return Configuration(from_file(text, "f.toml") | flags, "f.toml").pools()


def test_a_canary_and_its_weight() -> None:
    pools = pools_of(f"{WEB}{NEXT}weight = 5\n")
    assert members_of(pools) == {"web": ["web", "next"]}
    assert weights_of(pools) == {"web": {"web": 95.0, "next": 5.0}}
    assert [pool.rules for pool in pools] == ["", "canary of web"]
    assert [hidden_by(pool, pools) for pool in pools] == [None, None]
    plain = without_rules(pools[1])
    assert (plain.canary_of, plain.weight) == (None, None)


@pytest.mark.parametrize(
    ("web", "more", "weights"),
    [
        ("", "", {"web": 100.0, "next": 0.0}),
        ("weight = 3\n", "weight = 1\n", {"web": 3.0, "next": 1.0}),
        ("weight = 0\n", "weight = 0.5\n", {"web": 0.0, "next": 0.5}),
        ("", "weight = 100\n", {"web": 0.0, "next": 100.0}),
        ("weight = 1\n", "weight = 300\n", {"web": 1.0, "next": 300.0}),
        ("", 'weight = "none"\n', {"web": 100.0, "next": 0.0}),
    ],
)
def test_weights_that_are_not_given(web: str, more: str, weights: dict[str, float]) -> None:
    assert weights_of(pools_of(f"{WEB}{web}{NEXT}{more}")) == {"web": weights}


def test_a_canary_of_the_default_pool_and_of_that_for_http() -> None:
    text = NEXT.replace('"web"', '"default"') + NEXT.replace("next", "new").replace('"web"', '"http"')
    pools = pools_of(text, application="a:a", http="a:w")
    assert members_of(pools) == {"default": ["default", "next"], "http": ["http", "new"]}


def test_a_canary_before_its_pool_hides_nothing() -> None:
    pools = pools_of(NEXT + WEB)
    assert [hidden_by(pool, pools) for pool in pools] == [None, None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NEXT, "f.toml:3: pools.next.canary_of: no other pool is named 'web', there are: none"),
        (
            f"{WEB}{NEXT.replace('web', 'next')}",
            "f.toml:5: pools.next.canary_of: no other pool is named 'next', there are: web",
        ),
        (
            f"{WEB}{NEXT}{THIRD}",
            "f.toml:8: pools.third.canary_of: next is a canary itself, of web",
        ),
        (f'{WEB}{NEXT}paths = ["/"]\n', "f.toml:6: pools.next.paths: a canary takes what web takes, and has no rules"),
        (f'{WEB}{NEXT}protocols = ["http"]\n', "f.toml:6: pools.next.protocols: a canary takes what web takes"),
        (f"{WEB}weight = 5\n", "f.toml:3: pools.web.weight: it shares its requests with no pool: one must have can"),
        (f"{WEB}{NEXT}weight = -1\n", "f.toml:6: pools.next.weight: must be at least 0, got -1"),
        (f"{WEB}{NEXT}weight = nan\n", "f.toml:6: pools.next.weight: expected a number, got nan"),
        (f"{WEB}{NEXT}weight = inf\n", "f.toml:6: pools.next.weight: expected a number, got inf"),
        (f'{WEB}{NEXT}weight = "5"\n', 'f.toml:6: pools.next.weight: expected a number, got "5"'),
        (f"{WEB}{NEXT}weight = true\n", "f.toml:6: pools.next.weight: expected a number, got true"),
        (
            f"{WEB}{NEXT}weight = 101\n",
            "f.toml:6: pools.next.weight: more than 100 where web has the rest of it: next=101",
        ),
        (f"{WEB}weight = 0\n{NEXT}", "pools.next.weight: one of web, next must be more than 0"),
    ],
)
def test_what_cannot_be_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        pools_of(text)
    assert str(caught.value).startswith(said)


def test_some_weights_of_a_command() -> None:
    names = ["web", "a", "b"]
    assert shared_out(names, {"a": 5}) == {"web": 95, "a": 5, "b": 0}
    assert shared_out(names, {"web": 1, "a": 1, "b": 2}) == {"web": 1, "a": 1, "b": 2}
    with pytest.raises(ValueError, match="more than 100 where web has the rest of it: a=60, b=60"):
        shared_out(names, {"a": 60, "b": 60})


@pytest.mark.parametrize("text", ["cookie", "address", "cookie:sessionid", "header:X-User-Id"])
def test_by_what_clients_are_told_apart(text: str) -> None:
    assert FrontSettings(canary_by=text).canary_by == text


@pytest.mark.parametrize("text", ["", "ip", "cookie:", "header", "header:", "header:a b", "address:x", "cookie:a=b"])
def test_and_by_what_not(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^front\.canary_by: .*: expected cookie, address, cookie:NAME or"):
        FrontSettings(canary_by=text)
