"""What a service manager says and hears; played by a datagram socket."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from ifserver.errors import ConfigurationError
from ifserver.process.systemd import GivenSocket, Herald, Manager, Notifier, counted, encode, take

PID = 4321

# What is passed to us.


def test_nobody_manages_us() -> None:
    environ = {"PATH": "/bin"}
    manager = take(environ, PID)
    assert manager == Manager(None, None, ())
    assert manager.environment() == {}
    assert environ == {"PATH": "/bin"}


def test_everything_is_read_and_taken_out() -> None:
    environ = {
        "NOTIFY_SOCKET": "/run/notify", "WATCHDOG_PID": str(PID), "WATCHDOG_USEC": "1500000", "LISTEN_PID": str(PID),
        "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:admin", "PATH": "/bin",
    }  # fmt: skip
    assert take(environ, PID) == Manager("/run/notify", 1.5, (GivenSocket(3, "web"), GivenSocket(4, "admin")))
    assert environ == {"PATH": "/bin"}


def test_what_is_for_another_process_is_ignored_and_taken_out() -> None:
    environ = {"WATCHDOG_PID": "1", "WATCHDOG_USEC": "1500000", "LISTEN_PID": "1", "LISTEN_FDS": "2"}
    assert take(environ, PID) == Manager()
    assert environ == {}
    # Sockets are always for one process; a watchdog may be for all of them.
    assert take({"LISTEN_FDS": "2", "WATCHDOG_USEC": "10"}, PID) == Manager(None, 0.00001, ())


@pytest.mark.parametrize(
    ("environ", "sockets", "watchdog_s"),
    [
        ({"LISTEN_FDS": "0"}, (), None),
        ({"LISTEN_FDS": "1"}, (GivenSocket(3, "unknown"),), None),
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "a"}, (GivenSocket(3, "a"),), None),
        ({"LISTEN_FDNAMES": "a"}, (), None),
        ({"WATCHDOG_USEC": "0"}, (), None),
        ({"NOTIFY_SOCKET": ""}, (), None),
    ],
)
def test_less(environ: dict[str, str], sockets: tuple[GivenSocket, ...], watchdog_s: float | None) -> None:
    assert take({"LISTEN_PID": str(PID), **environ}, PID) == Manager(None, watchdog_s, sockets)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"NOTIFY_SOCKET": "vsock:2:1"}, "NOTIFY_SOCKET: expected a path or @NAME, got 'vsock:2:1'"),
        ({"WATCHDOG_USEC": "soon"}, "WATCHDOG_USEC: expected a number, got 'soon'"),
        ({"WATCHDOG_USEC": "1", "WATCHDOG_PID": ""}, "WATCHDOG_PID: expected a number, got ''"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS: expected a number, got '-1'"),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "me"}, "LISTEN_PID: expected a number, got 'me'"),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a"}, "LISTEN_FDNAMES: 1 names for 2 sockets"),
    ],
)
def test_what_cannot_be(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{said}$"):
        take({"LISTEN_PID": str(PID), **environ}, PID)


def test_a_successor_is_told_the_same_but_for_the_sockets() -> None:
    manager = Manager("@x", 1.5, (GivenSocket(3, "a"),))
    assert take(manager.environment(), 1) == Manager("@x", 1.5, ())


# What we send.


def test_messages() -> None:
    assert encode(READY=1, STATUS="a b") == b"READY=1\nSTATUS=a b"
    assert encode(STATUS="a\nMAINPID=1") == b"STATUS=a MAINPID=1"


def test_counts_for_people() -> None:
    assert counted({"connections": 12, "streams": 1, "workers": 0}) == "12 connections, 1 stream, 0 workers"
    assert counted({}) == ""


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Where a manager listens."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@{tmp_path.name}{id(tmp_path)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + address[1:] if address[0] == "@" else address)
        sock.setblocking(False)
        yield sock, address


def test_what_a_manager_receives(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    notifier = Notifier(address)
    notifier.send(READY=1)
    notifier.send(STATUS="x")
    assert [sock.recv(100), sock.recv(100)] == [b"READY=1", b"STATUS=x"]
    notifier.close()


def test_a_manager_that_reads_nothing_receives_it_later(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        notifier = Notifier(str(tmp_path / "notify"))
        for number in range(2000):
            notifier.send(STATUS=number)
        first: list[bytes] = []
        try:
            while True:
                first.append(sock.recv(100))
        except BlockingIOError:
            pass
        assert 0 < len(first) < 2000
        notifier.flush()
        assert sock.recv(100) == b"STATUS=1936", "the last 64 were kept"
        notifier.close()


def test_a_manager_that_has_ended_costs_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(str(tmp_path / "nowhere"))
    with caplog.at_level(logging.WARNING):
        notifier.send(READY=1)
        notifier.send(WATCHDOG=1)
    assert [record.getMessage() for record in caplog.records] == [
        f"NOTIFY_SOCKET {tmp_path / 'nowhere'}: No such file or directory"
    ]
    notifier.close()


def test_without_a_manager_nothing_is_sent() -> None:
    notifier = Notifier(None)
    notifier.send(READY=1)
    notifier.flush()
    notifier.close()


# A service that is managed.


class Sent(Notifier):
    """Notes what is sent."""

    def __init__(self) -> None:
        super().__init__(None)
        self.messages: list[dict[str, str | int]] = []
        self.closed = False

    def send(self, **fields: str | int) -> None:
        self.messages.append(fields)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def take(self) -> list[dict[str, str | int]]:
        messages, self.messages = self.messages, []
        return messages


class Stage:
    """A herald, its clock, and what it is asked."""

    def __init__(self, watchdog_s: float | None = None) -> None:
        self.clock, self.sent = Clock(), Sent()
        self.status, self.well = "0 streams", True
        self.herald = Herald(self.sent, self.clock, watchdog_s, lambda: self.status, lambda: self.well, lambda: 123_456)


def test_nothing_is_sent_before_it_is_ready() -> None:
    stage = Stage(watchdog_s=2.0)
    stage.clock.advance(60)
    assert stage.sent.take() == []
    stage.herald.ready()
    assert stage.sent.take()[0] == {"READY": 1, "STATUS": "0 streams"}


def test_the_watchdog_is_fed_at_half_its_time() -> None:
    stage = Stage(watchdog_s=2.0)
    stage.herald.ready()
    stage.sent.take()
    for _ in range(3):
        stage.clock.advance(1.0)
        assert stage.sent.take() == [{"WATCHDOG": 1}]
    stage.well = False
    stage.clock.advance(1.0)
    assert stage.sent.take() == []
    stage.well = True
    stage.clock.advance(1.0)
    assert stage.sent.take() == [{"WATCHDOG": 1}]


def test_a_loop_that_is_blocked_feeds_nothing() -> None:
    stage = Stage(watchdog_s=2.0)
    stage.herald.ready()
    stage.sent.take()
    # The reactor comes to its timers once only, however late.
    stage.clock.rightNow += 60.0
    assert stage.sent.take() == []
    stage.clock.advance(0)
    assert stage.sent.take() == [{"WATCHDOG": 1}]


def test_the_status_is_sent_when_it_has_changed() -> None:
    stage = Stage()
    stage.herald.ready()
    stage.sent.take()
    stage.clock.advance(60.0)
    assert stage.sent.take() == []
    stage.status = "1 stream"
    stage.clock.advance(5.0)
    assert stage.sent.take() == [{"STATUS": "1 stream"}]


def test_settings_are_read_anew() -> None:
    stage = Stage(watchdog_s=20.0)
    stage.herald.ready()
    stage.sent.take()
    stage.herald.reloading()
    stage.herald.ready()
    assert stage.sent.take() == [{"RELOADING": 1, "MONOTONIC_USEC": 123_456}, {"READY": 1, "STATUS": "0 streams"}]
    stage.clock.advance(5.0)
    assert stage.sent.take() == [{"WATCHDOG": 1}], "there is still one timer only"


def test_the_end() -> None:
    stage = Stage(watchdog_s=2.0)
    stage.herald.ready()
    stage.sent.take()
    stage.herald.stopping()
    stage.clock.advance(1.0)
    assert stage.sent.take() == [{"STOPPING": 1}, {"WATCHDOG": 1}]
    stage.herald.stop()
    stage.herald.stop()
    assert stage.sent.closed
    assert stage.clock.getDelayedCalls() == []


def test_nothing_is_sent_once_another_has_taken_over() -> None:
    stage = Stage(watchdog_s=2.0)
    stage.herald.ready()
    stage.sent.take()
    stage.herald.handed_over(77)
    stage.herald.stopping()
    stage.clock.advance(10.0)
    assert stage.sent.take() == [{"MAINPID": 77}]
    stage.herald.stop()
    assert stage.clock.getDelayedCalls() == []
