"""The supervisor: with children that are played by the test and a clock, and with real ones on a real loop."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ifserver.config.node_urls import parse_cluster
from ifserver.config.pools import PoolWorkers
from ifserver.config.settings import LayerSettings, LogSettings, WorkerSettings
from ifserver.errors import ChannelNameError
from ifserver.messages import Claim, Release, decode_for_server
from ifserver.metrics import Counters
from ifserver.process import children
from ifserver.process.children import Launch
from ifserver.process.supervisor import Supervisor
from ifserver.status import names_of
from tests.process.test_children import child_pids, code, open_fds, run

LAYER = LayerSettings(clusters=(parse_cluster("east=local:x"),))
INBOX = "!east.k3v9x2aq7m"
SERVER = "!east.0123456789"
#: drain_timeout_s + shutdown_timeout_s + the 2 s that the supervisor adds.
PATIENCE_S = 12.0


class FakeClusters:
    """Records what is sent, and says that as many messages still wait as it was told to."""

    process = "sssssssss0"

    def __init__(self, events: list[Any]) -> None:
        self.events = events
        self.unsent = 0

    def send(self, inbox: str, payload: bytes) -> None:
        if not inbox.startswith("!east."):
            raise ChannelNameError(f"channel {inbox!r} has its home on no configured node")
        self.events.append((inbox, decode_for_server(payload)))

    def waiting(self) -> int:
        return self.unsent


class FakeChild:
    """A child that does what the test says."""

    def __init__(
        self, pid: int, launch: Launch, ready: Callable[[], None], ended: Callable[[], None], events: list[Any]
    ) -> None:
        self.pid = pid
        self.launch = launch
        self.status: int | None = None
        self.ending = "exit code 9"
        self.loaded = True
        self.interface = "asgi"
        self.failure: str | None = None
        self.error: str | None = None
        self.signals: list[str] = []
        self.say_ready = ready
        self._ended = ended
        self._events = events
        assert launch.ledger_fd is not None
        self.ledger = children.open_ledger(os.dup(launch.ledger_fd), launch.worker.max_streams)
        self.ledger.inbox = INBOX

    def terminate(self) -> None:
        self.signals.append("TERM")

    def kill(self) -> None:
        self.signals.append("KILL")

    def end(self, status: int = 9) -> None:
        self.status = status
        if status < 0:
            self.ending = signal.Signals(-status).name
        self._events.append(f"{self.pid} ended")
        self._ended()

    @property
    def alive(self) -> bool:
        return self.status is None


class Stage:
    """A supervisor, its clock, and all that happened, in order."""

    def __init__(self, processes: int | None = 1, pools: Sequence[PoolWorkers] | None = None, **settings: Any) -> None:
        self.clock = Clock()
        self.events: list[Any] = []
        self.children: list[FakeChild] = []
        self.failing = False
        self.clusters = FakeClusters(self.events)
        self.ready_calls = 0
        self.failures: list[str] = []
        self.buried: list[str] = []
        self.settings = WorkerSettings(application="a:b", processes=processes, max_streams=8, **settings)
        self.supervisor = Supervisor(
            pools or [PoolWorkers(settings=self.settings)],
            LAYER,
            self.clusters,
            self.clock,
            NO_LOOP,
            LogSettings(verbosity=0),
            self._ready,
            self.failures.append,
            self.buried.append,
            self._spawn,
        )

    def _ready(self) -> None:
        self.ready_calls += 1

    def _spawn(self, launch: Launch, loop: object, ready: Callable[[], None], ended: Callable[[], None]) -> Any:
        if self.failing:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        child = FakeChild(101 + len(self.children), launch, ready, ended, self.events)
        self.children.append(child)
        self.events.append(f"{child.pid} started")
        return child

    @property
    def alive(self) -> list[int]:
        return [child.pid for child in self.children if child.alive]

    def start(self, ready: bool = True) -> list[FakeChild]:
        self.supervisor.start()
        if ready:
            for child in self.children:
                child.say_ready()
        self.events.clear()
        return self.children

    def next_delay(self) -> float:
        """Seconds until the next call of the clock, but for those that look after stalled loops."""
        return min(call.getTime() for call in self.calls()) - self.clock.seconds()

    def calls(self) -> list[Any]:
        """What the clock will call, but for what looks after stalled loops."""
        calls: list[Any] = self.clock.getDelayedCalls()
        return [call for call in calls if call.func.__name__ != "_look"]


NO_LOOP: Any = None


def release(stream: str, attempt: int = 0) -> tuple[str, Release]:
    return SERVER, Release(f"0123456789.{stream}", attempt, INBOX, "died", by=FakeClusters.process)


# What its beat says.


def test_its_beat_names_the_children_that_live() -> None:
    stage = Stage(processes=3)
    for child, process in zip(stage.start(), ("aaaaaaaaa1", "bbbbbbbbb2", "ccccccccc3"), strict=True):
        child.ledger.inbox = f"!east.{process}"
    assert names_of(stage.supervisor.workers.living()) == {"aaaaaaaaa1", "bbbbbbbbb2", "ccccccccc3"}
    stage.children[1].end()
    assert names_of(stage.supervisor.workers.living()) == {"aaaaaaaaa1", "ccccccccc3"}
    stage.clock.advance(1)
    stage.children[3].ledger.inbox = "!east.ddddddddd4"
    # One that is told to end lives until it has.
    stage.supervisor.restart()
    assert names_of(stage.supervisor.workers.living()) >= {"aaaaaaaaa1", "ccccccccc3", "ddddddddd4"}


def test_what_is_read_is_what_ready_children_read_that_stay() -> None:
    stage = Stage(processes=2)
    changes: list[int] = []
    stage.supervisor.workers.readers_changed = lambda: changes.append(len(stage.supervisor.workers.reads()))
    first, second = stage.start(ready=False)
    assert stage.supervisor.workers.reads() == ()
    first.say_ready()
    assert set(stage.supervisor.workers.reads()) == {"http.request", "websocket.connect", "websocket.resume"}
    assert changes == [3]
    first.end()
    assert changes == [3, 0]
    # One that shows an error takes no open WebSockets.
    second.error = "it does not load"
    second.say_ready()
    assert set(stage.supervisor.workers.reads()) == {"http.request", "websocket.connect"}
    stage.supervisor.stop()
    assert stage.supervisor.workers.reads() == ()
    assert changes[-1] == 0


@pytest.mark.parametrize("inbox", ["", "x", "!x", "!east.1", "a,b"])
def test_what_a_child_has_spoilt_does_not_silence_it(inbox: str) -> None:
    stage = Stage(processes=2)
    first, second = stage.start()
    second.ledger.inbox = "!east.bbbbbbbbb2"
    # Past the check that belongs to the child.
    memory: Any = first.ledger._buffer
    memory[9] = 1
    memory[32 : 32 + len(inbox) + 1] = inbox.encode() + b"\n"
    assert stage.supervisor.workers.living() == b"bbbbbbbbb2"


def test_a_child_whose_loop_stands_still_is_killed_and_replaced() -> None:
    stage = Stage(stall_timeout_s=10)
    (child,) = stage.start()
    child.ledger.enter(f"{SERVER}.1", 0)
    for _ in range(102):
        stage.clock.advance(0.1)
    assert child.signals == ["KILL"]
    assert [type(message) for _, message in stage.events] == [Claim]
    stage.events.clear()
    child.end()
    stage.clock.advance(1)
    assert stage.events == ["101 ended", release("1"), "102 started"]


# Starting.


def test_as_many_workers_as_were_asked_for_and_each_is_told_who_watches_it() -> None:
    stage = Stage(processes=3)
    stage.start()
    assert stage.alive == [101, 102, 103]
    launch = stage.children[2].launch
    assert (launch.parent, launch.supervisor) == (os.getpid(), "sssssssss0")
    assert (launch.layer, launch.worker, launch.log) == (LAYER, stage.settings, LogSettings(verbosity=0))


def test_as_many_workers_as_there_are_cpus_that_we_may_use() -> None:
    stage = Stage(processes=None)
    stage.start()
    assert len(stage.alive) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        ("application 'a:b': No module named 'a'", "application 'a:b': No module named 'a'"),
        (None, "application 'a:b': the process that imported it has ended: exit code 9"),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_an_application_that_no_worker_can_load_ends_all(
    failure: str | None, why: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(count)
    first, *others = stage.start(ready=False)
    for child in stage.children:
        child.loaded = False
    first.failure = failure
    first.end()
    assert stage.failures == [why]
    for child in others:
        assert child.signals == ["KILL"]
        child.end()
    assert fired(stage.supervisor.stop())
    stage.clock.advance(60.0)
    assert stage.failures == [why]
    assert len(stage.children) == count
    assert caplog.messages == []
    assert all(child.launch.first for child in stage.children)


def test_an_application_that_was_loaded_once_is_tried_again() -> None:
    stage = Stage(2)
    one, other = stage.start(ready=False)
    one.say_ready()
    other.loaded = False
    other.failure = "application 'a:b': SyntaxError"
    other.end()
    assert stage.failures == []
    stage.clock.advance(1.0)
    assert [child.launch.first for child in stage.children] == [True, True, False]


def test_ready_is_called_once_when_all_are_ready() -> None:
    stage = Stage(processes=2)
    first, second = stage.start(ready=False)
    first.say_ready()
    assert stage.ready_calls == 0
    second.say_ready()
    assert stage.ready_calls == 1
    second.end()
    stage.clock.advance(1)
    stage.children[2].say_ready()
    assert stage.ready_calls == 1


def test_ready_waits_for_the_replacement_of_one_that_failed_its_start() -> None:
    stage = Stage(processes=2)
    first, second = stage.start(ready=False)
    first.end()
    second.say_ready()
    stage.clock.advance(1)
    assert stage.ready_calls == 0
    stage.children[2].say_ready()
    assert stage.ready_calls == 1


def test_a_start_that_the_system_refuses_is_tried_again_later(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.failing = True
    before = open_fds()
    stage.supervisor.start()
    assert "cannot start a worker: [Errno 11]" in caplog.text
    assert open_fds() == before
    stage.failing = False
    stage.clock.advance(1)
    assert stage.alive == [101]


# Pools.


def two_pools() -> list[PoolWorkers]:
    first, second = (WorkerSettings(application=name, processes=1, max_streams=8) for name in ("a:b", "c:d"))
    return [
        PoolWorkers(settings=first, pool="reports", environment={"WHO": "reports"}),
        PoolWorkers(settings=second, pool="default"),
    ]


def test_the_workers_of_each_pool_run_their_own_application(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage(pools=two_pools())
    stage.start()
    reports, default = (child.launch for child in stage.children)
    assert (reports.pool, reports.worker.application, reports.environment) == ("reports", "a:b", {"WHO": "reports"})
    assert (default.pool, default.worker.application, default.environment) == ("default", "c:d", {})
    assert stage.ready_calls == 1
    assert stage.supervisor.workers.states("reports") == {"ready": 1, "starting": 0, "draining": 0}
    assert "pool reports: starting 1 worker" in caplog.messages
    assert "worker 101 of pool reports is ready after 0.0 s" in caplog.messages


def test_a_worker_that_ends_is_replaced_by_one_of_its_pool() -> None:
    stage = Stage(pools=two_pools())
    reports, default = stage.start()
    reports.end(-9)
    stage.clock.advance(1)
    assert [child.launch.pool for child in stage.children] == ["reports", "default", "reports"]
    assert default.signals == []


def test_a_pool_whose_application_cannot_be_loaded_is_named() -> None:
    stage = Stage(pools=two_pools())
    reports, default = stage.start(ready=False)
    reports.say_ready()
    default.loaded, default.failure = False, "application 'c:d': no"
    default.end()
    assert stage.failures == ["pool default: application 'c:d': no"]
    assert reports.signals == ["KILL"]


# Dying.


def test_the_streams_of_a_dead_worker_are_released_before_it_is_replaced() -> None:
    stage = Stage()
    (child,) = stage.start()
    child.ledger.enter(f"{SERVER}.1", 0)
    child.ledger.clear(child.ledger.enter(f"{SERVER}.2", 0))
    child.ledger.enter(f"{SERVER}.3", 1)
    stage.clock.advance(1000)
    child.end()
    assert stage.events == ["101 ended", release("1"), release("3", 1), "102 started"]
    assert stage.supervisor.statistics()["streams_released"] == 2


def test_a_release_that_cannot_be_sent_does_not_keep_the_others(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    (child,) = stage.start()
    for channel in ("!west.0123456789.1", "nonsense!", "http.request", "!east", f"{SERVER}.7"):
        child.ledger.enter(channel, 0)
    child.ledger.enter(f"{SERVER}.8", 2**70)
    child.end()
    assert [event for event in stage.events if isinstance(event, tuple) and event[0] == SERVER] == [release("7")]
    assert "!west.0123456789.1: cannot be released, though worker 101 has ended: channel" in caplog.text


def test_a_ledger_whose_worker_has_no_inbox_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    (child,) = stage.start()
    child.ledger._buffer[9] = 0
    child.ledger.enter(f"{SERVER}.1", 0)
    child.end()
    assert stage.events == ["101 ended"]
    assert f"{SERVER}.1: cannot be released" in caplog.text


def test_workers_that_crash_in_a_row_are_started_after_growing_delays() -> None:
    stage = Stage(restart_delay_s=0.1, max_restart_delay_s=3.0)
    stage.start()
    for expected in (0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0):
        stage.children[-1].say_ready()
        stage.children[-1].end()
        assert stage.alive == []
        delay = stage.next_delay()
        assert expected * 0.7 <= delay <= expected * 1.3
        stage.clock.advance(delay)
        assert len(stage.alive) == 1
    stage.children[-1].say_ready()
    stage.clock.advance(3.1)
    stage.children[-1].end()
    assert len(stage.alive) == 1, "it had lived, so its replacement starts at once"
    stage.children[-1].end()
    assert 0.07 <= stage.next_delay() <= 0.13


def test_a_start_that_takes_long_and_fails_is_a_crash_too() -> None:
    stage = Stage()
    stage.start(ready=False)
    stage.clock.advance(60)
    stage.children[0].end()
    assert stage.alive == []
    assert stage.next_delay() <= 0.13


def test_delays_are_not_the_same_for_all() -> None:
    stage = Stage(processes=8)
    for child in stage.start():
        child.end()
    assert len({call.getTime() for call in stage.clock.getDelayedCalls()}) > 1


def test_the_log_says_who_ended_how_what_was_released_and_what_comes_next(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage()
    (child,) = stage.start()
    child.ledger.enter(f"{SERVER}.1", 0)
    child.end()
    stage.clock.advance(1)
    stage.children[1].say_ready()
    stage.clock.advance(20)
    stage.children[1].end()
    released = "its 1 request or WebSocket goes to another worker if possible"
    assert f"worker 101 has ended with exit code 9; {released}; a new worker starts in 0.1 s" in caplog.messages
    assert "worker 102 has ended with exit code 9; a new worker starts now" in caplog.messages


@pytest.mark.parametrize("retired", [False, True])
def test_the_log_warns_of_one_that_was_killed_with_requests(retired: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage()
    (child,) = stage.start()
    if retired:
        stage.supervisor.restart()
    for number in range(3):
        child.ledger.enter(f"{SERVER}.{number}", 0)
    child.end(-signal.SIGKILL)
    record = caplog.records[-1]
    text = "worker 101 was killed (SIGKILL); its 3 requests and WebSockets go to other workers where possible"
    assert record.getMessage() == (text if retired else f"{text}; a new worker starts in 0.1 s")
    assert record.levelname == "WARNING"


def test_a_healthy_start_and_end_warn_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage(processes=2)
    first, second = stage.start()
    stage.supervisor.stop()
    for child in (first, second):
        child.end(0)
    assert caplog.messages == [
        "starting 2 workers",
        "worker 101 is ready after 0.0 s",
        "worker 102 is ready after 0.0 s",
        "worker 101 has stopped",
        "worker 102 has stopped",
    ]
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_one_that_is_told_to_end_before_it_has_a_handler_has_stopped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage()
    (child,) = stage.start()
    stage.supervisor.restart()
    child.end(0)
    stage.supervisor.stop()
    stage.children[-1].end(-signal.SIGTERM)
    assert caplog.messages[-1] == "worker 102 has stopped"
    assert caplog.records[-1].levelname == "INFO"


@pytest.mark.parametrize(("cpus", "more"), [({0}, ""), ({0, 1}, "s, one for each CPU: they share no state in memory")])
def test_the_log_says_that_workers_share_no_memory_where_nobody_has_asked_for_several(
    cpus: set[int], more: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cpus)
    caplog.set_level(logging.INFO)
    stage = Stage(processes=None)
    stage.start()
    hint = " (--workers 1 starts only one)" if more else ""
    assert caplog.messages[0] == f"starting {len(cpus)} worker{more}{hint}"


# A rolling restart.


def test_a_worker_that_has_served_enough_is_replaced() -> None:
    stage = Stage(processes=2, max_requests=10)
    _, second = stage.start()
    Counters(second.ledger.cells).add("streams_opened", 10, "http")
    stage.clock.advance(1.0)
    assert stage.alive == [101, 102, 103]
    stage.clock.advance(1.0)
    assert stage.alive == [101, 102, 103]
    stage.children[2].say_ready()
    assert second.signals == ["TERM"]
    stage.clock.advance(1.0)
    assert stage.alive == [101, 102, 103]


def test_nobody_is_replaced_at_the_end() -> None:
    stage = Stage(max_requests=10)
    [worker] = stage.start()
    stage.supervisor.stop()
    Counters(worker.ledger.cells).add("streams_opened", 10, "http")
    stage.clock.advance(1.0)
    assert stage.alive == [101]
    worker.end()
    stage.clock.advance(5.0)
    assert stage.clock.getDelayedCalls() == []


# Reloading.


def test_a_restart_ends_the_old_workers_and_starts_new_ones_at_once() -> None:
    stage = Stage(processes=2)
    first, second = stage.start()
    stage.supervisor.restart()
    assert [child.signals for child in stage.children] == [["TERM"], ["TERM"], [], []]
    assert stage.alive == [101, 102, 103, 104]
    assert stage.supervisor.statistics() == {
        "workers_ready": 0,
        "workers_starting": 2,
        "workers_draining": 2,
        "workers_started": 4,
        "workers_ended": 0,
        "streams_released": 0,
    }
    first.end()
    second.end()
    assert stage.alive == [103, 104], "those that were drained are not replaced"


def test_a_restart_overtakes_a_rolling_one() -> None:
    stage = Stage(processes=1)
    stage.start()
    stage.supervisor.replace()
    stage.supervisor.restart()
    old, rolling, newest = stage.children
    assert (old.signals, rolling.signals, newest.signals) == (["TERM"], ["TERM"], [])
    newest.say_ready()
    rolling.say_ready()  # it has heard of its end too late
    assert newest.signals == []
    rolling.end()
    old.end()
    assert stage.alive == [103]
    # A rolling restart is possible again.
    stage.supervisor.replace()
    stage.children[3].say_ready()
    assert newest.signals == ["TERM"]


def test_an_error_that_workers_show_is_logged_once_for_each_restart(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage(processes=2, reload=True)
    stage.start()
    assert not stage.supervisor.broken
    for _ in range(2):
        caplog.clear()
        stage.supervisor.restart()
        for child in stage.children[-2:]:
            child.error = "SyntaxError in part.py"
            child.say_ready()
        assert stage.supervisor.broken
        assert [record.getMessage() for record in caplog.records] == [
            "SyntaxError in part.py\nRequests are answered with this error until a watched file changes."
        ]
    stage.supervisor.restart()
    assert not stage.supervisor.broken
    assert [child.signals for child in stage.children[4:]] == [["TERM"], ["TERM"], [], []]
    caplog.clear()
    stage.children[-1].say_ready()
    assert caplog.messages == ["worker 108 is ready after 0.0 s"]


def test_first_workers_that_show_an_error_are_ready() -> None:
    stage = Stage(processes=1, reload=True)
    (child,) = stage.start(ready=False)
    child.loaded, child.error = False, "SyntaxError in part.py"
    child.say_ready()
    assert (stage.ready_calls, stage.failures) == (1, [])


def test_an_application_whose_import_ends_the_process_is_tried_again_where_it_may_be_mended() -> None:
    stage = Stage(processes=1, reload=True)
    (child,) = stage.start(ready=False)
    child.loaded = False
    child.end()
    assert stage.failures == []
    stage.supervisor.restart()
    assert stage.alive == [102]


def test_an_old_worker_that_is_not_drained_in_time_is_killed_and_told(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    (child,) = stage.start()
    child.ledger.enter(f"{SERVER}.1", 0)
    stage.supervisor.restart()
    stage.clock.advance(PATIENCE_S - 0.1)
    assert child.signals == ["TERM"]
    stage.clock.advance(0.2)
    assert child.signals == ["TERM", "KILL"]
    assert "worker 101 has not stopped within 12.0 s: killing it" in caplog.text
    child.end()
    assert release("1") in stage.events


def test_restarts_while_workers_are_starting_are_one_restart() -> None:
    stage = Stage()
    stage.start()
    for _ in range(5):
        stage.supervisor.restart()
    assert stage.alive == [101, 102]
    assert stage.children[1].signals == ["TERM"], "it may have read the files before they were changed"
    stage.children[1].end()
    assert stage.alive == [101, 103]
    stage.children[2].say_ready()
    stage.clock.advance(5)
    assert stage.alive == [101, 103]
    assert stage.children[2].signals == []


def test_a_starting_worker_that_does_not_end_is_killed_soon() -> None:
    stage = Stage()
    (child,) = stage.start(ready=False)
    stage.supervisor.restart()
    stage.clock.advance(1.1)
    assert child.signals == ["TERM", "KILL"]
    child.end()
    assert stage.alive == [102]


def test_a_starting_worker_that_is_ready_before_it_hears_that_it_must_end_is_drained() -> None:
    stage = Stage()
    (child,) = stage.start(ready=False)
    stage.supervisor.restart()
    child.say_ready()
    assert stage.alive == [101, 102]
    assert stage.ready_calls == 0
    stage.clock.advance(PATIENCE_S - 0.1)
    assert child.signals == ["TERM"]
    stage.clock.advance(0.2)
    assert child.signals == ["TERM", "KILL"]
    stage.children[1].say_ready()
    assert stage.ready_calls == 1


def test_a_restart_does_not_wait_for_the_delay_after_a_crash_and_forgets_the_crashes() -> None:
    stage = Stage()
    stage.start()
    for _ in range(4):
        stage.children[-1].end()
        stage.clock.advance(stage.next_delay())
    stage.children[-1].end()
    assert stage.alive == []
    stage.supervisor.restart()
    assert len(stage.alive) == 1
    assert stage.calls() == []
    stage.children[-1].end()
    assert stage.next_delay() <= 0.13


# Stopping.


def fired(deferred: Deferred[None]) -> bool:
    return deferred.called


def test_stop_ends_all_at_once_and_fires_when_they_are_gone() -> None:
    stage = Stage(processes=2)
    first, second = stage.start()
    stopped = stage.supervisor.stop()
    assert [first.signals, second.signals] == [["TERM"], ["TERM"]]
    first.end()
    assert not fired(stopped)
    second.end()
    assert fired(stopped)
    assert stage.clock.getDelayedCalls() == []
    assert stage.events == ["101 ended", "102 ended"], "nobody is replaced"
    assert fired(stage.supervisor.stop())


def test_stop_does_not_tell_twice_those_that_have_been_told() -> None:
    stage = Stage()
    stage.start()
    stage.supervisor.restart()
    stage.supervisor.restart()
    stopped = [stage.supervisor.stop(), stage.supervisor.stop()]
    assert [each.signals for each in stage.children] == [["TERM"], ["TERM"]]
    for each in stage.children:
        each.end()
    assert all(map(fired, stopped))


def test_stop_kills_those_that_take_too_long_and_tells_of_their_streams() -> None:
    stage = Stage()
    (child,) = stage.start()
    child.ledger.enter(f"{SERVER}.1", 0)
    stopped = stage.supervisor.stop()
    stage.clock.advance(PATIENCE_S + 0.1)
    assert child.signals == ["TERM", "KILL"]
    stage.clusters.unsent = 1
    child.end()
    assert stage.events == ["101 ended", release("1")]
    stage.clock.advance(0.5)
    assert not fired(stopped), "the node has not taken the Release"
    stage.clusters.unsent = 0
    stage.clock.advance(0.1)
    assert fired(stopped)
    assert stage.clock.getDelayedCalls() == []


def test_stop_does_not_wait_for_ever_for_a_node(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    (child,) = stage.start()
    stage.clusters.unsent = 3
    stopped = stage.supervisor.stop()
    child.end()
    stage.clock.pump([0.1] * 25)
    assert fired(stopped)
    assert "3 messages are lost" in caplog.text


def test_stop_does_not_wait_for_ever_for_a_worker_that_the_kernel_cannot_end(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.start()
    stopped = stage.supervisor.stop()
    stage.clock.pump([PATIENCE_S, 5.1])
    assert fired(stopped)
    assert "were killed and have not ended: 101" in caplog.text


def test_stop_forgets_the_workers_that_would_have_been_started() -> None:
    stage = Stage(processes=2)
    first, second = stage.start()
    first.end()
    stopped = stage.supervisor.stop()
    stage.supervisor.restart()
    second.end()
    stage.clock.advance(20)
    assert stage.alive == []
    assert fired(stopped)


def test_stop_before_start_fires_at_once() -> None:
    assert fired(Stage().supervisor.stop())


def test_stop_now_kills_at_once() -> None:
    stage = Stage(processes=2)
    first, second = stage.start()
    first.ledger.enter(f"{SERVER}.1", 0)
    stopped = stage.supervisor.stop_now()
    assert first.signals[0] == second.signals[0] == "KILL"
    first.end()
    second.end()
    assert fired(stopped)
    assert release("1") in stage.events


def test_stop_now_while_stop_is_waiting() -> None:
    stage = Stage()
    (child,) = stage.start()
    stopped = stage.supervisor.stop()
    stage.clock.advance(1)
    now = stage.supervisor.stop_now()
    assert child.signals == ["TERM", "KILL"]
    stage.clock.advance(5.1)
    assert fired(stopped), "the kernel cannot end it"
    assert fired(now)
    child.end()


def test_a_worker_that_is_ready_only_when_all_are_stopped_is_not_announced() -> None:
    stage = Stage()
    (child,) = stage.start(ready=False)
    stage.supervisor.stop()
    child.say_ready()
    assert stage.ready_calls == 0


def test_nothing_is_held_of_workers_that_are_gone() -> None:
    stage = Stage()
    stage.start()
    del stage.children[0].ledger
    before = open_fds()
    for _ in range(5):
        stage.children[-1].end()
        stage.clock.advance(stage.next_delay())
        del stage.children[-1].ledger
    assert len(open_fds()) == len(before)


# With real processes.

WORK = """
ledger = children.open_ledger(launch.ledger_fd, launch.worker.max_streams)
ledger.inbox = "!east.k3v9x2aq7m"
ledger.enter("!east.0123456789.1", 0)
ledger.clear(ledger.enter("!east.0123456789.2", 0))
ledger.enter("!east.0123456789.3", 1)
children.report_ready(launch.ready_fd)
signal.pause()
"""


class LoopTimer:
    def __init__(self, handle: asyncio.TimerHandle, loop: asyncio.AbstractEventLoop) -> None:
        self._handle = handle
        self._loop = loop

    def cancel(self) -> None:
        self._handle.cancel()

    def active(self) -> bool:
        return not self._handle.cancelled() and self._handle.when() > self._loop.time()


class LoopClock:
    """A clock that is the loop's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def seconds(self) -> float:
        return self._loop.time()

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> LoopTimer:
        call = functools.partial(callable, *args, **kwargs)
        return LoopTimer(self._loop.call_later(delay, call), self._loop)


class _Events(list[Any]):
    """What happens, but not the claims for workers whose loops stand still, as those here do: when and how many depends
    on how long everything else takes."""

    def append(self, event: Any) -> None:
        if not (isinstance(event, tuple) and isinstance(event[1], Claim)):
            super().append(event)


class Live:
    """A supervisor of real processes. Only inside `run`."""

    def __init__(self, text: str, count: int = 1, **settings: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.events = _Events()
        self.changed = asyncio.Event()
        # Other tests of this process may keep a Redis running.
        self._others = set(child_pids())
        self.supervisor = Supervisor(
            [PoolWorkers(settings=WorkerSettings(application="a:b", processes=count, max_streams=8, **settings))],
            LAYER,
            FakeClusters(self.events),
            LoopClock(),
            self.loop,
            LogSettings(),
            lambda: self.events.append("ready"),
            self.events.append,
            lambda inbox: None,
            self._spawn,
        )
        self._command = code(text)

    def _spawn(self, launch: Launch, loop: Any, ready: Callable[[], None], ended: Callable[[], None]) -> Any:
        def is_ready() -> None:
            ready()
            self.changed.set()

        def has_ended() -> None:
            self.events.append(child.ending)
            ended()
            self.changed.set()

        child = children.spawn(launch, loop, is_ready, has_ended, self._command)
        return child

    def pids(self) -> list[str]:
        """Its workers, as the system knows them."""
        return [pid for pid in child_pids() if pid not in self._others]

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def until_ready(self, count: int) -> None:
        await self.until(lambda: self.supervisor.statistics()["workers_ready"] == count)

    async def stop(self, now: bool = False) -> None:
        stopping = self.supervisor.stop_now() if now else self.supervisor.stop()
        await stopping.asFuture(self.loop)


def test_a_worker_that_is_killed_is_told_at_once_and_replaced_and_nothing_is_left_of_it() -> None:
    async def main() -> None:
        before = open_fds()
        live = Live(WORK, restart_delay_s=0)
        live.supervisor.start()
        await live.until_ready(1)
        steady = len(open_fds())
        for _ in range(3):
            (pid,) = live.pids()
            live.events.clear()
            os.kill(int(pid), signal.SIGKILL)
            await live.until(lambda: "SIGKILL" in live.events)
            assert live.events == ["SIGKILL", release("1"), release("3", 1)]
            assert not Path(f"/proc/{pid}").exists(), "a zombie"
            await live.until_ready(1)
            assert len(open_fds()) == steady
        await live.stop()
        assert live.events[-3:] == ["SIGTERM", release("1"), release("3", 1)]
        assert live.pids() == []
        assert open_fds() == before

    run(main)


def test_real_workers_are_replaced_by_a_restart() -> None:
    async def main() -> None:
        live = Live(WORK, count=2)
        live.supervisor.start()
        await live.until_ready(2)
        assert live.events == ["ready"]
        old = set(live.pids())
        live.supervisor.restart()
        live.supervisor.restart()
        assert old < set(live.pids())
        await live.until(lambda: live.supervisor.statistics()["workers_draining"] == 0)
        await live.until_ready(2)
        new = set(live.pids())
        assert len(new) == 2
        assert not new & old
        await live.stop()
        assert live.pids() == []

    run(main)


def test_a_real_worker_that_minds_no_request_to_end_is_killed() -> None:
    async def main() -> None:
        live = Live("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WORK, count=2)
        live.supervisor.start()
        await live.until_ready(2)
        waiting = live.supervisor.stop()
        await live.stop(now=True)
        assert waiting.called
        assert live.events.count("SIGKILL") == 2
        assert live.pids() == []

    run(main)
