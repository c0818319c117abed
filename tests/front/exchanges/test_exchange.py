"""What streams ask for is done: offers, withdrawals, deadlines, and what is said to whom."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, fail

from ifserver import channels
from ifserver import messages as m
from ifserver.errors import NodeUnreachable, PushInDoubt
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Pushed
from tests.front.fakes import GET, HANDSHAKE, NODE, SERVER, TEXT, UPTIME_S, WORKER, World, frame, of


class Doubtful(MemoryNode):
    """A node whose connection breaks while it is asked."""

    pushes_in_doubt = 0
    withdrawals: list[Deferred[bool]] | None = None

    def push(self, channel, payloads):  # type: ignore[no-untyped-def]
        if self.pushes_in_doubt and not channels.is_inbox(channel):
            self.pushes_in_doubt -= 1
            failed: Deferred[Pushed] = fail(PushInDoubt("gone"))
            return failed
        return super().push(channel, payloads)

    def withdraw(self, channel, payload):  # type: ignore[no-untyped-def]
        if self.withdrawals is None:
            return super().withdraw(channel, payload)
        self.withdrawals.append(Deferred())
        return self.withdrawals[-1]


@pytest.fixture
def world() -> World:
    """A world with a doubtful node."""
    return World(node=Doubtful, queue_timeout_s=30)


def doubt(world: World, pushes: int = 0) -> Doubtful:
    node = world.node
    assert isinstance(node, Doubtful)
    node.pushes_in_doubt = pushes
    return node


def test_an_offer_names_the_stream_and_its_deadline() -> None:
    world = World(queue_timeout_s=30)
    world.client(GET)
    first = world.worker.job().request
    assert first.reply_channel == f"!{NODE}.{SERVER}.1"
    assert (first.attempt, first.deadline) == (0, UPTIME_S + 30)
    world.client(HANDSHAKE)
    second = world.worker.job(channels.WEBSOCKET_CONNECT).request
    assert second.reply_channel == f"!{NODE}.{SERVER}.2"
    assert second.deadline == UPTIME_S + 30


def test_a_push_in_doubt_is_repeated_where_that_does_no_harm(world: World) -> None:
    doubt(world, 1)
    client = world.client(GET)
    job = world.worker.job()
    assert job.request.attempt == 1
    job.respond(body=b"ok")
    assert client.received().endswith(b"ok")
    client.leave()
    world.assert_empty()


def test_a_push_in_doubt_of_a_post_is_waited_for(world: World) -> None:
    doubt(world, 1)
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
    assert not world.worker.jobs()
    assert client.received() == b""
    world.advance(30.1)
    world.advance(0.3)
    assert client.received().startswith(b"HTTP/1.1 504 ")
    client.leave()
    world.assert_empty()


def test_twice_in_doubt_is_not_tried_again(world: World) -> None:
    doubt(world, 2)
    client = world.client(GET)
    assert not world.worker.jobs()
    world.advance(30.1)
    world.advance(0.3)
    assert client.received().startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize("answer", [True, False, NodeUnreachable("gone"), PushInDoubt("gone")])
def test_the_answer_of_a_withdrawal(world: World, answer: bool | Exception) -> None:
    node = doubt(world)
    node.withdrawals = []
    client = world.client(GET)
    world.advance(30.1)
    (withdrawal,) = node.withdrawals
    assert client.received() == b""
    if isinstance(answer, bool):
        withdrawal.callback(answer)
    else:
        withdrawal.errback(answer)
    if answer is False:
        # Whoever has it may be about to say so.
        assert client.received() == b""
        world.advance(0.3)
    assert client.received().startswith(b"HTTP/1.1 503 " if answer is True else b"HTTP/1.1 504 ")
    assert world.counters.value("messages_dropped", "withdrawn") == (answer is True)


def test_a_claim_that_crosses_a_withdrawal_counts(world: World) -> None:
    node = doubt(world)
    node.withdrawals = []
    client = world.client(GET)
    job = world.worker.job()
    world.advance(30.1)
    job.claim()
    node.withdrawals[0].callback(False)
    assert client.received() == b""
    job.respond(body=b"ok")
    assert client.received().endswith(b"ok")
    client.leave()
    world.assert_empty()


def test_whoever_has_taken_it_at_the_last_moment_may_claim_it_a_moment_later(world: World) -> None:
    node = doubt(world)
    node.withdrawals = []
    client = world.client(GET)
    job = world.worker.job()
    world.advance(30.1)
    node.withdrawals[0].callback(False)
    world.advance(0.1)
    job.claim()
    world.advance(1)
    assert client.received() == b""
    job.respond(body=b"ok")
    assert client.received().endswith(b"ok")
    client.leave()
    world.assert_empty()


def test_only_the_claimant_may_speak() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.claim()
    other = "!east.other00000"
    world.worker.push(m.ResponseStart(job.stream, 0, other, 0, 200, [], b"ghost", False))
    assert client.received() == b""
    world.settle()
    (payload,) = world.pull(other)
    assert m.decode_for_worker(payload) == m.Release(job.stream, 0, other, "gone")
    job.respond(body=b"true")
    assert client.received().endswith(b"true")


def test_what_is_repeated_is_dropped() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.respond(body=b"a", more_body=True)
    job.seq = 0
    job.respond(body=b"a", more_body=True)
    job.body(b"b", more_body=False)
    assert client.received().endswith(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
    assert world.counters.value("messages_repeated") == 1


def test_a_worker_on_an_unknown_node_is_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    world.worker.push(m.Claim(job.stream, 0, "!west.worker0000", "s"))
    client.leave()
    assert f"!{NODE}.{job.stream}: channel '!west.worker0000' has its home on no configured node" in caplog.text
    world.assert_empty()


def test_an_event_that_cannot_happen_is_told_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    exchange = world.server.exchanges.registry.get(job.stream)
    assert exchange is not None
    exchange.handle("nonsense")
    assert "this is a defect of ifserver" in caplog.text
    job.respond(body=b"ok")
    assert client.received().endswith(b"ok")


def test_the_time_for_an_answer_counts_from_the_last_of_the_body() -> None:
    world = World(queue_timeout_s=30, response_timeout_s=100, body_timeout_s=1000)
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n")
    client.send(b"x")
    job = world.worker.job()
    job.claim()
    for _ in range(3):
        world.advance(90.0)
        client.send(b"x")
    world.advance(90.0)
    job.window(300)
    world.advance(90.0)
    assert client.received() == b""
    job.window(300)  # the same again gives no more time
    world.advance(10.1)
    assert client.received().startswith(b"HTTP/1.1 504 ")
    assert len(of(m.Disconnect, job.heard())) == 1


def test_what_is_refused_is_counted() -> None:
    world = World(queue_timeout_s=30)
    world.client(GET)
    job = world.worker.job()
    job.claim()
    job.release()
    world.worker.job().tell(m.Claim, "s")
    world.worker.push(m.Release(job.stream, 1, WORKER, "died"))
    world.client(GET)
    world.advance(30.1)
    assert world.counters.value("requests_refused", "502") == 1
    assert world.counters.value("requests_refused", "503") == 1
    assert world.counters.value("retries") == 1


@pytest.mark.parametrize("when", ["the answer", "a sync", "the client"])
def test_a_defect_of_ours_cuts_the_client_off_and_leaves_nothing_behind(
    when: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    client = world.client(HANDSHAKE)
    job = world.worker.job(channels.WEBSOCKET_CONNECT)
    job.accept()
    world.settle()
    [exchange] = world.server.exchanges.registry.values()

    def broken(*_: object) -> None:
        raise ValueError("a defect")

    if when == "the answer":
        monkeypatch.setattr(exchange.websocket, "send_message", broken)
        job.send("hello")
    elif when == "a sync":
        monkeypatch.setattr(type(exchange.stream), "receive_sync", broken)
        entry = m.SyncEntry(job.stream, 0, 1, 0)
        world.worker.push(m.Sync(WORKER, "supervisor", [entry]))
    else:
        monkeypatch.setattr(world.clusters, "send", broken)
        client.send(frame(TEXT, b"hello"))
    monkeypatch.undo()
    world.settle()
    assert client.aborted
    assert "this is a defect of ifserver" in caplog.text
    assert "ValueError: a defect" in caplog.text
    world.assert_empty()


def test_a_response_that_cannot_be_written_is_no_answer_to_wait_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    monkeypatch.setattr(world.server.http1.head_writer, "write", lambda *_: 1 / 0)
    job.respond(body=b"answer")
    world.settle()
    assert client.aborted
    assert "ZeroDivisionError" in caplog.text
    world.assert_empty()
