"""One HTTP/1 connection, as a table: (state, event) gives the next state and the effects. Pure.

::

    IDLE --request--> PENDING --begins--> RESPONDING --ends--> IDLE, or CLOSED
      |                  ^                    ^     '--ends, before the client takes it--> FLUSHING --taken--> IDLE
      |              last of the body     last of the body
      '--its head--> UPLOADING --begins--> OVERLAPPING
      |                  '--ends--. .--ends--'
      |                        DISCARDING --last of the body--> FLUSHING
      |                            '--too much--> LINGERING --last of the body--> CLOSED
      '--handshake--> UPGRADING --accepted--> CLOSED
                         '--begins--> DENYING --ends--> CLOSED

One request is answered at a time; those that come meanwhile wait. The table decides about all of them, and about how
the connection ends. It does not need to know why the socket is not read (`read_pacing`), whether the client takes what
it is sent (`response`), and what has come of the next request (`parser`): where it matters, there is an event.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, TypeAlias

__all__ = ["TABLE", "Effect", "Event", "State"]


class _Word(enum.Enum):
    # Members are keys of tables, and the hash that an Enum brings along is written in Python.
    __hash__ = object.__hash__


class State(_Word):
    """What a connection is busy with."""

    IDLE = "no request is being answered"
    PENDING = "a request has come whole, its response has not begun"
    UPLOADING = "the same, with its body still on the way"
    RESPONDING = "the response has begun"
    OVERLAPPING = "the same, with the body of its request still on the way"
    UPGRADING = "the handshake of a WebSocket waits for the application"
    DENYING = "it is answered with a response that has begun"
    # Or requests that are sent and answers that are not read would pile up here.
    FLUSHING = "the response is complete, and ends when the client has taken what was written"
    DISCARDING = "the response is complete; the rest of the request's body is thrown away, to keep the connection"
    LINGERING = "the same, to let the client see its answer; then the connection ends"
    CLOSED = "it ends when what was written has been sent, or has become a WebSocket"


class Event(_Word):
    """What happens to it. The detail, where there is one: a request, a piece of a body, what is wrong, or a message."""

    REQUEST = "a request has come whole; when the one before has been answered, the first that waits"
    UPLOAD = "the same, but its body, or the rest of that, is on the way"
    HANDSHAKE = "the same, and it is for a WebSocket"
    PART = "some has come of a request that is offered when it is whole"
    PIECE = "more of the present request's body"
    LAST_PIECE = "the last of it"
    REFUSED = "what has come is wrong, or too late"
    TOO_LARGE = "it is a request with too large a body, which is on the way"
    UNPARSED = "more has come behind what was refused"
    TOO_MUCH = "more was thrown away than the connection is worth"
    EXPIRED = "it has taken too long"
    HALF_CLOSED = "the client sends nothing more"
    BEGUN = "the head of the response was written, and more will follow"
    ANSWERED = "the client has the whole response, which the application has not ended"
    WRITTEN = "the response was written completely"
    WRITTEN_LAST = "the same, and the connection ends with it"
    UNTAKEN = "the same, and the client does not take it yet"
    TAKEN = "the client takes again what it is sent"
    INVALID = "the worker has sent what cannot be sent on"
    ACCEPTED = "the application has accepted the WebSocket"
    UNUSED = "nothing has come of a next request for too long"
    CUT = "the connection must end at once"
    LOST = "it has ended"


class Effect(_Word):
    """What is done about it."""

    START = "offer the request"
    QUEUE = "keep it until the one before has been answered"
    NEXT = "go on with what waits, or wait for a request"
    CONTINUE = "ask the client to send its body"
    PASS_ON = "hand the piece to the stream"
    PASS_ON_LAST = "hand the last one to it"
    DISCARD_REST = "read on, but for nothing"
    DISCARD = "throw the piece away"
    END_WRITING = "close our sending side: nothing follows"
    COUNT_REFUSAL = "count what was refused"
    REFUSE = "count and answer it"
    DROP_TAIL = "forget the last request that waits, if it will not be complete"
    AWAIT_LAST = "let the connection end behind the last response, if the client is still there"
    NOTIFY_ANSWERED = "notify the stream"
    GO_ON = "let the stream go on alone"
    LOOK_IF_ANSWERED = "`ANSWERED` if it has happened before"
    LOOK_IF_TAKEN = "`WRITTEN` or `WRITTEN_LAST`, now or at `TAKEN`"
    LEAVE = "notify the stream that its client has left"
    BREAK_OFF = "the same, and write the access log"
    ANSWER_502 = "answer 502 in the server's own name"
    UPGRADE = "make a WebSocket of the connection"
    CLOSE = "close it behind what was written"
    SEND_AWAY = "the same, and the streams that go on alone need not know"
    ABORT = "cut it"
    FORGET = "notify the exchanges and the server that it has ended"


#: The next state, and what is done then, in this order.
Step: TypeAlias = tuple[State, tuple[Effect, ...]]

_S: TypeAlias = State
_E: TypeAlias = Event
_F: TypeAlias = Effect

#: The next request may come, and waits for its turn.
_BUSY: Final = _S.PENDING, _S.RESPONDING, _S.FLUSHING
#: A body is on the way to its stream; its rest is thrown away.
_BODY: Final = _S.UPLOADING, _S.OVERLAPPING
_REST: Final = _S.DISCARDING, _S.LINGERING
#: The response has not begun; it has, and is not complete.
_UNBEGUN: Final = _S.PENDING, _S.UPLOADING, _S.UPGRADING
_BEGUN: Final = _S.RESPONDING, _S.OVERLAPPING, _S.DENYING
_BAD: Final = _E.REFUSED, _E.TOO_LARGE

#: In which states what happens, the next state (None: it stays), and the effects. A pair that is missing cannot happen.
_RULES: Final[tuple[tuple[_S | tuple[_S, ...], _E | tuple[_E, ...], _S | None, tuple[_F, ...]], ...]] = (
    # A request comes.
    (_S.IDLE, _E.REQUEST, _S.PENDING, (_F.START,)),
    (_S.IDLE, _E.UPLOAD, _S.UPLOADING, (_F.START,)),
    (_S.IDLE, _E.HANDSHAKE, _S.UPGRADING, (_F.START,)),
    (_S.IDLE, _E.PART, None, (_F.CONTINUE,)),
    (_BUSY, (_E.REQUEST, _E.UPLOAD, _E.HANDSHAKE), None, (_F.QUEUE,)),
    (_BUSY, _E.PART, None, ()),
    # Its body comes.
    (_BODY, _E.PIECE, None, (_F.PASS_ON,)),
    (_S.UPLOADING, _E.LAST_PIECE, _S.PENDING, (_F.PASS_ON_LAST,)),
    (_S.OVERLAPPING, _E.LAST_PIECE, _S.RESPONDING, (_F.PASS_ON_LAST, _F.LOOK_IF_ANSWERED)),
    (_REST, _E.PIECE, None, (_F.DISCARD,)),
    (_S.DISCARDING, _E.LAST_PIECE, _S.FLUSHING, (_F.LOOK_IF_TAKEN,)),
    (_S.DISCARDING, _E.TOO_MUCH, _S.LINGERING, (_F.END_WRITING,)),
    (_S.LINGERING, _E.TOO_MUCH, None, ()),
    (_S.LINGERING, _E.LAST_PIECE, _S.CLOSED, (_F.CLOSE,)),
    (_REST, _E.EXPIRED, _S.CLOSED, (_F.CLOSE,)),
    # Something comes that is refused. Behind a request that is being answered it waits for its turn; a response that
    # has begun must not look whole; and a request that has had its answer gets no other.
    ((_S.IDLE, _S.UPGRADING), _E.REFUSED, _S.CLOSED, (_F.REFUSE, _F.CLOSE)),
    (_S.IDLE, _E.TOO_LARGE, _S.LINGERING, (_F.REFUSE, _F.DISCARD_REST, _F.END_WRITING)),
    (_BUSY, _BAD, None, (_F.DROP_TAIL,)),
    (_BUSY, _E.UNPARSED, None, ()),
    (_S.UPLOADING, _E.REFUSED, _S.CLOSED, (_F.LEAVE, _F.REFUSE, _F.CLOSE)),
    (_S.UPLOADING, _E.TOO_LARGE, _S.LINGERING, (_F.LEAVE, _F.REFUSE, _F.DISCARD_REST, _F.END_WRITING)),
    (_S.OVERLAPPING, _BAD, _S.CLOSED, (_F.COUNT_REFUSAL, _F.BREAK_OFF, _F.ABORT)),
    (_REST, _BAD, _S.CLOSED, (_F.COUNT_REFUSAL, _F.CLOSE)),
    (_S.LINGERING, _E.UNPARSED, None, (_F.DISCARD,)),
    # The response.
    (_S.PENDING, _E.BEGUN, _S.RESPONDING, ()),
    (_S.UPLOADING, _E.BEGUN, _S.OVERLAPPING, ()),
    (_S.UPGRADING, _E.BEGUN, _S.DENYING, ()),
    (_S.UPGRADING, _E.ACCEPTED, _S.CLOSED, (_F.UPGRADE,)),
    (_S.RESPONDING, _E.ANSWERED, None, (_F.NOTIFY_ANSWERED, _F.GO_ON)),
    (_S.OVERLAPPING, _E.ANSWERED, None, (_F.NOTIFY_ANSWERED,)),
    (_S.DENYING, _E.ANSWERED, None, ()),  # no request waits for its end
    (_BUSY, _E.WRITTEN, _S.IDLE, (_F.NEXT,)),
    ((_S.PENDING, _S.RESPONDING), _E.UNTAKEN, _S.FLUSHING, ()),
    (_S.FLUSHING, _E.TAKEN, None, (_F.LOOK_IF_TAKEN,)),
    ((*_BUSY, _S.UPGRADING, _S.DENYING), _E.WRITTEN_LAST, _S.CLOSED, (_F.SEND_AWAY,)),
    # At once: many clients take nothing of the response before they have sent their whole body.
    (_BODY, (_E.WRITTEN, _E.UNTAKEN), _S.DISCARDING, (_F.DISCARD_REST,)),
    (_BODY, _E.WRITTEN_LAST, _S.LINGERING, (_F.DISCARD_REST, _F.END_WRITING)),
    (_UNBEGUN, _E.INVALID, None, (_F.LEAVE, _F.ANSWER_502)),
    (_BEGUN, _E.INVALID, _S.CLOSED, (_F.BREAK_OFF, _F.ABORT)),
    # The client closes, or is closed.
    (_BUSY, _E.HALF_CLOSED, None, (_F.DROP_TAIL, _F.AWAIT_LAST)),
    (_S.OVERLAPPING, _E.HALF_CLOSED, _S.CLOSED, (_F.ABORT,)),
    ((_S.IDLE, _S.UPLOADING, _S.UPGRADING, _S.DENYING, *_REST), _E.HALF_CLOSED, _S.CLOSED, (_F.CLOSE,)),
    (_S.IDLE, _E.UNUSED, _S.CLOSED, (_F.CLOSE,)),
    (tuple(_S), _E.CUT, _S.CLOSED, (_F.ABORT,)),
    (tuple(_S), _E.LOST, _S.CLOSED, (_F.FORGET,)),
    # What makes no difference.
    (tuple(each for each in _S if each is not _S.FLUSHING), _E.TAKEN, None, ()),
    (tuple(each for each in _S if each is not _S.IDLE), _E.UNUSED, None, ()),
    # The stream may still speak, the parser be in the middle of what has come, and a deadline end.
    (_S.CLOSED, _E.INVALID, None, (_F.BREAK_OFF,)),
    (_S.CLOSED, (_E.REQUEST, _E.HANDSHAKE, _E.LAST_PIECE, *_BAD, _E.TOO_MUCH, _E.EXPIRED, _E.HALF_CLOSED), None, ()),
    (_S.CLOSED, (_E.BEGUN, _E.ANSWERED, _E.WRITTEN, _E.WRITTEN_LAST, _E.UNTAKEN, _E.ACCEPTED), None, ()),
)


def _table() -> dict[State, dict[Event, Step]]:
    table: dict[State, dict[Event, Step]] = {state: {} for state in State}
    for states, events, after, effects in _RULES:
        for state in states if isinstance(states, tuple) else (states,):
            for event in events if isinstance(events, tuple) else (events,):
                assert event not in table[state], f"two rules for {event} in {state}"
                table[state][event] = after or state, effects
    return table


#: What follows from each event in each state.
TABLE: Final[Mapping[State, Mapping[Event, Step]]] = _table()
