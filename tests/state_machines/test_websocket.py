"""One WebSocket as a table. What it has in common with an HTTP exchange is in ``test_base.py``."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ifserver import messages as m
from ifserver.errors import TransitionError
from ifserver.flow_control import MESSAGE_OVERHEAD, WINDOW, message_bytes
from ifserver.state_machines import effects as e
from ifserver.state_machines.websocket import State, WebSocketStream
from tests.state_machines.test_http import (
    CLAIM,
    DIED,
    EVENTS,
    FAILED,
    FLUSHED,
    GAP,
    GONE,
    HAS_GAP,
    ID,
    IN_DOUBT,
    IS_JOINED,
    JOINED,
    MESSAGE,
    MORE,
    MOVED,
    OTHER,
    REFUSED,
    START,
    SUPERVISOR,
    TIMED_OUT,
    VANISHED,
    WAIT_LAST_WORDS,
    WAIT_NOTHING,
    WAIT_RESPONSE,
    WAIT_WORKER,
    WAS_GONE,
    WAS_THERE,
    WHOLE,
    WORKER,
    Outcome,
    check_event,
    do,
    nothing,
    release,
    told,
)

CONNECT = m.WebSocketConnect(f"!east.{ID}", 0, 9.0, "1.1", "ws", "/", b"/", b"", "", [], None, None, [])
ACCEPT = m.WebSocketAccept(ID, 0, WORKER, 0, f"!w1.{ID}", None, [])
RESUMABLE = replace(ACCEPT, resumable=True)
SEND = m.WebSocketSend(ID, 0, WORKER, 1, "hello", None)
CLOSE = m.WebSocketClose(ID, 0, WORKER, 1, 1000, "bye")

PATHS: dict[State, list[Any]] = {
    State.QUEUED: [],
    State.WITHDRAWING: [e.TimedOut()],
    State.CLAIMED: [CLAIM],
    State.DENYING: [CLAIM, START],
    State.OPEN: [CLAIM, ACCEPT],
    State.WAITING: [CLAIM, RESUMABLE, DIED],
    State.TAKEN: [CLAIM, RESUMABLE, DIED, replace(CLAIM, attempt=1)],
    State.LEFT: [CLAIM, RESUMABLE, DIED, e.MessageReceived("last", None), e.ClientLeft(1001)],
    State.FAILING: [CLAIM, ACCEPT, e.ClientFailed(1002, "why")],
    State.CLOSING: [CLAIM, ACCEPT, CLOSE],
    State.DONE: [CLAIM, ACCEPT, CLOSE, e.ClientLeft()],
}
#: Those of an open WebSocket whose worker is gone.
WITHOUT_WORKER = (State.WAITING, State.TAKEN)
#: How many of the worker's messages those paths hold.
HEARD = {State.DENYING: 1, State.OPEN: 1, State.FAILING: 1, State.CLOSING: 2, State.DONE: 2}


_AGAIN = replace(CONNECT, attempt=1)
_RESUMED = replace(CONNECT, attempt=2, resumable=True, unconfirmed=0)
_LOST = "the worker that took it has not begun it"
_NO_NODE = f"{_LOST}, or its node is unreachable"
_LEAVE = e.Send(WORKER, m.Disconnect(ID, 0, 0, 1006, ""))
_NOT_RESUMED = e.CloseClient(1012, "", "no worker has accepted it in time (resume_timeout)")
_WITHDRAWN = (WAS_THERE, WAS_GONE)
_LATE = (REFUSED, IN_DOUBT, *_WITHDRAWN)
_IN_GROUP = (JOINED, GAP)
#: What each event does. One that is missing cannot happen.
OUTCOMES: dict[State, dict[Any, Outcome]] = {
    State.QUEUED: {
        **nothing(State.QUEUED, *_WITHDRAWN, *_IN_GROUP),
        GONE: ([e.WITHDRAW, e.ENDED], State.DONE),
        REFUSED: ([e.Answer(503, "full"), e.ENDED], State.DONE),
        IN_DOUBT: ([e.Offer(_AGAIN, "the connection to the node broke"), WAIT_WORKER], State.QUEUED),
        TIMED_OUT: ([WAIT_NOTHING, e.WITHDRAW], State.WITHDRAWING),
        VANISHED: ([e.Offer(_AGAIN, _LOST), WAIT_WORKER], State.QUEUED),
    },
    State.WITHDRAWING: {
        **nothing(State.WITHDRAWING, VANISHED, *_IN_GROUP),
        GONE: ([e.ENDED], State.DONE),
        REFUSED: ([e.Answer(503, "full"), e.ENDED], State.DONE),
        IN_DOUBT: ([e.Offer(_AGAIN, "the connection to the node broke"), WAIT_WORKER], State.QUEUED),
        WAS_THERE: ([e.Answer(503, "no worker took it in time"), e.ENDED], State.DONE),
        WAS_GONE: ([e.Answer(504, "a worker took it and did not claim it"), e.ENDED], State.DONE),
    },
    State.CLAIMED: {
        **nothing(State.CLAIMED, *_LATE),
        JOINED: ([IS_JOINED], State.CLAIMED),
        GAP: ([HAS_GAP], State.CLAIMED),
        GONE: ([_LEAVE, e.ENDED], State.DONE),
        TIMED_OUT: (
            [_LEAVE, e.Answer(504, "the application did not answer the handshake in time"), e.ENDED],
            State.DONE,
        ),
    },
    State.DENYING: {
        **nothing(State.DENYING, FLUSHED, *_LATE, *_IN_GROUP),
        GONE: ([_LEAVE, e.ENDED], State.DONE),
    },
    State.OPEN: {
        **nothing(State.OPEN, FLUSHED, *_LATE),
        JOINED: ([IS_JOINED], State.OPEN),
        GAP: ([HAS_GAP], State.OPEN),
        MESSAGE: ([e.Send(WORKER, m.WebSocketReceive(ID, 0, 0, "x", None))], State.OPEN),
        FAILED: (
            [e.Send(WORKER, m.Disconnect(ID, 0, 0, 1002, "why", True)), WAIT_LAST_WORDS],
            State.FAILING,
        ),
        GONE: ([_LEAVE, e.ENDED], State.DONE),
    },
    State.WAITING: {
        **nothing(State.WAITING, MESSAGE, FLUSHED, *_WITHDRAWN, *_IN_GROUP),
        FAILED: ([e.FAIL], State.WAITING),
        GONE: ([e.WITHDRAW, e.ENDED], State.DONE),
        REFUSED: ([e.Resume(_RESUMED, 1, "full")], State.WAITING),
        IN_DOUBT: ([e.Resume(_RESUMED, 1, "broke")], State.WAITING),
        TIMED_OUT: ([e.WITHDRAW, _NOT_RESUMED], State.CLOSING),
        VANISHED: ([e.Resume(_RESUMED, 1, _NO_NODE)], State.WAITING),
    },
    State.TAKEN: {
        **nothing(State.TAKEN, MESSAGE, FLUSHED, *_LATE),
        # Whoever has joined is gone.
        JOINED: ([], State.TAKEN),
        GAP: ([e.Send(WORKER, m.GroupGap(ID, 1, 0, "news", 2))], State.TAKEN),
        FAILED: ([e.FAIL], State.TAKEN),
        GONE: ([e.Send(WORKER, m.Disconnect(ID, 1, 0, 1006, "")), e.ENDED], State.DONE),
        TIMED_OUT: ([release("not accepted in time", 1), _NOT_RESUMED], State.CLOSING),
    },
    State.LEFT: {
        **nothing(State.LEFT, FLUSHED, *_WITHDRAWN, *_IN_GROUP),
        REFUSED: ([e.Resume(_RESUMED, 1, "full")], State.LEFT),
        IN_DOUBT: ([e.Resume(_RESUMED, 1, "broke")], State.LEFT),
        TIMED_OUT: ([e.WITHDRAW, e.Undelivered(1, "no worker has accepted it in time"), e.ENDED], State.DONE),
        VANISHED: ([e.Resume(_RESUMED, 1, _NO_NODE)], State.LEFT),
    },
    State.FAILING: {
        **nothing(State.FAILING, MESSAGE, FLUSHED, *_LATE, *_IN_GROUP),
        GONE: ([release("the client has left"), e.ENDED], State.DONE),
        TIMED_OUT: ([release("the client has broken the protocol"), WAIT_NOTHING, e.FAIL], State.CLOSING),
    },
    State.CLOSING: {
        **nothing(State.CLOSING, MESSAGE, FLUSHED, TIMED_OUT, VANISHED, *_LATE, *_IN_GROUP),
        FAILED: ([e.FAIL], State.CLOSING),
        GONE: ([_LEAVE, e.ENDED], State.DONE),
    },
    State.DONE: nothing(State.DONE, MESSAGE, GONE, FLUSHED, TIMED_OUT, *_LATE, *_IN_GROUP),
}
_ANSWERED = {m.WebSocketAccept: State.OPEN, m.ResponseStart: State.DENYING}
_CLAIMS = (m.Claim, m.Window, m.GroupJoin, m.GroupLeave)
_CLAIMED = {**_ANSWERED, **dict.fromkeys(_CLAIMS, State.CLAIMED)}
_RESUMING = {m.WebSocketAccept: State.OPEN, m.ResponseStart: State.CLOSING, m.Release: State.WAITING}
#: The state that follows a message; a message that is missing does not change it.
FOLLOWING: dict[State, dict[type, State]] = {
    State.QUEUED: _CLAIMED,
    State.WITHDRAWING: {**_CLAIMED, m.Release: State.QUEUED},
    State.CLAIMED: {**_ANSWERED, m.Release: State.QUEUED},
    State.DENYING: {m.Release: State.DONE},
    State.OPEN: {m.WebSocketClose: State.CLOSING, m.Release: State.CLOSING},
    State.WAITING: {**_RESUMING, **dict.fromkeys(_CLAIMS, State.TAKEN)},
    State.TAKEN: _RESUMING,
    State.LEFT: {m.WebSocketAccept: State.DONE, m.ResponseStart: State.DONE},
    State.FAILING: {m.WebSocketClose: State.CLOSING, m.Release: State.CLOSING},
    State.CLOSING: {},
    State.DONE: {},
}


def make(state: State = State.QUEUED) -> WebSocketStream:
    stream = WebSocketStream(CONNECT)
    do(stream, *PATHS[state])
    assert stream.state is state
    return stream


def disconnect(code: int, reason: str = "", seq: int = 0) -> e.Send:
    return e.Send(WORKER, m.Disconnect(ID, 0, seq, code, reason))


def close_client(effect: Any, code: int) -> None:
    assert isinstance(effect, e.CloseClient)
    assert effect.code == code


def test_a_websocket_is_claimed_accepted_used_and_closed_by_the_application() -> None:
    stream = make()
    assert do(stream, CLAIM) == [WAIT_RESPONSE]
    assert stream.supervisor == SUPERVISOR
    assert do(stream, ACCEPT) == [WAIT_NOTHING, ACCEPT]
    received = m.WebSocketReceive(ID, 0, 0, None, b"x")
    assert do(stream, e.MessageReceived(None, b"x")) == [e.Send(WORKER, received)]
    assert do(stream, SEND) == [SEND]
    close = replace(CLOSE, seq=2)
    assert do(stream, close) == [close]
    assert do(stream, e.ClientLeft(1000, "bye")) == [disconnect(1000, "bye", seq=1), e.ENDED]


def test_a_client_that_closes_is_told_with_its_code_and_reason() -> None:
    assert do(make(State.OPEN), e.ClientLeft(4000, "enough")) == [disconnect(4000, "enough"), e.ENDED]


def test_what_was_said_before_the_client_broke_the_protocol_is_answered() -> None:
    stream = make(State.OPEN)
    do(stream, *[e.MessageReceived(None, bytes(WINDOW))] * 2)
    told_rest, leaving, wait = do(stream, e.ClientFailed(1002, "why"))
    assert told_rest.message.seq == 1
    assert leaving == e.Send(WORKER, m.Disconnect(ID, 0, 2, 1002, "why", True))
    assert wait == WAIT_LAST_WORDS
    assert do(stream, m.Window(ID, 0, WORKER, WINDOW), e.MessageReceived("after that", None)) == []
    assert stream.waits
    answers = [replace(SEND, seq=seq) for seq in (1, 2)]
    assert do(stream, *answers) == answers
    assert do(stream, e.Flushed(WINDOW))
    assert do(stream, release("the application knows").message) == [WAIT_NOTHING, e.FAIL, e.RESUME_READING]
    assert stream.state is State.CLOSING
    assert do(stream, e.ClientLeft(1002)) == [e.ENDED]


@pytest.mark.parametrize("last", [DIED, CLOSE], ids=["died", "closed"])
def test_what_ends_the_application_ends_the_wait_for_its_last_words(last: Any) -> None:
    stream = make(State.FAILING)
    assert do(stream, last) == [WAIT_NOTHING, e.FAIL]
    assert do(stream, e.ClientLeft(1002)) == [e.ENDED]


def test_last_words_may_not_take_for_ever() -> None:
    stream = make(State.FAILING)
    assert do(stream, e.TimedOut()) == [release("the client has broken the protocol"), WAIT_NOTHING, e.FAIL]
    assert do(stream, SEND) == [e.Dropped("gone"), release("gone")]
    assert do(stream, e.ClientLeft(1002)) == [e.ENDED]


def test_a_client_that_does_not_wait_for_last_words() -> None:
    stream = make(State.FAILING)
    assert do(stream, e.ClientLeft()) == [release("the client has left"), e.ENDED]
    assert stream.state is State.DONE


@pytest.mark.parametrize("state", WITHOUT_WORKER)
def test_with_nobody_who_could_answer_the_close_does_not_wait(state: State) -> None:
    stream = make(state)
    assert do(stream, e.ClientFailed(1002, "why")) == [e.FAIL]
    assert stream.state is state


@pytest.mark.parametrize("state", [State.QUEUED, State.WITHDRAWING, State.CLAIMED])
def test_an_accept_or_a_denial_may_come_without_a_claim(state: State) -> None:
    assert do(make(state), ACCEPT) == [WAIT_NOTHING, ACCEPT]
    assert do(make(state), WHOLE) == [WHOLE, e.ENDED]
    denial = make(state)
    assert do(denial, START, MORE) == [WAIT_NOTHING, START, MORE]
    last = replace(MORE, seq=2, more_body=False)
    assert do(denial, last) == [last, e.ENDED]


@pytest.mark.parametrize("event", EVENTS, ids=str)
@pytest.mark.parametrize("state", State)
def test_what_each_event_does_in_each_state(state: State, event: Any) -> None:
    check_event(make(state), event, OUTCOMES)


@pytest.mark.parametrize("kind", [CLAIM, START, MORE, ACCEPT, SEND, CLOSE, DIED, m.Window(ID, 0, WORKER, 1)])
@pytest.mark.parametrize("state", State)
def test_a_message_that_must_not_be_said_breaks_the_websocket(state: State, kind: Any) -> None:
    stream = make(state)
    message = replace(kind, attempt=stream.attempt)
    if hasattr(kind, "seq"):
        message = replace(message, seq=HEARD.get(state, 0))
    effects = do(stream, message)
    # What comes first claims the WebSocket.
    decides = state if type(message) is m.Release else WebSocketStream.CLAIMS.get(state, state)
    if type(message) in WebSocketStream.table[decides]:
        assert release("broken") not in effects
        assert stream.state is FOLLOWING[state].get(type(message), state)
        return
    why = f"bad reply: {type(message).__name__} in state {state.name}"
    assert effects == {
        State.OPEN: [WAIT_NOTHING, e.CloseClient(1011, "", why), release("broken")],
        State.FAILING: [WAIT_NOTHING, e.FAIL, release("broken")],
        State.CLOSING: [],
        State.DENYING: [e.Abort(why), release("broken"), e.ENDED],
        State.DONE: [release("broken")],
        **{each: [release("broken", 1), e.Resume(stream.request, 1, why)] for each in (State.LEFT, *WITHOUT_WORKER)},
    }.get(state, [release("broken"), e.Answer(502, why), e.ENDED])
    after = {State.LEFT: State.LEFT, **dict.fromkeys(WITHOUT_WORKER, State.WAITING)}
    closing = state in (State.OPEN, State.FAILING, State.CLOSING)
    assert stream.state is after.get(state, State.CLOSING if closing else State.DONE)


@pytest.mark.parametrize("message", [DIED, SEND, CLAIM], ids=str)
def test_nothing_more_happens_to_the_client_when_all_is_done(message: m.Message) -> None:
    stream = make(State.DONE)
    assert all(isinstance(effect, e.Send | e.Dropped) for effect in do(stream, message))
    assert stream.state is State.DONE
    assert do(stream, DIED) == []


def test_a_gap_closes_the_websocket_with_1011() -> None:
    stream = make(State.OPEN)
    dropped, wait, close, told_worker = do(stream, replace(SEND, seq=2))
    assert (dropped, wait, told_worker) == (e.Dropped("gap"), WAIT_NOTHING, release("broken"))
    close_client(close, 1011)
    assert do(stream, e.ClientLeft(1011)) == [e.ENDED]


@pytest.mark.parametrize("last", [replace(SEND, seq=2), DIED], ids=["gap", "died"])
def test_a_lost_worker_that_goes_on_is_not_listened_to(last: Any) -> None:
    """As one that was frozen and wakes while the client has not yet answered our close frame."""
    stream = make(State.OPEN)
    do(stream, last)
    gone = [e.Dropped("gone"), release("gone")]
    assert do(stream, replace(SEND, seq=3), SEND, CLOSE) == 3 * gone
    assert list(stream.receive_sync(m.SyncEntry(ID, 0, 9, 9), WORKER, "s")) == [release("gone")]
    assert (stream.worker, stream.supervisor, stream.state) == (None, None, State.CLOSING)


def test_a_sync_shows_what_was_lost() -> None:
    stream = make(State.OPEN)
    assert stream.receive_sync(m.SyncEntry(ID, 0, 1, 0), WORKER) == ()
    _, close, _ = stream.receive_sync(m.SyncEntry(ID, 0, 2, 0), WORKER)
    close_client(close, 1011)


@pytest.mark.parametrize("wrong", [{"worker": OTHER}, {"attempt": 1}], ids=str)
def test_who_may_not_speak_is_dropped_and_told_to_let_go(wrong: dict[str, Any]) -> None:
    stream = make(State.OPEN)
    message = replace(SEND, **wrong)
    assert do(stream, message) == [e.Dropped("gone"), release("gone", message.attempt, message.worker)]
    assert do(stream, replace(DIED, **wrong)) == [e.Dropped("gone")]
    assert do(stream, SEND) == [SEND]


@pytest.mark.parametrize("state", [State.QUEUED, State.WITHDRAWING, State.CLAIMED])
def test_a_handshake_whose_worker_dies_is_offered_once_more(state: State) -> None:
    stream = make(state)
    assert do(stream, DIED) == [e.Offer(replace(CONNECT, attempt=1), f"worker {WORKER} has died"), WAIT_WORKER]
    assert (stream.state, stream.worker) == (State.QUEUED, None)
    again = {"attempt": 1, "worker": OTHER}
    assert do(stream, e.Withdrawn(False), replace(CLAIM, **again)) == [WAIT_RESPONSE]
    answer, ended = do(stream, replace(DIED, **again))
    assert (answer.status, ended) == (502, e.ENDED)


def test_a_denial_that_is_cut_off_cuts_the_connection() -> None:
    abort, ended = do(make(State.DENYING), DIED)
    assert isinstance(abort, e.Abort)
    assert ended is e.ENDED


@pytest.mark.parametrize(("reason", "code"), [("died", 1012), ("stopped", 1012), ("failed", 1011), ("gap", 1011)])
def test_a_worker_that_lets_go_closes_the_websocket(reason: str, code: int) -> None:
    stream = make(State.OPEN)
    [close] = do(stream, replace(DIED, reason=reason))
    close_client(close, code)
    assert do(stream, e.ClientLeft(code)) == [e.ENDED]


@pytest.mark.parametrize(("answer", "status"), [(True, 503), (False, 504)])
def test_a_handshake_that_nobody_takes_is_withdrawn_and_answered(answer: bool, status: int) -> None:
    stream = make()
    assert do(stream, e.TimedOut()) == [WAIT_NOTHING, e.WITHDRAW]
    effects = do(stream, e.Withdrawn(answer))
    assert (effects[0].status, effects[1]) == (status, e.ENDED)


def test_a_handshake_that_is_not_answered_in_time_is_a_504() -> None:
    gone, answer, ended = do(make(State.CLAIMED), e.TimedOut())
    assert (gone, answer.status, ended) == (disconnect(1006), 504, e.ENDED)


@pytest.mark.parametrize(
    ("state", "effects"),
    [
        (State.QUEUED, [e.WITHDRAW, e.ENDED]),
        (State.WITHDRAWING, [e.ENDED]),
        (State.CLAIMED, [disconnect(1006), e.ENDED]),
        (State.DENYING, [disconnect(1006), e.ENDED]),
        (State.CLOSING, [disconnect(1006), e.ENDED]),
        (State.DONE, []),
    ],
)
def test_a_client_that_leaves_is_told_to_whoever_has_it(state: State, effects: list[Any]) -> None:
    assert do(make(state), e.ClientLeft()) == effects


def fill(stream: WebSocketStream, size: int) -> list[Any]:
    """Messages of `size` bytes until the client is read no more; all that they led to."""
    effects: list[Any] = []
    while e.STOP_READING not in effects:
        effects += do(stream, e.MessageReceived(None, bytes(size)))
    return effects


@pytest.mark.parametrize("size", [0, 1000, 1_000_000])
def test_without_credit_the_client_is_not_read_and_little_is_held(size: int) -> None:
    stream = make(State.OPEN)
    effects = fill(stream, size)
    sent = told(effects, m.WebSocketReceive)
    cost = size + MESSAGE_OVERHEAD
    assert len(sent) == -(-WINDOW // cost)
    held = -(-64 * 1024 // cost)
    everything = (len(sent) + held) * cost
    effects = do(stream, m.Window(ID, 0, WORKER, everything))
    assert len(told(effects, m.WebSocketReceive)) == held
    # What has just been sent may have used up the credit again.
    resumed = effects if e.RESUME_READING in effects else do(stream, m.Window(ID, 0, WORKER, everything))
    assert resumed[-1] is e.RESUME_READING


def test_what_a_client_said_before_it_left_is_handed_over_beyond_the_credit() -> None:
    stream = make(State.OPEN)
    sent = told(fill(stream, 60_000), m.WebSocketReceive)
    effects = do(stream, e.ClientLeft(1000))
    assert [type(each) for each in told(effects, m.Message)] == [m.WebSocketReceive, m.WebSocketReceive, m.Disconnect]
    assert [each.seq for each in told(effects, m.Message)] == [len(sent), len(sent) + 1, len(sent) + 2]
    assert effects[-1] is e.ENDED


@pytest.mark.parametrize("end", [CLOSE, DIED, replace(SEND, seq=9)], ids=["close", "death", "gap"])
def test_a_client_that_was_not_read_is_read_again_for_its_close_frame(end: Any) -> None:
    stream = make(State.OPEN)
    fill(stream, 60_000)
    assert e.RESUME_READING in do(stream, end)
    assert do(stream, e.MessageReceived("x", None)) == []
    assert told(do(stream, e.ClientLeft()), m.WebSocketReceive) == []


def test_what_was_flushed_is_told_when_it_is_a_quarter_of_a_window() -> None:
    for state in (State.OPEN, State.DENYING):
        total = WINDOW // 4 + MESSAGE_OVERHEAD
        assert do(make(state), e.Flushed(WINDOW // 4)) == [e.Send(WORKER, m.Window(ID, 0, WORKER, total))]


kinds = st.sampled_from(["claim", "accept", "send", "send", "close", "start", "body", "window", "release", "sync"])
senders = st.sampled_from([WORKER, WORKER, WORKER, WORKER, MOVED, OTHER])
attempts, seqs = st.sampled_from([0] * 4 + [1, -1]), st.sampled_from([0] * 6 + [1, -1])
messages = st.tuples(kinds, senders, attempts, seqs, st.booleans())
received = st.sampled_from([0, 1, 50_000, 1_000_000]).map(lambda size: e.MessageReceived(None, bytes(size)))
events = st.one_of(received, st.sampled_from(EVENTS))


def say(stream: WebSocketStream, what: tuple[str, str, int, int, bool]) -> tuple[Any, ...]:
    kind, worker, attempt, seq, more = what
    head = (ID, stream.attempt + attempt, worker)
    seq += stream.received
    if kind == "sync":
        return stream.receive_sync(m.SyncEntry(ID, head[1], seq, 0), worker)
    message: m.Message = {
        "claim": m.Claim(*head, SUPERVISOR),
        "accept": m.WebSocketAccept(*head, seq, worker, None, []),
        "send": m.WebSocketSend(*head, seq, "x", None),
        "close": m.WebSocketClose(*head, seq, 1000, ""),
        "start": m.ResponseStart(*head, seq, 403, [], b"", more),
        "body": m.ResponseBody(*head, seq, b"b", more),
        "window": m.Window(*head, 0),
        "release": m.Release(*head, "died"),
    }[kind]
    return stream.receive(message)


@settings(max_examples=300)
@given(st.lists(st.one_of(messages, events), max_size=25))
def test_whatever_happens_the_promises_are_kept(happenings: list[Any]) -> None:
    stream = WebSocketStream(CONNECT)
    client: list[Any] = []
    pushed: list[m.WebSocketReceive] = []
    numbers: list[int] = []
    for each in happenings:
        try:
            effects = list(say(stream, each) if isinstance(each, tuple) else stream.handle(each))
        except TransitionError:
            continue
        if not isinstance(each, e.ClientLeft | e.ClientFailed):
            pushed += told(effects, m.WebSocketReceive)
            numbers += [x.seq for x in told(effects, m.WebSocketReceive | m.GroupJoined | m.GroupGap)]
        client += [x for x in effects if isinstance(x, m.Message | e.Answer | e.Abort | e.CloseClient) or x is e.ENDED]
    assert client.count(e.ENDED) == (stream.state is State.DONE)
    assert e.ENDED not in client[:-1]
    # What the client gets comes from one process and one attempt, without a gap.
    said = [x for x in client if isinstance(x, m.Message)]
    assert [x.seq for x in said] == list(range(len(said)))
    assert len({(x.attempt, x.worker.partition(".")[2]) for x in said}) <= 1
    # It is one accept and frames, or one response, and one end of either; nothing follows that but the end.
    shape = [type(x) for x in said]
    assert shape[1:].count(m.WebSocketAccept) == shape[1:].count(m.ResponseStart) == 0
    ends = [x for x in client if isinstance(x, m.WebSocketClose | e.CloseClient | e.Answer | e.Abort)]
    assert len(ends) <= 1
    assert not ends or [x for x in client if x is not e.ENDED][-1] is ends[0]
    # The worker gets the messages in order, and never more than its credit and one.
    assert numbers == list(range(len(numbers)))
    assert sum(message_bytes(x.text, x.data) + MESSAGE_OVERHEAD for x in pushed[:-1]) <= WINDOW
