"""The HTTP of the admin endpoint: what is answered to whom."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.testing import MemoryReactorClock

from ifserver import channels
from ifserver.layers.base import Queue
from ifserver.layers.embedded.node import MemoryNode
from ifserver.observe.admin import endpoint
from ifserver.observe.admin.endpoint import CLOSE_HEADER, AdminFactory
from tests.front.fakes import GET, HANDSHAKE, frames
from tests.observe.admin.stage import Stage

CLOSE = {CLOSE_HEADER: "test"}


def test_what_there_is() -> None:
    stage = Stage()
    types = {path: stage.ask(path) for path in ("/", "/livez", "/readyz", "/metrics", "/status.json")}
    assert {path: answer.status for path, answer in types.items()} == dict.fromkeys(types, 200)
    assert [answer.headers[b"content-type"].split(b";")[0] for answer in types.values()] == [
        b"text/html",
        b"text/plain",
        b"text/plain",
        b"text/plain",
        b"application/json",
    ]
    for answer in types.values():
        assert answer.headers[b"cache-control"] == b"no-store"
        assert answer.headers[b"x-content-type-options"] == b"nosniff"
        assert answer.headers[b"cross-origin-resource-policy"] == b"same-origin"
        assert b"access-control-allow-origin" not in answer.headers
    assert stage.ask("/nothing").status == 404
    assert stage.ask("/metrics/x").status == 404
    assert stage.ask("//livez").status == 404


def test_head_and_other_methods() -> None:
    stage = Stage()
    answer = stage.ask("/livez", "HEAD")
    assert (answer.status, answer.headers[b"content-length"], answer.body) == (200, b"6", b"")
    answer = stage.ask("/readyz", "POST")
    assert (answer.status, answer.headers[b"allow"]) == (405, b"GET, HEAD")
    answer = stage.ask("/close?stream=x")
    assert (answer.status, answer.headers[b"allow"]) == (405, b"POST")


def test_openmetrics_for_those_who_ask() -> None:
    answer = Stage().ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers[b"content-type"].startswith(b"application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")


# Names.


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:9100",
        "127.0.0.1",
        "127.0.0.1:9100",
        "[::1]:9100",
        "[::1]",
        "10.1.2.3",
        "admin.example:1",
    ],
)
def test_names_that_are_ours(host: str) -> None:
    assert Stage(names=("Admin.Example",)).ask("/status.json", host=host).status == 200


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a:b:c", "[::1", "x@localhost", "1"],
)
def test_names_that_are_not(host: str) -> None:
    """A page that has its own name point to us asks by that name (DNS rebinding)."""
    stage = Stage(names=("admin.example",))
    for path in ("/", "/metrics", "/status.json", "/nothing"):
        assert stage.ask(path, host=host).status == 421
    assert stage.ask("/close?stream=x", "POST", host, **CLOSE).status == 421
    # Probes ask by whatever name they like, and learn nothing.
    assert stage.ask("/livez", host=host).status == stage.ask("/readyz", host=host).status == 200


# Ready.


def test_a_server_that_is_ready() -> None:
    assert Stage().ask("/readyz").body == b"ready\n"


def test_reasons_not_to_be_ready() -> None:
    stage = Stage()
    stage.listening = False
    assert stage.ask("/readyz")[::2] == (503, b"not listening for clients\n")
    stage.listening = True
    stage.beat(None)
    assert stage.ask("/readyz")[::2] == (503, b"no live worker is seen on any node\n")
    stage.world.client(GET)
    stage.world.drain()
    stage.world.node.stop()
    answer = stage.ask("/readyz")
    assert answer.status == 503
    assert answer.body.decode().splitlines() == [
        "shutting down",
        "node east, where this process receives: there is no connection",
        "no live worker is seen on any node",
    ]
    assert stage.ask("/livez").status == 200


class Silent(MemoryNode):
    """Does not answer a look, when told so."""

    silent = False

    def look(self, channel: str) -> Deferred[Queue]:
        return Deferred() if self.silent else super().look(channel)


def test_a_node_that_is_silent_is_waited_for_a_second() -> None:
    stage = Stage(node=Silent)
    stage.world.node.silent = True  # type: ignore[attr-defined]
    transports = [stage.connect() for _ in range(3)]
    for transport in transports:
        transport.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    stage.world.advance(0.9)
    assert transports[0].received() == b""
    # One that has left meanwhile is no trouble.
    transports[0].leave()
    stage.world.advance(0.1)
    for transport in transports[1:]:
        assert stage.answer(transport)[::2] == (
            503,
            b"node east, where this process receives: no answer within 1 s\nno live worker is seen on any node\n",
        )
    assert transports[0].received() == b""


# Closing.


def test_closing_an_http_stream() -> None:
    stage = Stage()
    client = stage.world.client(GET)
    job = stage.world.worker.job()
    job.claim()
    stage.world.settle()
    [stream] = stage.ask("/status.json").json["streams"]
    assert stage.ask(f"/close?stream={stream['channel']}", "POST", **CLOSE)[::2] == (200, b"closed\n")
    assert client.aborted
    assert [type(message).__name__ for message in job.heard()] == ["Disconnect"]
    assert stage.ask(f"/close?stream={stream['channel']}", "POST", **CLOSE).status == 404
    stage.world.assert_empty()


def test_closing_a_websocket() -> None:
    stage = Stage()
    client = stage.world.client(HANDSHAKE)
    job = stage.world.worker.job(channels.WEBSOCKET_CONNECT)
    job.accept()
    stage.world.settle()
    client.received()
    assert stage.ask(f"/close?stream={job.request.reply_channel}", "POST", **CLOSE).status == 200
    [frame] = frames(client.received())
    assert frame.payload == (1012).to_bytes(2, "big") + b"closed by an operator"


def test_closing_a_handshake() -> None:
    stage = Stage()
    client = stage.world.client(HANDSHAKE)
    job = stage.world.worker.job(channels.WEBSOCKET_CONNECT)
    assert stage.ask(f"/close?stream={job.request.reply_channel}", "POST", **CLOSE).status == 200
    assert client.aborted
    stage.world.assert_empty()


def test_what_no_form_can_send_is_needed_to_close() -> None:
    stage = Stage()
    client = stage.world.client(GET)
    channel = stage.world.worker.job().request.reply_channel
    form = {"Content_Type": "application/x-www-form-urlencoded", "Origin": "https://evil.example"}
    assert stage.ask(f"/close?stream={channel}", "POST").status == 403
    assert stage.ask("/close", "POST", body=f"stream={channel}".encode(), **form).status == 403
    assert stage.ask(f"/close?stream={channel}", "OPTIONS", Origin="https://evil.example").status == 405
    assert not client.lost


@pytest.mark.parametrize("query", ["", "?stream=", "?stream=a&stream=b", "?channel=x"])
def test_closing_needs_one_name(query: str) -> None:
    assert Stage().ask(f"/close{query}", "POST", **CLOSE).status == 400


@pytest.mark.parametrize(
    "name", ["x", "%ff", "!east", "!east.front00000", "!east.front00000.zz", "%21%0d%0aX", "a" * 5000]
)
def test_closing_what_is_not_there(name: str) -> None:
    assert Stage().ask(f"/close?stream={name}", "POST", **CLOSE).status == 404


# Limits.


def test_bodies_are_not_kept() -> None:
    stage = Stage()
    transport = stage.connect()
    transport.send(b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n")
    for _ in range(100):
        transport.send(bytes(1_000_000))
    assert stage.answer(transport).status == 405


def test_no_more_than_a_hundred_connections() -> None:
    stage = Stage()
    for _ in range(100):
        stage.connect()
    assert stage.factory.buildProtocol(None) is None
    stage.factory.close()
    stage.world.settle()
    stage.connect()


def test_one_that_is_idle_is_closed() -> None:
    stage = Stage()
    transport = stage.connect()
    stage.world.advance(61.0)
    assert transport.disconnecting


def test_a_bug_shows_no_traceback(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    monkeypatch.setattr(stage.subject, "status", lambda survey: 1 / 0)
    with caplog.at_level(logging.ERROR):
        answer = stage.ask("/status.json")
    assert answer.status == 500
    assert b"ZeroDivision" not in answer.body
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.setattr(stage.subject.clusters.nodes["east"], "look", lambda channel: fail(ValueError("a bug")))
    assert stage.ask("/readyz").status == 500


# The page.


def test_the_page_may_do_no_more_than_it_does() -> None:
    answer = Stage().ask("/")
    policy = answer.headers[b"content-security-policy"].decode()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    text = answer.body.decode()
    for tag in ("script", "style"):
        [inner] = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_the_page_is_one_file_that_asks_for_nothing_else() -> None:
    text = Path(endpoint.__file__).with_name("page.html").read_text("utf-8")
    assert re.findall(r"https?://|\bimport\b|@import|url\(", text) == []
    assert set(re.findall(r'(?:src|href)="([^"]*)"', text)) == {"data:,"}
    # What clients send never becomes HTML, and style and script are where the policy allows them.
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|\son\w+=|\sstyle=", text) == []
    assert CLOSE_HEADER in text


def test_it_needs_no_reactor_but_its_own() -> None:
    AdminFactory(Stage().subject, MemoryReactorClock(), ())
