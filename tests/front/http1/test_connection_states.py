"""The table of one HTTP/1 connection: what follows from each event in each state."""

from __future__ import annotations

import pytest

from ifserver.front.http1.connection_states import TABLE, Effect, Event, State
from tests.front.fakes import World

#: The next state and the effects, where something follows. What is told to somebody who need not know it is `NOTHING`.
OUTCOMES: dict[State, dict[str, str]] = {
    State.IDLE: {
        "REQUEST": "PENDING START",
        "UPLOAD": "UPLOADING START",
        "HANDSHAKE": "UPGRADING START",
        "PART": "IDLE CONTINUE",
        "REFUSED": "CLOSED REFUSE CLOSE",
        "TOO_LARGE": "LINGERING REFUSE DISCARD_REST END_WRITING",
        "HALF_CLOSED": "CLOSED CLOSE",
        "UNUSED": "CLOSED CLOSE",
    },
    State.PENDING: {
        "REQUEST": "PENDING QUEUE",
        "UPLOAD": "PENDING QUEUE",
        "HANDSHAKE": "PENDING QUEUE",
        "REFUSED": "PENDING DROP_TAIL",
        "TOO_LARGE": "PENDING DROP_TAIL",
        "HALF_CLOSED": "PENDING DROP_TAIL AWAIT_LAST",
        "BEGUN": "RESPONDING",
        "WRITTEN": "IDLE NEXT",
        "WRITTEN_LAST": "CLOSED SEND_AWAY",
        "UNTAKEN": "FLUSHING",
        "INVALID": "PENDING LEAVE ANSWER_502",
    },
    State.UPLOADING: {
        "PIECE": "UPLOADING PASS_ON",
        "LAST_PIECE": "PENDING PASS_ON_LAST",
        "REFUSED": "CLOSED LEAVE REFUSE CLOSE",
        "TOO_LARGE": "LINGERING LEAVE REFUSE DISCARD_REST END_WRITING",
        "HALF_CLOSED": "CLOSED CLOSE",
        "BEGUN": "OVERLAPPING",
        "WRITTEN": "DISCARDING DISCARD_REST",
        "WRITTEN_LAST": "LINGERING DISCARD_REST END_WRITING",
        "UNTAKEN": "DISCARDING DISCARD_REST",
        "INVALID": "UPLOADING LEAVE ANSWER_502",
    },
    State.RESPONDING: {
        "REQUEST": "RESPONDING QUEUE",
        "UPLOAD": "RESPONDING QUEUE",
        "HANDSHAKE": "RESPONDING QUEUE",
        "REFUSED": "RESPONDING DROP_TAIL",
        "TOO_LARGE": "RESPONDING DROP_TAIL",
        "HALF_CLOSED": "RESPONDING DROP_TAIL AWAIT_LAST",
        "ANSWERED": "RESPONDING NOTIFY_ANSWERED GO_ON",
        "WRITTEN": "IDLE NEXT",
        "WRITTEN_LAST": "CLOSED SEND_AWAY",
        "UNTAKEN": "FLUSHING",
        "INVALID": "CLOSED BREAK_OFF ABORT",
    },
    State.OVERLAPPING: {
        "PIECE": "OVERLAPPING PASS_ON",
        "LAST_PIECE": "RESPONDING PASS_ON_LAST LOOK_IF_ANSWERED",
        "REFUSED": "CLOSED COUNT_REFUSAL BREAK_OFF ABORT",
        "TOO_LARGE": "CLOSED COUNT_REFUSAL BREAK_OFF ABORT",
        "HALF_CLOSED": "CLOSED ABORT",
        "ANSWERED": "OVERLAPPING NOTIFY_ANSWERED",
        "WRITTEN": "DISCARDING DISCARD_REST",
        "WRITTEN_LAST": "LINGERING DISCARD_REST END_WRITING",
        "UNTAKEN": "DISCARDING DISCARD_REST",
        "INVALID": "CLOSED BREAK_OFF ABORT",
    },
    State.UPGRADING: {
        "REFUSED": "CLOSED REFUSE CLOSE",
        "HALF_CLOSED": "CLOSED CLOSE",
        "BEGUN": "DENYING",
        "ACCEPTED": "CLOSED UPGRADE",
        "WRITTEN_LAST": "CLOSED SEND_AWAY",
        "INVALID": "UPGRADING LEAVE ANSWER_502",
    },
    State.DENYING: {
        "HALF_CLOSED": "CLOSED CLOSE",
        "WRITTEN_LAST": "CLOSED SEND_AWAY",
        "INVALID": "CLOSED BREAK_OFF ABORT",
    },
    State.FLUSHING: {
        "REQUEST": "FLUSHING QUEUE",
        "UPLOAD": "FLUSHING QUEUE",
        "HANDSHAKE": "FLUSHING QUEUE",
        "REFUSED": "FLUSHING DROP_TAIL",
        "TOO_LARGE": "FLUSHING DROP_TAIL",
        "HALF_CLOSED": "FLUSHING DROP_TAIL AWAIT_LAST",
        "TAKEN": "FLUSHING LOOK_IF_TAKEN",
        "WRITTEN": "IDLE NEXT",
        "WRITTEN_LAST": "CLOSED SEND_AWAY",
    },
    State.DISCARDING: {
        "PIECE": "DISCARDING DISCARD",
        "LAST_PIECE": "FLUSHING LOOK_IF_TAKEN",
        "TOO_MUCH": "LINGERING END_WRITING",
        "EXPIRED": "CLOSED CLOSE",
        "REFUSED": "CLOSED COUNT_REFUSAL CLOSE",
        "TOO_LARGE": "CLOSED COUNT_REFUSAL CLOSE",
        "HALF_CLOSED": "CLOSED CLOSE",
    },
    State.LINGERING: {
        "PIECE": "LINGERING DISCARD",
        "UNPARSED": "LINGERING DISCARD",
        "LAST_PIECE": "CLOSED CLOSE",
        "EXPIRED": "CLOSED CLOSE",
        "REFUSED": "CLOSED COUNT_REFUSAL CLOSE",
        "TOO_LARGE": "CLOSED COUNT_REFUSAL CLOSE",
        "HALF_CLOSED": "CLOSED CLOSE",
    },
    State.CLOSED: {"INVALID": "CLOSED BREAK_OFF"},
}
NOTHING: dict[State, str] = {
    State.IDLE: "",
    State.PENDING: "PART UNPARSED",
    State.UPLOADING: "",
    State.RESPONDING: "PART UNPARSED",
    State.OVERLAPPING: "",
    State.UPGRADING: "",
    State.DENYING: "ANSWERED",
    State.FLUSHING: "PART UNPARSED",
    State.DISCARDING: "",
    State.LINGERING: "TOO_MUCH",
    State.CLOSED: "REQUEST HANDSHAKE LAST_PIECE REFUSED TOO_LARGE TOO_MUCH EXPIRED HALF_CLOSED BEGUN ANSWERED ACCEPTED"
    " WRITTEN WRITTEN_LAST UNTAKEN",
}
ALWAYS = {"CUT": "CLOSED ABORT", "LOST": "CLOSED FORGET"}
#: States in which the client has been sent a part of a response.
BEGUN = State.RESPONDING, State.OVERLAPPING, State.DENYING


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_what_follows(state: State, event: Event) -> None:
    ignored = {*NOTHING[state].split(), "TAKEN", "UNUSED"}
    expected = ALWAYS | dict.fromkeys(ignored, state.name) | OUTCOMES[state]
    step = TABLE[state].get(event)
    if step is not None:
        after, effects = step
        assert " ".join([after.name, *(each.name for each in effects)]) == expected[event.name]
        return
    assert event.name not in expected
    connection = World().client().protocol
    connection.state = state
    with pytest.raises(AssertionError, match=rf"{event} cannot happen in {state}"):
        connection.handle(event)
    assert connection.state is state


def test_each_state_can_be_reached_and_each_effect_happens() -> None:
    reached = {State.IDLE}
    while more := {after for state in reached for after, _ in TABLE[state].values()} - reached:
        reached |= more
    assert reached == set(State)
    happening = {each for row in TABLE.values() for _, effects in row.values() for each in effects}
    assert happening == set(Effect)


def test_nothing_follows_the_end() -> None:
    assert {after for after, _ in TABLE[State.CLOSED].values()} == {State.CLOSED}


def test_a_connection_ends_in_one_way() -> None:
    ways = {Effect.CLOSE, Effect.SEND_AWAY, Effect.ABORT, Effect.UPGRADE, Effect.FORGET}
    for state, row in TABLE.items():
        for event, (after, effects) in row.items():
            ended = after is State.CLOSED and (state is not State.CLOSED or event in (Event.CUT, Event.LOST))
            assert len(ways.intersection(effects)) == ended, (state, event)


@pytest.mark.parametrize("state", [State.RESPONDING, State.OVERLAPPING])
def test_a_response_that_is_not_complete_never_looks_whole(state: State) -> None:
    for event, (after, effects) in TABLE[state].items():
        if after is State.CLOSED and event not in (Event.WRITTEN_LAST, Event.LOST):
            assert Effect.ABORT in effects, event


def test_a_request_that_is_started_comes_between_two_others() -> None:
    started = {state for state, row in TABLE.items() for _, effects in row.values() if Effect.START in effects}
    assert started == {State.IDLE}
    for row in TABLE.values():
        for after, effects in row.values():
            assert (after is State.IDLE and Effect.NEXT in effects) or Effect.NEXT not in effects


@pytest.mark.parametrize("state", [State.PENDING, State.UPLOADING, State.UPGRADING])
@pytest.mark.parametrize("event", [Event.WRITTEN, Event.WRITTEN_LAST, Event.UNTAKEN])
def test_a_response_that_is_complete_at_once_need_not_begin(state: State, event: Event) -> None:
    begun, effects = TABLE[state][Event.BEGUN]
    assert effects == ()
    assert begun in BEGUN
    assert TABLE[state].get(event) == TABLE[begun].get(event)
