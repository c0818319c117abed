"""For which pool a request is, and what becomes of those that none takes."""

from __future__ import annotations

from typing import Any

import pytest

from ifserver import channels
from ifserver.config.pools import PoolSettings
from ifserver.front.exchanges.pools import Router
from ifserver.front.exchanges.resumption_queue import MOST_OFFERED
from ifserver.front.incoming_request import Incoming
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
