"""One HTTP exchange as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ifserver import messages as m
from ifserver.errors import TransitionError
from ifserver.flow_control import MESSAGE_OVERHEAD, PIECE_BYTES, WINDOW, ReceiveWindow, SendWindow
from ifserver.state_machines import effects as e
from ifserver.state_machines.http import HttpStream, State
from ifserver.state_machines.stream import Row, Stream
from ifserver.state_machines.websocket import WebSocketStream

ID = "0123456789.1"
WORKER = "!w1.aaaaaaaaaa"
#: The same process, on another node.
MOVED = "!w2.aaaaaaaaaa"
OTHER = "!w1.bbbbbbbbbb"
SUPERVISOR = "!w1.cccccccccc"
GET = m.HttpRequest(
    f"!east.{ID}", 0, 9.0, "1.1", "GET", "http", "/", b"/", b"", "", [], ("::1", 1), ("::1", 80), b"", False
)
UPLOAD = replace(GET, method="POST", body=b"first", more_body=True)

CLAIM = m.Claim(ID, 0, WORKER, SUPERVISOR)
START = m.ResponseStart(ID, 0, WORKER, 0, 200, [], b"a", True)
WHOLE = replace(START, more_body=False)
MORE = m.ResponseBody(ID, 0, WORKER, 1, b"b", True)
LAST = m.ResponseBody(ID, 0, WORKER, 2, b"c", False)
DIED = m.Release(ID, 0, WORKER, "died")
FILE = m.ResponseFile(ID, 0, WORKER, 0, 200, [], b"/srv/a", 0, 5, 1, 2, 5, 3)

WAIT_WORKER, WAIT_RESPONSE, WAIT_RESUMPTION, WAIT_LAST_WORDS, WAIT_NOTHING = (e.Wait(each) for each in e.Waiting)

BODY = e.BodyReceived(b"x", True)
MESSAGE = e.MessageReceived("x", None)
FAILED = e.ClientFailed(1002, "why")
GONE = e.ClientLeft()
FLUSHED = e.Flushed(1)
ANSWERED = e.Answered()
REFUSED = e.OfferRefused(False, "full")
IN_DOUBT = e.OfferRefused(True, "broke")
TIMED_OUT = e.TimedOut()
VANISHED = e.ClaimTimedOut()
WAS_THERE, WAS_GONE = e.Withdrawn(True), e.Withdrawn(False)
JOINED = e.Joined(0, "news")
GAP = e.Gap("news", 2)
#: Of no attempt that is under way. (With a list, they could be no keys of tables.)
_OTHER = replace(FILE, attempt=7, headers=())
OPENED, NOT_OPENED = e.FileOpened(_OTHER, "file"), e.FileRefused(_OTHER)
EVENTS = [
    *(BODY, MESSAGE, FAILED, GONE, FLUSHED, ANSWERED, REFUSED, IN_DOUBT, TIMED_OUT, VANISHED, WAS_THERE, WAS_GONE),
    *(JOINED, GAP, OPENED, NOT_OPENED),
]
#: What leads from one state to the next.
PATHS: dict[State, list[Any]] = {
    State.QUEUED: [],
    State.WITHDRAWING: [e.TimedOut()],
    State.CLAIMED: [CLAIM],
    State.OPENING: [CLAIM, FILE],
    State.RESPONDING: [CLAIM, START],
    State.ANSWERED: [CLAIM, START, e.Answered()],
    State.DONE: [CLAIM, START, replace(LAST, seq=1)],
}


#: The effects of an event, and the state that follows.
Outcome: TypeAlias = tuple[list[Any], Any]


def nothing(state: Any, *events: Any) -> dict[Any, Outcome]:
    """Events that have no effects, and are followed by `state`."""
    return {event: ([], state) for event in events}


_PIECE = e.Send(WORKER, m.RequestBody(ID, 0, 0, b"x", True))
_LEAVE = e.Send(WORKER, m.Disconnect(ID, 0, 0, 0, ""))
IS_JOINED = e.Send(WORKER, m.GroupJoined(ID, 0, 0, "news"))
HAS_GAP = e.Send(WORKER, m.GroupGap(ID, 0, 0, "news", 2))
_LATE = (REFUSED, IN_DOUBT, WAS_THERE, WAS_GONE)
#: What each event does to an upload, which is not offered twice. One that is missing cannot happen.
OUTCOMES: dict[State, dict[Any, Outcome]] = {
    State.QUEUED: {
        **nothing(State.QUEUED, BODY, IN_DOUBT, VANISHED, WAS_THERE, WAS_GONE),
        GONE: ([e.WITHDRAW, e.ENDED], State.DONE),
        REFUSED: ([e.Answer(503, "full"), e.ENDED], State.DONE),
        TIMED_OUT: ([WAIT_NOTHING, e.WITHDRAW], State.WITHDRAWING),
    },
    State.WITHDRAWING: {
        **nothing(State.WITHDRAWING, BODY, IN_DOUBT, VANISHED),
        GONE: ([e.ENDED], State.DONE),
        REFUSED: ([e.Answer(503, "full"), e.ENDED], State.DONE),
        WAS_THERE: ([e.Answer(503, "no worker took it in time"), e.ENDED], State.DONE),
        WAS_GONE: ([e.Answer(504, "a worker took it and did not claim it"), e.ENDED], State.DONE),
    },
    State.CLAIMED: {
        **nothing(State.CLAIMED, *_LATE),
        BODY: ([_PIECE, WAIT_RESPONSE], State.CLAIMED),
        GONE: ([_LEAVE, e.ENDED], State.DONE),
        TIMED_OUT: (
            [_LEAVE, e.Answer(504, "the application did not begin to answer in time"), e.ENDED],
            State.DONE,
        ),
    },
    State.OPENING: {
        **nothing(State.OPENING, *_LATE),
        BODY: ([_PIECE], State.OPENING),
        GONE: ([_LEAVE, e.ENDED], State.DONE),
        TIMED_OUT: (
            [_LEAVE, e.Answer(504, "the application did not begin to answer in time"), e.ENDED],
            State.DONE,
        ),
    },
    State.RESPONDING: {
        **nothing(State.RESPONDING, FLUSHED, *_LATE),
        **nothing(State.ANSWERED, ANSWERED),
        BODY: ([_PIECE], State.RESPONDING),
        JOINED: ([IS_JOINED], State.RESPONDING),
        GAP: ([HAS_GAP], State.RESPONDING),
        GONE: ([_LEAVE, e.ENDED], State.DONE),
    },
    State.ANSWERED: {
        **nothing(State.ANSWERED, FLUSHED, ANSWERED, *_LATE),
        BODY: ([_PIECE], State.ANSWERED),
        JOINED: ([IS_JOINED], State.ANSWERED),
        GAP: ([HAS_GAP], State.ANSWERED),
        **dict.fromkeys([GONE, TIMED_OUT], ([_LEAVE, e.ENDED], State.DONE)),
    },
    State.DONE: nothing(State.DONE, BODY, GONE, FLUSHED, ANSWERED, JOINED, GAP, TIMED_OUT, *_LATE),
}
# A file that nobody waits for any more is closed, whatever has happened meanwhile.
for _state, _outcomes in OUTCOMES.items():
    _outcomes |= {OPENED: ([e.CloseFile("file")], _state), **nothing(_state, NOT_OPENED)}


def do(stream: Stream, *happenings: Any) -> list[Any]:
    """The effects of all that happens, in order."""
    return [
        effect
        for each in happenings
        for effect in (stream.receive(each) if isinstance(each, m.Message) else stream.handle(each))
    ]


def make(
    state: State = State.QUEUED, request: m.HttpRequest = GET, retry: bool = True, expects: bool = False
) -> HttpStream:
    stream = HttpStream(request, retry, expects)
    do(stream, *PATHS[state])
    assert stream.state is state
    return stream


def snapshot(stream: Stream) -> dict[str, Any]:
    """All that a stream knows."""
    known = {slot: getattr(stream, slot) for cls in type(stream).__mro__ for slot in getattr(cls, "__slots__", ())}
    for name, value in known.items():
        if isinstance(value, SendWindow):
            known[name] = (value.sent, value.consumed)
        elif isinstance(value, ReceiveWindow):
            known[name] = (value.consumed, value._told)
        elif isinstance(value, list):
            known[name] = list(value)
    return known


def release(reason: str, attempt: int = 0, worker: str = WORKER) -> e.Send:
    return e.Send(worker, m.Release(ID, attempt, worker, reason))


def told(effects: list[Any], kind: Any) -> list[Any]:
    return [each.message for each in effects if isinstance(each, e.Send) and isinstance(each.message, kind)]


def test_a_response_that_is_complete_at_once_needs_no_claim() -> None:
    stream = make()
    assert do(stream, WHOLE) == [WHOLE, e.ENDED]
    assert (stream.state, stream.worker) == (State.DONE, WORKER)


def test_a_claimed_exchange_is_answered_piece_by_piece() -> None:
    stream = make()
    assert do(stream, CLAIM) == [WAIT_RESPONSE]
    assert (stream.state, stream.worker, stream.supervisor) == (State.CLAIMED, WORKER, SUPERVISOR)
    assert do(stream, START) == [START, WAIT_NOTHING]
    assert do(stream, MORE) == [MORE]
    assert do(stream, LAST) == [LAST, e.ENDED]


def test_a_response_claims_and_the_claim_may_follow() -> None:
    stream = make()
    assert do(stream, START, CLAIM, replace(LAST, seq=1)) == [START, WAIT_NOTHING, replace(LAST, seq=1), e.ENDED]
    assert stream.supervisor == SUPERVISOR


@pytest.mark.parametrize("first", [CLAIM, m.Window(ID, 0, WORKER, 0), START])
def test_who_waits_for_100_continue_is_told_to_go_on_once_a_worker_is_there(first: m.Message) -> None:
    stream = make(request=UPLOAD, expects=True)
    assert e.CONTINUE in do(stream, first)
    assert not stream.expects_continue
    assert do(stream, CLAIM) == []


_BEGUN = {m.ResponseStart: State.RESPONDING, m.ResponseFile: State.OPENING}
_TAKEN = {m.Claim: State.CLAIMED, m.Window: State.CLAIMED, **_BEGUN}
#: The state that follows a message; a message that is missing does not change it.
FOLLOWING: dict[State, dict[type, State]] = {
    State.QUEUED: _TAKEN,
    State.WITHDRAWING: {**_TAKEN, m.Release: State.QUEUED},
    State.CLAIMED: {**_BEGUN, m.Release: State.QUEUED},
    State.OPENING: {m.Release: State.QUEUED},
    State.RESPONDING: {m.Release: State.DONE},
    State.ANSWERED: {m.Release: State.DONE},
    State.DONE: {},
}


def check_event(stream: Stream, event: Any, outcomes: Mapping[Any, Mapping[Any, Outcome]]) -> None:
    """An event has the outcome that is written down, or raises and changes nothing."""
    outcome = outcomes[stream.state].get(event)
    if outcome is not None:
        assert (do(stream, event), stream.state) == outcome
        return
    before = snapshot(stream)
    with pytest.raises(TransitionError, match=f"{type(event).__name__} cannot happen in state {stream.state.name}"):
        stream.handle(event)
    assert snapshot(stream) == before


@pytest.mark.parametrize("event", EVENTS, ids=str)
@pytest.mark.parametrize("state", State)
def test_what_each_event_does_in_each_state(state: State, event: Any) -> None:
    check_event(make(state, UPLOAD), event, OUTCOMES)


@pytest.mark.parametrize("table", [HttpStream.table, WebSocketStream.table], ids=["HTTP", "WebSocket"])
def test_no_event_of_a_table_is_missing_here(table: Mapping[Any, Row]) -> None:
    in_table = {kind for row in table.values() for kind in row if not issubclass(kind, m.Message)}
    assert in_table <= {type(event) for event in EVENTS}


# Files.


@pytest.mark.parametrize("path", [[], [e.TimedOut()], [CLAIM]], ids=["QUEUED", "WITHDRAWING", "CLAIMED"])
def test_a_file_that_can_be_opened_ends_the_exchange(path: list[Any]) -> None:
    stream = make()
    do(stream, *path)
    assert do(stream, FILE)[-1] == FILE
    assert stream.state is State.OPENING
    taken = e.Send(WORKER, m.FileTaken(ID, 0, 0))
    assert do(stream, e.FileOpened(FILE, "file")) == [taken, e.SendFile(FILE, "file"), e.ENDED]
    assert stream.state is State.DONE
    assert do(stream, e.FileOpened(FILE, "again")) == [e.CloseFile("again")]


def test_one_that_cannot_is_left_to_the_worker_which_answers_as_ever() -> None:
    stream = make(request=UPLOAD, expects=True)
    assert do(stream, BODY, FILE) == [WAIT_RESPONSE, FILE]
    declined = m.FileDeclined(ID, 0, 0)
    held = m.RequestBody(ID, 0, 1, b"x", True)
    assert do(stream, e.FileRefused(FILE)) == [e.Send(WORKER, declined), e.CONTINUE, e.Send(WORKER, held)]
    assert stream.state is State.CLAIMED
    assert do(stream, e.FileRefused(FILE)) == []
    assert do(stream, replace(START, seq=1)) == [replace(START, seq=1), WAIT_NOTHING]


def test_a_worker_that_dies_while_its_file_is_opened_is_replaced() -> None:
    stream = make(State.OPENING)
    (offer, _) = do(stream, DIED)
    assert isinstance(offer, e.Offer)
    assert stream.state is State.QUEUED
    assert do(stream, e.FileOpened(FILE, "file")) == [e.CloseFile("file")]
    assert do(stream, e.FileRefused(FILE)) == []
    assert stream.state is State.QUEUED


def test_a_snapshot_is_not_changed_by_what_happens_later() -> None:
    stream = make(State.QUEUED, UPLOAD)
    before = snapshot(stream)
    do(stream, BODY)
    assert before["pending"] == []
    assert snapshot(stream) != before


@pytest.mark.parametrize("kind", [CLAIM, START, MORE, FILE, m.Window(ID, 0, WORKER, 1), DIED,
                                  m.WebSocketAccept(ID, 0, WORKER, 0, WORKER, None, []),
                                  m.WebSocketSend(ID, 0, WORKER, 0, "", None),
                                  m.WebSocketClose(ID, 0, WORKER, 0, 1000, ""),
                                  m.GroupJoin(ID, 0, WORKER, 0, "news"),
                                  m.GroupLeave(ID, 0, WORKER, 0, "news")])  # fmt: skip
@pytest.mark.parametrize("state", State)
def test_a_message_that_must_not_be_said_breaks_the_exchange(state: State, kind: Any) -> None:
    stream = make(state)
    message = (
        replace(kind, seq={State.OPENING: 1, State.RESPONDING: 1, State.ANSWERED: 1, State.DONE: 2}.get(state, 0))
        if hasattr(kind, "seq")
        else kind
    )
    effects = do(stream, message)
    # What comes first claims the exchange.
    decides = state if type(message) is m.Release else HttpStream.CLAIMS.get(state, state)
    if type(message) in HttpStream.table[decides]:
        assert release("broken") not in effects
        assert stream.state is FOLLOWING[state].get(type(message), state)
        return
    why = f"bad reply: {type(message).__name__} in state {state.name}"
    assert stream.state is State.DONE
    assert effects == {
        State.RESPONDING: [e.Abort(why), release("broken"), e.ENDED],
        State.ANSWERED: [e.Finish(why), release("broken"), e.ENDED],
        State.DONE: [release("broken")],
    }.get(state, [release("broken"), e.Answer(502, why), e.ENDED])


def test_a_response_that_has_begun_joins_and_leaves_groups() -> None:
    stream = make(State.RESPONDING)
    assert do(stream, m.GroupJoin(ID, 0, WORKER, 1, "news", True, "me")) == [e.Join(0, "news", True, "me")]
    assert do(stream, JOINED, GAP) == [IS_JOINED, e.Send(WORKER, m.GroupGap(ID, 0, 1, "news", 2))]
    assert do(stream, m.GroupLeave(ID, 0, WORKER, 2, "news")) == [e.Leave("news")]


def test_a_response_that_its_client_has_whole_joins_no_group() -> None:
    stream = make(State.ANSWERED)
    refused = m.GroupJoined(ID, 0, 0, "news", "the client has the whole response")
    assert do(stream, m.GroupJoin(ID, 0, WORKER, 1, "news")) == [e.Send(WORKER, refused)]


@pytest.mark.parametrize("message", [DIED, m.Window(ID, 0, WORKER, 1), LAST], ids=str)
def test_nothing_more_happens_to_the_client_when_all_is_done(message: m.Message) -> None:
    stream = make(State.DONE)
    assert do(stream, message) == ([] if message is DIED else [release("broken")])
    assert stream.state is State.DONE
    assert do(stream, DIED) == []


def test_a_worker_that_dies_in_the_middle_of_its_answer_cuts_the_connection() -> None:
    why = f"worker {WORKER} has died, in the middle of the response"
    assert do(make(State.RESPONDING), DIED) == [e.Abort(why), e.ENDED]


def test_nobody_minds_that_an_event_stream_is_cut_by_a_worker_that_stops() -> None:
    why = f"worker {WORKER} is stopping, in the middle of the response"
    stopped = replace(DIED, reason=m.EVENTS_STOPPED, sent=1)
    assert do(make(State.RESPONDING), stopped) == [e.Abort(why, error=False), e.ENDED]


def test_what_a_worker_does_when_the_client_has_all_harms_nobody() -> None:
    assert do(make(State.ANSWERED), DIED) == [e.Finish(f"worker {WORKER} has died"), e.ENDED]
    stream = make(State.ANSWERED)
    assert do(stream, replace(MORE, body=b"")) == [replace(MORE, body=b"")]
    assert do(stream, e.Answered()) == []
    assert do(stream, replace(LAST, body=b"")) == [replace(LAST, body=b""), e.ENDED]
    dropped, finish, tell, ended = do(make(State.ANSWERED), replace(LAST, seq=2))
    assert (dropped, tell, ended) == (e.Dropped("gap"), release("broken"), e.ENDED)
    assert isinstance(finish, e.Finish)


def test_an_application_may_read_on_when_the_client_has_all() -> None:
    stream = make(State.ANSWERED, UPLOAD)
    pieces = told(do(stream, body(1), body(2, more=False)), m.RequestBody)
    assert [(each.body, each.more_body) for each in pieces] == [(b"x", True), (b"xx", False)]


@pytest.mark.parametrize(
    ("state", "effects"),
    [
        (State.QUEUED, [e.WITHDRAW, e.ENDED]),
        (State.WITHDRAWING, [e.ENDED]),
        (State.CLAIMED, [e.Send(WORKER, m.Disconnect(ID, 0, 0, 0, "")), e.ENDED]),
        (State.RESPONDING, [e.Send(WORKER, m.Disconnect(ID, 0, 0, 0, "")), e.ENDED]),
        (State.ANSWERED, [e.Send(WORKER, m.Disconnect(ID, 0, 0, 0, "")), e.ENDED]),
        (State.DONE, []),
    ],
)
def test_a_client_that_leaves_is_told_to_whoever_has_its_request(state: State, effects: list[Any]) -> None:
    assert do(make(state), e.ClientLeft()) == effects


def body(size: int, more: bool = True) -> e.BodyReceived:
    return e.BodyReceived(b"x" * size, more)


def test_a_body_waits_for_a_claim_and_then_goes_in_pieces() -> None:
    stream = make(request=UPLOAD)
    assert do(stream, body(1)) == []
    assert do(stream, body(3 * PIECE_BYTES)) == [e.STOP_READING]
    assert do(stream, body(PIECE_BYTES + 5, more=False)) == []
    effects = do(stream, CLAIM)
    assert effects[0] == WAIT_RESPONSE
    assert e.RESUME_READING not in effects
    pieces = told(effects, m.RequestBody)
    assert [len(each.body) for each in pieces] == [1] + [PIECE_BYTES] * 4
    rest = do(stream, m.Window(ID, 0, WORKER, WINDOW // 2))
    assert rest[1:] == [e.RESUME_READING, WAIT_RESPONSE]
    pieces += told(rest, m.RequestBody)
    assert len(pieces[5].body) == 5
    assert [each.seq for each in pieces] == [0, 1, 2, 3, 4, 5]
    assert [each.more_body for each in pieces] == [True] * 5 + [False]


def test_the_time_for_an_answer_counts_from_the_last_of_the_body() -> None:
    effects = do(make(State.CLAIMED, UPLOAD), body(5, more=False))
    assert effects == [e.Send(WORKER, m.RequestBody(ID, 0, 0, b"xxxxx", False)), WAIT_RESPONSE]


def test_what_was_taken_along_with_the_request_gives_no_more_time() -> None:
    stream = make(State.CLAIMED)
    assert do(stream, m.Window(ID, 0, WORKER, MESSAGE_OVERHEAD)) == []


def test_without_credit_the_client_is_not_read_and_a_window_lets_it_go_on() -> None:
    stream = make(State.RESPONDING, UPLOAD)
    effects: list[Any] = []
    while e.STOP_READING not in effects:
        effects = do(stream, body(PIECE_BYTES - MESSAGE_OVERHEAD))
    assert effects == [e.STOP_READING]
    assert do(stream, m.Window(ID, 0, WORKER, 1)) == []
    # All that was held goes, and uses up the credit to the last unit.
    [last] = do(stream, m.Window(ID, 0, WORKER, PIECE_BYTES + len(UPLOAD.body) + MESSAGE_OVERHEAD))
    assert isinstance(last.message, m.RequestBody)
    assert do(stream, m.Window(ID, 0, WORKER, 2 * PIECE_BYTES)) == [e.RESUME_READING]


def test_a_sync_that_claims_gives_credit_too() -> None:
    stream = make(request=replace(UPLOAD, body=bytes(WINDOW)))
    do(stream, body(1))
    assert told(do(stream, m.Window(ID, 0, WORKER, 2 * MESSAGE_OVERHEAD)), m.RequestBody) != []


def test_a_client_is_read_on_while_there_is_credit() -> None:
    effects = do(make(State.RESPONDING, UPLOAD), body(PIECE_BYTES), body(2 * PIECE_BYTES))
    assert len(told(effects, m.RequestBody)) == len(effects) == 3


def test_a_flood_of_tiny_pieces_is_bounded() -> None:
    stream = make(request=UPLOAD)
    effects = do(stream, *[body(1)] * (PIECE_BYTES // MESSAGE_OVERHEAD))
    assert effects == [e.STOP_READING]


def test_what_was_flushed_is_told_when_it_is_a_quarter_of_a_window() -> None:
    stream = make(State.RESPONDING)
    assert do(stream, e.Flushed(10)) == []
    total = WINDOW // 4 + 10 + 2 * MESSAGE_OVERHEAD
    assert do(stream, e.Flushed(WINDOW // 4)) == [e.Send(WORKER, m.Window(ID, 0, WORKER, total))]


sizes = st.sampled_from([0, 1, 1000, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
kinds = st.sampled_from(["claim", "start", "body", "window", "release", "sync", "wrong kind"])
senders = st.sampled_from([WORKER, WORKER, WORKER, WORKER, MOVED, OTHER])
messages = st.tuples(
    kinds, senders, st.sampled_from([0, 0, 0, 0, 1, -1]), st.sampled_from([0] * 6 + [1, -1]), st.booleans()
)
events = st.one_of(st.builds(e.BodyReceived, sizes.map(bytes), st.just(True)), st.sampled_from(EVENTS))


def say(stream: HttpStream, what: tuple[str, str, int, int, bool]) -> tuple[Any, ...]:
    kind, worker, attempt, seq, more = what
    head = (ID, stream.attempt + attempt, worker)
    seq += stream.received
    if kind == "sync":
        return stream.receive_sync(m.SyncEntry(ID, head[1], seq, 0), worker)
    message: m.Message = {
        "claim": m.Claim(*head, SUPERVISOR),
        "start": m.ResponseStart(*head, seq, 200, [], b"s", more),
        "body": m.ResponseBody(*head, seq, b"b", more),
        "window": m.Window(*head, 0),
        "release": m.Release(*head, "died"),
        "wrong kind": m.WebSocketSend(*head, seq, "x", None),
    }[kind]
    return stream.receive(message)


@settings(max_examples=300)
@given(st.lists(st.one_of(messages, events), max_size=25), st.booleans(), st.booleans())
def test_whatever_happens_the_promises_are_kept(happenings: list[Any], upload: bool, retry: bool) -> None:
    stream = HttpStream(UPLOAD if upload else GET, retry, upload)
    client: list[Any] = []
    pushed: list[m.RequestBody] = []
    numbers: list[int] = []
    sent = b""
    has_all = False
    for each in happenings:
        try:
            if isinstance(each, e.BodyReceived) and upload and stream.state is not State.DONE:
                sent += each.body
            effects = say(stream, each) if isinstance(each, tuple) else stream.handle(each)
        except TransitionError:
            continue
        assert not (has_all and any(isinstance(x, e.Abort | e.Answer) for x in effects))
        has_all = has_all or stream.state is State.ANSWERED
        pushed += told(list(effects), m.RequestBody)
        numbers += [x.seq for x in told(list(effects), m.RequestBody | m.GroupJoined | m.GroupGap)]
        client += [x for x in effects if isinstance(x, m.Message | e.Answer | e.Abort) or x is e.ENDED]
    # One end at most, and nothing behind it.
    assert client.count(e.ENDED) == (stream.state is State.DONE)
    assert e.ENDED not in client[:-1]
    # What the client gets comes from one process and one attempt, without a gap, and ends in one way.
    response = [x for x in client if isinstance(x, m.Message)]
    assert [x.seq for x in response] == list(range(len(response)))
    assert len({(x.attempt, x.worker.partition(".")[2]) for x in response}) <= 1
    assert [type(x) for x in response[1:]] == [m.ResponseBody] * len(response[1:])
    assert len([x for x in client if isinstance(x, e.Answer | e.Abort)]) <= (not response or response[-1].more_body)
    assert not any(isinstance(x, e.Answer) for x in client) or not response
    # The worker gets the body in order, in pieces, and never more than its credit and one piece.
    if upload:
        assert sent.startswith(b"".join(x.body for x in pushed))
        assert numbers == list(range(len(numbers)))
        assert all(len(x.body) <= PIECE_BYTES for x in pushed)
        assert sum(len(x.body) + MESSAGE_OVERHEAD for x in pushed[:-1]) <= WINDOW
