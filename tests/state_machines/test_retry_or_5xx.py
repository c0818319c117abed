"""What is offered again, and what is answered 502, 503 or 504. An HTTP exchange stands for both kinds of streams."""

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
    OTHER,
    PATHS,
    START,
    UPLOAD,
    WAIT_NOTHING,
    WAIT_WORKER,
    WHOLE,
    WORKER,
    do,
    make,
)


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
        assert effects[-1] == e.Tell(WORKER, m.RequestBody(ID, 5, 0, b"second", False)), "it is still held"


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
    [(True, 503, "no worker took it in time"), (False, 504, "a worker took it and was not heard of again")],
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
    assert gone == e.Tell(WORKER, m.Disconnect(ID, 0, 0, 0, ""))
    assert (answer.status, ended) == (504, e.ENDED)
