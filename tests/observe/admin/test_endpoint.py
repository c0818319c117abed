"""The HTTP of the admin endpoint: what is answered to whom."""

from __future__ import annotations

import json
import logging

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.testing import MemoryReactorClock

from ifserver import channels
from ifserver.errors import NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Queue
from ifserver.logs import events
from ifserver.logs.events import Mark
from ifserver.observe.admin import orders
from ifserver.observe.admin.endpoint import CLOSE_HEADER, AdminFactory
from ifserver.status import Event
from tests.front.exchanges.test_groups import member, told
from tests.front.fakes import BINARY, GET, HANDSHAKE, SERVER, SUPERVISOR, TEXT, frames
from tests.observe.admin.stage import Answer, Stage, supervisor_facts

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


def test_requests_that_come_at_once_are_not_all_answered() -> None:
    stage = Stage(token="t")
    one = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
    transport = stage.connect()
    transport.send(one * 100)
    stage.world.settle()
    said = transport.received()
    assert (said.count(b"HTTP/1.1 "), said.lower().count(b"connection: close"), transport.lost) == (1, 1, True)
    post = b"POST /groups/a HTTP/1.1\r\nHost: a.b\r\nAuthorization: Bearer t\r\nContent-Length: 2\r\n\r\nhi"
    transport = stage.connect()
    for request in (one, post.replace(b"a.b", b"localhost"), one):
        transport.send(request)
        stage.world.settle()
        said = transport.received()

        assert (said.count(b"HTTP/1.1 20"), b"connection: close" in said.lower(), transport.lost) == (1, False, False)


def test_a_long_line_ends_the_connection() -> None:
    stage = Stage()
    for length, lost in ((8000, False), (9000, True)):
        transport = stage.connect()
        transport.send(b"GET /" + b"a" * length + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stage.world.settle()
        assert (transport.disconnecting, transport.received() == b"") == (lost, lost)


# Names.


@pytest.mark.parametrize("path", ["/", "/livez", "/metrics", "/close", "/pause", "/groups/a"])
def test_whatever_bytes_a_field_has(path: str, caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    strange = b"\xff\xfe%"
    for method in ("GET", "POST"):
        for field in (b"Host", b"Accept", b"Authorization", b"Content-Type", b"X-Ifserver-Close", b"X-Ifserver-Pause"):
            transport = stage.connect()
            host = b"" if field == b"Host" else b"Host: localhost\r\n"
            head = f"{method} {path} HTTP/1.1\r\n".encode() + host + field + b": " + strange + b"\r\n\r\n"
            transport.send(head)
            stage.world.settle()
            assert not transport.received().startswith(b"HTTP/1.1 5")
    assert caplog.text == ""


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


# Groups.

TOKEN = "geheim/+=~"
WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


def group_stage() -> Stage:
    return Stage(token=TOKEN, names=("admin.example",))


def publish(stage: Stage, body: bytes, kind: str = "application/json", group: str = "news", **headers: str) -> Answer:
    return stage.ask(f"/groups/{group}", "POST", body=body, Content_Type=kind, **WITH_TOKEN | headers)


def test_publishing() -> None:
    stage = group_stage()
    assert publish(stage, b'{"text": "hello"}').json == {"processes": 0}
    client, job = member(stage.world)
    other, _ = member(stage.world)
    answer = publish(stage, b'{"json": {"a": 1}}')
    assert (answer.status, answer.json) == (202, {"processes": 1})
    assert answer.headers[b"content-type"] == b"application/json"
    assert told(client) == told(other) == [(TEXT, b'{"a":1}')]
    assert publish(stage, "häh".encode(), "text/plain").status == 202
    assert told(client) == told(other) == [(TEXT, "häh".encode())]
    assert publish(stage, b"\xff", "").status == 202
    assert told(client) == told(other) == [(BINARY, b"\xff")]
    assert publish(stage, json.dumps({"base64": "/w==", "exclude": job.stream}).encode()).status == 202
    assert (told(client), told(other)) == ([], [(BINARY, b"\xff")])
    assert publish(stage, b'{"close": [4001, "bye"]}').status == 202
    assert told(client) == told(other) == [(0x8, (4001).to_bytes(2, "big") + b"bye")]


def test_a_longer_body_comes_in_pieces() -> None:
    stage = group_stage()
    client, _ = member(stage.world)
    transport = stage.connect()
    head = "POST /groups/news HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n"
    transport.send(f"{head}Authorization: bearer  {TOKEN} \r\n\r\n".encode())
    for _ in range(16):
        transport.send(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
    transport.send(b"0\r\n\r\n")
    stage.world.settle()
    assert stage.answer(transport).status == 202
    [(_, payload)] = told(client)
    assert len(payload) == 16 * 0x8000


def test_names_of_groups() -> None:
    stage = group_stage()
    client, _ = member(stage.world, group="a.b-c_1")
    assert publish(stage, b'{"text": "x"}', group="a%2Eb-c_1").json == {"processes": 1}
    assert told(client) == [(TEXT, b"x")]
    for name in ("", "a/b", "a%20b", "%21x", "%ff", "a" * 100):
        answer = publish(stage, b'{"text": "x"}', group=name)
        assert answer.status == 400
        assert b"group name" in answer.body
        assert stage.ask(f"/groups/{name}", **WITH_TOKEN).status == 400


@pytest.mark.parametrize("body", [b"", b"{}", b'{"text": 1}', b'{"text": "a", "close": 1000}', b"\xff"])
def test_bodies_that_say_nothing(body: bytes) -> None:
    answer = publish(group_stage(), body)
    assert answer.status == 400
    assert answer.body.count(b"\n") == 1
    assert publish(group_stage(), b"\xff", "text/plain").status == 400


def test_without_a_token_in_the_settings_it_says_which_is_missing() -> None:
    stage = Stage()
    client, _ = member(stage.world)
    for method in ("POST", "GET", "PUT"):
        answer = stage.ask("/groups/news", method, body=b'{"text": "x"}', Authorization="Bearer None")
        assert answer.status == 403
        assert b"set front.admin_token (IFSERVER_FRONT_ADMIN_TOKEN in the environment)" in answer.body
    assert told(client) == []


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer geheim",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN} x",
        "Bearer \xff",
    ],
)
def test_a_wrong_token(given: str) -> None:
    stage = group_stage()
    client, _ = member(stage.world)
    for method in ("POST", "GET", "OPTIONS"):
        answer = stage.ask("/groups/news", method, body=b'{"text": "x"}', Authorization=given)
        assert answer.status == 401
        assert answer.headers[b"www-authenticate"] == b'Bearer realm="ifserver"'
        assert TOKEN.encode() not in answer.body
    assert stage.ask("/groups/news", "POST", body=b'{"text": "x"}').status == 401
    assert told(client) == []


def test_two_tokens_are_none() -> None:
    stage = group_stage()
    transport = stage.connect()
    field = f"Authorization: Bearer {TOKEN}\r\n"
    transport.send(f"GET /groups/news HTTP/1.1\r\nHost: localhost\r\n{field}{field}\r\n".encode())
    assert stage.answer(transport).status == 401


def test_the_token_opens_groups_under_our_names_only_and_nothing_else() -> None:
    stage = group_stage()
    assert stage.ask("/groups/news", host="evil.example", **WITH_TOKEN).status == 421
    assert stage.ask("/groups/news", host="admin.example", **WITH_TOKEN).status == 200
    assert stage.ask("/close?stream=x", "POST", **WITH_TOKEN).status == 403
    assert stage.ask("/groups", **WITH_TOKEN).status == 404


def test_other_methods() -> None:
    answer = group_stage().ask("/groups/news", "PUT", **WITH_TOKEN)
    assert (answer.status, answer.headers[b"allow"]) == (405, b"GET, HEAD, POST")


@pytest.mark.parametrize("expects", [True, False])
def test_a_body_that_is_too_long_is_not_waited_for(expects: bool) -> None:
    stage = group_stage()
    client, _ = member(stage.world)
    transport = stage.connect()
    fields = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {2**20 + 1}\r\n"
    fields += "Expect: 100-continue\r\n" if expects else ""
    transport.send(f"POST /groups/news HTTP/1.1\r\n{fields}\r\n".encode())
    stage.world.settle()
    answer = stage.answer(transport)
    assert (answer.status, answer.headers[b"connection"], answer.body) == (
        413,
        b"close",
        b"the body is longer than 1 MiB\n",
    )
    assert transport.disconnecting is expects
    if not expects:
        # A client that does not listen while it sends finds the answer at the end.
        transport.send(bytes(2**20))
        assert not transport.disconnecting
        transport.send(b"x")
        stage.world.settle()
        assert transport.disconnecting
        assert transport.received() == b""
    assert told(client) == []


def test_a_body_that_never_says_how_long_it_is() -> None:
    stage = group_stage()
    transport = stage.connect()
    head = f"POST /groups/news HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    transport.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    for _ in range(16):
        transport.send(piece)
    assert transport.received() == b""
    transport.send(piece)
    assert stage.answer(transport).status == 413
    for _ in range(257):
        assert not transport.aborted
        transport.send(piece)
    assert transport.aborted


def test_one_of_a_mebibyte_is_taken() -> None:
    stage = group_stage()
    client, _ = member(stage.world)
    assert publish(stage, b"x" * 2**20, "text/plain").status == 202
    assert [len(payload) for _, payload in told(client)] == [2**20]


def test_without_the_token_no_body_is_kept() -> None:
    stage = group_stage()
    transport = stage.connect()
    transport.send(b"POST /groups/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n")
    for _ in range(100):
        transport.send(bytes(1_000_000))
    assert stage.answer(transport).status == 401


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            NodeUnreachable("node east: there is no connection"),
            503,
            b"not published: node east: there is no connection\n",
        ),
        (NodeRefused("node east: NOPERM"), 503, b"not published: node east: NOPERM\n"),
        (PushInDoubt("node east: lost"), 504, b"it may have been published, or not: node east: lost\n"),
    ],
)
def test_nodes_that_fail(error: Exception, status: int, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = group_stage()
    monkeypatch.setattr(stage.world.clusters.groups, "publish", lambda group, **what: fail(error))
    assert publish(stage, b'{"text": "x"}')[::2] == (status, said)


def test_nodes_that_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = group_stage()
    monkeypatch.setattr(stage.world.clusters.groups, "publish", lambda group, **what: Deferred())
    transports = [stage.connect() for _ in range(2)]
    for transport in transports:
        fields = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n"
        transport.send(f"POST /groups/news HTTP/1.1\r\n{fields}\r\n".encode())
    stage.world.advance(4.9)
    transports[0].leave()
    stage.world.advance(0.1)
    assert stage.answer(transports[1])[::2] == (504, b"it may have been published, or not: no answer within 5 s\n")


def test_who_is_in_a_group() -> None:
    stage = group_stage()
    _, tagged = member(stage.world, tag="ann")
    _, untagged = member(stage.world)
    answer = stage.ask("/groups/news", **WITH_TOKEN)
    streams = [{"stream": tagged.stream, "tag": "ann"}, {"stream": untagged.stream, "tag": ""}]
    assert (answer.status, answer.json) == (200, {"members": 2, "streams": streams})
    assert stage.ask("/groups/news", "HEAD", **WITH_TOKEN)[::2] == (200, b"")
    assert stage.ask("/groups/nobody", **WITH_TOKEN).json == {"members": 0, "streams": []}


# The page's data; the page itself: `tests.observe.admin.test_live_view`.


def test_figures_for_those_who_ask_for_them() -> None:
    stage = Stage()
    stage.factory.start()
    for _ in range(3):
        stage.world.advance(1.0)
    status = stage.ask("/status.json").json
    assert status["history"] is None
    history = stage.ask("/status.json?after=-1").json["history"]
    assert (history["first"], history["every_s"], len(history["series"]["requests"])) == (0, 1.0, 3)
    assert stage.ask("/status.json?after=1").json["history"]["first"] == 2
    for wrong in ("x", "1&after=2", "%ff"):
        assert stage.ask(f"/status.json?after={wrong}").status == 400
    stage.factory.close()


def test_what_has_happened() -> None:
    stage = Stage()
    told = Event(number=1, at=5.0, kind="fault", label="worker killed", text="worker 3 was killed")
    stage.beat(supervisor_facts(events=(told,)))
    events.keep(Mark.STARTED, "here")
    found = stage.ask("/status.json").json["events"]
    assert [(each["process"], each["label"], each["kind"]) for each in found] == [
        (SUPERVISOR, "worker killed", "fault"),
        (SERVER, "started", "deploy"),
    ]


def test_it_needs_no_reactor_but_its_own() -> None:
    AdminFactory(Stage().subject, MemoryReactorClock(), ())


# Pauses.

PAUSE = {orders.PAUSE_HEADER: "test"}


def test_a_pause_and_its_end() -> None:
    stage = Stage()
    stage.world.settle()
    answer = stage.ask("/pause?for=60", "POST", **PAUSE)
    assert answer.json == {"servers": 1, "asked": 1, "pools": {"": 60.0}, "waiting": 0, "under_way": 0}
    client = stage.world.client(GET)
    assert stage.ask("/pause", **PAUSE).json["waiting"] == 1
    me = stage.ask("/status.json").json["me"]
    assert (me["paused"], me["waiting"]) == ({"": 60.0}, 1)
    metrics = stage.ask("/metrics").body
    assert b'ifserver_pause_left_seconds{pool="all"} 60.0' in metrics
    assert b"ifserver_paused_requests 1.0" in metrics
    assert stage.ask("/resume", "POST", **PAUSE).json["pools"] == {}
    stage.world.worker.job().respond()
    client.leave()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/pause?for=0", 400),
        ("/pause?for=nan", 400),
        ("/pause?for=long", 400),
        ("/pause?for=1e9", 400),
        ("/pause?pool=a&pool=b", 400),
        ("/pause?pool=%ff", 404),
        ("/resume?pool=nothing", 404),
    ],
)
def test_orders_that_make_no_sense(path: str, status: int) -> None:
    stage = Stage()
    assert stage.ask(path, "POST", **PAUSE).status == status
    assert stage.world.server.exchanges.paused is None


def test_who_may_pause() -> None:
    assert Stage().ask("/pause", "POST").status == Stage().ask("/pause").status == 403
    assert Stage().ask("/pause", "PUT", **PAUSE).status == Stage().ask("/resume", **PAUSE).status == 405
    assert group_stage().ask("/pause", "POST", **PAUSE).status == 401
    stage = group_stage()
    stage.world.settle()
    # As long as pause_timeout, where nobody says how long.
    assert stage.ask("/pause?pool=default", "POST", **WITH_TOKEN).json["pools"] == {"default": 60.0}
