"""For which pool a request is, and which clients get its canaries."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from ifserver import channels
from ifserver.config.pools import PoolSettings
from ifserver.front.exchanges.resumption import MOST_OFFERED
from ifserver.front.exchanges.routing import COOKIE, POSITIONS, Positions, Router, is_for_all, layout, share
from ifserver.front.incoming_request import Incoming
from ifserver.messages import Headers
from tests.front.fakes import GET, HANDSHAKE, World

REPORTS = "http.request.reports"


def pool(name: str, **rules: Any) -> PoolSettings:
    return PoolSettings(name=name, application="a:b", **rules)


def incoming(target: str = "/", method: str = "GET", host: bytes | None = b"example.com") -> Incoming:
    headers = [] if host is None else [(b"host", host)]
    return Incoming(method, target.encode(), "1.1", headers, True)


def routed(*pools: PoolSettings, **settings: Any) -> World:
    world = World(**settings)
    world.server.exchanges.route(Router(pools))
    return world


def test_the_first_that_fits_takes_it() -> None:
    router = Router([pool("a", paths=("/a/*",)), pool("b", paths=("/a/b", "/b")), pool("default")])
    assert router.http(incoming("/a/b")) == "http.request.a"
    assert router.http(incoming("/b")) == "http.request.b"
    assert router.http(incoming("/a")) == router.http(incoming("/c")) == channels.HTTP_REQUEST
    assert router.websocket(incoming("/a/b")) == "websocket.connect.a"


@pytest.mark.parametrize(
    ("rules", "request_", "fits"),
    [
        ({}, incoming(), True),
        ({"paths": ("/a/*",)}, incoming("/a/"), True),
        ({"paths": ("/a/*",)}, incoming("/a/b/c?d"), True),
        ({"paths": ("/a/*",)}, incoming("/x/a/b"), False),
        ({"paths": ("/a",)}, incoming("/a?b"), True),
        ({"paths": ("/a",)}, incoming("/a/"), False),
        ({"paths": ("/A",)}, incoming("/a"), False),
        ({"paths": ("/a b",)}, incoming("/a%20b"), True),
        ({"paths": ("/a*",)}, incoming("/a%0Ab"), True),
        ({"paths": ("*.js",)}, incoming("/a/b.js"), True),
        ({"paths": ("/[ab]?",)}, incoming("/b1"), True),
        ({"methods": ("GET", "HEAD")}, incoming(method="HEAD"), True),
        ({"methods": ("GET",)}, incoming(method="HEAD"), False),
        ({"hosts": ("example.com",)}, incoming(host=b"example.com:8000"), True),
        ({"hosts": ("*.Example.com",)}, incoming(host=b"WWW.example.com"), True),
        ({"hosts": ("*.example.com",)}, incoming(host=b"example.com"), False),
        ({"hosts": ("::1",)}, incoming(host=b"[::1]:8000"), True),
        ({"hosts": ("example.com",)}, incoming(host=None), False),
        ({"hosts": ("a", "example.com"), "paths": ("/b", "/a")}, incoming("/a"), True),
        ({"hosts": ("example.com",), "paths": ("/b",)}, incoming("/a"), False),
        ({"protocols": ("websocket",)}, incoming(), False),
    ],
)
def test_the_rules(rules: dict[str, Any], request_: Incoming, fits: bool) -> None:
    assert Router([pool("a", **rules)]).http(request_) == ("http.request.a" if fits else "")


def test_websockets_have_a_request_channel_of_their_own() -> None:
    router = Router([pool("a", protocols=("http",)), pool("default")])
    assert (router.http(incoming()), router.websocket(incoming())) == ("http.request.a", channels.WEBSOCKET_CONNECT)
    assert router.channels == {
        "http.request.a": "a",
        "websocket.connect.a": "a",
        "websocket.resume.a": "a",
        "http.request": "default",
        "websocket.connect": "default",
        "websocket.resume": "default",
    }


def test_a_request_is_offered_on_the_channel_of_its_pool_and_counted_there() -> None:
    world = routed(pool("reports", paths=("/reports/*",)), pool("default"))
    client = world.client(GET.replace(b"GET /", b"GET /reports/1"))
    world.worker.job(REPORTS).respond(body=b"hello")
    assert client.received().endswith(b"hello")
    client.send(GET)
    world.settle()
    world.worker.job().respond(body=b"you")
    assert client.received().endswith(b"you")
    server = world.server
    assert server.exchanges.tallies is not None
    counted = {name: dict(server.exchanges.tallies[name].requests) for name in (REPORTS, channels.HTTP_REQUEST)}
    assert counted == {REPORTS: {200: 1}, channels.HTTP_REQUEST: {200: 1}}
    assert sum(server.exchanges.tallies[REPORTS].queue_wait.counts) == 1
    assert dict(server.exchanges.tally.requests) == {}
    assert [entry.pool for entry in world.access.entries] == ["reports", "default"]
    client.leave()
    world.assert_empty()


def test_what_no_pool_takes_is_answered_404() -> None:
    world = routed(pool("reports", paths=("/reports/*",)))
    client = world.client(GET)
    assert client.received().startswith(b"HTTP/1.1 404 ")
    client.send(GET.replace(b"GET /", b"GET /reports/1"))
    world.settle()
    world.worker.job(REPORTS).respond(body=b"hello")
    assert client.received().endswith(b"hello"), "the connection is kept"
    assert world.client(HANDSHAKE).received().startswith(b"HTTP/1.1 404 ")
    assert world.counters.value("requests_refused", "404") == 2
    assert dict(world.server.exchanges.tally.requests) == {404: 2}
    assert world.waiting() == 0
    client.leave()
    world.assert_empty()


def test_an_upload_that_no_pool_takes_is_answered_404() -> None:
    world = routed(pool("reports", paths=("/reports/*",)))
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n"
    client = world.client(head + b"x" * 1000)
    assert client.received().startswith(b"HTTP/1.1 404 ")
    client.send(b"x" * 1000)
    client.leave()
    world.assert_empty()


def test_what_is_refused_before_it_has_a_pool_is_counted_for_none() -> None:
    world = routed(pool("default"))
    client = world.client(GET)
    world.worker.job().respond(body=b"hello")
    client.send(b"nonsense\r\n\r\n")
    world.settle()
    assert dict(world.server.exchanges.tally.requests) == {400: 1}
    world.assert_empty()


def test_new_rules_hold_for_what_begins_then() -> None:
    world = routed(pool("reports", paths=("/a",)), pool("default"))
    client, other = world.client(GET.replace(b"/ ", b"/a ")), world.client()
    world.server.exchanges.route(Router([pool("default")]))
    other.send(GET.replace(b"/ ", b"/a "))
    world.settle()
    world.worker.job(REPORTS).respond(body=b"old")
    world.worker.job().respond(body=b"new")
    assert (client.received()[-3:], other.received()[-3:]) == (b"old", b"new")
    client.leave()
    other.leave()
    world.assert_empty()


def test_an_open_websocket_goes_to_the_next_worker_of_its_pool() -> None:
    world = routed(pool("chat", protocols=("websocket",)), resumable_paths=("/chat",), ping_interval_s=0.0)
    client = world.client(HANDSHAKE)
    job = world.worker.job("websocket.connect.chat")
    job.accept()
    client.received()
    job.release("died")
    again = world.worker.job("websocket.resume.chat")
    again.accept()
    again.send("hello")
    assert b"hello" in client.received()
    assert len(world.server.exchanges.resumptions) == 0


def test_open_websockets_of_one_pool_do_not_wait_behind_those_of_another() -> None:
    chat = pool("chat", hosts=("chat",))
    world = routed(chat, pool("default"), resumable_paths=("/chat",), ping_interval_s=0.0)
    for host, channel, count in ((b"chat", "websocket.connect.chat", MOST_OFFERED + 1), (b"a", "websocket.connect", 1)):
        for _ in range(count):
            world.client(HANDSHAKE.replace(b"Host: a", b"Host: " + host))
        for job in world.worker.jobs(channel):
            job.accept()
            job.release("died")
    assert len(world.worker.jobs("websocket.resume")) == 1
    assert len(world.worker.jobs("websocket.resume.chat")) == MOST_OFFERED


def test_pools_come_and_go_under_requests() -> None:
    """Also those that leave no default pool."""
    reports = Router([pool("reports", paths=("/reports/*",))])
    request = b"GET /reports/1 HTTP/1.1\r\nHost: a\r\n\r\n"
    for now, later, channel in ((reports, None, REPORTS), (None, reports, channels.HTTP_REQUEST)):
        world = World()
        world.server.exchanges.route(now)
        waiting = world.client(request)
        world.server.exchanges.route(later)
        world.worker.job(channel).respond(body=b"waited")
        assert waiting.received().endswith(b"waited")
    world = World()
    world.server.exchanges.route(reports)
    world.server.exchanges.route(None)
    client = world.client(request)
    world.worker.job().respond(body=b"new")
    assert client.received().endswith(b"new")


# Canaries.


WEB, NEXT = "http.request.web", "http.request.next"


def moved(before: dict[str, float], after: dict[str, float]) -> Counter[tuple[str, str]]:
    """Between which pools how many positions move."""
    pairs = zip(layout(before), layout(after), strict=True)
    return Counter((old, new) for old, new in pairs if old != new)


# Shares.


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ([95, 5], [9500, 500]),
        ([19, 1], [9500, 500]),
        ([100, 0], [10_000, 0]),
        ([0, 1], [0, 10_000]),
        ([0, 1, 1, 1], [0, 3334, 3333, 3333]),
        ([99.99, 0.01], [9999, 1]),
        ([1_000_000, 0.000001], [9999, 1]),
        ([0.000001, 1_000_000], [1, 9999]),
        ([1, 1, 1], [3334, 3333, 3333]),
    ],
)
def test_shares_are_exact(weights: list[float], counts: list[int]) -> None:
    assert share(weights) == counts
    names = [f"pool{n}" for n in range(len(weights))]
    found = Counter(layout(dict(zip(names, weights, strict=True))))
    assert [found[name] for name in names] == counts


def test_shares_of_any_weights_fill_the_line() -> None:
    chance = random.Random(1)
    for _ in range(200):
        weights = [chance.choice((0.0, 1.0, chance.random() * 100)) for _ in range(chance.randint(2, 8))]
        if any(weights):
            counts = share(weights)
            assert sum(counts) == POSITIONS
            for weight, count in zip(weights, counts, strict=True):
                assert abs(count / POSITIONS - weight / sum(weights)) < 0.001
                assert bool(count) == bool(weight)


# Who moves.


def test_a_canary_that_grows_keeps_its_clients_and_no_others_move() -> None:
    for more, by in ((20.0, 1500), (100.0, 9500)):
        assert moved({"web": 95, "next": 5}, {"web": 100 - more, "next": more}) == {("web", "next"): by}
    assert moved({"web": 80, "next": 20}, {"web": 95, "next": 5}) == {("next", "web"): 1500}
    assert moved({"web": 80, "next": 20}, {"web": 100, "next": 0}) == {("next", "web"): 2000}
    assert moved({"web": 95, "next": 5}, {"web": 19, "next": 1}) == {}


def test_one_of_two_canaries_leaves_the_other_alone() -> None:
    assert moved({"web": 90, "a": 5, "b": 5}, {"web": 55, "a": 40, "b": 5}) == {("web", "a"): 3500}
    assert moved({"web": 90, "a": 5, "b": 5}, {"web": 55, "a": 5, "b": 40}) == {("web", "b"): 3500}
    assert moved({"web": 90, "a": 5, "b": 5}, {"web": 95, "a": 0, "b": 5}) == {("a", "web"): 500}
    # A further one as well.
    assert moved({"web": 90, "a": 5, "b": 5}, {"web": 85, "a": 5, "b": 5, "c": 5}) == {("web", "c"): 500}


def test_all_pools_have_their_canaries_for_the_same_clients() -> None:
    one, two = layout({"web": 95, "next": 5}), layout({"chat": 90, "chat-next": 10})
    assert {place for place, name in enumerate(one) if name == "next"} <= {
        place for place, name in enumerate(two) if name == "chat-next"
    }


# Who is who.


def cookie_of(position: int, more: bytes = b"") -> Headers:
    return [(b"host", b"a"), (b"cookie", b"a=b; " + COOKIE + b"=%d" % position + more)]


def test_a_client_without_a_cookie_gets_one_and_then_stays() -> None:
    positions = Positions("cookie")
    position, cookie = positions.of([(b"host", b"a")], ("192.0.2.1", 1), False)
    assert cookie == COOKIE + b"=%d; Path=/; Max-Age=604800; HttpOnly; SameSite=Lax" % position
    for address in ("192.0.2.1", "198.51.100.7"):
        assert positions.of(cookie_of(position), (address, 1), False) == (position, b"")
    assert positions.of([], None, True)[1].endswith(b"; Secure")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"ifserver_canary=",
        b"ifserver_canary=-1",
        b"ifserver_canary=10000",
        b"xifserver_canary=1",
        b"a=ifserver_canary=1",
    ],
)
def test_what_is_no_cookie_of_ours_counts_for_nothing(value: bytes) -> None:
    assert Positions("cookie").of([(b"cookie", value)], None, False)[1] != b""


@pytest.mark.parametrize(
    "value",
    [b"ifserver_canary=7", b"a=1;ifserver_canary=7;b=2", b"a=1; ifserver_canary=7 ; b", b"\tifserver_canary=07"],
)
def test_a_cookie_among_others(value: bytes) -> None:
    assert Positions("cookie").of([(b"cookie", b"x=y"), (b"cookie", value)], None, False) == (7, b"")


def test_new_clients_are_everywhere() -> None:
    found = Counter(Positions("cookie").of([], ("192.0.2.1", 1), False)[0] * 10 // POSITIONS for _ in range(10_000))
    assert sorted(found) == list(range(10))
    assert all(800 < count < 1200 for count in found.values())


def test_by_address() -> None:
    positions = Positions("address")

    def of(host: str) -> int:
        position, cookie = positions.of(cookie_of(3), (host, 1), False)
        assert cookie == b""
        return position

    assert of("192.0.2.1") == of("192.0.2.1") == of("::ffff:192.0.2.1") != of("192.0.2.2")
    assert of("2001:db8::1") == of("2001:db8::ffff:2") == of("2001:db8::1%eth0") != of("2001:db8:0:1::1")
    assert of("not an address") == of("not an address")
    found = Counter(of(f"10.1.{n // 250}.{n % 250}") * 10 // POSITIONS for n in range(10_000))
    assert all(800 < count < 1200 for count in found.values())
    # A Unix socket has none.
    assert positions.of(cookie_of(3), None, False) == (3, b"")


def test_by_a_header_or_a_cookie_of_the_application_and_else_by_ours() -> None:
    by_header, by_cookie = Positions("header:X-User"), Positions("cookie:sessionid")

    def user(name: bytes) -> tuple[int, bytes]:
        return by_header.of([(b"x-user", name), *cookie_of(3)], None, False)

    def session(value: bytes) -> tuple[int, bytes]:
        return by_cookie.of(cookie_of(3, b"; sessionid=" + value), None, False)

    for one, two, again in (map(user, (b"ann", b"bob", b"ann")), map(session, (b"ann", b"bob", b"ann"))):
        assert one == again != two
        assert one[1] == two[1] == b""
    assert user(b"ann")[0] == session(b"ann")[0], "every server computes the same"
    assert user(b"ann")[0] == 8837
    assert by_header.of(cookie_of(3), None, False) == by_cookie.of(cookie_of(3), None, False) == (3, b"")
    assert by_header.of([], None, False)[1].startswith(COOKIE)


def test_which_responses_are_for_all() -> None:
    for value in (b"public", b"max-age=0, public", b"public,max-age=3", b"s-maxage=5", b"Immutable", b"Max-Age=10"):
        assert is_for_all(200, [(b"content-type", b"a"), (b"Cache-Control", value)]), value
    for value in (b"", b"private", b"no-store", b"max-age=0", b'x="republic"', b"publicity", b"private, max-age=3"):
        assert not is_for_all(200, [(b"cache-control", value)]), value
    assert not is_for_all(200, [])
    for name in (b"Expires", b"last-modified", b"CDN-Cache-Control", b"Surrogate-Control"):
        assert is_for_all(404, [(name, b"x")]), name
        assert not is_for_all(200, [(name, b"x"), (b"cache-control", b"no-store, no-cache")]), name
    # A cache puts its fields in the place of those that it has stored.
    assert is_for_all(304, [(b"cache-control", b"private")])


# A server.


def shared(weight: float | None = 5.0, **settings: Any) -> World:
    world = World(**settings)
    pools = [
        PoolSettings(name="web", application="a:b"),
        PoolSettings(name="next", application="a:c", canary_of="web", weight=weight),
    ]
    world.server.exchanges.route(Router(pools))
    return world


def get(position: int | None, head: bytes = GET) -> bytes:
    cookie = b"" if position is None else b"Cookie: %b=%d\r\n" % (COOKIE, position)
    return head.replace(b"Host: a\r\n", b"Host: a\r\n" + cookie)


def test_requests_and_websockets_go_where_their_client_belongs() -> None:
    world = shared()
    for position, pool in ((0, "next"), (499, "next"), (500, "web"), (9999, "web")):
        for head, channel in ((GET, "http.request"), (HANDSHAKE, "websocket.connect")):
            client = world.client(get(position, head))
            job = world.worker.job(f"{channel}.{pool}")
            if head is GET:
                job.respond(body=b"hello")
            else:
                job.accept()
            assert b"set-cookie" not in client.received()
            client.leave()
    counted = {tally.pool: sum(tally.requests.values()) for tally in (world.server.exchanges.tallies or {}).values()}
    assert counted == {"web": 4, "next": 4}
    world.settle()
    world.assert_empty()


def test_a_new_client_is_told_its_position_with_the_response() -> None:
    world = shared(0.01)
    client = world.client(GET)
    world.worker.job(WEB).respond(headers=[(b"cache-control", b"private")])
    head = client.received().lower()
    assert b"\r\nset-cookie: " + COOKIE + b"=" in head
    # Of the next request, which has it, nothing is left.
    client.send(get(5000))
    world.settle()
    world.worker.job(WEB).respond()
    assert b"set-cookie" not in client.received()
    client.send(GET)
    world.settle()
    world.worker.job(WEB).respond(headers=[(b"cache-control", b"public, max-age=60")])
    assert b"set-cookie" not in client.received(), "it is for all clients alike"
    handshake = world.client(HANDSHAKE)
    world.worker.job("websocket.connect.web").accept()
    assert b"\r\nset-cookie: " + COOKIE + b"=" in handshake.received().lower()
    client.leave()
    handshake.leave()
    world.settle()
    world.assert_empty()


def test_beside_other_fields_of_the_server() -> None:
    world = shared(0.01, server_timing=True)
    client = world.client(GET)
    world.worker.job(WEB).respond()
    head = client.received().lower()
    assert b"\r\nserver-timing: " in head
    assert b"\r\nset-cookie: " in head


@pytest.mark.parametrize("weight", [None, 0.0])
def test_without_a_share_nothing_is_told_and_nothing_asked(weight: float | None) -> None:
    world = shared(weight)
    assert world.server.exchanges.router is not None
    assert world.server.exchanges.router.shared == {}
    client = world.client(GET)
    world.worker.job(WEB).respond()
    assert b"set-cookie" not in client.received()
    client.leave()


def test_an_open_websocket_stays_and_is_resumed_in_its_pool() -> None:
    world = shared(resumable_paths=("/chat",), ping_interval_s=0.0)
    client = world.client(get(0, HANDSHAKE))
    job = world.worker.job("websocket.connect.next")
    job.accept()
    client.received()
    assert world.server.exchanges.router is not None
    world.server.exchanges.router.weigh({"web": {"web": 1.0, "next": 0.0}})
    job.release("died")
    again = world.worker.job("websocket.resume.next")
    again.accept()
    again.send("hello")
    assert b"hello" in client.received()


def test_a_request_is_offered_again_to_the_pool_that_had_it() -> None:
    world = shared()
    client = world.client(get(0))
    job = world.worker.job(NEXT)
    job.claim()
    assert world.server.exchanges.router is not None
    world.server.exchanges.router.weigh({"web": {"web": 1.0, "next": 0.0}})
    job.release("died")
    world.worker.job(NEXT).respond(body=b"hello")
    assert client.received().endswith(b"hello")
    client.leave()
    world.assert_empty()


def test_a_canary_of_the_default_pool_and_pools_that_are_elsewhere() -> None:
    pools = [
        PoolSettings(name="reports", application="a:b", paths=("/reports/*",)),
        PoolSettings(name="next", application="a:c", canary_of="default", weight=100),
        PoolSettings(name="default", application="a:a"),
    ]
    router = Router(pools)
    assert set(router.shared) == {"http.request", "websocket.connect"}
    assert set(router.shared["http.request"]) == {"http.request.next"}
    assert router.weights == {"default": {"default": 0.0, "next": 100.0}}
    router.weigh({"default": {"default": 100.0, "other": 5.0}, "web": {"web": 1.0, "next": 2.0}})
    assert router.shared == {}
    router.weigh({"default": {"default": 0.0, "other": 5.0}})
    assert router.weights["default"] == {"default": 0.0, "next": 100.0}, "as in the settings"


def test_what_is_counted_begins_anew_with_the_first_canary_of_new_settings() -> None:
    world = World()
    web = PoolSettings(name="web", application="a:b")
    world.server.exchanges.route(Router([web]))
    client = world.client(GET)
    world.worker.job(channels.of_pool("web", channels.HTTP_REQUEST)).respond(500)
    client.leave()
    assert [(each.requests, each.errors) for each in world.server.exchanges.ordered.pools()] == [(1, 1)]
    world.server.exchanges.route(Router([web, PoolSettings(name="next", application="a:c", canary_of="web", weight=5)]))
    assert [(each.requests, each.errors) for each in world.server.exchanges.ordered.pools()] == [(0, 0), (0, 0)]
