"""Pools and canaries: how they are given, what of them cannot be, and what their workers run."""

from __future__ import annotations

import pytest

from ifserver.config import manual
from ifserver.config.configuration import Configuration, Given
from ifserver.config.pools import (
    PoolSettings,
    PoolWorkers,
    all_of,
    hidden_by,
    members_of,
    shared_out,
    weights_of,
    without_rules,
    workers_of,
)
from ifserver.config.settings import FrontSettings, WorkerSettings
from ifserver.config.sources import from_file
from ifserver.errors import ConfigurationError

POOL = '[pools.reports]\napplication = "mysite.wsgi:application"\n'
WORKER = WorkerSettings(application="mysite.asgi:application", processes=3, threads=5)


def configured(text: str, **given: str) -> Configuration:
    """The settings of a file, and applications of [worker] that a flag gives."""
    flags = {f"worker.{name}": Given(value, f"--{name}") for name, value in given.items()}
    return Configuration(from_file(text, "f.toml") | flags, "f.toml")


def test_without_pools_there_is_nothing() -> None:
    assert configured("[pools]\n").pools() == ()
    assert configured('[worker]\napplication = "a:b"\n').pools() == ()


def test_they_are_in_the_order_of_the_file_and_the_default_one_is_the_last() -> None:
    text = f'[worker]\napplication = "a:b"\n{POOL}paths = ["/reports/*"]\n[pools.api]\napplication = "c:d"\n'
    found = configured(text).pools()
    assert [(pool.name, pool.application, pool.order) for pool in found] == [
        ("reports", "mysite.wsgi:application", 0),
        ("api", "c:d", 1),
        ("default", "a:b", 0),
    ]
    assert found[0].paths == ("/reports/*",)
    assert [pool.rules for pool in found] == ["/reports/*", "", ""]


def test_without_an_application_of_its_own_there_is_no_default_pool() -> None:
    assert [pool.name for pool in configured(POOL).pools()] == ["reports"]


def test_another_application_for_http_is_a_pool_behind_the_others() -> None:
    found = configured(POOL, application="mysite.asgi:application", http="mysite.wsgi:application").pools()
    assert [pool.name for pool in found] == ["reports", "http", "default"]
    assert (found[1].application, found[1].protocols) == ("mysite.wsgi:application", ("http",))


def test_all_that_may_be_said_of_one() -> None:
    text = f"""{POOL}
protocols = "http"
paths = "/reports/*"
hosts = ["*.example.com", "::1"]
methods = ["GET", "POST"]
processes = 2
threads = 4
concurrency = "none"

[pools.reports.environment]
DATABASE = "replica"
WORKERS = 2
"""
    [pool] = configured(text).pools()
    assert pool == PoolSettings(
        name="reports",
        application="mysite.wsgi:application",
        protocols=("http",),
        paths=("/reports/*",),
        hosts=("*.example.com", "::1"),
        methods=("GET", "POST"),
        processes=2,
        threads=4,
        environment={"DATABASE": "replica", "WORKERS": "2"},
    )
    assert pool.rules == "http, GET, POST, *.example.com, ::1, /reports/*"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pools.reports]\n", "f.toml:1: pools.reports.application: must be given"),
        ('[pools.reports]\npaths = ["/"]\n', "f.toml:1: pools.reports.application: must be given"),
        ('[pools.reports]\napplication = "x"\n', "f.toml:2: pools.reports.application: 'x': expected MODULE:ATTRIBUTE"),
        (f'{POOL}path = "/"\n', "f.toml:3: pools.reports.path: unknown; did you mean pools.reports.paths?"),
        (f"{POOL}paths = 1\n", "f.toml:3: pools.reports.paths: expected a list of texts, got 1"),
        (f'{POOL}paths = ["reports/*"]\n', "f.toml:3: pools.reports.paths: 'reports/*': expected a pattern of paths"),
        (f'{POOL}paths = ["/", ""]\n', "f.toml:3: pools.reports.paths: '': expected a pattern of paths"),
        (f'{POOL}paths = ["/[ab"]\n', "f.toml:3: pools.reports.paths: '/[ab': expected a ] for each [ of a pattern"),
        (f'{POOL}hosts = ["a.example:80"]\n', "f.toml:3: pools.reports.hosts: 'a.example:80': expected a pattern"),
        (f'{POOL}hosts = ["http://a"]\n', "f.toml:3: pools.reports.hosts: 'http://a': expected a pattern of host"),
        (f'{POOL}methods = ["get"]\n', "f.toml:3: pools.reports.methods: 'get': methods are compared as they are"),
        (f'{POOL}methods = ["G T"]\n', "f.toml:3: pools.reports.methods: 'G T': expected a method, for example POST"),
        (f'{POOL}protocols = ["ws"]\n', "f.toml:3: pools.reports.protocols: 'ws': expected http or websocket"),
        (f"{POOL}protocols = []\n", "f.toml:3: pools.reports.protocols: must be http, websocket or both, got none"),
        (f"{POOL}processes = 0\n", "f.toml:3: pools.reports.processes: must be at least 1, got 0"),
        (f'{POOL}environment = "A=b"\n', "f.toml:3: pools.reports.environment: expected a table of texts"),
        (f"{POOL}environment = {{ A = true }}\n", "f.toml:3: pools.reports.environment: A: expected a text"),
        (f'{POOL}environment = {{ "A=" = "b" }}\n', "f.toml:3: pools.reports.environment: 'A=': expected the name"),
        ('[pools."a b"]\napplication = "a:b"\n', "f.toml:1: pools: not a pool's name: 'a b' (1 to 64 letters"),
        ('[pools."a.b"]\napplication = "a:b"\n', "f.toml:1: pools: not a pool's name: 'a.b' (1 to 64 letters"),
        ('[pools.default]\napplication = "a:b"\n', "f.toml:1: pools.default: [worker] describes the default pool"),
        ('pools = "a"\n', "f.toml:1: pools: expected a table, [pools]"),
        ('[pools]\nreports = "a:b"\n', "f.toml:2: pools.reports: expected a table, [pools.reports]"),
        (f"{POOL}{POOL}", "f.toml:3: Cannot declare ('pools', 'reports') twice"),
    ],
)
def test_what_cannot_be_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configured(text).pools()
    assert str(caught.value).startswith(said)


def test_what_cannot_be_where_applications_are_given_by_flags() -> None:
    with pytest.raises(ConfigurationError, match=r"^pools\.http\.application: 'h11': expected MODULE:ATTRIBUTE"):
        configured("", http="h11").pools()
    with pytest.raises(ConfigurationError, match=r"^--http: worker\.http: there is a pool 'http' already"):
        configured('[pools.http]\napplication = "a:b"\n', http="c:d").pools()


def test_their_workers_run_what_worker_says_but_for_what_they_say_themselves() -> None:
    own = PoolSettings(name="api", application="c:d", processes=1, concurrency=7, environment={"A": "b"})
    plain = PoolSettings(name="default", application="a:b")
    first, second = workers_of((own, plain), WORKER)
    assert (first.pool, first.environment) == ("api", {"A": "b"})
    settings = first.settings
    found = (settings.application, settings.processes, settings.threads, settings.concurrency)
    assert found == ("c:d", 1, 5, 7)
    assert (second.pool, second.settings.application, second.settings.processes) == ("default", "a:b", 3)
    assert workers_of((), WORKER) == [PoolWorkers(settings=WORKER)]


def test_some_of_them() -> None:
    pools = (PoolSettings(name="api", application="c:d"), PoolSettings(name="default", application="a:b"))
    assert [each.pool for each in workers_of(pools, WORKER, ("default",))] == ["default"]
    assert [each.pool for each in workers_of(pools, WORKER, ("default", "api"))] == ["api", "default"]
    assert [each.pool for each in workers_of((), WORKER, ("default",))] == [""]
    with pytest.raises(ConfigurationError, match=r"^worker\.pools: no pool is named 'ap', there are: api, default$"):
        workers_of(pools, WORKER, ("ap",))


def test_their_settings_are_shown_but_not_their_variables() -> None:
    configuration = configured(f'{POOL}environment = {{ PASSWORD = "s3cret" }}\n')
    for text in (manual.table(configuration, {}), manual.json(configuration, {})):
        assert "pools.reports.application" in text
        assert "f.toml:2" in text
        assert "PASSWORD" in text
        assert "s3cret" not in text


def test_the_paths_of_all_that_is_said_of_some() -> None:
    found = all_of(configured(POOL).pools())
    assert {"pools.reports", "pools.reports.paths", "pools.reports.order"} <= found


def test_what_they_take_is_no_affair_of_their_workers() -> None:
    one, other = (configured(f"{POOL}processes = 3\npaths = ['{path}']\n").pools() for path in ("/a", "/b"))
    assert one != other
    assert [without_rules(pool) for pool in one] == [without_rules(pool) for pool in other]
    assert without_rules(one[0]).processes == 3


# Canaries.


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
def test_what_no_canary_can_be_is_named_with_its_place(text: str, said: str) -> None:
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
