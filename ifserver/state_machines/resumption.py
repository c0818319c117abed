"""What lets a WebSocket outlive its worker (see docs/explanation/architecture.rst, Resumption).

An open WebSocket is no new request. From the loss of one worker to the accept of the next it waits, for
``resume_timeout_s`` at most, and nothing that happens to an attempt closes it: a worker that dies before it accepts, a
node that is full, silent, restarted or unreachable, or a lost message only begin the next attempt. What the client
sends meanwhile is held, and handed to the worker that accepts.

A client that leaves meanwhile, while something that it sent is still held, is remembered: the next worker gets that
when it accepts, and learns that the client has left. Where nothing is held, the stream ends at once.

These are the functions of the states WAITING, TAKEN and LEFT in the table of `ifserver.state_machines.websocket`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from ifserver import messages as m
from ifserver.flow_control import message_bytes
from ifserver.state_machines.effects import (
    ENDED,
    WAIT_NOTHING,
    WAIT_RESUMPTION,
    WITHDRAW,
    ClaimTimedOut,
    CloseClient,
    Effects,
    Joined,
    MessageReceived,
    OfferRefused,
    Resume,
    TimedOut,
    Undelivered,
    packed,
    unpacked,
)
from ifserver.state_machines.stream import NOTHING, joined, release, release_reason

if TYPE_CHECKING:
    from ifserver.state_machines.websocket import WebSocketStream

#: RFC 6455 7.4.1 and the IANA registry: the application does not want it; the server restarts.
_POLICY_VIOLATION: Final = 1008
SERVICE_RESTART: Final = 1012


class HandedOut:
    """The messages of one client that its present worker was handed and is not known to have consumed.

    The window bounds them. Totals are units of `ifserver.flow_control`.
    """

    __slots__ = ("_messages",)

    def __init__(self) -> None:
        self._messages: deque[tuple[int, MessageReceived | bytes]] = deque()

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, total: int, message: MessageReceived) -> None:
        """`message` was handed out; `total` units of this attempt were, with it."""
        self._messages.append((total, packed(message)))

    def confirm(self, consumed: int) -> None:
        """The worker has consumed `consumed` units in all."""
        messages = self._messages
        while messages and messages[0][0] <= consumed:
            messages.popleft()

    def take(self) -> list[MessageReceived]:
        """Those that are left, oldest first; none are left then."""
        messages = [unpacked(message) for _, message in self._messages]
        self._messages.clear()
        return messages


# The next attempt.


def resume(stream: WebSocketStream, handed_out: HandedOut, event: m.Release) -> Effects:
    """The worker of the open WebSocket is lost: look for the next one."""
    given_back = event.reason in m.GIVEN_BACK
    handed_out.confirm(event.consumed)
    # A worker that gives it back states what it has consumed. Of one that died nobody knows, so nothing is sent again.
    unconfirmed = 0 if given_back else len(handed_out)
    left = handed_out.take()
    pending = [*(left if given_back else ()), *map(unpacked, stream.pending)]
    stream.stale_units += stream.forwarded - stream.receive_window.consumed
    stream.forwarded = stream.tries = 0
    stream.request = replace(stream.request, attempt=stream.attempt + 1, resumable=True, unconfirmed=unconfirmed)
    stream.begin_attempt(stream.request.attempt)
    for message in pending:
        stream.hold(packed(message), message_bytes(message.text, message.data))
    return Resume(stream.request, 0, release_reason(event)), WAIT_RESUMPTION, *stream.stop_reading_if_full()


def try_again(stream: WebSocketStream, why: str, failed: bool = True) -> Effects:
    """The attempt has failed: begin the next one. What is held, and how long it may take, stay.

    Args:
        failed: whether the next one had better wait a little.
    """
    stream.tries += failed
    stream.request = replace(stream.request, attempt=stream.attempt + 1)
    pending, units = stream.pending, stream.pending_units
    stream.begin_attempt(stream.request.attempt)
    stream.pending, stream.pending_units = pending, units
    return (Resume(stream.request, stream.tries, why),)


def refused(stream: WebSocketStream, event: OfferRefused) -> Effects:
    """No node has taken the offer, or that is in doubt."""
    return try_again(stream, event.why)


def claim_timed_out(stream: WebSocketStream, event: ClaimTimedOut) -> Effects:
    """It is not known where the offer is."""
    return try_again(stream, "the worker that took it has not begun it, or its node is unreachable")


def lost(stream: WebSocketStream, event: m.Release) -> Effects:
    """The worker has released it before it has accepted it."""
    return try_again(stream, release_reason(event), failed=event.reason not in m.GIVEN_BACK)


# The application's answer.


def accepted(stream: WebSocketStream, message: m.WebSocketAccept) -> Effects:
    """The client knows nothing of it: another worker has accepted it before."""
    return WAIT_NOTHING, *stream.pump()


def denied(stream: WebSocketStream, message: m.ResponseStart) -> Effects:
    """The application does not accept it again."""
    rejection = release(stream, "denied") if message.more_body else NOTHING
    close = CloseClient(_POLICY_VIOLATION, "", "the application has denied the WebSocket's resumption")
    return WAIT_NOTHING, close, *stream.begin_to_close(), *rejection


def timed_out(stream: WebSocketStream, event: TimedOut) -> Effects:
    """No worker has accepted it within ``resume_timeout_s``."""
    claimant = (WITHDRAW,) if stream.worker is None else release(stream, "not accepted in time")
    stream.disown()
    close = CloseClient(SERVICE_RESTART, "", "no worker has accepted it in time (resume_timeout)")
    return *claimant, close, *stream.begin_to_close()


# The client.


def hold(stream: WebSocketStream, event: MessageReceived) -> Effects:
    """It sends a message."""
    stream.hold(packed(event), message_bytes(event.text, event.data))
    return stream.stop_reading_if_full()


# It has left, and something that it sent is still held.


def join_left(stream: WebSocketStream, message: m.GroupJoin) -> Effects:
    """The application learns of it once it has accepted: let it go on."""
    return joined(stream, Joined(stream.attempt, message.group))


def denied_left(stream: WebSocketStream, message: m.ResponseStart) -> Effects:
    """The application does not accept it again."""
    rejection = release(stream, "the client has left") if message.more_body else NOTHING
    undelivered = Undelivered(len(stream.pending), "the application has denied the WebSocket's resumption")
    return *rejection, undelivered, ENDED


def timed_out_left(stream: WebSocketStream, event: TimedOut) -> Effects:
    """No worker has accepted it within ``resume_timeout_s``."""
    claimant = (WITHDRAW,) if stream.worker is None else release(stream, "the client has left")
    return *claimant, Undelivered(len(stream.pending), "no worker has accepted it in time"), ENDED
