"""Groups of this server's streams: who is a member, and what a broadcast does to the members."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from ifserver import channels
from ifserver import messages as m
from ifserver.errors import NodeRefused
from ifserver.front.exchanges.groups import _MAX_GROUPS, GroupMembers
from ifserver.layers.membership import Member
from ifserver.layers.membership import Members as Found
from tests.front.fakes import (
    BINARY,
    CLOSE,
    GET,
    HANDSHAKE,
    TEXT,
    FakeTransport,
    Job,
    World,
    close_frame,
    frame,
    frames,
    of,
    split_response,
)

DEFLATING = HANDSHAKE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")


def opened(world: World, handshake: bytes = HANDSHAKE, resumable: bool = False) -> tuple[FakeTransport, Job]:
    client = world.client(handshake)
    job = world.worker.job(channels.WEBSOCKET_CONNECT)
    job.say(m.WebSocketAccept, world.worker.inbox, None, [], resumable)
    client.received()
    return client, job


def join(job: Job, group: str = "news", gaps: bool = False, tag: str = "") -> None:
    job.say(m.GroupJoin, group, gaps, tag)


def member(world: World, handshake: bytes = HANDSHAKE, group: str = "news", **how: Any) -> tuple[FakeTransport, Job]:
    """The client of an open WebSocket that is in a group."""
    client, job = opened(world, handshake)
    join(job, group, **how)
    assert of(m.GroupJoined, job.heard()) == [m.GroupJoined(job.stream, job.request.attempt, 0, group)]
    return client, job


def publish(world: World, group: str = "news", **what: Any) -> None:
    world.clusters.groups.publish(group, **what)
    world.settle()


def told(client: FakeTransport) -> list[tuple[int, bytes]]:
    return [(each.opcode, each.payload) for each in frames(client.received())]


def counted(world: World) -> tuple[int, int]:
    return world.counters.value("group_deliveries"), world.counters.value("group_drops", "slow")


def size(world: World) -> tuple[int, int]:
    statistics = world.server.statistics()
    return statistics["groups"], statistics["group_members"]


def test_what_is_sent_to_a_group_reaches_each_member_and_nobody_else() -> None:
    world = World()
    clients = [member(world)[0] for _ in range(3)]
    other, _ = member(world, group="sport")
    publish(world, text="hällo")
    publish(world, data=b"\0\xff")
    assert [told(each) for each in clients] == [[(TEXT, "hällo".encode()), (BINARY, b"\0\xff")]] * 3
    assert told(other) == []
    assert counted(world) == (6, 0)
    assert size(world) == (2, 4)
    assert world.server.exchanges.members.sizes() == {"news": 3, "sport": 1}


def test_the_bytes_of_a_broadcast_are_counted() -> None:
    world = World()
    clients = [member(world)[0], member(world, DEFLATING)[0]]
    before = world.server.exchanges.tally.websocket_bytes_out
    publish(world, text="hello" * 20)
    sent = sum(len(each.received()) for each in clients)
    assert world.server.exchanges.tally.websocket_bytes_out - before == sent > 0


@pytest.mark.parametrize("how", ["close", "abort"])
def test_nothing_is_written_to_a_member_that_is_being_closed(how: str, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    client, job = member(world)
    [websocket] = world.server.connections
    other, _ = member(world)
    if how == "close":
        job.close(4000)
        client.received()
    else:
        websocket.abort()
    # In the same turn: the loss of a connection is told in the next one.
    world.server.exchanges.members.heard("news", m.Broadcast("!east.other", 0, "", "hello"))
    assert client.received() == b""
    assert told(other) == [(TEXT, b"hello")]
    assert "defect" not in caplog.text


def test_nothing_is_written_to_a_member_that_has_left_while_what_it_sent_is_still_parsed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    client, job = member(world)
    client.send(frame(TEXT, b"x") * 500)
    client.leave()
    publish(world, text="hello")
    assert client.received() == b""
    while world.server.connections:
        world.clock.advance(0)
    assert len(of(m.WebSocketReceive, job.heard())) == 500
    assert "defect" not in caplog.text


def test_a_broadcast_wakes_no_worker_and_takes_nothing_of_its_window() -> None:
    world = World()
    client, job = member(world)
    for _ in range(100):
        publish(world, data=bytes(10_000))
    assert len(told(client)) == 100
    assert job.heard() == []


def test_a_stream_may_be_left_out() -> None:
    world = World()
    (one, job), (other, _) = member(world), member(world)
    publish(world, text="typing", exclude=job.stream)
    assert (told(one), told(other)) == ([], [(TEXT, b"typing")])
    publish(world, close=(4000, "bye"), exclude=job.stream)
    assert (told(one), [opcode for opcode, _ in told(other)]) == ([], [CLOSE])


def test_a_broadcast_that_closes() -> None:
    world = World()
    client, job = member(world)
    publish(world, close=(4001, "logged out"))
    assert told(client) == [(CLOSE, (4001).to_bytes(2, "big") + b"logged out")]
    client.send(close_frame(4001, "logged out"))
    assert of(m.Disconnect, job.heard()) == [m.Disconnect(job.stream, 0, 1, 4001, "logged out")]
    client.leave()
    assert size(world) == (0, 0)
    world.assert_empty()


def test_who_leaves_hears_nothing_more() -> None:
    world = World()
    client, job = member(world)
    job.say(m.GroupLeave, "news")
    job.say(m.GroupLeave, "never joined")
    publish(world, text="x")
    assert told(client) == []
    assert size(world) == (0, 0)
    assert world.clusters.groups.statistics()["groups"] == 0


def test_a_stream_that_ends_leaves_its_groups() -> None:
    world = World()
    client, job = member(world, gaps=True)
    join(job, "sport")
    assert size(world) == (2, 2)
    client.leave()
    world.settle()
    assert size(world) == (0, 0)
    assert world.server.exchanges.members._report_gaps == {}
    assert world.clusters.groups.statistics()["groups"] == 0


def test_to_join_twice_is_to_join() -> None:
    world = World()
    client, job = member(world)
    join(job)
    assert of(m.GroupJoined, job.heard()) == [m.GroupJoined(job.stream, 0, 1, "news")]
    publish(world, text="x")
    assert told(client) == [(TEXT, b"x")]


def test_nothing_is_delivered_before_the_handshake_is_answered() -> None:
    world = World()
    client = world.client(HANDSHAKE)
    job = world.worker.job(channels.WEBSOCKET_CONNECT)
    join(job)
    assert len(of(m.GroupJoined, job.heard())) == 1
    publish(world, text="too early")
    assert client.received() == b""
    assert counted(world) == (0, 0)
    job.accept()
    client.received()
    publish(world, text="now")
    assert told(client) == [(TEXT, b"now")]


def test_a_handshake_that_is_offered_once_more_begins_without_groups() -> None:
    world = World()
    world.client(HANDSHAKE)
    job = world.worker.job(channels.WEBSOCKET_CONNECT)
    join(job)
    job.release("died")
    again = world.worker.job(channels.WEBSOCKET_CONNECT)
    assert again.request.attempt == 1
    assert size(world) == (0, 0)


def test_the_membership_of_a_resumable_websocket_outlives_its_worker() -> None:
    world = World()
    client, job = opened(world, resumable=True)
    join(job)
    job.release("died")
    publish(world, text="while no worker is there")
    again = world.worker.job(channels.WEBSOCKET_RESUME)
    again.accept()
    publish(world, text="with the next one")
    assert told(client) == [(TEXT, b"while no worker is there"), (TEXT, b"with the next one")]
    assert of(m.GroupGap, again.heard()) == []


def test_a_denied_handshake_is_no_member() -> None:
    world = World()
    client = world.client(HANDSHAKE)
    job = world.worker.job(channels.WEBSOCKET_CONNECT)
    join(job)
    job.respond(403, body=b"no", more_body=True)
    head = client.received()
    publish(world, text="secret")
    job.body(b"!", more_body=False)
    assert split_response(head + client.received())[2] == b"2\r\nno\r\n1\r\n!\r\n0\r\n\r\n"


def test_a_message_is_compressed_once_for_all_who_compress_alike() -> None:
    world = World()
    clients = [member(world, DEFLATING)[0] for _ in range(2)]
    small, _ = member(world, DEFLATING.replace(b"deflate\r", b"deflate; server_max_window_bits=9\r"))
    plain, _ = member(world)
    text = "to be or not to be " * 50
    publish(world, text=text)
    compressed = [each.received() for each in clients]
    assert compressed[0] == compressed[1]
    assert len(compressed[0]) < 100
    for data in (compressed[0], small.received()):
        [each] = frames(data)
        assert each.rsv == 4
        assert zlib.decompressobj(-15).decompress(each.payload + b"\0\0\xff\xff") == text.encode()
    assert told(plain) == [(TEXT, text.encode())]


def test_a_stream_s_own_messages_stay_readable_between_broadcasts() -> None:
    world = World()
    client, job = member(world, DEFLATING)
    inflate = zlib.decompressobj(-15)
    for number in range(3):
        job.send(f"own message of the stream, number {number}")
        publish(world, text=f"message of the group, number {number}")
        for each, what in zip(frames(client.received()), ("own", "message"), strict=True):
            text = inflate.decompress(each.payload + b"\0\0\xff\xff").decode()
            assert text.startswith(what)
            assert text.endswith(f"number {number}")


@pytest.mark.parametrize("overflow", ["close", "skip"])
def test_a_client_that_reads_too_slowly_is_the_only_one_to_suffer(overflow: str) -> None:
    world = World(max_unsent_bytes=100_000, group_overflow=overflow)
    (slow, job), (quick, _) = member(world, gaps=True), member(world)
    slow.stop_taking()
    slow.unsent = 90_000
    publish(world, data=bytes(9_000))
    assert [len(payload) for _, payload in told(slow)] == [9_000]
    publish(world, data=bytes(11_000))
    assert len(told(quick)) == 2
    assert counted(world) == (3, 1)
    assert of(m.GroupGap, job.heard()) == [m.GroupGap(job.stream, 0, 1, "news", 1)]
    assert told(slow) == ([(CLOSE, (1013).to_bytes(2, "big"))] if overflow == "close" else [])


def test_who_asks_for_gaps_is_told_of_them() -> None:
    world = World()
    (_, asks), (_, does_not) = member(world, gaps=True), member(world)
    world.server.exchanges.members.gap("news", 3)
    world.server.exchanges.members.gap("news", None)
    assert of(m.GroupGap, asks.heard()) == [
        m.GroupGap(asks.stream, 0, 1, "news", 3),
        m.GroupGap(asks.stream, 0, 2, "news", None),
    ]
    assert does_not.heard() == []


def test_too_many_groups() -> None:
    world = World()
    _, job = opened(world)
    exchange = world.server.exchanges.registry[job.stream]
    exchange.groups = tuple(f"g{number}" for number in range(_MAX_GROUPS))
    join(job, "one-more")
    [answer] = of(m.GroupJoined, job.heard())
    assert answer.error == "it is in 1000 groups, which is the most"
    exchange.groups = ()


def test_a_name_that_no_node_takes() -> None:
    world = World()
    _, job = opened(world)
    join(job, "no group")
    [answer] = of(m.GroupJoined, job.heard())
    assert "no group" in answer.error
    assert size(world) == (0, 0)


def test_tags_are_kept_for_those_who_ask() -> None:
    world = World()
    (_, one), (_, other) = member(world, tag="user 7"), member(world)
    assert world.server.exchanges.members.of("news") == [(one.stream, "user 7"), (other.stream, "")]
    assert world.server.exchanges.members.of("nobody") == []


# HTTP.


def begun(world: World, headers: m.Headers | None = None, request: bytes = GET) -> tuple[FakeTransport, Job]:
    client = world.client(request)
    job = world.worker.job()
    job.respond(200, headers, b"first\n", more_body=True)
    join(job)
    job.heard()
    return client, job


def test_a_response_that_has_begun_is_a_member() -> None:
    world = World()
    client, job = begun(world)
    publish(world, text="data: ä\n\n")
    publish(world, data=b"")
    job.body(b"own\n")
    publish(world, data=b"raw")
    job.body(b"", more_body=False)
    publish(world, text="too late")
    _, fields, body = split_response(client.received())
    assert fields[b"transfer-encoding"] == b"chunked"
    assert body == b"6\r\nfirst\n\r\na\r\ndata: \xc3\xa4\n\n\r\n4\r\nown\n\r\n3\r\nraw\r\n0\r\n\r\n"
    assert size(world) == (0, 0)
    assert counted(world) == (2, 0)


def test_a_broadcast_never_makes_a_response_longer_than_its_length() -> None:
    world = World()
    client, job = begun(world, [(b"content-length", b"9")])
    publish(world, text="x")
    job.body(b"end", more_body=False)
    assert client.received().endswith(b"\r\n\r\nfirst\nend")
    assert counted(world) == (0, 0)


def test_a_broadcast_that_closes_cuts_a_response_rather_than_let_it_look_whole() -> None:
    world = World()
    client, job = begun(world)
    publish(world, close=(4001, ""))
    assert client.aborted
    assert not client.received().endswith(b"0\r\n\r\n")
    assert len(of(m.Disconnect, job.heard())) == 1
    assert size(world) == (0, 0)


def test_a_response_whose_client_reads_too_slowly_is_cut() -> None:
    world = World(max_unsent_bytes=100)
    client, _ = begun(world)
    client.stop_taking()
    client.unsent = 100
    publish(world, text="x")
    assert client.aborted
    assert counted(world) == (0, 1)


def test_a_broadcast_of_http_waits_for_nobody() -> None:
    world = World()
    client, job = begun(world)
    client.stop_taking()
    job.heard()
    publish(world, data=bytes(300_000))
    client.take_again()
    assert of(m.Window, job.heard()) == [], "its bytes are not the worker's"


def test_who_asks_is_told_who_is_a_member() -> None:
    world = World()
    client, job = member(world, tag="ann")
    found: list[Any] = []
    world.clusters.membership.ask("news", True).addCallback(found.append)
    world.settle()
    assert found == [Found(1, [Member(job.stream, "ann")])]
    assert told(client) == []


def test_members_of_one_group_that_is_being_subscribed_to_all_wait() -> None:
    world = World()
    subscribing: Deferred[None] = Deferred()
    world.clusters.groups.subscribe = lambda group, listener: subscribing  # type: ignore[method-assign]
    (_, one), (_, other) = opened(world), opened(world)
    join(one)
    join(other)
    assert (one.heard(), other.heard()) == ([], [])
    subscribing.callback(None)
    assert len(of(m.GroupJoined, one.heard())) == len(of(m.GroupJoined, other.heard())) == 1


def test_a_subscription_that_fails_is_told_and_can_be_tried_again() -> None:
    world = World()
    subscribe = world.clusters.groups.subscribe

    def refused(group: str, listener: GroupMembers) -> Deferred[None]:
        return fail(NodeRefused("no rights"))

    world.clusters.groups.subscribe = refused  # type: ignore[method-assign]
    world.clusters.groups.unsubscribe = lambda group, listener: None  # type: ignore[method-assign]
    client, job = opened(world)
    join(job)
    assert [each.error for each in of(m.GroupJoined, job.heard())] == ["no rights"]
    assert size(world) == (0, 0)
    world.clusters.groups.subscribe = subscribe  # type: ignore[method-assign]
    join(job)
    publish(world, text="x")
    assert told(client) == [(TEXT, b"x")]


class SlowNode:
    """Lets the node of a world answer subscriptions when the test says so."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._answers: list[Deferred[None]] = []
        node = world.clusters.home.node
        subscribe = node.subscribe

        def slow(groups: Sequence[str]) -> Deferred[None]:
            answer: Deferred[None] = Deferred()
            self._answers.append(answer)
            return answer.addCallback(lambda _: subscribe(groups))

        node.subscribe = slow  # type: ignore[method-assign]

    def answer(self, refusal: Exception | None = None) -> None:
        """Answer all that it was asked."""
        answers, self._answers = self._answers, []
        for each in answers:
            each.callback(None if refusal is None else Failure(refusal))
        self._world.settle()


def errors(job: Job) -> list[str]:
    """What the worker is told of its joins."""
    return [each.error for each in of(m.GroupJoined, job.heard())]


def test_each_join_of_a_group_that_is_refused_is_answered() -> None:
    world = World()
    node = SlowNode(world)
    (_, twice), (_, once) = opened(world), opened(world)
    join(twice)
    join(once)
    join(twice)
    node.answer(NodeRefused("no rights"))
    assert (errors(twice), errors(once)) == (["no rights"] * 2, ["no rights"])
    assert size(world) == (0, 0)


@pytest.mark.parametrize("another", [False, True])
def test_a_join_that_is_taken_back_before_the_node_has_answered_is_answered(another: bool) -> None:
    world = World()
    node = SlowNode(world)
    client, job = opened(world)
    _, other = opened(world)
    if another:
        join(other)
    join(job)
    job.say(m.GroupLeave, "news")
    assert errors(job) == [""]
    join(job)
    assert errors(job) == []
    node.answer()
    assert errors(job) == [""]
    assert errors(other) == [""] * another
    publish(world, text="x")
    assert told(client) == [(TEXT, b"x")]


def test_a_stream_that_ends_before_the_node_has_answered_is_told_nothing() -> None:
    world = World()
    node = SlowNode(world)
    client, job = opened(world)
    join(job)
    client.leave()
    world.settle()
    node.answer()
    assert errors(job) == []
    assert size(world) == (0, 0)
    assert world.server.exchanges.members._subscribing == {}
