"""A WebSocket that outlives its worker: what the next one gets, and what the client notices, which is nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ifserver import messages as m
from ifserver.flow_control import MESSAGE_OVERHEAD, WINDOW
from ifserver.state_machines import effects as e
from ifserver.state_machines.websocket import State, WebSocketStream
from tests.kept_bytes import LETTERS, kept_at_most, wide
from tests.state_machines.test_http import (
    CLAIM,
    DIED,
    ID,
    OTHER,
    START,
    WAIT_NOTHING,
    WAIT_RESUMPTION,
    WORKER,
    do,
    told,
)
from tests.state_machines.test_websocket import ACCEPT, CONNECT, RESUMABLE, SEND, close_client

#: What one message of one byte costs.
UNITS = 1 + MESSAGE_OVERHEAD
SECOND: dict[str, Any] = {"attempt": 1, "worker": OTHER}
DRAINED = replace(DIED, reason="drained", sent=1)


def opened() -> WebSocketStream:
    """An open WebSocket that its application has declared resumable."""
    stream = WebSocketStream(CONNECT)
    do(stream, CLAIM, RESUMABLE)
    return stream


def says(*texts: str) -> list[e.MessageReceived]:
    return [e.MessageReceived(text, None) for text in texts]


def heard(effects: list[Any]) -> list[str | None]:
    """The client's messages among what a worker is told."""
    return [message.text for message in told(effects, m.WebSocketReceive)]


def resumed(effects: list[Any]) -> m.WebSocketConnect:
    """The offer to the next worker."""
    (offer,) = [effect.request for effect in effects if isinstance(effect, e.Resume)]
    return offer


def left() -> WebSocketStream:
    """One whose client has left, and whose last words are held."""
    stream = opened()
    do(stream, DIED, *says("a"), e.ClientLeft(1001))
    assert stream.state is State.LEFT
    return stream


def take_over(stream: WebSocketStream) -> list[Any]:
    """The second worker claims and accepts."""
    assert do(stream, replace(CLAIM, **SECOND)) == []
    return do(stream, replace(ACCEPT, **SECOND))


def test_a_worker_that_drains_gives_back_what_it_has_not_consumed_and_the_next_gets_it_in_order() -> None:
    stream = opened()
    assert heard(do(stream, *says("a", "b", "c"))) == ["a", "b", "c"]
    effects = do(stream, replace(DRAINED, consumed=2 * UNITS))
    offer = replace(CONNECT, attempt=1, resumable=True, unconfirmed=0)
    assert effects == [e.Resume(offer, 0, f"worker {WORKER} is stopping"), WAIT_RESUMPTION]
    assert do(stream, *says("d")) == []
    effects = take_over(stream)
    assert effects[0] == WAIT_NOTHING
    assert heard(effects) == ["c", "d"]
    assert [message.seq for message in told(effects, m.WebSocketReceive)] == [0, 1]
    assert not [effect for effect in effects if isinstance(effect, m.WebSocketAccept)], "the client was accepted before"
    send = replace(SEND, **SECOND)
    assert do(stream, send) == [send]


def test_of_one_that_died_what_may_have_been_consumed_is_told_and_not_sent_again() -> None:
    stream = opened()
    do(stream, *says("a", "b", "c"), m.Window(ID, 0, WORKER, UNITS))
    assert resumed(do(stream, DIED)).unconfirmed == 2
    do(stream, *says("d"))
    assert heard(take_over(stream)) == ["d"]


def test_a_sync_confirms_as_well() -> None:
    stream = opened()
    do(stream, *says("a", "b"))
    stream.receive_sync(m.SyncEntry(ID, 0, 1, 2 * UNITS), WORKER)
    assert resumed(do(stream, DIED)).unconfirmed == 0


def test_what_waited_for_credit_was_in_nobodys_hands() -> None:
    stream = opened()
    do(stream, *[e.MessageReceived(None, bytes(WINDOW)) for _ in range(2)])
    assert resumed(do(stream, DIED)).unconfirmed == 1
    assert len(told(take_over(stream), m.WebSocketReceive)) == 1


def test_a_message_to_the_client_that_was_lost_before_the_stream_was_given_back_closes_it() -> None:
    stream = opened()
    wait, close, release = do(stream, replace(DRAINED, sent=2))
    assert wait == e.Wait(e.Waiting.NOTHING)
    close_client(close, 1011)
    assert isinstance(release, e.Send)
    assert stream.state is State.CLOSING


@pytest.mark.parametrize("reason", ["failed", "gap", "wrong kind"])
def test_a_worker_that_has_failed_is_no_reason_to_go_on(reason: str) -> None:
    [close] = do(opened(), replace(DIED, reason=reason))
    close_client(close, 1011)


@pytest.mark.parametrize("by_path", [True, False])
def test_what_its_worker_says_counts_and_not_its_path(by_path: bool) -> None:
    """The application, or the subprotocol on which it has agreed, may decide otherwise."""
    connect = replace(CONNECT, resumable=by_path)
    stream = WebSocketStream(connect)
    do(stream, CLAIM, RESUMABLE, *says("a"))
    assert resumed(do(stream, DIED)).unconfirmed == 1
    stream = WebSocketStream(connect)
    do(stream, CLAIM, ACCEPT, *says("a"))
    assert not stream.resumable
    [close] = do(stream, DIED)
    close_client(close, 1012)


@pytest.mark.parametrize("reason", [m.DIED, m.DRAINED, m.STOPPED, m.SERVER_LOST])
def test_it_goes_on_whatever_has_become_of_its_worker(reason: str) -> None:
    assert resumed(do(opened(), replace(DIED, reason=reason))).attempt == 1


#: What may become of an attempt before the worker has accepted.
FAILURES: list[tuple[str, Callable[[WebSocketStream], list[Any]]]] = [
    ("refused", lambda stream: do(stream, e.OfferRefused(False, "full"))),
    ("in doubt", lambda stream: do(stream, e.OfferRefused(True, "broke"))),
    ("vanished", lambda stream: do(stream, e.ClaimTimedOut())),
    ("died", lambda stream: do(stream, spoken(CLAIM, stream), spoken(DIED, stream))),
    ("failed", lambda stream: do(stream, spoken(CLAIM, stream), replace(spoken(DIED, stream), reason="failed"))),
    ("gap", lambda stream: do(stream, spoken(CLAIM, stream), replace(spoken(ACCEPT, stream), seq=1))),
    ("bad word", lambda stream: do(stream, spoken(CLAIM, stream), replace(spoken(SEND, stream), seq=0))),
    ("lost accept", lambda stream: list(stream.receive_sync(m.SyncEntry(ID, stream.attempt, 1, 0), WORKER))),
]


def spoken(message: Any, stream: WebSocketStream) -> Any:
    """`message` as a worker says it about the present attempt."""
    return replace(message, attempt=stream.attempt)


@pytest.mark.parametrize("fail", [fail for _, fail in FAILURES], ids=[name for name, _ in FAILURES])
@pytest.mark.parametrize("make", [opened, left], ids=["waiting", "left"])
def test_no_failed_attempt_closes_it_and_each_begins_the_next(
    make: Callable[[], WebSocketStream], fail: Callable[[WebSocketStream], list[Any]]
) -> None:
    stream = make()
    if stream.state is State.OPEN:
        do(stream, DIED, *says("a"))
    for tries in range(1, 20):
        attempt = stream.attempt
        (offer,) = [effect for effect in fail(stream) if isinstance(effect, e.Resume)]
        assert (offer.tries, offer.request.attempt, stream.attempt) == (tries, attempt + 1, attempt + 1)
        assert stream.state in (State.WAITING, State.LEFT)
    do(stream, spoken(CLAIM, stream))
    assert heard(do(stream, spoken(ACCEPT, stream))) == ["a"]


def test_the_messages_of_the_attempt_after_a_gap_are_counted_from_the_beginning() -> None:
    stream = opened()
    do(stream, DIED, spoken_at(CLAIM, 1), replace(spoken_at(ACCEPT, 1), seq=3))
    do(stream, spoken_at(ACCEPT, 2))
    send = spoken_at(SEND, 2)
    assert do(stream, send) == [send]


def spoken_at(message: Any, attempt: int) -> Any:
    return replace(message, attempt=attempt)


def test_a_worker_that_gives_it_back_before_it_accepts_is_no_failure() -> None:
    stream = opened()
    do(stream, DIED, replace(CLAIM, **SECOND))
    (offer,) = do(stream, replace(DIED, **SECOND, reason=m.STOPPED))
    assert (offer.tries, offer.request.attempt) == (0, 2)


def test_failures_are_counted_anew_after_each_accept() -> None:
    stream = opened()
    do(stream, DIED, e.ClaimTimedOut(), e.ClaimTimedOut())
    do(stream, spoken(ACCEPT, stream))
    (offer, wait) = do(stream, spoken(DIED, stream))
    assert (offer.tries, wait) == (0, WAIT_RESUMPTION)


def test_what_the_client_says_meanwhile_survives_the_death_of_the_next_worker_too() -> None:
    stream = opened()
    do(stream, DIED, *says("a"), replace(CLAIM, **SECOND), *says("b"), replace(DIED, **SECOND), *says("c"))
    assert heard(do(stream, replace(ACCEPT, attempt=2))) == ["a", "b", "c"]


def test_what_is_kept_of_a_text_needs_no_more_than_the_client_sent() -> None:
    """It is kept twice: what a worker has, and what nobody has."""
    stream = opened()
    with kept_at_most(int(4.5 * LETTERS)):
        for last in "abc":
            do(stream, *says(wide(last)))
        do(stream, replace(DRAINED, consumed=0))
        do(stream, *says(wide("d")))
    assert heard(take_over(stream)) == [wide(last) for last in "abc"]
    window = m.Window(ID, 1, OTHER, 3 * (LETTERS + MESSAGE_OVERHEAD))
    assert heard(do(stream, window)) == [wide("d")]


@pytest.mark.parametrize(
    ("before", "claimant"),
    [
        ([], [e.WITHDRAW]),
        ([e.ClaimTimedOut()], [e.WITHDRAW]),
        ([replace(CLAIM, **SECOND)], [e.Send(OTHER, m.Release(ID, 1, OTHER, "not accepted in time"))]),
    ],
    ids=["offered", "offered again", "taken"],
)
def test_with_nobody_who_accepts_it_in_time_it_is_closed_with_1012(before: list[Any], claimant: list[Any]) -> None:
    stream = opened()
    do(stream, DIED, *says("a"), *before)
    *first, close = do(stream, e.TimedOut())
    assert first == claimant
    close_client(close, 1012)
    # Whoever takes it now is told to let go.
    late = replace(CLAIM, attempt=stream.attempt - 1, worker=WORKER)
    assert do(stream, late, e.Withdrawn(True))[0] == e.Dropped("gone")
    assert do(stream, e.ClientLeft(1012)) == [e.ENDED]


def test_an_application_that_does_not_accept_it_again_closes_it() -> None:
    stream = opened()
    do(stream, DIED)
    denial = m.ResponseStart(ID, 1, OTHER, 0, 403, [], b"", False)
    close_client(do(stream, denial)[1], 1008)


def test_a_client_that_leaves_while_nobody_has_it_is_withdrawn() -> None:
    stream = opened()
    do(stream, DIED)
    assert do(stream, e.ClientLeft(1001)) == [e.WITHDRAW, e.ENDED]


@pytest.mark.parametrize("before", [[], [replace(CLAIM, **SECOND)]], ids=["waiting", "taken"])
def test_the_last_words_of_a_client_are_for_the_next_worker(before: list[Any]) -> None:
    """It must have accepted: an application whose client leaves before that hears nothing more."""
    stream = opened()
    do(stream, DIED, *says("a", "b"), *before)
    assert do(stream, e.ClientLeft(1001, "bye")) == []
    assert do(stream, replace(CLAIM, **SECOND)) == []
    effects = do(stream, replace(ACCEPT, **SECOND))
    assert heard(effects) == ["a", "b"]
    assert effects[-2:] == [e.Send(OTHER, m.Disconnect(ID, 1, 2, 1001, "bye")), e.ENDED]
    assert stream.state is State.DONE


def test_one_that_has_said_nothing_has_no_last_words() -> None:
    for before, effects in (
        ([], [e.WITHDRAW, e.ENDED]),
        ([replace(CLAIM, **SECOND)], [e.Send(OTHER, m.Disconnect(ID, 1, 0, 1001, "")), e.ENDED]),
    ):
        stream = opened()
        do(stream, DIED, *before)
        assert do(stream, e.ClientLeft(1001)) == effects


@pytest.mark.parametrize(
    "how",
    [
        [e.TimedOut()],
        [replace(CLAIM, **SECOND), e.TimedOut()],
        [replace(START, **SECOND)],
    ],
    ids=["nobody in time", "not accepted in time", "denied"],
)
def test_that_nobody_heard_them_is_told(how: list[Any]) -> None:
    stream = left()
    effects = do(stream, *how)
    (unsaid,) = [effect for effect in effects if isinstance(effect, e.Undelivered)]
    assert unsaid.count == 1
    assert effects[-1] is e.ENDED
    assert stream.state is State.DONE


def test_the_client_is_read_no_more_when_much_is_held() -> None:
    stream = opened()
    do(stream, DIED)
    assert do(stream, e.MessageReceived(None, bytes(64 * 1024))) == [e.STOP_READING]
    assert do(stream, *says("late")) == []
    assert e.RESUME_READING in take_over(stream)


def test_what_the_kernel_takes_of_a_former_workers_messages_is_no_credit_for_the_next() -> None:
    stream = opened()
    do(stream, replace(SEND, text="x" * 100_000))
    do(stream, DIED)
    take_over(stream)
    assert do(stream, e.Flushed(100_000)) == []
    do(stream, replace(SEND, **SECOND, text="y" * 100_000))
    total = 100_000 + MESSAGE_OVERHEAD
    assert do(stream, e.Flushed(100_000)) == [e.Send(OTHER, m.Window(ID, 1, OTHER, total))]


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["say", "say", "say", "drain", "die", "claim", "accept", "confirm"]), max_size=60),
    st.randoms(use_true_random=False),
)
def test_every_message_arrives_in_order_and_once_or_is_counted(happenings: list[str], random: Any) -> None:
    stream = opened()
    said = 0
    # What the present worker was handed and has not consumed, and what all have consumed.
    handed: list[int] = []
    consumed: list[int] = []
    units = 0
    for what in happenings:
        worker = stream.worker or WORKER
        head = (ID, stream.attempt, worker)
        effects: list[Any] = []
        if what == "say":
            effects = do(stream, e.MessageReceived(str(said), None))
            said += 1
        elif what == "confirm" and stream.state is State.OPEN:
            taken, handed = handed[: random.randint(0, len(handed))], handed
            handed = handed[len(taken) :]
            consumed += taken
            units += sum(len(str(number)) + MESSAGE_OVERHEAD for number in taken)
            if random.random() < 0.5:
                effects = do(stream, m.Window(*head, units))
        elif what in ("drain", "die") and stream.state is State.OPEN:
            release = m.Release(*head, "drained" if what == "drain" else "died", units if what == "drain" else 0, 0)
            effects = do(stream, release)
            if what == "die":
                assert (resumed(effects).unconfirmed or 0) >= len(handed), "what is lost is counted"
                consumed += handed
            handed, units = [], 0
        elif what == "claim" and stream.state is State.WAITING:
            do(stream, m.Claim(*head, "s"))
        elif what == "accept" and stream.state in (State.WAITING, State.TAKEN):
            effects = do(stream, m.WebSocketAccept(*head, 0, worker, None, []))
        handed += map(int, filter(None, heard(effects)))
    assert consumed + handed == list(range(len(consumed) + len(handed)))
    assert len(consumed) + len(handed) + len(stream.pending) == said
