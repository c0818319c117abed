"""The beginning and the end of an interface server, and what it tells of itself."""

from __future__ import annotations

import msgspec
import pytest
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolNegotiationFactory

from ifserver import channels
from ifserver import messages as m
from tests.front.fakes import (
    GET,
    HANDSHAKE,
    FakeTransport,
    FakeWorker,
    World,
    leave_with_last_words,
    of,
    split_response,
)


def test_statistics() -> None:
    world = World()
    nothing = dict.fromkeys(("connections", "streams", "files_open", "groups", "group_members"), 0)
    # It has asked what operators have ordered, and answered itself.
    asked = {"broadcasts_published": 2, "broadcasts_heard": 2}
    assert world.server.statistics() == nothing | asked
    clients = [world.client(GET), world.client(HANDSHAKE), world.client()]
    world.worker.job(channels.WEBSOCKET_CONNECT).accept()
    world.settle()
    statistics = world.server.statistics()
    assert (statistics["connections"], statistics["streams"]) == (3, 2)
    assert statistics["streams_opened{http}"] == statistics["streams_opened{websocket}"] == 1
    world.worker.job().respond()
    for client in clients:
        client.leave()
    statistics = world.server.statistics()
    assert (statistics["connections"], statistics["streams"]) == (0, 0)
    assert statistics["streams_closed{http}"] == statistics["streams_closed{websocket}"] == 1
    world.assert_empty()


def test_what_was_sent_was_delivered_or_dropped() -> None:
    world = World()
    for leaves in (False, True):
        client = world.client(GET)
        job = world.worker.job()
        job.claim()
        if leaves:
            client.leave()
        job.respond()
        job.heard()
    counted = world.counters
    # What the worker sent was counted by nobody: it is a fake. Four messages came.
    assert counted.value("messages_delivered") + counted.value("messages_dropped", "gone") == 4
    assert counted.value("messages_dropped", "gone") == 1
    # Two requests, a Disconnect and a Release went.
    assert counted.value("messages_sent") == 4


def test_tls_clients_may_choose_http_1() -> None:
    server = World().server
    assert IProtocolNegotiationFactory.providedBy(server)
    assert server.acceptableProtocols() == [b"http/1.1", b"http/1.0"]


# The end.


def test_a_server_without_connections_ends_at_once() -> None:
    world = World()
    assert world.drain() == [None]
    assert world.access.closed
    world.node.stop()
    assert world.clock.getDelayedCalls() == []


def test_idle_connections_have_a_moment_for_a_request_that_is_on_its_way() -> None:
    world = World()
    idle, late = world.client(), world.client(GET)
    world.worker.job().respond()
    late.received()
    done = world.drain()
    late.send(GET)
    world.worker.job().respond(body=b"late")
    _, headers, body = split_response(late.received())
    assert (headers[b"connection"], body) == (b"close", b"late")
    world.settle()
    assert late.lost
    world.advance(0.4)
    assert (idle.lost, done) == (False, [])
    world.advance(0.2)
    assert idle.lost
    assert done == [None]
    world.assert_empty()


def test_with_somebody_waiting_idle_connections_are_closed_at_once() -> None:
    world = World(drain_timeout_s=60)
    idle, busy = world.client(), world.client(GET)
    done: list[None] = []
    Deferred.fromCoroutine(world.server.drain(quick=True)).addCallback(done.append)
    world.advance(0.0)
    assert idle.lost
    world.advance(5.1)
    assert busy.aborted
    assert done == [None]
    world.assert_empty()


def test_without_workers_those_that_wait_for_one_are_answered_at_once() -> None:
    world = World()
    claimed = world.client(GET)
    job = world.worker.job()
    job.claim()
    waiting = world.client(GET)
    world.server.exchanges.give_up_unclaimed()
    done = world.drain()
    assert split_response(waiting.received())[0].startswith(b"HTTP/1.1 503")
    assert waiting.lost
    assert done == []
    job.respond(body=b"done")
    assert split_response(claimed.received())[2] == b"done"
    world.settle()
    assert done == [None]
    world.assert_empty()


def test_a_connection_that_a_proxy_is_about_to_announce_has_a_moment() -> None:
    world = World()
    client = FakeTransport(world, UNIXAddress("/proxy"), UNIXAddress("/here"))
    client.protocol = world.server.announced.buildProtocol(None)
    client.protocol.makeConnection(client)
    done = world.drain()
    assert done == []
    world.advance(0.6)
    assert client.lost
    assert done == [None]
    world.assert_empty()


@pytest.mark.parametrize(
    "begun",
    [
        (GET, b""),
        (GET[:10], GET[10:]),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab", b"cd"),
    ],
)
def test_what_is_under_way_is_answered(begun: tuple[bytes, bytes]) -> None:
    world = World()
    client = world.client(begun[0])
    done = world.drain()
    assert not client.lost
    assert done == []
    if begun[1]:
        client.send(begun[1])
    world.worker.job().respond(body=b"last")
    _, headers, body = split_response(client.received())
    assert (headers[b"connection"], body) == (b"close", b"last")
    world.settle()
    assert client.lost
    assert done == [None]
    assert world.access.lines[-1][2] == 200
    world.assert_empty()


@pytest.mark.parametrize("at_once", [True, False])
def test_behind_a_response_that_had_begun_one_more_request_may_be_on_its_way(at_once: bool) -> None:
    """For the response cannot say any more that the connection ends with it."""
    world = World()
    client = world.client(GET + GET if at_once else GET)
    job = world.worker.job()
    job.respond(body=b"a", more_body=True)
    done = world.drain()
    world.advance(2.0)
    job.body(b"b", more_body=False)
    world.settle()
    assert client.received().endswith(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
    assert not client.lost
    if not at_once:
        world.advance(0.4)
        client.send(GET)
    world.worker.job().respond(body=b"last")
    _, headers, body = split_response(client.received())
    assert (headers[b"connection"], body) == (b"close", b"last")
    world.settle()
    assert client.lost
    assert done == [None]
    world.assert_empty()


def test_or_not() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.respond(body=b"a", more_body=True)
    done = world.drain()
    world.advance(2.0)
    job.body(b"b", more_body=False)
    world.settle()
    assert done == []
    world.advance(0.5)
    assert client.lost
    assert done == [None]
    world.assert_empty()


@pytest.mark.parametrize("claimed", [True, False])
def test_what_takes_too_long_is_cut_and_told(claimed: bool) -> None:
    world = World(drain_timeout_s=5)
    client = world.client(GET)
    if claimed:
        job = world.worker.job()
        job.claim()
    done = world.drain()
    world.advance(4.9)
    assert done == []
    world.advance(0.2)
    assert client.aborted
    assert done == [None]
    if claimed:
        assert len(of(m.Disconnect, job.heard())) == 1
    else:
        assert world.waiting() == 0
    assert world.access.lines == [("192.0.2.1", "GET / HTTP/1.1", 0, 0)]
    world.assert_empty()
    assert world.node.statistics()["pulls"] == 0


def test_a_second_signal_waits_for_nothing() -> None:
    world = World(drain_timeout_s=5)
    world.client(GET)
    job = world.worker.job()
    job.claim()
    done = world.drain()
    world.server.drain_now()
    world.settle()
    assert done == [None]
    assert len(of(m.Disconnect, job.heard())) == 1
    world.assert_empty()
    world.advance(60.0)


def test_no_time_to_drain_is_no_error() -> None:
    world = World(drain_timeout_s=0)
    client = world.client(GET)
    done = world.drain()
    world.advance(0.0)
    assert client.aborted
    assert done == [None]


def test_the_end_waits_for_clients_that_are_slow_to_take_their_answer() -> None:
    world = World(drain_timeout_s=5)
    client = world.client(GET)
    client.stop_taking()
    world.worker.job().respond(body=b"answer")
    done = world.drain()
    assert done == []
    client.take_again()
    world.settle()
    assert client.received().endswith(b"answer")
    assert done == []
    world.advance(0.5)
    assert done == [None]


def test_when_all_workers_are_lost_at_once() -> None:
    world = World()
    other = FakeWorker(world, "!east.other00000")
    claimed, begun, waiting = world.client(GET), world.client(GET), world.client()
    first, second = world.worker.jobs()
    first.claim()
    second.respond(body=b"half", more_body=True)
    waiting.send(GET)
    websocket = world.client(HANDSHAKE)
    other.job(channels.WEBSOCKET_CONNECT).accept()
    websocket.received()
    for worker in (world.worker, other):
        world.server.exchanges.workers.lost(channels.process_of(worker.inbox))
    world.settle()
    assert begun.aborted
    assert websocket.received() == b"\x88\x02" + (1012).to_bytes(2, "big")
    assert claimed.received() == b""
    attempts = sorted((job.request.attempt, job.stream) for job in world.worker.jobs())
    assert [attempt for attempt, _ in attempts] == [0, 1]
    assert attempts[1][1] == first.stream


# Settings that change.


def test_new_settings_hold_for_new_connections() -> None:
    world = World(max_headers=3, header_timeout_s=20)
    old = world.client()
    world.server.change(msgspec.structs.replace(world.server.settings, max_headers=1, max_connections=2))
    new = world.client(GET[:-2] + b"A: b\r\n\r\n")
    assert new.received().startswith(b"HTTP/1.1 431 ")
    old.send(GET[:-2] + b"A: b\r\n\r\n")
    world.worker.job().respond()
    assert old.received().startswith(b"HTTP/1.1 200 ")
    assert world.client().received() == b""
    assert world.client().received().startswith(b"HTTP/1.1 503 ")


def test_new_settings_hold_for_waits_that_have_begun() -> None:
    world = World(queue_timeout_s=30, header_timeout_s=20, websocket_timeout_s=None)
    waiting, slow = world.client(GET), world.client(GET[:9])
    settings = msgspec.structs.replace(
        world.server.settings, queue_timeout_s=7.0, header_timeout_s=2.0, websocket_timeout_s=60.0
    )
    world.server.change(settings)
    world.advance(2.1)
    assert slow.received().startswith(b"HTTP/1.1 408 ")
    assert waiting.received() == b""
    world.advance(5.0)
    assert waiting.received().startswith(b"HTTP/1.1 503 ")


def test_the_longest_life_of_websockets_changes_for_those_that_begin_then() -> None:
    world = World(websocket_timeout_s=None, ping_interval_s=0)
    old = world.client(HANDSHAKE)
    world.worker.job(channels.WEBSOCKET_CONNECT).accept()
    world.server.change(msgspec.structs.replace(world.server.settings, websocket_timeout_s=60.0))
    new = world.client(HANDSHAKE)
    world.worker.job(channels.WEBSOCKET_CONNECT).accept()
    for client in (old, new):
        client.received()
    world.advance(61.0)
    assert (bool(old.received()), bool(new.received())) == (False, True)
    world.server.change(msgspec.structs.replace(world.server.settings, websocket_timeout_s=None))
    assert len(world.server.websockets.lifetimes) == 0


@pytest.mark.parametrize("is_heard", [True, False])
def test_what_a_client_has_said_that_is_gone_is_told_or_said_to_be_lost(
    is_heard: bool, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(resumable_paths=("/chat",))
    client, _ = leave_with_last_words(world)
    assert client.lost
    done = world.drain()
    world.advance(0.5)
    assert done == []
    if is_heard:
        world.worker.job(channels.WEBSOCKET_RESUME).accept()
    for _ in range(30):
        world.advance(0.05)
    assert done == [None]
    assert ("1 messages of a client that has left are lost" in caplog.text) is not is_heard
    assert world.worker.jobs(channels.WEBSOCKET_RESUME) == []
    world.assert_empty()
