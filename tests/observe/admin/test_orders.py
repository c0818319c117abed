"""Weights through an admin endpoint: what is told of pools, what is ordered, and what makes no sense."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from ifserver.config.pools import PoolSettings
from ifserver.front.exchanges.routing import COOKIE, Router
from ifserver.layers.operator_orders import Here, PoolHere
from ifserver.metrics import BOUNDS_S
from ifserver.observe.admin.orders import PAUSE_HEADER, POOLS_HEADER
from ifserver.observe.admin.survey import agreed, side_by_side
from ifserver.status import Child
from tests.front.fakes import GET, HANDSHAKE
from tests.observe.admin.stage import Stage, supervisor_facts

HEADER = {POOLS_HEADER: "test"}


def pool(name: str, **settings: Any) -> PoolSettings:
    return PoolSettings(name=name, application="a:b", **settings)


POOLS = [pool("reports", paths=("/reports/*",)), pool("web"), pool("next", canary_of="web")]


def stage(*pools: PoolSettings, **settings: Any) -> Stage:
    found = Stage(**settings)
    found.world.settle()
    if pools:
        found.world.server.exchanges.route(Router(pools))
    return found


def weights(found: Any) -> dict[str, float | None]:
    return {each["name"]: each["weight"] for each in found["pools"]}


def asks(where: Stage, position: int, path: bytes = b"/") -> str:
    """The pool that gets a request of a client, and answers it."""
    head = GET.replace(b"/ ", path + b" ").replace(b"Host: a\r\n", b"Host: a\r\nCookie: %b=%d\r\n" % (COOKIE, position))
    client = where.world.client(head)
    for name in ("reports", "web", "next"):
        for job in where.world.worker.jobs(f"http.request.{name}"):
            where.world.advance(0.02)
            job.respond(500 if name == "next" else 200)
            client.leave()
            return name
    raise AssertionError("nobody")


def test_weights_are_set_and_hold_at_once() -> None:
    here = stage(*POOLS)
    assert asks(here, 0) == "web"
    answer = here.ask("/pools?web=95&next=5", "POST", **HEADER)
    assert (answer.status, weights(answer.json)) == (200, {"reports": None, "web": 95.0, "next": 5.0})
    assert [asks(here, position) for position in (0, 499, 500)] == ["next", "next", "web"]
    # Those that are not named: the canary keeps its weight, and the pool has the rest.
    assert weights(here.ask("/pools?web=45", "POST", **HEADER).json) == {"reports": None, "web": 45.0, "next": 5.0}
    assert weights(here.ask("/pools?next=20", "POST", **HEADER).json) == {"reports": None, "web": 80.0, "next": 20.0}
    assert asks(here, 1999) == "next"
    assert weights(here.ask("/pools?next=0", "POST", **HEADER).json) == {"reports": None, "web": 100.0, "next": 0.0}
    assert asks(here, 0) == "web"


def test_they_hold_for_new_rules_too_until_those_of_the_settings_are_wanted() -> None:
    here = stage(*POOLS)
    here.ask("/pools?next=5", "POST", **HEADER)
    server = here.world.server
    server.exchanges.route(Router([POOLS[1], pool("next", canary_of="web", weight=50)]))
    [web, canary] = here.ask("/pools", **HEADER).json["pools"]
    assert (web["weight"], canary["weight"], canary["is_ordered"]) == (95.0, 5.0, True)
    [web, canary] = here.ask("/pools/reset", "POST", **HEADER).json["pools"]
    assert (web["weight"], canary["weight"], canary["is_ordered"]) == (50.0, 50.0, False)
    assert here.ask("/pools/reset", "POST", **HEADER).status == 200
    server.exchanges.route(None)
    assert here.ask("/pools", **HEADER).json["pools"] == []
    assert here.ask("/pools?next=5", "POST", **HEADER).status == 404


def test_errors_and_times_side_by_side_since_the_canary_began() -> None:
    here = stage(*POOLS)
    asks(here, 0)
    here.world.advance(10)
    here.ask("/pools?next=5", "POST", **HEADER)
    for position in (0, 1, 5000, 5001, 5002):
        asks(here, position)
    # More for it, or nothing: what was counted is told all the same.
    for order in ("next=20", "next=0"):
        answer = here.ask(f"/pools?{order}", "POST", **HEADER).json
        assert answer["counted_s"] == pytest.approx(0.1)
        [_, web, canary] = answer["pools"]
        assert (web["requests"], web["errors"], web["canary_of"]) == (3, 0, "")
        assert (canary["requests"], canary["errors"], canary["canary_of"]) == (2, 2, "web")
        for each in (web, canary):
            assert 0.01 < each["p50_s"] <= each["p95_s"] <= each["p99_s"] <= 0.025
    assert here.ask("/status.json").json["pools"] == answer["pools"]
    assert b'ifserver_pool_weight{pool="next"} 0.0' in here.ask("/metrics").body
    # It begins once more.
    [_, web, canary] = here.ask("/pools?next=1", "POST", **HEADER).json["pools"]
    assert (web["requests"], canary["requests"], canary["p50_s"]) == (0, 0, None)


def test_a_websocket_counts_as_a_request() -> None:
    here = stage(*POOLS)
    client = here.world.client(HANDSHAKE)
    here.world.worker.job("websocket.connect.web").accept()
    [_, web, _] = here.ask("/pools", **HEADER).json["pools"]
    assert (web["requests"], web["errors"]) == (1, 0)
    client.leave()


def test_the_workers_of_each_pool() -> None:
    here = stage(*POOLS)
    here.beat(supervisor_facts(Child(pid=3, ready=True, pool="web"), Child(pid=4, pool="next")))
    assert here.ask("/pools", **HEADER).json["workers"] == {"reports": 0, "web": 1, "next": 0}


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("", 400, "which? for example /pools?next=5"),
        ("?nothing=5", 404, "there is no pool 'nothing'; there is: reports, web, next"),
        ("?reports=5", 400, 'reports: it shares its requests with no pool: one must have canary_of = "reports"'),
        ("?next=-1", 400, "next: expected a weight, from 0 to 1000000, got '-1'"),
        ("?next=nan", 400, "next: expected a weight, from 0 to 1000000, got 'nan'"),
        ("?next=inf", 400, "next: expected a weight, from 0 to 1000000, got 'inf'"),
        ("?next=1e7", 400, "next: expected a weight, from 0 to 1000000, got '1e7'"),
        ("?next=", 400, "next: expected a weight, from 0 to 1000000, got ''"),
        ("?next=5%25", 400, "next: expected a weight, from 0 to 1000000, got '5%'"),
        ("?next=5&next=6", 400, "next: given twice"),
        ("?web=0&next=0", 400, "one of web, next must be more than 0"),
        ("?next=101", 400, "more than 100 where web has the rest of it: next=101"),
        ("?%ff=1", 404, "there is no pool"),
    ],
)
def test_what_makes_no_sense_is_named_and_changes_nothing(query: str, status: int, said: str) -> None:
    here = stage(*POOLS)
    answer = here.ask(f"/pools{query}", "POST", **HEADER)
    assert (answer.status, answer.body.decode().startswith(said)) == (status, True), answer.body
    assert here.world.server.exchanges.weights == {}


def test_who_may() -> None:
    assert stage(*POOLS).ask("/pools").status == stage(*POOLS).ask("/pools?next=5", "POST").status == 403
    assert stage(*POOLS).ask("/pools", "DELETE", **HEADER).status == 405
    assert stage(*POOLS).ask("/pools/reset", **HEADER).status == 405
    with_token = stage(*POOLS, token="secret")
    assert with_token.ask("/pools", **HEADER).status == 401
    assert with_token.ask("/pools", Authorization="Bearer secret").status == 200


def test_an_endpoint_of_workers_asks_the_servers_first(monkeypatch: pytest.MonkeyPatch) -> None:
    here = stage(*POOLS)
    monkeypatch.setattr(type(here.subject), "control", None)
    assert weights(here.ask("/pools?next=5", "POST", **HEADER).json)["next"] == 5.0
    assert here.world.server.exchanges.weights == {"web": {"web": 95.0, "next": 5.0}}
    assert weights(here.ask("/pools/reset", "POST", **HEADER).json)["next"] == 0.0
    header = {"X-Ifserver-Pause": "1"}
    here.ask("/pause?pool=web", "POST", **header)
    said = here.ask("/resume", "POST", **header).json
    assert (said["pools"], said["resumed"]) == ({}, ["web"])


def test_the_end_of_a_pause_says_what_was_paused() -> None:
    here = stage(*POOLS)
    header = {"X-Ifserver-Pause": "1"}
    assert here.ask("/resume", "POST", **header).json["resumed"] == []
    here.ask("/pause", "POST", **header)
    here.ask("/pause?pool=web", "POST", **header)
    said = here.ask("/resume?pool=web", "POST", **header).json
    assert (list(said["pools"]), said["resumed"]) == ([""], ["web"])
    # Its own pause is over: it is paused with the others, and stays so.
    said = here.ask("/resume?pool=web", "POST", **header).json
    assert (list(said["pools"]), said["resumed"]) == ([""], [])
    here.ask("/pause?pool=reports", "POST", **header)
    said = here.ask("/resume", "POST", **header).json
    assert (said["pools"], said["resumed"]) == ({}, ["", "reports"])


def test_orders_for_pools_that_are_not_here_are_kept() -> None:
    """Until they are: servers read new settings one after the other."""
    here = stage(POOLS[1])
    other = stage(*POOLS)
    other.ask("/pools?next=5", "POST", **HEADER)
    facts = [order.fact for order in other.world.server.exchanges.control.board.orders()]
    here.world.server.exchanges.ordered.ordered(facts)
    assert here.world.server.exchanges.router is not None
    assert here.world.server.exchanges.router.shared == {}
    here.world.server.exchanges.route(Router(POOLS))
    assert here.world.server.exchanges.router.weights == {"web": {"web": 95.0, "next": 5.0}}


def test_all_servers_together() -> None:
    def told(requests: int, errors: int, times: dict[int, int], weight: float = 5.0) -> Here:
        counts = [times.get(place, 0) for place in range(len(BOUNDS_S) + 1)]
        return Here([], pools=[PoolHere("next", "web", weight, True, requests, errors, counts)])

    both = [told(10, 1, {3: 10}), told(30, 2, {3: 10, 5: 20})]
    [found] = side_by_side(both)
    assert (found.requests, found.errors) == (40, 3)
    assert (found.p50_s, found.p95_s) == (0.01, pytest.approx(0.0475))
    assert agreed(both)
    assert agreed([])
    assert not agreed([*both, told(0, 0, {}, 6.0)])
    assert not agreed([*both, Here([])])
    # A pool that shares with nobody is no matter, and neither is a canary that has nothing.
    alone, idle = (PoolHere(*what, False, 0, 0, []) for what in (("a", "", None), ("b", "w", 0.0)))
    assert agreed([both[0], Here([], pools=[idle, alone, *both[1].pools])])


def test_a_refusal_waits_for_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    here = stage(*POOLS)
    for node in here.world.clusters.nodes.values():
        monkeypatch.setattr(node, "census", Deferred)
    assert here.ask("/pools?nobody=5", "POST", **HEADER).status == 404
    assert here.ask("/pause?pool=nobody", "POST", **{PAUSE_HEADER: "test"}).status == 404
