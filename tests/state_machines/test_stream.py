"""What both kinds of stream do alike: who may send, in which order, what is offered again, and what is answered 5xx.

An HTTP exchange stands for both.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ifserver import messages as m
from ifserver.state_machines import effects as e
from ifserver.state_machines.http import HttpStream, State
from tests.state_machines.test_http import (
    CLAIM,
    DIED,
    GET,
    ID,
    LAST,
    MORE,
    MOVED,
    OTHER,
    PATHS,
    START,
    UPLOAD,
    WAIT_NOTHING,
    WAIT_RESPONSE,
    WAIT_WORKER,
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
    stream.receive_sync(m.SyncEntry(ID, 0, 0, 0), MOVED)
    assert do(stream, START) == [START, WAIT_NOTHING], "what it has said before it moved may come later"
    assert do(stream, e.ClientLeft()) == [e.Send(MOVED, m.Disconnect(ID, 0, 0, 0, "")), e.ENDED]


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
    assert stream.receive_sync(m.SyncEntry(ID, 0, 0, 0), WORKER) == (WAIT_RESPONSE,)
    assert stream.worker == WORKER
    do(stream, START)
    assert stream.receive_sync(m.SyncEntry(ID, 0, 1, 0), WORKER) == ()
    assert stream.receive_sync(m.SyncEntry(ID, 0, 0, 0), WORKER) == ()
    abort, *rest = stream.receive_sync(m.SyncEntry(ID, 0, 2, 0), WORKER)
    assert isinstance(abort, e.Abort)
    assert rest == [release("broken"), e.ENDED]


@pytest.mark.parametrize(("attempt", "worker"), [(1, WORKER), (0, OTHER)])
def test_a_sync_of_somebody_else_shows_nothing(attempt: int, worker: str) -> None:
    stream = make(State.RESPONDING)
    effects = stream.receive_sync(m.SyncEntry(ID, attempt, 9, 0), worker)
    assert effects == (release("gone", attempt, worker),)
    assert stream.state is State.RESPONDING


def test_a_sync_that_says_nothing_new_gives_the_application_no_more_time() -> None:
    stream = make(State.CLAIMED, UPLOAD)
    do(stream, e.BodyReceived(b"more of it", True))
    assert stream.receive_sync(m.SyncEntry(ID, 0, 0, 0), WORKER) == ()
    assert stream.receive_sync(m.SyncEntry(ID, 0, 0, 100), WORKER) == (WAIT_RESPONSE,)
    assert stream.receive_sync(m.SyncEntry(ID, 0, 0, 100), WORKER) == ()


# A request that has no response yet.


@pytest.mark.parametrize(
    ("request_", "retry", "retried"),
    [
        (GET, True, True),
        (replace(GET, body=b"x"), True, True),
        (GET, False, False),
        (replace(GET, more_body=True), True, False),
        (replace(GET, attempt=1), True, False),
    ],
    ids=["GET", "whole body", "POST", "body still coming", "second attempt"],
)
@pytest.mark.parametrize("state", [State.QUEUED, State.WITHDRAWING, State.CLAIMED])
def test_a_worker_that_dies_before_it_answers(state: State, request_: Any, retry: bool, retried: bool) -> None:
    stream = HttpStream(request_, retry)
    attempt = request_.attempt
    do(stream, *(replace(each, attempt=attempt) if each is CLAIM else each for each in PATHS[state]))
    effects = do(stream, replace(DIED, attempt=attempt))
    if retried:
        again = replace(request_, attempt=1)
        assert effects == [e.Offer(again, f"worker {WORKER} has died"), WAIT_WORKER]
        assert (stream.state, stream.attempt, stream.worker, stream.supervisor) == (State.QUEUED, 1, None, None)
        assert do(stream, replace(WHOLE, attempt=1, worker=OTHER)) == [replace(WHOLE, attempt=1, worker=OTHER), e.ENDED]
    else:
        assert effects == [e.Answer(502, f"worker {WORKER} has died"), e.ENDED]


@pytest.mark.parametrize("request_", [GET, UPLOAD], ids=["GET", "a POST whose body still comes"])
def test_what_a_worker_has_not_begun_is_offered_again_whatever_it_is(request_: m.HttpRequest) -> None:
    stream = HttpStream(request_, retry_method=request_ is GET)
    piece = e.BodyReceived(b"second", False)
    if request_ is UPLOAD:
        assert do(stream, piece) == []
    unread = replace(DIED, reason=m.UNREAD)
    for attempt in range(5):
        [offer] = do(stream, replace(unread, attempt=attempt))
        # Without a new `Wait`: the time in which a worker must be found goes on.
        assert offer.request == replace(request_, attempt=attempt + 1)
        assert (stream.state, stream.worker) == (State.QUEUED, None)
    effects = do(stream, replace(CLAIM, attempt=5))
    if request_ is UPLOAD:
        assert effects[-1] == e.Send(WORKER, m.RequestBody(ID, 5, 0, b"second", False)), "it is still held"


def test_what_a_worker_has_not_begun_while_it_is_taken_back_is_answered_at_once() -> None:
    stream = make(State.WITHDRAWING, UPLOAD, retry=False)
    assert do(stream, replace(DIED, reason=m.UNREAD)) == [e.Answer(503, "no worker took it in time"), e.ENDED]
    assert do(stream, e.Withdrawn(False)) == []


@pytest.mark.parametrize("reason", [m.DRAINED, m.STOPPED])
def test_workers_that_stop_may_be_many_and_cost_no_answer(reason: str) -> None:
    stream = make(State.CLAIMED)
    for attempt in range(5):
        offer, _ = do(stream, replace(DIED, attempt=attempt, reason=reason))
        assert offer.request.attempt == attempt + 1
    assert isinstance(do(stream, replace(DIED, attempt=5))[0], e.Offer), "one that dies may still be replaced once"
    assert do(stream, replace(DIED, attempt=6))[0].status == 502
    assert do(make(State.CLAIMED, UPLOAD, retry=False), replace(DIED, reason=reason))[0].status == 502


@pytest.mark.parametrize(
    ("answer", "status", "why"),
    [(True, 503, "no worker took it in time"), (False, 504, "a worker took it and did not claim it")],
)
def test_what_nobody_takes_is_withdrawn_and_answered(answer: bool, status: int, why: str) -> None:
    stream = make()
    assert do(stream, e.TimedOut()) == [WAIT_NOTHING, e.WITHDRAW]
    assert do(stream, e.Withdrawn(answer)) == [e.Answer(status, why), e.ENDED]


@pytest.mark.parametrize("then", [[CLAIM], [START], [CLAIM, DIED]])
def test_a_claim_may_come_while_the_request_is_withdrawn(then: list[Any]) -> None:
    stream = make(State.WITHDRAWING)
    do(stream, *then)
    assert do(stream, e.Withdrawn(False)) == []
    assert stream.state is not State.DONE


@pytest.mark.parametrize("state", [State.QUEUED, State.WITHDRAWING])
def test_a_refused_offer_is_a_503_and_one_in_doubt_is_repeated_only_if_that_does_no_harm(state: State) -> None:
    assert do(make(state), e.OfferRefused(False, "full")) == [e.Answer(503, "full"), e.ENDED]
    again = e.Offer(replace(GET, attempt=1), "the connection to the node broke")
    assert do(make(state), e.OfferRefused(True, "broke")) == [again, WAIT_WORKER]
    waiting = make(state, UPLOAD, retry=False)
    assert do(waiting, e.OfferRefused(True, "broke")) == []
    assert waiting.state is state


def test_an_application_that_takes_too_long_is_a_504() -> None:
    gone, answer, ended = do(make(State.CLAIMED), e.TimedOut())
    assert gone == e.Send(WORKER, m.Disconnect(ID, 0, 0, 0, ""))
    assert (answer.status, ended) == (504, e.ENDED)
