"""One connection to a Redis that is this test: logging in, order, who it is, and patience."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ifserver.errors import NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.redis.connection import ANSWER_S, Connection, ErrorReply, Server, pack, pack_with
from tests.layers.fakes import FakeTransport

INFO = b"# Server\r\nrun_id:abc\r\nrole:master\r\nloading:0\r\n"
LOOK = [[b"INFO", b"server", b"replication", b"persistence"], [b"TIME"]]


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def time_reply(seconds: int, microseconds: int = 0) -> bytes:
    return b"*2\r\n" + bulk(b"%d" % seconds) + bulk(b"%d" % microseconds)


class Place:
    """A connection, and what it tells its node."""

    def __init__(self, password: str | None = None, username: str | None = None, database: int = 0) -> None:
        self.clock = Clock()
        self.transport = FakeTransport()
        self.looked: list[tuple[str | None, float]] = []
        self.closed: list[str] = []
        server = Server("east-1", "p:", username, password, database)
        self.connection = Connection(
            server,
            self.clock,
            lambda connection, lead_s: self.looked.append((connection.epoch, lead_s)),
            lambda connection, why: self.closed.append(why),
        )
        self.connection.makeConnection(self.transport)

    def asked(self) -> list[Any]:
        """The commands that it has sent since the last time."""
        reader = hiredis.Reader()
        reader.feed(self.transport.taken())
        commands = []
        while (command := reader.gets()) is not False:
            commands.append(command)
        return commands

    def receive(self, *replies: bytes) -> None:
        self.connection.dataReceived(b"".join(replies))

    def open(self) -> None:
        self.receive(bulk(INFO), time_reply(1000))
        assert self.asked() == LOOK
        assert len(self.looked) == 1

    def ask(self, command: tuple[Any, ...] = (b"PING",), **options: Any) -> list[Any]:
        """Ask something; where its answer appears, or its exception."""
        results: list[Any] = []
        result: Deferred[Any] = Deferred()
        result.addCallbacks(results.append, lambda failure: results.append(failure.value))
        self.connection.ask(pack(command), lambda reply, result, about: result.callback(reply), result, **options)
        return results

    def lose(self) -> None:
        self.connection.connectionLost(Failure(ConnectionDone()))


def test_what_a_replica_was_asked_before_it_was_known_as_one_is_not_in_doubt() -> None:
    place = Place()
    place.open()
    place.connection.look()
    pushed = place.ask((b"RPUSH", b"list", b"x"), when_lost=PushInDoubt)
    place.receive(bulk(INFO.replace(b"master", b"slave")))
    assert place.closed == ["it is a replica, not a primary"]
    assert not place.transport.aborting
    place.receive(time_reply(1000), b"-READONLY\r\n")
    [refusal] = pushed
    assert isinstance(refusal, ErrorReply)
    assert place.transport.aborting
    place.lose()
    assert place.clock.getDelayedCalls() == []
    assert len(place.closed) == len(place.looked) == 1


def test_a_replica_that_answers_no_more_is_left_all_the_same() -> None:
    place = Place()
    place.open()
    place.connection.look()
    pushed = place.ask((b"RPUSH", b"list", b"x"), when_lost=PushInDoubt)
    place.receive(bulk(INFO.replace(b"master", b"slave")))
    place.clock.advance(1.0)
    assert place.transport.aborting
    place.lose()
    [doubt] = pushed
    assert isinstance(doubt, PushInDoubt)
    assert place.clock.getDelayedCalls() == []


def test_it_asks_who_redis_is_and_what_time_it_is() -> None:
    place = Place()
    place.clock.advance(100.0)
    assert place.asked() == LOOK
    place.receive(bulk(INFO))
    assert place.looked == []
    assert place.connection.epoch is None
    place.receive(time_reply(1000, 500_000))
    # It was asked at 0 s and answered at 100 s; Redis' clock stood at 1000.5 s, so halfway it is taken to be.
    assert place.looked == [("abc", 950.5)]
    place.connection.look()
    assert place.asked() == LOOK
    place.receive(bulk(INFO.replace(b"abc", b"def")), time_reply(1000))
    assert place.looked[1] == ("def", 900.0)
    assert place.closed == []


@pytest.mark.parametrize(
    ("options", "commands"),
    [
        ({"password": "secret"}, [[b"AUTH", b"secret"]]),
        ({"password": "secret", "username": "me"}, [[b"AUTH", b"me", b"secret"]]),
        ({"database": 3}, [[b"SELECT", b"3"]]),
        ({"password": "secret", "database": 3}, [[b"AUTH", b"secret"], [b"SELECT", b"3"]]),
    ],
)
def test_it_logs_in_first(options: dict[str, Any], commands: list[Any]) -> None:
    place = Place(**options)
    for command in commands:
        assert place.asked() == [command]
        place.receive(b"+OK\r\n")
    assert place.asked() == LOOK


def test_replies_may_be_cut_anywhere_and_find_who_asked() -> None:
    data = b":1\r\n" + bulk(b"\r\n$-1\r\n") + b"$-1\r\n*2\r\n$1\r\na\r\n:2\r\n"
    for position in range(len(data) + 1):
        place = Place()
        place.open()
        results = [place.ask() for _ in range(4)]
        place.receive(data[:position])
        place.receive(data[position:])
        assert results == [[1], [b"\r\n$-1\r\n"], [None], [[b"a", 2]]]


def test_an_error_is_an_answer() -> None:
    place = Place()
    place.open()
    result = place.ask()
    place.receive(b"-OOM no memory\r\n")
    assert isinstance(result[0], ErrorReply)
    assert str(result[0]) == "OOM no memory"
    assert place.closed == []


@pytest.mark.parametrize(
    ("replies", "why"),
    [
        (
            [b"-NOAUTH Authentication required.\r\n"],
            "it refuses INFO: NOAUTH Authentication required. Set IFSERVER_REDIS_PASSWORD, "
            "or IFSERVER_REDIS_PASSWORD_EAST_1 for this node alone",
        ),
        ([b"-ERR max number of clients reached\r\n"], "it refuses INFO: ERR max number of clients reached"),
        ([bulk(INFO.replace(b"loading:0", b"loading:1"))], "it is still loading its data"),
        ([bulk(INFO.replace(b"master", b"slave"))], "it is a replica, not a primary"),
        ([bulk(b"# Server\r\n")], "its INFO has no run_id"),
        ([bulk(INFO), b"-NOPERM no TIME\r\n"], "it refuses TIME: NOPERM no TIME"),
        ([b":1\r\n"], "it refuses INFO: 1"),
    ],
)
def test_what_cannot_be_used_is_closed_with_a_reason(replies: list[bytes], why: str) -> None:
    place = Place()
    place.receive(*replies)
    assert place.closed == [why]
    assert place.transport.aborting
    # What else arrives changes nothing.
    place.receive(time_reply(1000))
    place.lose()
    assert place.looked == []
    assert place.closed == [why]
    assert place.clock.getDelayedCalls() == []


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n", b":1\r\n:2\r\n:3\r\n"])
def test_what_is_no_redis_is_closed(data: bytes) -> None:
    place = Place()
    place.open()
    place.receive(data)
    assert len(place.closed) == 1
    assert "does not speak Redis' protocol" in place.closed[0]
    assert place.transport.aborting


def test_a_refused_password_is_told_without_it() -> None:
    place = Place(password="geheim")
    place.receive(b"-ERR unknown command 'AUTH', with args beginning with: 'geheim'\r\n")
    assert place.closed == ["could not auth: ERR unknown command 'AUTH'"]
    place = Place(password="geheim")
    place.receive(b"-WRONGPASS geheim is wrong\r\n")
    assert place.closed == [
        "could not auth: WRONGPASS *** is wrong The password is that of the URL, or else of "
        "IFSERVER_REDIS_PASSWORD, or IFSERVER_REDIS_PASSWORD_EAST_1 for this node alone"
    ]
    assert place.transport.aborting


def test_a_refused_database_is_told() -> None:
    place = Place(database=99)
    place.receive(b"-ERR DB index is out of range\r\n")
    assert place.closed == ["could not set dbid=99: ERR DB index is out of range"]


def test_a_connection_lost_before_it_said_who_it_is() -> None:
    for password in (None, "geheim"):
        place = Place(password=password)
        place.lose()
        assert place.closed == ["closed before it said who it is: Connection was closed cleanly."]
        assert place.clock.getDelayedCalls() == []


def test_what_was_not_answered_fails_as_was_asked() -> None:
    place = Place()
    place.open()
    results = [place.ask(when_lost=PushInDoubt), place.ask()]
    place.connection.ask(pack((b"PING",)), lambda *_: None, None)
    place.lose()
    assert [type(result[0]) for result in results] == [PushInDoubt, NodeUnreachable]
    assert "east-1" in str(results[0][0])
    assert place.closed == ["connection lost: Connection was closed cleanly."]
    assert place.clock.getDelayedCalls() == []


# Patience.


def test_no_answer_in_time_ends_the_connection() -> None:
    place = Place()
    place.open()
    result = place.ask(when_lost=PushInDoubt)
    place.clock.advance(ANSWER_S - 0.001)
    place.clock.advance(0.001)
    assert place.closed == []
    place.clock.advance(0.1)
    assert place.closed == ["no answer for 5 s"]
    assert place.transport.aborting
    place.lose()
    assert [type(error) for error in result] == [PushInDoubt]


def test_who_was_frozen_itself_reads_before_the_verdict() -> None:
    place = Place()
    place.open()
    result = place.ask()
    place.clock.advance(3600.0)
    assert place.closed == []
    # What had arrived meanwhile is read in the same turn of the event loop.
    place.receive(b"+PONG\r\n")
    place.clock.advance(3600.0)
    assert result == [b"PONG"]
    assert place.closed == []
    # And there is a last chance for the next one as well.
    place.ask()
    place.clock.advance(3600.0)
    assert place.closed == []
    place.clock.advance(0.1)
    assert place.closed == ["no answer for 5 s"]


def test_what_may_take_longer_is_given_longer() -> None:
    place = Place()
    place.open()
    result = place.ask(wait_s=60.0)
    place.clock.advance(64.0)
    assert place.closed == []
    place.receive(b"$-1\r\n")
    assert result == [None]
    place.ask()
    place.clock.advance(4.9)
    assert place.closed == []
    place.clock.advance(0.2)
    place.clock.advance(0.2)
    assert len(place.closed) == 1


def test_patience_with_one_is_not_patience_with_the_next() -> None:
    place = Place()
    place.open()
    place.clock.advance(10.0)
    place.ask(wait_s=60.0)
    place.receive(b"$-1\r\n")
    place.ask()
    place.clock.advance(ANSWER_S)
    place.clock.advance(0.1)
    assert place.closed == ["no answer for 5 s"]


def test_each_gets_a_last_chance() -> None:
    place = Place()
    place.open()
    place.ask()
    place.clock.advance(4.0)
    place.ask()
    place.clock.advance(1.0)
    place.receive(b"+PONG\r\n")
    place.clock.advance(0.1)
    place.clock.advance(3.9)
    assert place.closed == []
    place.clock.advance(0.1)
    assert place.closed == ["no answer for 5 s"]


def test_commands_that_are_answered_cost_one_timer() -> None:
    place = Place()
    place.open()
    for _ in range(100):
        place.ask()
        place.receive(b"+PONG\r\n")
        assert len(place.clock.getDelayedCalls()) == 1
        place.clock.advance(0.5)
    assert place.closed == []
    place.clock.advance(10.0)
    assert place.clock.getDelayedCalls() == []


# What is said.


def test_the_server_keeps_its_password_to_itself() -> None:
    server = Server("east-1", "p:", "me", "geheim", 0)
    assert "geheim" not in repr(server)
    assert "geheim" not in str(server.refused("the password geheim"))
    assert isinstance(server.refused("no"), NodeRefused)
    assert str(server.refused("no")) == "node east-1: no"
    assert isinstance(server.unreachable(), NodeUnreachable)
    assert server.prefix_of("abc") == b"p:abc:"


@pytest.mark.parametrize("payloads", [[b""], [b"x" * 10], [b"\r\n" * 5000], [b"a" * 70_000, b"", b"b" * 9000]], ids=len)
@pytest.mark.parametrize("head", [(b"RPUSH", b"key"), (b"EVAL", "text", 1, b"key\r\n", 10_000, 600)], ids=len)
def test_large_payloads_are_packed_as_small_ones_are(head: tuple[Any, ...], payloads: list[bytes]) -> None:
    assert pack_with(head, payloads) == pack((*head, *payloads))
