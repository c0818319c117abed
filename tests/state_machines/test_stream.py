"""What both kinds of stream do alike: who may speak, and in which order. An HTTP exchange stands for both."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ifserver import messages as m
from ifserver.state_machines import effects as e
from ifserver.state_machines.http import State
from tests.state_machines.test_http import (
    CLAIM,
    DIED,
    ID,
    LAST,
    MORE,
    MOVED,
    OTHER,
    START,
    UPLOAD,
    WAIT_NOTHING,
    WAIT_RESPONSE,
    WHOLE,
    WORKER,
    do,
    make,
    release,
    snapshot,
)


@pytest.mark.parametrize("message", [CLAIM, START, replace(LAST, seq=0), m.Window(ID, 0, WORKER, 1)], ids=str)
@pytest.mark.parametrize("wrong", [{"worker": OTHER}, {"attempt": 1}, {"attempt": -1}], ids=str)
@pytest.mark.parametrize("state", [State.CLAIMED, State.RESPONDING])
def test_who_may_not_speak_is_dropped_and_told_to_let_go(state: State, wrong: dict[str, Any], message: Any) -> None:
    stream = make(state, UPLOAD)
    before = snapshot(stream)
    message = replace(message, **wrong)
    assert do(stream, message) == [e.Dropped("gone"), release("gone", message.attempt, message.worker)]
    assert do(stream, replace(DIED, **wrong)) == [e.Dropped("gone")]
    assert snapshot(stream) == before


def test_a_frozen_worker_that_comes_back_mixes_nothing_into_the_answer_of_the_next() -> None:
    stream = make(State.CLAIMED)
    do(stream, DIED)
    second = {"attempt": 1, "worker": OTHER}
    assert do(stream, WHOLE) == [e.Dropped("gone"), release("gone")]
    assert do(stream, replace(START, **second)) == [replace(START, **second), WAIT_NOTHING]
    assert do(stream, MORE) == [e.Dropped("gone"), release("gone")]


def test_a_worker_that_moves_to_another_node_is_told_things_there() -> None:
    stream = make(State.CLAIMED, UPLOAD)
    stream.hear_sync(m.SyncEntry(ID, 0, 0, 0), MOVED)
    assert do(stream, START) == [START, WAIT_NOTHING], "what it has said before it moved may come later"
    assert do(stream, e.ClientGone()) == [e.Tell(MOVED, m.Disconnect(ID, 0, 0, 0, "")), e.ENDED]


def test_a_repeated_message_is_dropped_and_counted() -> None:
    stream = make(State.RESPONDING)
    repeated = e.Dropped("repeated")
    assert do(stream, START, MORE, MORE, START, LAST) == [repeated, MORE, repeated, repeated, LAST, e.ENDED]


def test_a_gap_cuts_a_response_that_has_begun() -> None:
    why = "bad reply: expected message 1 of the worker, got 2"
    assert do(make(State.RESPONDING), LAST) == [e.Dropped("gap"), e.Abort(why), release("broken"), e.ENDED]


@pytest.mark.parametrize("state", [State.QUEUED, State.WITHDRAWING, State.CLAIMED])
def test_a_gap_before_the_response_is_a_502(state: State) -> None:
    why = "bad reply: expected message 0 of the worker, got 1"
    assert do(make(state), MORE) == [e.Dropped("gap"), release("broken"), e.Answer(502, why), e.ENDED]


def test_a_sync_claims_and_shows_what_was_lost() -> None:
    stream = make()
    assert stream.hear_sync(m.SyncEntry(ID, 0, 0, 0), WORKER) == (WAIT_RESPONSE,)
    assert stream.worker == WORKER
    do(stream, START)
    assert stream.hear_sync(m.SyncEntry(ID, 0, 1, 0), WORKER) == ()
    assert stream.hear_sync(m.SyncEntry(ID, 0, 0, 0), WORKER) == ()
    abort, *rest = stream.hear_sync(m.SyncEntry(ID, 0, 2, 0), WORKER)
    assert isinstance(abort, e.Abort)
    assert rest == [release("broken"), e.ENDED]


@pytest.mark.parametrize(("attempt", "worker"), [(1, WORKER), (0, OTHER)])
def test_a_sync_of_somebody_else_shows_nothing(attempt: int, worker: str) -> None:
    stream = make(State.RESPONDING)
    effects = stream.hear_sync(m.SyncEntry(ID, attempt, 9, 0), worker)
    assert effects == (release("gone", attempt, worker),)
    assert stream.state is State.RESPONDING


def test_a_sync_that_says_nothing_new_gives_the_application_no_more_time() -> None:
    stream = make(State.CLAIMED, UPLOAD)
    do(stream, e.BodyReceived(b"more of it", True))
    assert stream.hear_sync(m.SyncEntry(ID, 0, 0, 0), WORKER) == ()
    assert stream.hear_sync(m.SyncEntry(ID, 0, 0, 100), WORKER) == (WAIT_RESPONSE,)
    assert stream.hear_sync(m.SyncEntry(ID, 0, 0, 100), WORKER) == ()
