"""One worker on a real loop: what it takes, claims, holds and lets go. Node and clock are the test's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver import channels
from ifserver.asgi_events import ASGIApplication
from ifserver.config.settings import WorkerSettings
from ifserver.errors import ConfigurationError
from ifserver.layers.clusters import Clusters
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Limits, Pulled
from ifserver.messages import (
    UNREAD,
    Claim,
    Disconnect,
    Receipt,
    Release,
    RequestBody,
    ResponseBody,
    ResponseStart,
    Sync,
    SyncEntry,
    ToWorkers,
    WebSocketAccept,
    WebSocketClose,
    WebSocketReceive,
    Window,
    decode_for_server,
    encode,
)
from ifserver.metrics import Counters
from ifserver.worker.application import LoadErrorPage
from ifserver.worker.claims import CLAIM_GRACE_S
from ifserver.worker.claims import HEAD_GRACE_S as GRACE_S
from ifserver.worker.lifespan import StartupFailed
from ifserver.worker.worker import Worker
from ifserver.worker_ledger import Ledger
from tests.process.test_children import run
from tests.worker.stage import SERVER, SUPERVISOR, WORKER, http_request, turns, websocket_connect

LIMITS = Limits(1000, 600.0)
START = {"type": "http.response.start", "status": 200}
BODY = {"type": "http.response.body", "body": b"hello"}


class Application:
    """What it does depends on the path. ``/wait`` waits until `go` is called."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.events: list[str] = []
        self.waiting: list[asyncio.Future[None]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        self.paths.append(scope["path"])
        try:
            await getattr(self, scope["path"].strip("/"))(scope, receive, send)
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise

    async def _live(self, scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["started"] = True
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.events.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    async def _until_told(self) -> None:
        self.waiting.append(asyncio.get_running_loop().create_future())
        await self.waiting[-1]

    def go(self) -> None:
        self.waiting.pop(0).set_result(None)

    async def fast(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send(BODY)

    async def begun(self, scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({**BODY, "more_body": True})
        await self._until_told()
        await send(BODY)

    async def background(self, scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(BODY)
        await self._until_told()
        self.events.append("background done")

    async def wait(self, scope: Any, receive: Any, send: Any) -> None:
        await self._until_told()
        await send(START)
        await send(BODY)

    async def late(self, scope: Any, receive: Any, send: Any) -> None:
        await self._until_told()
        await self.begun(scope, receive, send)

    async def source(self, scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await self._until_told()
        await send(BODY)

    async def late_source(self, scope: Any, receive: Any, send: Any) -> None:
        await self._until_told()
        await self.source(scope, receive, send)

    async def middleware(self, scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await asyncio.sleep(0)  # another task sends the body
        await send(BODY)

    async def upload(self, scope: Any, receive: Any, send: Any) -> None:
        event = await receive()
        while event.get("more_body"):
            event = await receive()
        self.events.append(event["type"])
        await send(START)
        await send(BODY)

    async def stubborn(self, scope: Any, receive: Any, send: Any) -> None:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        while not future.done():
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError:
                self.events.append("minds no cancellation")

    async def chat(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": event["text"]})
        self.events.append(f"disconnect {event['code']}")


class Stage:
    """A worker on one node. Only inside `played`."""

    def __init__(self, application: ASGIApplication | None = None, nodes: int = 1, **fields: Any) -> None:
        self.clock = Clock()
        self.loop = asyncio.get_running_loop()
        self.nodes = [MemoryNode(name, LIMITS, LIMITS, self.clock, "e") for name in ("east", "west")[:nodes]]
        self.node = self.nodes[0]
        self.clusters = Clusters(
            "k3v9x2aq7m", {"c": list(self.nodes)}, "c", self.clock, self.loop.call_soon, Counters()
        )
        self.clusters.start()
        # The server is there for as long as nothing else is said.
        self.node.beat(channels.process_of(SERVER), b"", 1e6)
        self.settings = WorkerSettings(application="a:b", **fields)
        self.memory = bytearray(Ledger.size(self.settings.max_streams))
        self.application = Application()
        self.worker = Worker(
            self.settings,
            self.clusters,
            application or self.application,
            Ledger(self.memory, self.settings.max_streams),
            SUPERVISOR,
            self.clock,
            self.loop,
            lambda: 0.0,
        )
        self._heard: list[Any] = []

    # The server.

    def ask(self, *requests: ToWorkers) -> None:
        self.node.push(channels.HTTP_REQUEST, [encode(request) for request in requests])

    def connect(self, stream: str = "1f") -> None:
        request = websocket_connect(reply_channel=f"{SERVER}.{stream}")
        self.node.push(channels.WEBSOCKET_CONNECT, [encode(request)])

    def tell(self, *messages: Any) -> None:
        self.node.push(self.clusters.home.inbox, [encode(message) for message in messages])

    def heard(self) -> list[Any]:
        """What the server has been sent since the last time, but for how far the streams are."""
        answers: list[Pulled | None] = []
        self.node.pull([SERVER], 1000, 0.0).addCallback(answers.append)
        self.clock.advance(0.0)
        (pulled,) = answers
        messages = [decode_for_server(payload) for payload in pulled.payloads] if pulled is not None else []
        return [message for message in messages if not isinstance(message, Sync | Receipt)]

    @property
    def ledger(self) -> list[tuple[str, int]]:
        """As the supervisor reads it."""
        return Ledger(self.memory, self.settings.max_streams).entries()

    def count(self, name: str, label: str = "") -> int:
        return self.clusters.counters.value(name, label)

    async def claim_time(self) -> None:
        """Until whatever is not answered is claimed."""
        await self.advance(2 * CLAIM_GRACE_S, CLAIM_GRACE_S)

    async def advance(self, seconds: float, step: float = 0.05) -> None:
        for _ in range(round(seconds / step)):
            await turns()
            self.clock.advance(step)
        await turns()

    async def stop(self, drain_timeout_s: float | None = None) -> None:
        """Stop it, at whatever pace that needs."""
        stopping = asyncio.ensure_future(self.worker.stop(drain_timeout_s))
        for _ in range(1000):
            if stopping.done():
                break
            await self.advance(0.05)
        await stopping


def get(path: str, stream: str = "1f", **fields: Any) -> ToWorkers:
    return http_request(path=path, raw_path=path.encode(), reply_channel=f"{SERVER}.{stream}", **fields)


def played(act: Callable[[Stage], Awaitable[None]], **fields: Any) -> None:
    """Run `act` with a worker that has started; it is stopped behind it, and then nothing may be left of it."""

    async def main() -> None:
        stage = Stage(**fields)
        await stage.worker.start()
        await turns()
        await act(stage)
        await stage.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert stage.clusters.waiting() == 0
        counts = stage.clusters.counters.statistics()
        for kind in ("http", "websocket"):
            assert counts.get(f"streams_opened{{{kind}}}") == counts.get(f"streams_closed{{{kind}}}")
        assert stage.ledger == []
        assert (stage.worker.unanswered, stage.worker.statistics()["unanswered"]) == (0, 0)
        await stage.clusters.stop().asFuture(stage.loop)
        assert stage.clock.getDelayedCalls() == []

    run(main)


def kinds(messages: list[Any]) -> list[type]:
    return [type(message) for message in messages]


def problems(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# Claims.


def test_a_fast_whole_response_is_one_message_without_a_claim() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/fast", "1"), get("/fast", "2"))
        await turns()
        assert kinds(stage.heard()) == [ResponseStart, ResponseStart]
        assert stage.count("claims") == 0
        assert stage.count("messages_delivered") == 2

    played(act)


def test_what_is_not_answered_soon_is_claimed() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/wait", attempt=1))
        await turns()
        assert stage.heard() == []
        await stage.claim_time()
        assert stage.heard() == [Claim("0123456789.1f", 1, WORKER, SUPERVISOR)]
        stage.application.go()
        await turns()
        assert kinds(stage.heard()) == [ResponseStart]
        assert stage.count("claims") == 1

    played(act)


def test_a_response_that_has_begun_is_claimed_so_that_its_server_knows_who_watches() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/begun"))
        await stage.claim_time()
        assert sorted(kinds(stage.heard()), key=str) == [Claim, ResponseStart]
        stage.application.go()

    played(act)


def test_a_websocket_is_claimed() -> None:
    async def act(stage: Stage) -> None:
        stage.connect()
        await turns()
        assert kinds(stage.heard()) == [WebSocketAccept, Claim]

    played(act)


def test_where_the_application_could_not_be_loaded_an_open_websocket_is_left_to_others() -> None:
    async def act(stage: Stage) -> None:
        request = websocket_connect(reply_channel=f"{SERVER}.1", attempt=1, unconfirmed=0, resumable=True)
        stage.node.push(channels.WEBSOCKET_RESUME, [encode(request)])
        stage.ask(get("/fast", "2"))
        stage.connect("3")
        await stage.advance(1.0)
        assert {(message.stream, message.status) for message in stage.heard()} == {
            ("0123456789.2", 500),
            ("0123456789.3", 500),
        }

    played(act, application=LoadErrorPage("It failed", "because"))


def test_requests_of_two_nodes_in_one_turn_are_claimed_only_where_they_must() -> None:
    async def act(stage: Stage) -> None:
        for node, stream in zip(stage.nodes, "12", strict=True):
            node.push(channels.HTTP_REQUEST, [encode(get("/fast", stream))])
        await turns()
        assert stage.count("claims") == 0

    played(act, nodes=2)


def test_answers_and_claims_of_one_turn_leave_as_one_push() -> None:
    async def act(stage: Stage) -> None:
        pushes = []
        push = stage.node.push

        def noting(channel: str, payloads: Any) -> Any:
            pushes.append((channel, len(payloads)))
            return push(channel, payloads)

        stage.ask(get("/fast", "1"), get("/upload", "2", more_body=True), get("/fast", "3"))
        stage.node.push = noting  # type: ignore[method-assign]
        await turns()
        assert pushes == [(SERVER, 3)]
        stage.tell(RequestBody("0123456789.2", 0, 0, b"", False))
        await turns()

    played(act)


def test_what_is_answered_at_once_leaves_before_the_next_read() -> None:
    async def act(stage: Stage) -> None:
        node, done = stage.node, []
        push, pull = node.push, node.pull

        def noting_push(channel: str, payloads: Any) -> Any:
            done.append("push")
            return push(channel, payloads)

        def noting_pull(names: Any, count: int, wait_s: float) -> Any:
            done.extend(["pull"] if channels.HTTP_REQUEST in names else [])
            return pull(names, count, wait_s)

        stage.ask(get("/fast", "1"), get("/wait", "2"))
        node.push, node.pull = noting_push, noting_pull  # type: ignore[method-assign]
        await turns()
        assert done == ["push", "pull"]
        stage.application.go()

    played(act)


# The heads of responses.


@pytest.mark.parametrize("path", ["/source", "/late_source"])
def test_an_event_source_that_has_nothing_to_tell_is_seen_and_holds_no_slot(path: str) -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get(path))
        await turns()
        if path == "/late_source":
            stage.application.go()
            await turns()
        assert stage.heard() == [], "the body may follow"
        assert stage.worker.free() == 0
        await stage.advance(2 * GRACE_S, GRACE_S)
        (head,) = stage.heard()
        assert (type(head), head.body, head.more_body) == (ResponseStart, b"", True)
        assert stage.worker.free() == 1
        await stage.claim_time()
        assert kinds(stage.heard()) == [Claim]
        stage.application.go()
        await turns()
        (body,) = stage.heard()
        assert (type(body), body.body, body.more_body) == (ResponseBody, b"hello", False)

    played(act, concurrency=1)


def test_a_body_that_follows_soon_makes_one_message_with_its_start() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/middleware"))
        await turns()
        (start,) = [message for message in stage.heard() if type(message) is not Claim]
        assert (type(start), start.body, start.more_body) == (ResponseStart, b"hello", False)
        await stage.advance(3 * GRACE_S, GRACE_S)
        assert stage.heard() == []

    played(act)


def test_a_response_in_one_step_needs_no_timer() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/fast"))
        await turns()
        assert kinds(stage.heard()) == [ResponseStart]
        assert stage.worker._claims._heads._timer is None

    played(act)


# The application.


def test_every_stream_has_its_copy_of_the_state_of_the_lifespan() -> None:
    scopes: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await Application()._live(scope, receive, send)
            return
        scopes.append(scope)
        scope["state"]["mine"] = len(scopes)
        await send(START)
        await send(BODY)

    async def act(stage: Stage) -> None:
        stage.ask(get("/", "1"), get("/", "2"))
        await turns()
        assert [scope["state"] for scope in scopes] == [
            {"started": True, "mine": 1},
            {"started": True, "mine": 2},
        ]
        assert stage.worker.state == {"started": True}

    played(act, application=application)


def test_nothing_is_taken_before_the_application_has_started() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await loaded
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def main() -> None:
        nonlocal loaded
        stage = Stage(application)
        loaded = stage.loop.create_future()
        starting = asyncio.ensure_future(stage.worker.start())
        await stage.advance(1.0)
        assert not starting.done()
        assert stage.node.statistics()["pulls"] == 0
        loaded.set_result(None)
        await turns()
        await starting
        assert stage.node.statistics()["pulls"] == 2
        await stage.stop()

    loaded: asyncio.Future[None]
    run(main)


def test_an_application_that_cannot_start() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async def main() -> None:
        stage = Stage(application)
        with pytest.raises(StartupFailed, match="no database"):
            await stage.worker.start()
        assert stage.node.statistics()["pulls"] == 0
        await stage.stop()

    run(main)


def test_a_worker_that_is_told_to_stop_while_it_starts_takes_nothing() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        stage = Stage(application)
        starting = asyncio.ensure_future(stage.worker.start())
        await turns()
        await stage.stop()
        await starting
        await turns()
        assert stage.node.statistics()["pulls"] == 0
        assert stage.worker.statistics()["reads"] == 0

    run(main)


# How much it takes.


def test_no_more_is_taken_than_concurrency_allows() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(*(get("/wait", str(number)) for number in range(5)))
        await turns()
        assert stage.application.paths == ["/wait"] * 3
        assert stage.worker.free() == 0
        assert stage.worker.statistics() == {"streams": 3, "unanswered": 3, "ledger": 3, "free": 0, "reads": 0}
        stage.application.go()
        await turns()
        assert len(stage.application.paths) == 4
        for _ in range(4):
            stage.application.go()
            await turns()
        assert len(stage.application.paths) == 5
        assert stage.worker.free() == 3

    played(act, concurrency=3)


def test_those_that_have_begun_to_answer_keep_nobody_waiting_up_to_max_streams() -> None:
    async def act(stage: Stage) -> None:
        for number in range(5):
            stage.connect(str(number))
        await turns()
        assert stage.worker.statistics()["streams"] == 4
        assert stage.worker.free() == 0
        stage.tell(Disconnect("0123456789.0", 0, 0, 1000, ""))
        await turns()
        assert stage.application.events == ["disconnect 1000"]
        assert stage.worker.statistics()["streams"] == 4
        assert kinds(stage.heard()).count(WebSocketAccept) == 5

    played(act, concurrency=1, max_streams=4)


def test_a_slot_is_free_as_soon_as_the_answer_has_begun() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/late", "1"), get("/fast", "2"))
        await turns()
        assert stage.application.paths == ["/late"]
        stage.application.go()
        await turns()
        assert stage.application.paths == ["/late", "/fast"]
        stage.application.go()

    played(act, concurrency=1)


def test_clients_that_are_still_sending_their_bodies_keep_nobody_waiting() -> None:
    async def act(stage: Stage) -> None:
        names = "0123456789"
        stage.ask(*(get("/upload", name, more_body=True) for name in names))
        await turns(40)
        assert stage.application.paths == ["/upload"] * 10
        assert stage.worker.statistics() == {"streams": 10, "unanswered": 0, "ledger": 10, "free": 2, "reads": 1}
        stage.heard()
        stage.ask(get("/fast", "a"))
        await turns()
        assert kinds(stage.heard()) == [ResponseStart], "that is answered at once"
        stage.tell(*(RequestBody(f"0123456789.{name}", 0, 0, b"x", False) for name in names))
        await turns()
        assert stage.application.events == ["http.request"] * 10
        assert kinds(stage.heard()) == [ResponseStart] * 10
        assert stage.worker.free() == 2

    played(act, concurrency=2)


def test_a_slot_is_free_as_soon_as_its_upload_waits_again() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await mine._live(scope, receive, send)
            return
        mine.paths.append(scope["path"])
        await mine._until_told()
        await mine.upload(scope, receive, send)

    async def act(stage: Stage) -> None:
        stage.ask(get("/first", "1", more_body=True), get("/second", "2"))
        await turns()
        assert mine.paths == ["/first"], "which works, and has not asked for its body yet"
        mine.go()
        await turns()
        assert mine.paths == ["/first", "/second"]
        mine.go()
        stage.tell(RequestBody("0123456789.1", 0, 0, b"x", False))

    mine = Application()
    played(act, application=application, concurrency=1)


def test_max_streams_bounds_them_all_the_same() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(*(get("/upload", str(number), more_body=True) for number in range(5)))
        await turns(40)
        assert stage.application.paths == ["/upload"] * 3
        stage.tell(Disconnect("0123456789.0", 0, 0, 0, ""))
        await turns()
        assert stage.application.paths == ["/upload"] * 4
        for number in range(1, 5):
            stage.tell(Disconnect(f"0123456789.{number}", 0, 0, 0, ""))
            await turns()

    played(act, concurrency=2, max_streams=3)


def test_uploads_that_go_on_count_again_and_until_they_are_answered_nothing_is_taken() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await mine._live(scope, receive, send)
            return
        mine.paths.append(scope["path"])
        while (await receive())["more_body"]:
            pass
        await mine.wait(scope, receive, send)

    async def act(stage: Stage) -> None:
        stage.ask(*(get("/upload", name, more_body=True) for name in "1234"))
        await turns(40)
        assert (stage.worker.free(), stage.worker.unanswered) == (2, 4)
        stage.tell(*(RequestBody(f"0123456789.{name}", 0, 0, b"x", False) for name in "1234"))
        await turns()
        assert stage.worker.free() == -2
        # A read, for one, was outstanding; what it brings is served.
        stage.ask(*(get("/", name) for name in "abc"))
        await turns()
        assert mine.paths == ["/upload"] * 4 + ["/"]
        assert stage.worker.free() == -3
        for _ in range(3):
            mine.go()
            await turns()
        assert len(mine.paths) == 5
        for _ in range(4):
            mine.go()
            await turns()
        assert len(mine.paths) == 7
        assert stage.worker.free() == 2

    mine = Application()
    played(act, application=application, concurrency=2, pull_batch=1)


def test_the_limit_on_messages_is_that_of_the_settings() -> None:
    async def act(stage: Stage) -> None:
        stage.connect()
        await turns()
        stage.heard()
        stage.tell(WebSocketReceive("0123456789.1f", 0, 0, "four", None))
        stage.tell(WebSocketReceive("0123456789.1f", 0, 1, "fives", None))
        await turns()
        sent, close = stage.heard()
        assert (sent.text, close.code) == ("four", 1011)

    played(act, max_websocket_message_bytes=4)


def test_background_work_counts_against_max_streams_only() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(*(get("/background", str(number)) for number in range(3)))
        await turns()
        assert kinds(stage.heard()) == [ResponseStart] * 2
        assert stage.worker.statistics() == {"streams": 2, "unanswered": 0, "ledger": 0, "free": 0, "reads": 0}
        stage.application.go()
        await turns()
        assert len(stage.application.paths) == 3
        stage.application.go()
        stage.application.go()

    played(act, concurrency=1, max_streams=2)


@contextmanager
def taking_nothing(node: Any) -> Iterator[None]:
    """The node answers pushes, and has no room for their messages."""
    push = node.push
    node.push = lambda channel, payloads: push(channel, [])
    try:
        yield
    finally:
        node.push = push


def test_what_no_node_has_taken_yet_counts_as_held() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/fast", "1"), get("/fast", "2"), get("/fast", "3"))
        stage.worker.puller.hold()
        with taking_nothing(stage.node):
            stage.worker.puller.resume()
            await turns()
            assert stage.application.paths == ["/fast"] * 2
            assert stage.worker.statistics() == {"streams": 0, "unanswered": 0, "ledger": 2, "free": 0, "reads": 0}
            assert len(stage.ledger) == 2
        await stage.advance(0.1)
        assert stage.application.paths == ["/fast"] * 3
        assert stage.ledger == []

    played(act, max_streams=2, pull_batch=1)


def test_a_stream_whose_last_message_was_dropped_counts_as_held_no_longer(caplog: pytest.LogCaptureFixture) -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/fast", "1"), get("/fast", "2"), get("/fast", "3"))
        stage.worker.puller.hold()
        with taking_nothing(stage.node):
            for _ in range(LIMITS.capacity):
                stage.clusters.send(SERVER, encode(Claim("0123456789.9", 0, WORKER, SUPERVISOR)))
            stage.worker.puller.resume()
            await turns(40)
            assert stage.application.paths == ["/fast"] * 3
            assert stage.count("messages_dropped", "full") == 3
            assert (stage.worker.statistics()["ledger"], stage.worker.free(), stage.ledger) == (0, 2, [])
        # The server hears of it when it says that it has the streams.
        await stage.advance(0.2)
        stage.heard()
        stage.tell(Sync(SERVER, "", [SyncEntry("0123456789.1", 0, 0, 0)]))
        await turns()
        assert stage.heard() == [Release("0123456789.1", 0, WORKER, "gone")]

    played(act, max_streams=2, pull_batch=1)


def test_nothing_is_taken_while_it_is_held() -> None:
    async def act(stage: Stage) -> None:
        stage.worker.puller.hold()
        await stage.advance(1.5)
        stage.ask(get("/fast"))
        await turns()
        assert stage.application.paths == []
        stage.worker.puller.resume()
        await turns()
        assert stage.application.paths == ["/fast"]

    played(act)


# The ledger.


def test_the_ledger_names_what_is_held_until_the_node_has_the_end() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/wait", "1", attempt=1), get("/fast", "2"))
        assert stage.ledger == [(f"{SERVER}.1", 1), (f"{SERVER}.2", 0)], "it was written before anything was run"
        await turns()
        assert stage.ledger == [(f"{SERVER}.1", 1)]
        stage.application.go()
        await turns()
        assert stage.ledger == []

    played(act)


# Messages.


def test_the_body_of_a_request_and_its_windows() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/upload", more_body=True))
        await turns()
        assert kinds(stage.heard()) == [Claim]
        stage.tell(RequestBody("0123456789.1f", 0, 0, b"x" * 65536, True))
        await turns()
        assert kinds(stage.heard()) == [Window]
        stage.tell(RequestBody("0123456789.1f", 0, 1, b"x", False))
        await turns()
        assert kinds(stage.heard()) == [ResponseStart]
        assert stage.application.events == ["http.request"]

    played(act)


def test_a_server_that_is_lost_takes_its_streams_with_it() -> None:
    async def act(stage: Stage) -> None:
        other = "!east.9876543210.1"
        stage.connect("1")
        stage.node.push(channels.WEBSOCKET_CONNECT, [encode(websocket_connect(reply_channel=other))])
        await turns()
        stage.worker._servers.lose("0123456789")
        await turns()
        assert stage.application.events == ["disconnect 1006"]
        assert stage.ledger == [(other, 0)]

    played(act)


def test_a_later_attempt_takes_the_place_of_an_earlier_one() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/wait"))
        await turns()
        stage.ask(get("/wait", attempt=1))
        await turns()
        await stage.claim_time()
        assert [message.attempt for message in stage.heard()] == [1], "nobody listens to the first"
        assert stage.ledger == [(f"{SERVER}.1f", 1)]
        stage.application.go()
        await turns()
        assert stage.heard() == [], "nobody listens to the first"
        assert stage.worker.statistics()["streams"] == 1
        stage.application.go()
        await turns()
        (start,) = stage.heard()
        assert (type(start), start.attempt) == (ResponseStart, 1)

    played(act)


@pytest.mark.parametrize("attempt", [0, 1])
def test_an_attempt_that_comes_twice_or_too_late_is_dropped(attempt: int) -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/wait", attempt=1))
        await turns()
        stage.ask(get("/wait", attempt=attempt))
        await turns()
        assert len(stage.application.paths) == 1
        assert stage.count("messages_dropped", "gone") == 1
        stage.application.go()

    played(act)


def test_what_has_lain_unread_while_the_loop_stood_still_is_given_back(caplog: pytest.LogCaptureFixture) -> None:
    """Its server may have offered it once more, and another worker have begun it."""

    async def act(stage: Stage) -> None:
        stage.worker.puller.turned()
        stage.clock.rightNow += 0.6
        stage.ask(get("/fast"))
        await turns()
        assert stage.heard() == [Release("0123456789.1f", 0, stage.worker.home.inbox, UNREAD)]
        assert (stage.application.paths, stage.ledger) == ([], [])
        assert stage.count("messages_dropped", "withdrawn") == 1
        assert "1 request goes back to the queue" in caplog.text
        stage.worker.puller.turned()
        stage.ask(get("/fast", attempt=1))
        await turns()
        assert kinds(stage.heard()) == [ResponseStart]

    played(act)


@pytest.mark.parametrize(
    "channel",
    [
        "!north.0123456789.1",
        "north",
        "",
        "!east.short.1",
        "!east.0123456789.1\n",
        "!east.0123456789." + "1" * 300,
        "ä.b",
    ],
)
def test_a_request_that_nobody_could_be_answered_is_dropped_and_the_reading_goes_on(
    channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(stage: Stage) -> None:
        stage.ask(http_request(path="/fast", reply_channel=channel), get("/fast"))
        await turns()
        assert kinds(stage.heard()) == [ResponseStart]
        assert stage.count("messages_dropped", "undecodable") == 1

    played(act)
    assert len(problems(caplog)) == 1


def test_a_ledger_that_is_full_does_not_stop_a_request_that_was_taken(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        stage = Stage()
        ledger = Ledger(bytearray(Ledger.size(0)), 0)
        stage.worker = Worker(
            stage.settings, stage.clusters, stage.application, ledger, SUPERVISOR, stage.clock, stage.loop, lambda: 0.0
        )
        await stage.worker.start()
        stage.ask(get("/fast"))
        await turns()
        assert kinds(stage.heard()) == [ResponseStart]
        await stage.stop()

    run(main)
    assert problems(caplog) == [f"the ledger has no room for {SERVER}.1f"]


# The end.


def test_a_drain_waits_for_exchanges_and_background_work(caplog: pytest.LogCaptureFixture) -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/wait", "1"), get("/background", "2"))
        await turns()
        stopping = asyncio.ensure_future(stage.worker.stop())
        await stage.advance(4.0)
        stage.ask(get("/fast", "3"))
        await stage.advance(0.5)
        assert "/fast" not in stage.application.paths, "it takes nothing more"
        assert not stopping.done()
        stage.application.go()
        stage.application.go()
        await turns()
        await stage.advance(0.1)
        await stopping
        assert stage.application.events == ["background done", "shutdown"]
        assert kinds(stage.heard()) == [ResponseStart, Claim, ResponseStart]
        assert stage.node.withdraw(channels.HTTP_REQUEST, encode(get("/fast", "3"))).result

    played(act)
    assert problems(caplog) == []


def test_websockets_are_closed_with_1012_when_the_drain_is_over() -> None:
    async def act(stage: Stage) -> None:
        stage.connect()
        await turns()
        stage.heard()
        stopping = asyncio.ensure_future(stage.worker.stop())
        await stage.advance(4.9)
        assert stage.heard() == []
        await stage.advance(0.2)
        (close,) = stage.heard()
        assert (type(close), close.code) == (WebSocketClose, 1012)
        await turns()
        assert stage.application.events == ["disconnect 1012", "shutdown"]
        await stopping

    played(act)


def test_what_has_not_ended_in_time_is_cancelled_and_told_as_stopped(caplog: pytest.LogCaptureFixture) -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/wait", "1"), get("/begun", "2"))
        await stage.claim_time()
        stage.heard()
        stopping = asyncio.ensure_future(stage.worker.stop())
        await stage.advance(4.9)
        assert stage.application.events == []
        await stage.advance(0.2)
        await stopping
        assert stage.application.events == ["cancelled", "cancelled", "shutdown"]
        assert stage.heard() == [
            Release("0123456789.1", 0, WORKER, "stopped", 0, 0),
            Release("0123456789.2", 0, WORKER, "stopped", 0, 1),
        ]

    played(act)
    assert problems(caplog) == ["2 requests or WebSockets have not ended within drain_timeout: cancelling them"]


def test_one_that_minds_no_cancellation_is_abandoned_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/stubborn"))
        await stage.claim_time()
        stage.heard()
        stopping = asyncio.ensure_future(stage.worker.stop(1.0))
        await stage.advance(2.1)
        await stopping
        assert stage.application.events == ["minds no cancellation", "shutdown"]
        assert stage.heard() == [Release("0123456789.1f", 0, WORKER, "stopped", 0)]
        assert stage.ledger == []
        stage.application.go()
        await turns()

    played(act)
    assert problems(caplog) == [
        "1 request or WebSocket has not ended within drain_timeout: cancelling it",
        "GET '/stubborn' (!east.0123456789.1f): the application does not end when it is cancelled (a thread cannot "
        "be): abandoning it",
    ]
    assert {record.levelno for record in caplog.records} <= {logging.DEBUG, logging.INFO, logging.WARNING}


def test_a_superseded_one_is_cancelled_too() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/wait"))
        await turns()
        stage.ask(get("/wait", attempt=1))
        await turns()
        stage.heard()
        await stage.stop(0.0)
        assert stage.application.events == ["cancelled", "cancelled", "shutdown"]
        assert stage.heard() == [Release("0123456789.1f", 1, WORKER, "stopped", 0)]

    played(act)


def test_what_the_last_read_brings_is_served_or_handed_back() -> None:
    async def act(stage: Stage) -> None:
        stage.node.end_pulls = lambda: None  # type: ignore[method-assign]
        stopping = asyncio.ensure_future(stage.worker.stop())
        await turns()
        stage.ask(get("/wait", "1"))
        await turns()
        await stage.advance(0.5)
        assert stage.application.paths == ["/wait"]
        assert not stopping.done()
        stage.application.go()
        await stage.advance(1.1)
        await stopping
        assert kinds(stage.heard()) == [Claim, ResponseStart]

    played(act)


def test_a_handshake_that_the_last_read_brings_is_handed_back_before_the_application_sees_it() -> None:
    async def act(stage: Stage) -> None:
        stage.node.end_pulls = lambda: None  # type: ignore[method-assign]
        stopping = asyncio.ensure_future(stage.worker.stop())
        await turns()
        stage.connect()
        await turns()
        assert stage.heard() == [Release("0123456789.1f", 0, WORKER, "stopped", 0)]
        assert stage.application.paths == []
        assert stage.worker.statistics()["streams"] == 0
        assert stage.count("messages_delivered") == 1
        await stage.advance(1.1)
        await stopping

    played(act)


def test_so_is_a_later_attempt_and_the_earlier_one_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    async def act(stage: Stage) -> None:
        stage.node.end_pulls = lambda: None  # type: ignore[method-assign]
        stage.connect()
        await turns()
        stage.heard()
        stopping = asyncio.ensure_future(stage.worker.stop())
        await turns(1)
        assert stage.application.events == [], "it has not heard of its end yet"
        stage.node.push(channels.WEBSOCKET_CONNECT, [encode(websocket_connect(attempt=1))])
        await turns()
        assert stage.heard()[-1] == Release("0123456789.1f", 1, WORKER, "stopped", 0)
        await stage.advance(1.1)
        await stopping
        assert stage.application.paths == ["/chat"]

    played(act)
    assert problems(caplog) == []


def test_streams_still_hear_their_server_while_they_drain() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/upload", more_body=True))
        await turns()
        stopping = asyncio.ensure_future(stage.worker.stop())
        await stage.advance(1.0)
        stage.tell(RequestBody("0123456789.1f", 0, 0, b"x", False))
        await stage.advance(0.1)
        await stopping
        assert kinds(stage.heard()) == [Claim, ResponseStart]

    played(act)


def test_the_end_waits_until_the_node_has_all() -> None:
    async def act(stage: Stage) -> None:
        push, full = stage.node.push, True

        def refusing(channel: str, payloads: Any) -> Any:
            return push(channel, [] if full else payloads)

        stage.node.push = refusing  # type: ignore[method-assign]
        push(channels.HTTP_REQUEST, [encode(get("/fast"))])
        await turns()
        stopping = asyncio.ensure_future(stage.worker.stop())
        await stage.advance(1.0)
        assert not stopping.done()
        full = False
        await stage.advance(1.5)
        await stopping
        assert kinds(stage.heard()) == [ResponseStart]

    played(act)


@pytest.mark.parametrize("follows", [True, False])
def test_the_end_waits_until_a_server_whose_node_is_gone_says_where_it_is(
    follows: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ifserver.layers.inbox.random.choice", lambda nodes: nodes[-1])

    async def main() -> None:
        stage = Stage(nodes=2)
        await stage.worker.start()
        stage.ask(get("/wait"))
        await stage.claim_time()
        stage.heard()
        east, west = stage.nodes
        east.stop()
        await stage.advance(28.0, 0.25)
        stage.application.go()
        stopping = asyncio.ensure_future(stage.worker.stop())
        await stage.advance(3.0, 0.25)
        assert not stopping.done()
        west.beat(channels.process_of(SERVER), b"", 1e6)
        moved = Sync(SERVER.replace("east", "west"), "", [SyncEntry("0123456789.1f", 0, 0, 0)], 1)
        if follows:
            west.push(stage.clusters.home.inbox, [encode(moved)])
        await stage.advance(5.0, 0.25)
        await stopping
        answers: list[Pulled | None] = []
        west.pull([moved.sender], 1000, 0.0).addCallback(answers.append)
        stage.clock.advance(0.0)
        (pulled,) = answers
        found = [decode_for_server(payload) for payload in pulled.payloads] if pulled is not None else []
        assert (ResponseStart in kinds(found)) is follows

    run(main)
    assert ("could not be sent before the end" in caplog.text) is not follows


def test_the_end_does_not_wait_for_ever_for_a_node(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        stage = Stage()
        await stage.worker.start()
        push = stage.node.push
        stage.node.push = lambda channel, payloads: push(channel, [])  # type: ignore[method-assign]
        push(channels.HTTP_REQUEST, [encode(get("/fast"))])
        await turns()
        stopping = asyncio.ensure_future(stage.worker.stop())
        await stage.advance(2.2)
        await stopping
        assert len(stage.ledger) == 1, "its supervisor will tell"

    run(main)
    assert problems(caplog) == ["1 messages could not be sent before the end"]


def test_an_idle_worker_stops_at_once() -> None:
    async def act(stage: Stage) -> None:
        stopping = asyncio.ensure_future(stage.worker.stop())
        await turns(30)
        assert stopping.done()

    played(act)


def test_settings_that_would_hold_nothing_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        WorkerSettings(application="a:b", max_streams=0)
