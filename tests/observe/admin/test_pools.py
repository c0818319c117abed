"""Pools side by side, as several servers count them."""

from __future__ import annotations

from ifserver.layers.operator_orders import Here, PoolHere
from ifserver.observe.admin.pools import agreed, side_by_side


def pool(name: str, weight: float | None, canary_of: str = "", requests: int = 0, errors: int = 0) -> PoolHere:
    return PoolHere(name, canary_of, weight, False, requests, errors, [])


OLD = Here([], pools=[pool("web", None, requests=10, errors=1)])
NEW = Here([], pools=[pool("web", 95, requests=20), pool("next", 5, "web", 1, 1)])


def test_a_server_with_older_settings_hides_nothing() -> None:
    for servers in ([OLD, NEW], [NEW, OLD]):
        web, canary = side_by_side(servers)
        assert (web.name, web.weight, web.requests, web.errors) == ("web", 95, 30, 1)
        assert (canary.name, canary.weight, canary.canary_of, canary.errors) == ("next", 5, "web", 1)


def test_whether_servers_agree() -> None:
    assert agreed([])
    assert agreed([NEW, NEW])
    assert not agreed([NEW, Here([], pools=[pool("web", 80), pool("next", 20, "web")])])
