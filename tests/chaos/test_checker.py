"""The judge sees each thing that must not be, and lets pass what docs/explanation/failures.rst allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.chaos.checker import violations
from tests.chaos.faults import KINDS
from tests.chaos.records import Echo, Fault, History, Lag, Member, Publication, Request, Run, Socket, parse_runs

SERVER, WORKER, OTHER = 0, 100, 200


def request(outcome: str = "ok", took_s: float = 0.1, method: str = "GET", began_at: float = 50.0) -> Request:
    return Request("r", method, "page", SERVER, "main", began_at, 0.0, began_at + took_s, outcome)


def socket(outcome: str, ended_at: float, *echoes: tuple[float, float | None], worker: int = WORKER) -> Socket:
    """A WebSocket since 40.0."""
    heard = [Echo(number, sent_at, came_at) for number, (sent_at, came_at) in enumerate(echoes)]
    return Socket("w", SERVER, "main", 40.0, 40.1, worker, heard, ended_at, outcome)


def fault(kind: str, begun_at: float, healed_at: float) -> Fault:
    trait = KINDS[kind].trait
    servers = frozenset({SERVER}) if "server" in kind else frozenset[int]()
    workers = frozenset({WORKER}) if "worker" in kind or "supervisor" in kind or "host" in kind else frozenset[int]()
    node = "main" if "node" in kind or "connections" in kind else None
    return Fault(kind, kind, trait, begun_at, healed_at, servers, workers, node)


def judged(*what: Request | Socket, faults: list[Fault] | None = None, runs: list[Run] | None = None) -> list[str]:
    requests = [each for each in what if isinstance(each, Request)]
    sockets = [each for each in what if isinstance(each, Socket)]
    return violations(History(requests, sockets, runs or [], faults or [], ended_at=100.0))


def run(worker: int = WORKER, began_at: float = 50.0, ended_at: float = 50.1) -> Run:
    return Run("r", worker, began_at, ended_at)


@pytest.mark.parametrize("outcome", ["502", "503", "504", "500", "cut", "reset", "refused", "hung", "wrong: x", ""])
def test_in_the_calm_every_request_is_answered(outcome: str) -> None:
    assert judged(request()) == []
    [why] = judged(request(outcome))
    assert (outcome or "never ended") in why


@pytest.mark.parametrize("outcome", ["closed 1011", "closed 1012", "cut", "hung", "wrong: x", ""])
def test_in_the_calm_no_websocket_is_closed(outcome: str) -> None:
    assert judged(socket("left", 60.0, (41.0, 41.1))) == []
    [why] = judged(socket(outcome, 60.0, (41.0, 41.1)))
    assert (outcome or "never ended") in why


@pytest.mark.parametrize("outcome", ["hung", "wrong: 7 bytes", "500", ""])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_explains_what_may_never_be(kind: str, outcome: str) -> None:
    assert judged(request(outcome), faults=[fault(kind, 49.0, 51.0)])
    if outcome != "500":
        assert judged(socket(outcome, 50.0), faults=[fault(kind, 49.0, 51.0)])


def test_a_right_answer_must_come_in_time() -> None:
    assert judged(request(took_s=3.5))
    assert judged(request(took_s=3.5), faults=[fault("freeze worker", 50.0, 52.0)]) == []
    assert judged(request(took_s=12.0), faults=[fault("freeze worker", 50.0, 52.0)])
    history = History([request(took_s=3.5)], lags=[Lag(52.0, 2.0)], ended_at=100.0)
    assert violations(history) == []


def test_a_machine_that_is_busy_takes_its_time_but_makes_nothing_wrong() -> None:
    late = [request(took_s=3.5), request(took_s=11.0)]
    assert len(violations(History(late, ended_at=100.0, load=2.0))) == 1
    assert violations(History(late, ended_at=100.0, load=4.0)) == []
    for outcome, wrong in (("503", 0), ("502", 1), ("504", 1), ("cut", 1), ("wrong: bytes", 1)):
        found = violations(History([request(outcome)], ended_at=100.0, load=4.0))
        assert len(found) == wrong, outcome
    # Somebody has taken it, and has not come to say so.
    assert violations(History([request("504", 30.1)], ended_at=100.0, load=4.0)) == []
    assert violations(History([request("504", 30.1)], ended_at=100.0, load=2.0))


@pytest.mark.parametrize(("outcome", "wrong"), [("503", 0), ("502", 1), ("504", 1), ("cut", 1)])
def test_servers_leave_nodes_whose_proxies_stand_still(outcome: str, wrong: int) -> None:
    def found(*lags: Lag) -> list[str]:
        return violations(History([request(outcome)], lags=list(lags), ended_at=100.0))

    assert len(found(Lag(49.0, 0.3), Lag(49.5, 0.3))) == wrong
    # Too short, and too long before.
    assert found(Lag(49.5, 0.4))
    assert found(Lag(47.0, 3.0))


@pytest.mark.parametrize(
    ("outcome", "took_s", "kind"),
    [
        ("502", 0.3, "kill worker"),
        ("cut", 0.3, "kill worker"),
        ("504", 30.1, "kill worker"),
        ("502", 5.0, "kill supervisor"),
        ("cut", 5.0, "freeze host"),
        ("reset", 0.1, "kill server"),
        ("refused", 0.1, "kill server"),
        ("cut", 0.1, "kill server"),
        ("503", 0.1, "kill node"),
        ("504", 30.1, "kill node"),
        ("502", 2.0, "restart node"),
        ("cut", 2.0, "flush node"),
        ("503", 0.1, "let node run out of memory"),
    ],
)
def test_a_fault_explains_what_it_may_do(outcome: str, took_s: float, kind: str) -> None:
    given = request(outcome, took_s)
    assert judged(given, faults=[fault(kind, 50.0, 50.5)]) == []
    # But not before it, and long after.
    assert judged(given, faults=[fault(kind, 95.0, 95.5)])
    assert judged(given, faults=[fault(kind, 10.0, 10.5)])


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ("503", "kill worker"),
        ("502", "kill server"),
        ("reset", "kill worker"),
        ("reset", "kill node"),
        ("refused", "kill node"),
        ("503", "freeze node shortly"),
        ("502", "freeze node"),
        ("cut", "freeze worker"),
        ("502", "freeze server"),
        ("504", "freeze supervisor"),
        ("503", "flush node"),
        ("502", "let node run out of memory"),
        ("cut", "slow node"),
        ("cut", "cut off node"),
    ],
)
def test_a_fault_explains_nothing_else(outcome: str, kind: str) -> None:
    assert judged(request(outcome), faults=[fault(kind, 50.0, 50.5)])


def test_an_error_must_be_told_in_time() -> None:
    killed = fault("kill worker", 50.0, 51.0)
    [why] = judged(request("502", 4.0), faults=[killed])
    assert "later than it had to be told" in why
    [why] = judged(request("503", 9.0), faults=[fault("kill node", 50.0, 60.0)])
    assert "later" in why
    assert judged(request("504", 36.0), faults=[killed])


def test_another_ones_fault_explains_nothing() -> None:
    killed = fault("kill worker", 50.0, 51.0)
    assert judged(request("502"), faults=[killed], runs=[run(WORKER)]) == []
    assert judged(request("502"), faults=[killed], runs=[run(OTHER)])
    assert judged(socket("closed 1012", 50.2, worker=OTHER), faults=[killed])
    elsewhere = replace_server(fault("kill server", 50.0, 51.0), 1)
    assert judged(request("reset"), faults=[elsewhere])
    assert judged(request("503"), faults=[fault("kill node", 50.0, 51.0)._replace(node="other")])
    # Who can receive on another node has no reason to refuse anything.
    assert judged(replace(request("503"), node=""), faults=[fault("kill node", 50.0, 51.0)])


def replace_server(given: Fault, server: int) -> Fault:
    return given._replace(servers=frozenset({server}))


def test_a_websocket_ends_as_its_worker_does() -> None:
    killed = fault("kill worker", 50.0, 51.0)
    assert judged(socket("closed 1012", 50.2), faults=[killed]) == []
    assert judged(socket("closed 1011", 50.2), faults=[killed])
    assert judged(socket("cut", 50.2), faults=[killed])
    assert judged(socket("closed 1012", 56.0), faults=[killed])
    [why] = judged(socket("left", 60.0), faults=[killed])
    assert "open for 10.0 s" in why
    assert judged(socket("cut", 50.1), faults=[fault("kill server", 50.0, 51.0)]) == []


@pytest.mark.parametrize("kind", ["flush node", "kill node", "reset connections"])
def test_only_a_websocket_that_had_something_under_way_may_be_broken_by_a_node(kind: str) -> None:
    lost = [fault(kind, 50.0, 51.0)]
    assert judged(socket("closed 1011", 53.0, (41.0, 41.1), (50.2, None)), faults=lost) == []
    assert judged(socket("closed 1011", 53.0, (41.0, 41.1), (49.8, 50.2)), faults=lost) == []
    [why] = judged(socket("closed 1011", 53.0, (41.0, 41.1)), faults=lost)
    assert "no fault that explains it" in why
    # And it is told in time.
    assert judged(socket("closed 1011", 59.0, (41.0, 41.1), (50.2, None)), faults=lost)


def test_a_message_that_is_lost_in_silence_is_seen() -> None:
    for faults in ([], [fault("flush node", 50.0, 50.0)]):
        [why] = judged(socket("left", 53.0, (50.2, None), (51.0, 51.1)), faults=faults)
        assert "messages [0] were lost" in why


def test_a_message_must_come_back_in_time() -> None:
    assert judged(socket("left", 60.0, (50.0, 55.0)))
    assert judged(socket("left", 60.0, (50.0, 55.0)), faults=[fault("freeze node", 50.0, 53.0)]) == []


def test_a_post_is_never_run_twice_and_a_get_once_more_at_most() -> None:
    lost = [fault("kill node", 50.0, 51.0)]
    twice = [run(WORKER), run(OTHER)]
    assert judged(request(), faults=lost, runs=twice) == []
    assert "was run 3 times" in judged(request(), faults=lost, runs=[*twice, run(OTHER)])[0]
    [why] = judged(request(method="POST"), faults=lost, runs=twice)
    assert "was run 2 times" in why


def test_an_application_is_told_that_its_client_has_left() -> None:
    left = replace(request("reset"), ended_at=50.1)
    killed = [fault("kill server", 50.0, 51.0)]
    assert judged(left, faults=killed, runs=[run(ended_at=61.0)]) == []
    [why] = judged(left, faults=killed, runs=[run(ended_at=float("inf"))])
    assert "was not told" in why
    worker_too = [*killed, fault("kill worker", 55.0, 56.0)]
    assert judged(left, faults=worker_too, runs=[run(ended_at=float("inf"))]) == []


def test_an_idle_connection_must_stay_open() -> None:
    history = History(idle_closed=[(50.0, SERVER)], ended_at=100.0)
    assert violations(history)
    history.faults = [fault("kill server", 49.9, 51.0)]
    assert violations(history) == []


def test_what_a_member_of_a_group_misses_it_is_told() -> None:
    sent = Publication(request(), 3)
    resumable = replace(socket("left", 80.0), resumable=True)

    def judged_member(heard: list[int], gaps: Sequence[float] = (), *faults: Fault) -> list[str]:
        member = Member(resumable, {"r": heard}, list(gaps))
        return violations(
            History([sent.request], [resumable], (), faults, ended_at=100.0, members=[member], publications=[sent])
        )

    assert judged_member([0, 1, 2]) == []
    lost = fault("flush node", 50.0, 51.0)
    for faults in ([], [lost]):
        [why] = judged_member([0, 2], [], *faults)
        assert "heard 2 of 3 messages of r, and was not told" in why
    assert judged_member([0, 2], [52.0], lost) == []
    [why] = judged_member([0, 2], [52.0])
    assert "was told at 52.00 that messages were lost, and no fault explains it" in why
    member = Member(resumable, {"r": [0, 2]}, [52.0])
    assert violations(History([], [resumable], lags=[Lag(50.0, 1.0)], ended_at=100.0, members=[member])) == []


def test_a_resumable_websocket_outlives_its_worker() -> None:
    killed = fault("kill worker", 50.0, 51.0)
    assert judged(socket("closed 1012", 50.2), faults=[killed]) == []
    assert judged(replace(socket("left", 70.0), resumable=True), faults=[killed]) == []
    [why] = judged(replace(socket("closed 1012", 50.2), resumable=True), faults=[killed])
    assert "closed 1012, and no fault that explains it" in why


def test_runs_are_read_as_they_were_written() -> None:
    lines = ["began a 7 1.0", "began b 7 1.1", "returned a 7 1.2", "began a 7 1.3"]
    endless = float("inf")
    assert sorted(parse_runs(lines)) == [
        Run("a", 7, 1.0, 1.2), Run("a", 7, 1.3, endless), Run("b", 7, 1.1, endless),
    ]  # fmt: skip
