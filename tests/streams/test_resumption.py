"""A WebSocket that outlives its worker: what the next one gets, and what the client notices, which is nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ifserver import messages as m
from ifserver.streams import effects as e
from ifserver.streams.websocket import State, WebSocketStream
from ifserver.streams.window import MESSAGE_OVERHEAD, WINDOW
from tests.streams.test_http import (
    CLAIM,
    DIED,
    ID,
    OTHER,
    START,
    WAIT_NOTHING,
    WAIT_RESPONSE,
    WAIT_WORKER,
    WORKER,
    do,
    told,
)
from tests.streams.test_websocket import ACCEPT, CONNECT, RESUMABLE, SEND, close_client

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
    do(stream, DIED, *says("a"), e.ClientGone(1001))
    assert stream.state is State.LEFT
    return stream


def take_over(stream: WebSocketStream) -> list[Any]:
    """The second worker claims and accepts."""
    assert do(stream, replace(CLAIM, **SECOND)) == [WAIT_RESPONSE]
    return do(stream, replace(ACCEPT, **SECOND))


def test_a_worker_that_drains_gives_back_what_it_has_not_consumed_and_the_next_gets_it_in_order() -> None:
    stream = opened()
    assert heard(do(stream, *says("a", "b", "c"))) == ["a", "b", "c"]
    effects = do(stream, replace(DRAINED, consumed=2 * UNITS))
    assert effects == [e.Resume(replace(CONNECT, attempt=1, resumable=True, unconfirmed=0)), WAIT_WORKER]
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
    stream.hear_sync(m.SyncEntry(ID, 0, 1, 2 * UNITS), WORKER)
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
    assert isinstance(release, e.Tell)
    assert stream.state is State.CLOSING


@pytest.mark.parametrize("reason", ["failed", "gap", "wrong kind"])
def test_a_worker_that_has_failed_is_no_reason_to_go_on(reason: str) -> None:
    [close] = do(opened(), replace(DIED, reason=reason))
    close_client(close, 1011)


def test_a_path_may_make_it_resumable_too() -> None:
    stream = WebSocketStream(replace(CONNECT, resumable=True))
    do(stream, CLAIM, ACCEPT, *says("a"))
    assert resumed(do(stream, DIED)).unconfirmed == 1


def test_each_resumption_counts_as_the_first_time() -> None:
    stream = opened()
    do(stream, DIED)
    for attempt in (1, 3, 5):
        # The worker that takes it dies before it has accepted, and is replaced once; then one accepts, and dies.
        now: dict[str, Any] = {"attempt": attempt, "worker": OTHER}
        offer, wait = do(stream, replace(CLAIM, **now), replace(DIED, **now))[1:]
        assert (offer.request.attempt, wait, stream.state) == (attempt + 1, WAIT_WORKER, State.WAITING)
        now = {"attempt": attempt + 1, "worker": WORKER}
        do(stream, replace(ACCEPT, **now), replace(DIED, **now))
        assert stream.attempt == attempt + 2
    now = {"attempt": 7, "worker": OTHER}
    do(stream, replace(DIED, **now))
    assert stream.state is State.WAITING
    close = do(stream, replace(DIED, attempt=8, worker=OTHER))[1]
    close_client(close, 1012)


def test_what_the_client_says_meanwhile_survives_the_death_of_the_next_worker_too() -> None:
    stream = opened()
    do(stream, DIED, *says("a"), replace(CLAIM, **SECOND), *says("b"), replace(DIED, **SECOND), *says("c"))
    assert heard(do(stream, replace(ACCEPT, attempt=2))) == ["a", "b", "c"]


@pytest.mark.parametrize("was_there", [True, False])
def test_with_nobody_to_take_it_it_is_closed_with_1012(was_there: bool) -> None:
    stream = opened()
    do(stream, DIED)
    assert do(stream, e.TimedOut()) == [WAIT_NOTHING, e.WITHDRAW]
    _, close = do(stream, e.Withdrawn(was_there))
    close_client(close, 1012)
    assert do(stream, e.ClientGone(1012)) == [e.ENDED]


def test_a_node_that_refuses_the_offer_closes_it_with_1012() -> None:
    stream = opened()
    do(stream, DIED)
    close_client(do(stream, e.OfferRefused(False, "full"))[1], 1012)


def test_an_application_that_does_not_accept_it_again_closes_it() -> None:
    stream = opened()
    do(stream, DIED)
    denial = m.ResponseStart(ID, 1, OTHER, 0, 403, [], b"", False)
    close_client(do(stream, denial)[1], 1008)


def test_a_client_that_leaves_while_nobody_has_it_is_withdrawn() -> None:
    stream = opened()
    do(stream, DIED)
    assert do(stream, e.ClientGone(1001)) == [e.WITHDRAW, e.ENDED]


@pytest.mark.parametrize(
    ("before", "waits", "claimed"),
    [
        ([], [], [WAIT_RESPONSE]),
        ([e.TimedOut()], [WAIT_WORKER], [WAIT_RESPONSE]),
        ([replace(CLAIM, **SECOND)], [], []),
    ],
    ids=["waiting", "returning", "taken"],
)
def test_the_last_words_of_a_client_are_for_the_next_worker(
    before: list[Any], waits: list[Any], claimed: list[Any]
) -> None:
    """It must have accepted: an application whose client leaves before that hears nothing more."""
    stream = opened()
    do(stream, DIED, *says("a", "b"), *before)
    assert do(stream, e.ClientGone(1001, "bye")) == waits
    assert do(stream, replace(CLAIM, **SECOND)) == claimed
    assert do(stream, replace(CLAIM, **SECOND)) == []
    effects = do(stream, replace(ACCEPT, **SECOND))
    assert heard(effects) == ["a", "b"]
    assert effects[-2:] == [e.Tell(OTHER, m.Disconnect(ID, 1, 2, 1001, "bye")), e.ENDED]
    assert stream.state is State.DONE


def test_one_that_has_said_nothing_has_no_last_words() -> None:
    for before, effects in (
        ([], [e.WITHDRAW, e.ENDED]),
        ([e.TimedOut()], [e.ENDED]),
        ([replace(CLAIM, **SECOND)], [e.Tell(OTHER, m.Disconnect(ID, 1, 0, 1001, "")), e.ENDED]),
    ):
        stream = opened()
        do(stream, DIED, *before)
        assert do(stream, e.ClientGone(1001)) == effects


@pytest.mark.parametrize("how", [DIED, e.Vanished(), e.OfferRefused(True, "in doubt")], ids=str)
def test_they_are_offered_once_more_when_the_next_worker_is_lost_too(how: Any) -> None:
    stream = left()
    if how is DIED:
        do(stream, replace(CLAIM, **SECOND))
        how = replace(DIED, **SECOND)
    offer, wait = do(stream, how)
    assert (offer.request.attempt, wait) == (2, WAIT_WORKER)
    third = {"attempt": 2, "worker": WORKER}
    assert heard(do(stream, replace(ACCEPT, **third))) == ["a"]


@pytest.mark.parametrize(
    "how",
    [
        [e.TimedOut()],
        [e.OfferRefused(False, "full")],
        [e.Withdrawn(True)],
        [replace(DIED, **SECOND), replace(DIED, attempt=2, worker=WORKER)],
        [replace(START, **SECOND)],
    ],
    ids=["nobody in time", "refused", "withdrawn", "lost again", "denied"],
)
def test_that_nobody_heard_them_is_told(how: list[Any]) -> None:
    stream = left()
    effects = do(stream, *how)
    (unsaid,) = [effect for effect in effects if isinstance(effect, e.Unsaid)]
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
    assert do(stream, e.Flushed(100_000)) == [e.Tell(OTHER, m.Window(ID, 1, OTHER, total))]


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
    assert len(consumed) + len(handed) + len(stream._pending) == said
