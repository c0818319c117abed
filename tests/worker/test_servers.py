"""What a worker and the servers of its streams tell each other once a second, and what a server's death means."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ifserver import channels
from ifserver.errors import ClientDisconnected
from ifserver.flow_control import PIECE_BYTES
from ifserver.layers.accounting import SYNC_ENTRIES, Accounting
from ifserver.layers.node import Pulled, Pushed
from ifserver.messages import (
    Claim,
    Disconnect,
    Message,
    Release,
    RequestBody,
    ResponseStart,
    Sync,
    SyncEntry,
    WebSocketReceive,
    Window,
    decode_for_server,
    encode,
    is_counted,
)
from ifserver.metrics import Counters
from ifserver.worker.servers import Inbox
from tests.worker.stage import SERVER, STREAM, SUPERVISOR, WORKER, http_request, turns, units, websocket_connect
from tests.worker.test_worker import BODY, START, Stage, get, played

OTHER_SERVER = "!west.9876543210"


class Application:
    """One that sends more than its window, one that listens, and one that goes on after its client has left."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.lingering: list[asyncio.Future[None]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await getattr(self, scope["path"].strip("/"))(scope, receive, send)

    async def chat(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] != "websocket.disconnect":
            self.events.append(event["text"])
        self.events.append(event["code"])

    async def flood(self, scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            for _ in range(10):
                await send({**BODY, "body": bytes(PIECE_BYTES), "more_body": True})
            await send(BODY)
        except ClientDisconnected:
            self.events.append("gone")

    async def linger(self, scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({**BODY, "more_body": True})
        self.lingering.append(asyncio.get_running_loop().create_future())
        await self.lingering[-1]

    async def background(self, scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(BODY)
        self.lingering.append(asyncio.get_running_loop().create_future())
        await self.lingering[-1]


def said(stage: Stage, server: str = SERVER) -> list[Any]:
    """All that the server has been sent since the last time."""
    answers: list[Pulled | None] = []
    node = next(node for node in stage.nodes if node.name == channels.node_of(server))
    node.pull([server], 10_000, 0.0).addCallback(answers.append)
    stage.clock.advance(0.0)
    (pulled,) = answers
    return [decode_for_server(each) for each in pulled.payloads if is_counted(each)] if pulled is not None else []


def told(stage: Stage, server: str = SERVER) -> list[list[SyncEntry]]:
    """What each `Sync` since the last time has said; other messages are thrown away."""
    syncs = [message for message in said(stage, server) if isinstance(message, Sync)]
    assert {(sync.sender, sync.supervisor) for sync in syncs} <= {(stage.clusters.home.inbox, SUPERVISOR)}
    return [sync.entries for sync in syncs]


def answers(stage: Stage, server: str = SERVER) -> list[Any]:
    """What was sent to the server but `Sync`."""
    return [message for message in said(stage, server) if not isinstance(message, Sync)]


async def run(stage: Stage, seconds: float) -> None:
    await stage.advance(seconds, step=0.25)


async def sync(stage: Stage, *entries: SyncEntry, server: str = SERVER) -> None:
    """A server tells how far it is."""
    stage.tell(Sync(server, "", list(entries)))
    await turns()


async def leave(stage: Stage, *streams: str, attempt: int = 0, seq: int = 0) -> None:
    """The clients leave."""
    for stream in streams or (STREAM,):
        message = Disconnect(stream, attempt, seq, 1001, "")
        stage.clusters.home.node.push(stage.clusters.home.inbox, [encode(message)])
    while any(stage.worker._streams.get(stream) is not None for stream in streams):
        await turns(1)
    await turns()


def alive(stage: Stage, server: str, lives: bool = True) -> None:
    node = next(node for node in stage.nodes if node.name == channels.node_of(server))
    if lives:
        node.beat(channels.process_of(server), b"", 1e6)
    else:
        del node._beats[channels.process_of(server)]


# What it tells.


def test_a_stream_that_does_not_move_is_told_of_three_times() -> None:
    async def act(stage: Stage) -> None:
        stage.connect()
        await run(stage, 20)
        assert told(stage) == [[SyncEntry(STREAM, 0, 1, 0)]] * 3
        await leave(stage)

    played(act, application=Application())


def test_a_server_that_has_moved_to_a_node_unknown_here_costs_no_other_anything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def act(stage: Stage) -> None:
        alive(stage, SERVER)
        alive(stage, OTHER_SERVER)
        for reply_channel in (f"{SERVER}.1", f"{OTHER_SERVER}.1"):
            request = websocket_connect(reply_channel=reply_channel)
            stage.node.push(channels.WEBSOCKET_CONNECT, [encode(request)])
        await run(stage, 2)
        told(stage), told(stage, OTHER_SERVER)
        nowhere = "!north.0123456789"
        entries = [SyncEntry("0123456789.1", 0, 0, 256), SyncEntry("0123456789.x", 0, 0, 0)]
        home = stage.clusters.home
        for _ in range(2):
            home.node.push(home.inbox, [encode(Sync(nowhere, "", entries))])
            await run(stage, 60)
        assert told(stage)
        assert told(stage, OTHER_SERVER)
        assert len(stage.worker._servers.watched()) == 2
        assert [record.getMessage() for record in caplog.records if "north" in record.getMessage()] == [
            "a server receives on node 'north', which is not configured here"
        ]
        await leave(stage, "0123456789.1", "9876543210.1")

    played(act, application=Application(), nodes=2)


def test_one_that_has_moved_is_told_of_again() -> None:
    async def act(stage: Stage) -> None:
        stage.connect()
        await run(stage, 20)
        said(stage)
        stage.tell(WebSocketReceive(STREAM, 0, 0, "hello", None))
        await run(stage, 20)
        assert told(stage) == [[SyncEntry(STREAM, 0, 1, units(5))]] * 3
        await leave(stage, seq=1)

    played(act, application=Application())


def test_it_is_told_of_within_two_seconds_and_not_before_it_is_one_old() -> None:
    async def act(stage: Stage) -> None:
        await run(stage, 0.75)
        stage.connect()
        await run(stage, 1)
        assert told(stage) == []
        await run(stage, 1)
        assert told(stage) == [[SyncEntry(STREAM, 0, 1, 0)]]
        await leave(stage)

    played(act, application=Application())


def test_short_streams_cost_nothing() -> None:
    async def act(stage: Stage) -> None:
        for number in range(10):
            stage.ask(get("/linger", str(number)))
            await run(stage, 0.75)
            stage.worker.application.lingering.pop().set_result(None)  # type: ignore[attr-defined]
        assert told(stage) == []

    played(act, application=Application())


def test_one_that_waits_for_credit_is_told_of_every_second() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/flood"))
        await run(stage, 20)
        entries = told(stage)
        assert len(entries) >= 18
        assert {tuple(each) for each in entries} == {(SyncEntry(STREAM, 0, 4, 0),)}
        await leave(stage)

    played(act, application=Application())


def test_background_work_is_told_of_too_for_its_last_message_may_be_lost() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/background"))
        await run(stage, 4)
        assert told(stage) != []
        stage.worker.application.lingering.pop().set_result(None)  # type: ignore[attr-defined]

    played(act, application=Application())


def test_one_that_is_lost_is_told_of_no_more() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/linger"))
        await run(stage, 3)
        await leave(stage)
        said(stage)
        await run(stage, 70)
        assert said(stage) == []
        assert stage.worker._servers.watched() == {}
        stage.worker.application.lingering.pop().set_result(None)  # type: ignore[attr-defined]

    played(act, application=Application())


def test_once_a_minute_all_is_told() -> None:
    async def act(stage: Stage) -> None:
        stage.connect()
        await run(stage, 10)
        said(stage)
        await run(stage, 45)
        assert told(stage) == []
        await run(stage, 10)
        assert told(stage) == [[SyncEntry(STREAM, 0, 1, 0)]]
        await leave(stage)

    played(act, application=Application())


@pytest.mark.parametrize("which", ["ours", "the server's"])
def test_after_a_new_epoch_of_either_node_all_is_told(which: str) -> None:
    async def act(stage: Stage) -> None:
        ours = stage.clusters.home.node
        theirs = next(node for node in stage.nodes if node is not ours)
        server = f"!{theirs.name}.9876543210"
        alive(stage, server)
        request = websocket_connect(reply_channel=f"{server}.1")
        stage.node.push(channels.WEBSOCKET_CONNECT, [encode(request)])
        await run(stage, 10)
        assert told(stage, server)
        node: Any = ours if which == "ours" else theirs
        node.epoch = "another"
        await run(stage, 5)
        assert told(stage, server) == [[SyncEntry("9876543210.1", 0, 1, 0)]]
        await leave(stage, "9876543210.1")

    played(act, application=Application(), nodes=2)


def test_a_server_that_moves_is_told_of_everything_there_at_once() -> None:
    async def act(stage: Stage) -> None:
        moved = f"!west.{channels.process_of(SERVER)}"
        alive(stage, SERVER)
        alive(stage, moved)
        stage.node.push(channels.WEBSOCKET_CONNECT, [encode(websocket_connect(reply_channel=f"{SERVER}.1"))])
        await run(stage, 20)
        home = stage.clusters.home
        home.node.push(home.inbox, [encode(Sync(moved, "", [SyncEntry("0123456789.1", 0, 0, 256)], moves=1))])
        await run(stage, 1.5)
        assert told(stage, moved)[:1] == [[SyncEntry("0123456789.1", 0, 1, 0)]]
        await leave(stage, "0123456789.1")

    played(act, application=Application(), nodes=2)


def test_what_a_server_said_before_it_moved_and_comes_late_does_not_move_it_back() -> None:
    async def act(stage: Stage) -> None:
        moved = f"!west.{channels.process_of(SERVER)}"
        alive(stage, SERVER)
        alive(stage, moved)
        stage.node.push(channels.WEBSOCKET_CONNECT, [encode(websocket_connect(reply_channel=f"{SERVER}.1"))])
        await run(stage, 5)
        home = stage.clusters.home
        entries = [SyncEntry("0123456789.1", 0, 0, 256)]
        for late in (Sync(moved, "", entries, moves=1), Sync(SERVER, "", entries)):
            home.node.push(home.inbox, [encode(late)])
        await run(stage, 3)
        assert stage.worker._servers.watched() == {"west": {"0123456789": "0123456789"}}
        home.node.push(home.inbox, [encode(Sync(SERVER, "", entries, moves=2))])
        await run(stage, 3)
        assert stage.worker._servers.watched() == {"east": {"0123456789": "0123456789"}}, "it has moved back"
        await leave(stage, "0123456789.1")

    played(act, application=Application(), nodes=2)


def test_each_server_is_told_of_its_own() -> None:
    async def act(stage: Stage) -> None:
        alive(stage, OTHER_SERVER)
        for reply_channel in (f"{SERVER}.1", f"{OTHER_SERVER}.1", f"{SERVER}.2"):
            request = websocket_connect(reply_channel=reply_channel)
            stage.node.push(channels.WEBSOCKET_CONNECT, [encode(request)])
        await run(stage, 2)
        assert told(stage) == [[SyncEntry("0123456789.1", 0, 1, 0), SyncEntry("0123456789.2", 0, 1, 0)]]
        assert told(stage, OTHER_SERVER) == [[SyncEntry("9876543210.1", 0, 1, 0)]]
        assert stage.worker._servers.watched() == {
            "east": {"0123456789": "0123456789"},
            "west": {"9876543210": "9876543210"},
        }
        await leave(stage, "0123456789.1", "9876543210.1", "0123456789.2")

    played(act, application=Application(), nodes=2)


def test_a_message_speaks_of_a_thousand_streams() -> None:
    async def act(stage: Stage) -> None:
        names = [str(number) for number in range(SYNC_ENTRIES + 1)]
        for some in (names[:500], names[500:]):
            # The node holds no more than a thousand messages for the server, which are read in between.
            for name in some:
                stage.connect(name)
            await run(stage, 0.25)
            said(stage)
        await run(stage, 2)
        first, second = told(stage)
        assert [len(first), len(second)] == [SYNC_ENTRIES, 1]
        assert {entry.stream for entry in first + second} == {f"0123456789.{name}" for name in names}
        await leave(stage, *[f"0123456789.{name}" for name in names])

    played(act, application=Application(), concurrency=2000, pull_batch=2000)


class Held:
    """Pushes to one inbox that the node takes when the test says so."""

    def __init__(self, stage: Stage, node: int, inbox: str) -> None:
        self._waiting: list[tuple[list[bytes], Deferred[Pushed]]] = []
        self._push = push = stage.nodes[node].push
        self._inbox = inbox

        def held(channel: str, payloads: Any) -> Deferred[Pushed]:
            if channel != inbox:
                return push(channel, payloads)
            self._waiting.append((list(payloads), Deferred()))
            return self._waiting[-1][1]

        stage.nodes[node].push = held  # type: ignore[method-assign]

    def __len__(self) -> int:
        return len(self._waiting)

    async def take(self) -> list[Message]:
        """The oldest push is taken; what was in it."""
        payloads, pushing = self._waiting.pop(0)
        pushing.callback(Pushed(len(payloads), len(payloads)))
        await turns()
        return [decode_for_server(payload) for payload in payloads if is_counted(payload)]


def test_nothing_more_is_told_while_the_node_has_not_taken_the_last() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/flood"))
        await run(stage, 1)
        held = Held(stage, 0, SERVER)
        await run(stage, 10)
        assert len(held) == 1
        [first] = await held.take()
        await run(stage, 10)
        [second] = await held.take()
        assert first == second == Sync(WORKER, SUPERVISOR, [SyncEntry(STREAM, 0, 4, 0)])
        await leave(stage)
        assert len(held) == 0

    played(act, application=Application())


def test_a_server_that_takes_nothing_holds_no_other_back() -> None:
    async def act(stage: Stage) -> None:
        alive(stage, OTHER_SERVER)
        stage.ask(get("/flood"), http_request(path="/flood", reply_channel=f"{OTHER_SERVER}.1"))
        await run(stage, 1)
        held = Held(stage, 1, OTHER_SERVER)
        said(stage)
        await run(stage, 10)
        assert len(told(stage)) == 10
        assert len(held) == 1
        await held.take()
        await leave(stage, STREAM, "9876543210.1")

    played(act, application=Application(), nodes=2)


def test_a_new_epoch_while_the_last_is_under_way_is_not_forgotten() -> None:
    async def act(stage: Stage) -> None:
        stage.connect()
        await run(stage, 20)
        stage.tell(WebSocketReceive(STREAM, 0, 0, "hello", None))
        held = Held(stage, 0, SERVER)
        await run(stage, 2)
        stage.node.epoch = "another"
        await run(stage, 2)
        assert len(held) == 1
        for _ in range(3):
            await held.take()
            await run(stage, 1)
        # Told three times because it has moved; the second one was also because of the epoch.
        assert len(held) == 0
        await leave(stage, seq=1)

    played(act, application=Application())


def test_one_that_was_never_taken_holds_the_next_back_for_a_minute() -> None:
    """The outbox may have had no room for it, and then nobody says so."""

    async def act(stage: Stage) -> None:
        stage.ask(get("/flood"))
        await run(stage, 3)
        stage.worker._servers._servers[SERVER].telling = True
        said(stage)
        await run(stage, 55)
        assert told(stage) == []
        await run(stage, 5)
        assert told(stage) != []
        await leave(stage)

    played(act, application=Application())


# What it is told.


def test_what_is_not_held_here_is_answered_with_release() -> None:
    async def act(stage: Stage) -> None:
        await sync(stage, SyncEntry(STREAM, 3, 0, 0), SyncEntry("0123456789.zz", 0, 9, 9))
        assert answers(stage) == [Release(STREAM, 3, WORKER, "gone"), Release("0123456789.zz", 0, WORKER, "gone")]

    played(act)


def test_one_of_which_a_later_attempt_is_elsewhere_is_let_go() -> None:
    async def act(stage: Stage) -> None:
        stage.connect()
        await turns()
        said(stage)
        await sync(stage, SyncEntry(STREAM, 1, 0, 0))
        assert answers(stage) == [Release(STREAM, 1, WORKER, "gone")]
        assert stage.worker.application.events == [1006]  # type: ignore[attr-defined]

    played(act, application=Application())


def test_what_is_said_of_an_attempt_that_is_over_is_nothing() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/linger", attempt=1))
        await turns()
        said(stage)
        await sync(stage, SyncEntry(STREAM, 0, 9, 9))
        assert answers(stage) == []
        stage.worker.application.lingering.pop().set_result(None)  # type: ignore[attr-defined]

    played(act, application=Application())


@pytest.mark.parametrize("sent", [0, 1])
def test_one_that_is_not_behind_goes_on(sent: int) -> None:
    async def act(stage: Stage) -> None:
        stage.connect()
        stage.tell(*[WebSocketReceive(STREAM, 0, 0, "one", None)] * sent)
        await turns()
        await sync(stage, SyncEntry(STREAM, 0, sent, 0))
        stage.tell(WebSocketReceive(STREAM, 0, sent, "last", None))
        await turns()
        assert stage.worker.application.events == [*["one"] * sent, "last"]  # type: ignore[attr-defined]
        await leave(stage, seq=sent + 1)

    played(act, application=Application())


def test_one_whose_last_message_was_lost_is_broken_on_both_sides() -> None:
    async def act(stage: Stage) -> None:
        stage.connect()
        await turns()
        said(stage)
        await sync(stage, SyncEntry(STREAM, 0, 1, 0))
        assert answers(stage) == [Release(STREAM, 0, WORKER, "gap")]
        assert stage.worker.application.events == [1006]  # type: ignore[attr-defined]

    played(act, application=Application())


def test_the_rest_of_a_body_that_was_lost_is_missed() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/upload", more_body=True))
        stage.tell(RequestBody(STREAM, 0, 0, b"a", True))
        await turns()
        await sync(stage, SyncEntry(STREAM, 0, 1, 0))
        assert [type(each) for each in answers(stage)] == [Claim]
        await sync(stage, SyncEntry(STREAM, 0, 2, 0))
        assert [each.reason for each in answers(stage)] == ["gap"]
        assert stage.application.events == ["http.disconnect"]

    played(act)


def test_credit_that_was_lost_is_given_again() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/flood"))
        await turns()
        assert len([each for each in answers(stage) if not isinstance(each, Claim)]) == 4
        await sync(stage, SyncEntry(STREAM, 0, 0, 10**9))
        assert len(answers(stage)) == 4
        await leave(stage)
        assert stage.worker.application.events == ["gone"]  # type: ignore[attr-defined]

    played(act, application=Application())


def test_a_release_that_was_lost_is_said_again() -> None:
    """The application goes on after the stream was let go of, and the server has not heard of it."""

    async def act(stage: Stage) -> None:
        stage.ask(get("/linger"))
        await turns()
        stage.tell(RequestBody(STREAM, 0, 7, b"", False))
        await turns()
        assert answers(stage)[-1] == Release(STREAM, 0, WORKER, "gap")
        await sync(stage, SyncEntry(STREAM, 0, 8, 0))
        assert answers(stage) == [Release(STREAM, 0, WORKER, "gone")]
        stage.worker.application.lingering.pop().set_result(None)  # type: ignore[attr-defined]

    played(act, application=Application())


# A server's death.


def test_an_idle_worker_neither_beats_nor_asks() -> None:
    async def act(stage: Stage) -> None:
        stage.node._beats.clear()
        await run(stage, 20)
        assert stage.node._beats == {}

    played(act)


def test_the_applications_of_a_dead_server_see_1006() -> None:
    async def act(stage: Stage) -> None:
        stage.connect()
        stage.ask(get("/flood", "2"))
        await run(stage, 10)
        said(stage)
        assert stage.worker.application.events == []  # type: ignore[attr-defined]
        alive(stage, SERVER, False)
        await run(stage, 2.25)
        assert sorted(map(str, stage.worker.application.events)) == ["1006", "gone"]  # type: ignore[attr-defined]
        # It may only have been frozen, and then it lets go as well.
        released = [each for each in answers(stage) if isinstance(each, Release)]
        assert {(each.stream, each.attempt, each.reason) for each in released} == {
            (STREAM, 0, "dead"),
            ("0123456789.2", 0, "dead"),
        }
        assert stage.ledger == []

    played(act, application=Application())


def test_whoever_died_together_with_its_node_keeps_no_room_here() -> None:
    async def act(stage: Stage) -> None:
        stage.connect()
        stage.ask(get("/linger", "2"))
        await run(stage, 2)
        stage.node.stop()
        stage.worker.application.lingering.pop().set_result(None)  # type: ignore[attr-defined]
        await run(stage, 30)
        assert len(stage.ledger) == 2
        await run(stage, 10)
        assert stage.ledger == []
        assert stage.worker.application.events == [1006]  # type: ignore[attr-defined]
        # It is sent all the same, should the node come back.
        assert stage.clusters.waiting() > 0
        stage.node.start()
        await turns()

    played(act, application=Application(), nodes=2)


def test_what_is_under_way_to_another_address_of_a_server_keeps_no_ended_stream_open() -> None:
    async def act(stage: Stage) -> None:
        pushing: Deferred[Pushed] = Deferred()
        stage.nodes[1].push = lambda *_: pushing  # type: ignore[method-assign]
        stage.clusters.send(f"!west.{channels.process_of(SERVER)}", encode(Release(STREAM, 0, WORKER, "gone")))
        await turns()
        # The worker may receive on either node.
        told = Sync(SERVER, "", [SyncEntry("0123456789.2", 0, 0, 0)])
        stage.worker._servers.deliver(stage.clusters.home.inbox, [encode(told)])
        await turns()
        assert answers(stage) == [Release("0123456789.2", 0, stage.clusters.home.inbox, "gone")]
        pushing.callback(Pushed(1, 1))

    played(act, nodes=2)


def test_another_servers_streams_go_on() -> None:
    async def act(stage: Stage) -> None:
        alive(stage, OTHER_SERVER)
        stage.connect()
        request = websocket_connect(reply_channel=f"{OTHER_SERVER}.1")
        stage.node.push(channels.WEBSOCKET_CONNECT, [encode(request)])
        await run(stage, 5)
        alive(stage, OTHER_SERVER, False)
        await run(stage, 3)
        assert stage.worker.application.events == [1006]  # type: ignore[attr-defined]
        message = WebSocketReceive(STREAM, 0, 0, "still here", None)
        stage.clusters.home.node.push(stage.clusters.home.inbox, [encode(message)])
        await turns()
        assert stage.worker.application.events == [1006, "still here"]  # type: ignore[attr-defined]
        await leave(stage, seq=1)

    played(act, application=Application(), nodes=2)


def test_a_response_that_is_complete_has_no_server_to_lose() -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/background"))
        await run(stage, 2)
        assert [type(each) for each in answers(stage)] == [ResponseStart]
        stage.worker._servers.lose("0123456789")
        await turns()
        assert answers(stage) == []
        stage.worker.application.lingering.pop().set_result(None)  # type: ignore[attr-defined]

    played(act, application=Application())


class FakeStream:
    """Notes what it hears."""

    def __init__(self, attempt: int = 0) -> None:
        self.link = self
        self.attempt = attempt
        self.heard: list[Any] = []
        self.answer: str | None = None

    def arrived(self, message: Any) -> str | None:
        if self.answer == "raise":
            raise ValueError("a defect")
        self.heard.append(message)
        return self.answer

    def consumed(self, total: int) -> None:
        self.heard.append(("consumed", total))

    def lose(self) -> None:
        self.heard.append("lose")


class InboxStage:
    """An inbox, and a stream that it knows."""

    def __init__(self) -> None:
        self.stream = FakeStream()
        self.streams: dict[str, Any] = {STREAM: self.stream}
        self.counters = Counters()
        self.syncs: list[Sync] = []
        clusters: Any = None  # no receipt is sent
        self.accounting = Accounting(clusters, Clock(), self.counters)
        self.inbox = Inbox(self.streams, self.syncs.append, self.accounting, self.counters)

    def push(self, *messages: Any) -> None:
        self.inbox.deliver(WORKER, [m if isinstance(m, bytes) else encode(m) for m in messages])

    def counted(self) -> dict[str, int]:
        return self.counters.statistics()


def piece_of_body(seq: int = 0, attempt: int = 0, stream: str = STREAM) -> RequestBody:
    return RequestBody(stream, attempt, seq, b"x", True)


def test_messages_go_to_their_stream_in_order() -> None:
    stage = InboxStage()
    leaving = Disconnect(STREAM, 0, 2, 1000, "")
    stage.push(piece_of_body(0))
    stage.push(piece_of_body(1), leaving)
    assert stage.stream.heard == [piece_of_body(0), piece_of_body(1), leaving]
    assert stage.counted() == {"messages_delivered": 3}


def test_windows_and_releases() -> None:
    stage = InboxStage()
    stage.push(Window(STREAM, 0, WORKER, 700), Release(STREAM, 0, WORKER, "gone"))
    assert stage.stream.heard == [("consumed", 700), "lose"]


def test_what_is_for_no_stream_or_for_another_attempt_is_gone() -> None:
    stage = InboxStage()
    stage.push(
        piece_of_body(stream="0123456789.2"),
        piece_of_body(attempt=1),
        Window(STREAM, 1, WORKER, 1),
        Release(STREAM, 2, WORKER, ""),
        Window("0123456789.2", 0, WORKER, 1),
    )
    assert stage.stream.heard == []
    assert stage.counted() == {"messages_dropped{gone}": 5}


def test_a_second_copy_is_counted_apart() -> None:
    stage = InboxStage()
    stage.stream.answer = "repeated"
    stage.push(piece_of_body(), piece_of_body())
    assert stage.counted() == {"messages_repeated": 2}


def test_why_a_stream_drops_a_message_is_counted() -> None:
    stage = InboxStage()
    stage.stream.answer = "gap"
    stage.push(piece_of_body(), piece_of_body())
    assert stage.counted() == {"messages_dropped{gap}": 2}


def test_what_servers_say_of_all_streams_is_handed_on() -> None:
    stage = InboxStage()
    sync = Sync("!east.0123456789", "", [SyncEntry(STREAM, 0, 4, 900)])
    stage.push(sync)
    assert stage.syncs == [sync]
    assert stage.counted() == {"messages_delivered": 1}


def test_what_does_not_decode_is_dropped_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    stage = InboxStage()
    stage.push(b"nonsense", b"", piece_of_body())
    stage.push(b"\x01\xc0")
    assert stage.stream.heard == [piece_of_body()]
    assert stage.counted() == {"messages_delivered": 1, "messages_dropped{undecodable}": 3}
    assert [record.getMessage() for record in caplog.records] == [
        "dropped a message to !east.k3v9x2aq7m that cannot be decoded; further ones are only counted: "
        "format version 6e, expected 01"
    ]


def test_a_defect_of_ours_concerns_its_own_stream(caplog: pytest.LogCaptureFixture) -> None:
    stage = InboxStage()
    other = FakeStream()
    stage.streams["0123456789.2"] = other
    stage.stream.answer = "raise"
    stage.push(piece_of_body(), piece_of_body(stream="0123456789.2"))
    assert len(other.heard) == 1
    assert "ValueError: a defect" in caplog.text
