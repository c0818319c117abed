"""Carries out what streams ask for: towards the client's connection on one side, the channel layer on the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from ifserver import channels
from ifserver import messages as m
from ifserver.errors import ChannelNameError, TransitionError
from ifserver.front.deadlines import Deadlines
from ifserver.front.files import File
from ifserver.front.held import Held
from ifserver.front.offering import Exchanges
from ifserver.front.peers import Peer
from ifserver.front.tally import Tally
from ifserver.front.websocket.prepared import Prepared
from ifserver.metrics import STREAMS_CLOSED
from ifserver.streams.base import Stream
from ifserver.streams.effects import (
    CONTINUE,
    ENDED,
    FAIL,
    RESUME_READING,
    STOP_READING,
    Abort,
    Answer,
    CloseClient,
    CloseFile,
    Dropped,
    Effects,
    Finish,
    Join,
    Leave,
    Offer,
    OfferRefused,
    Resume,
    SendFile,
    Signal,
    Tell,
    TimedOut,
    Unsaid,
    Wait,
    Waiting,
)
from ifserver.streams.http import HttpStream

__all__ = ["Exchange", "HttpClient", "Reports", "Unroutable", "WebSocketClient"]

# Looked up for every request, and a member of an Enum costs several times as much as a global.
_WORKER: Final = Waiting.WORKER

#: At which level it is logged that the server answers, where that is no warning. 404: no pool takes the request.
_LEVELS: Final = {502: logging.ERROR, 404: logging.DEBUG}

_log = logging.getLogger(__name__)


class Reports(Protocol):
    """Who is told what a client does."""

    def handle(self, event: object) -> None:
        """Something has happened to the client."""


class Client(Protocol):
    """The client's side of any stream."""

    def broadcast(self, message: Prepared, max_unsent_bytes: int) -> bool | None:
        """Send a message of a group.

        Returns whether it was: False, it is not for such a client; None, that would make more than
        `max_unsent_bytes` wait for the client to take them.
        """

    def cut(self) -> None:
        """Cut the connection; the stream is told that its client has left."""

    def stop_reading(self) -> None:
        """Leave what the client sends in the kernel's buffers."""

    def resume_reading(self) -> None:
        """Read it again."""


class HttpClient(Client, Protocol):
    """A client that waits for a response."""

    #: Where its request is counted.
    tally: Tally

    def abort(self) -> None:
        """Cut the connection; the stream knows."""

    def begin(self, message: m.ResponseStart) -> None:
        """Send the head of a response, and the first bytes of its body."""

    def begin_file(self, message: m.ResponseFile, file: File) -> None:
        """Send the whole of a response, whose body is in a file. The exchange is over."""

    def body(self, message: m.ResponseBody) -> None:
        """Send a further piece of it."""

    def finish(self) -> None:
        """The response was complete, and will not be ended in another way."""

    def answer(self, status: int) -> None:
        """Answer in the server's own name."""

    def send_continue(self) -> None:
        """Send ``100 Continue``."""

    def accept(self, message: m.WebSocketAccept) -> None:
        """Complete a WebSocket's handshake, and tell `Exchange.opened`."""


class WebSocketClient(Client, Protocol):
    """A client whose WebSocket is open."""

    def send_message(self, message: m.WebSocketSend) -> None:
        """Send a message."""

    def tell(self, reports: Reports) -> None:
        """Tell `reports` what the client does, from now on."""

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""

    def fail(self) -> None:
        """Begin it with what the client has done wrong, as was said in `ClientFailed`."""


class Exchange(Held):
    """One stream of one client, from its offer to its end.

    A WebSocket begins as a request like any other: its client is there from `opened` on.
    """

    __slots__ = ("_deadline", "_waits", "client", "groups", "peer", "websocket")

    def __init__(
        self,
        server: Exchanges,
        stream: Stream,
        client: HttpClient,
        request_channel: str,
        waits: Mapping[Waiting, Deadlines[Exchange]],
    ) -> None:
        super().__init__(server, stream, request_channel)
        #: What the effects of this stream are for, before and after a handshake.
        self.client: Any = client
        self.websocket: WebSocketClient | None = None
        #: The claimant's process, while `Peers` has the stream in its account.
        self.peer: Peer | None = None
        #: The groups that the stream is a member of (`Members`): a tuple, since a set is four times as large.
        self.groups: tuple[str, ...] = ()
        #: How long it may wait for what, and where the present wait is among those; None: it waits for nothing.
        self._waits = waits
        self._deadline: Deadlines[Exchange] | None = None

    @property
    def pool(self) -> str:
        """The pool that has the request; empty: there are none, or none takes it."""
        return "" if self.server.tallies is None or not self._channel else channels.pool_of(self._channel)

    def start(self) -> None:
        """Offer the request."""
        self.server.registry[self.stream.identity] = self
        self._offer(self.stream.request)
        deadline = self._deadline = self._waits[_WORKER]
        deadline.add(self)

    def opened(self, websocket: WebSocketClient) -> None:
        """The handshake is complete: from now on the client is `websocket`."""
        self.websocket = self.client = websocket  # what has spoken HTTP is garbage now
        if self.server.paused is not None:
            self.server.paused.opened(self)

    def hear(self, message: m.ToStream) -> str | None:
        """A worker, or its supervisor, has something to say about the stream. Returns why it was dropped, or None."""
        if self._unheard and message.attempt == self.stream.attempt:
            self._spoken_of(message.worker)
        claim = type(message) is m.Claim
        try:
            effects = self.stream.hear(message)
            if claim or self.stream.worker is not self._worker:
                self._heard(effects, claim, claim)
            else:
                for effect in effects:
                    _CARRY_OUT[type(effect)](self, effect)
        except Exception:
            self.break_off()
            return None
        return effects[0].reason if effects and type(effects[0]) is Dropped else None

    def hear_sync(self, entry: m.SyncEntry, worker: str, supervisor: str) -> None:
        """A worker tells how far it is."""
        if self._unheard and entry.attempt == self.stream.attempt:
            self._spoken_of(worker)
        try:
            self._heard(self.stream.hear_sync(entry, worker, supervisor), False, True)
        except Exception:
            self.break_off()

    def _heard(self, effects: Effects, by_claim: bool, tells_of_claimant: bool) -> None:
        """Somebody has spoken. By a mere claim, who speaks for the first time has taken the request just now."""
        worker, before = self.stream.worker, self._worker
        renamed = worker is not before
        if renamed:
            self._worker = worker
            tells_of_claimant = True
            if before is None:
                server = self.server
                now = server.clock.seconds()
                tally = server.tally if server.tallies is None else server.tallies.get(self._channel, server.tally)
                tally.queue_wait.observe(now - self._since)
                if by_claim:
                    self.claimed_at = now
                if self.node is not None and server.offers.claimed(self):
                    server.clusters.claimed(self.node, self._channel)
                if self._resumes:
                    server.resumptions.left(self)
            elif worker is not None and channels.process_of(worker) == channels.process_of(before):
                self.server.clusters.redirect(before, worker)
        for effect in effects:
            _CARRY_OUT[type(effect)](self, effect)
        if tells_of_claimant and not self._over:
            self.server.peers.claimed(self, renamed)

    def handle(self, event: object) -> None:
        """Something has happened to the client, the offer or a deadline."""
        try:
            for effect in self.stream.handle(event):
                _CARRY_OUT[type(effect)](self, effect)
        except TransitionError:
            _log.exception("%s: this is a defect of ifserver", self.stream.channel)
        except Exception:
            self.break_off()

    def break_off(self) -> None:
        """Something has gone wrong here, so that not all was done that the stream asked for: whatever that was, its
        client must not wait for it for ever."""
        _log.exception("%s: this is a defect of ifserver; cutting the client off", self.stream.channel)
        try:
            if not self._over:
                self._end()
        finally:
            self.client.cut()

    def _end(self) -> None:
        self._over = True
        server, stream = self.server, self.stream
        if self._deadline is not None:
            self._deadline.pop(self, None)
            self._deadline = None
        server.registry.pop(stream.identity, None)
        if self.peer is not None:
            server.peers.left(self)
        if self._unheard:
            self._end_attempt()
        if self.offer is not None:
            server.offers.left(self)
        if self.has_waited:
            server.waiting_room.left(self)
            server.pauses.left(self)
        if self._resumes:
            server.resumptions.left(self)
        if self.groups:
            server.members.leave_all(self)
        server.counters.cells[STREAMS_CLOSED["http" if type(stream) is HttpStream else "websocket"]] += 1

    # What is for the channel layer, and for the clock.

    def _tell(self, effect: Tell) -> None:
        try:
            self.server.clusters.send(effect.inbox, m.encode(effect.message))
        except ChannelNameError as error:
            _log.error("%s: %s", self.stream.channel, error)

    def _offer_anew(self, effect: Offer) -> None:
        """Offer the next attempt at a request that has not been answered: its application begins anew."""
        if self.groups:
            self.server.members.leave_all(self)
        self._offer_again(effect)

    def _join(self, effect: Join) -> None:
        self.server.members.join(self, effect)

    def _leave(self, effect: Leave) -> None:
        self.server.members.leave(self, effect.group)

    def _dropped(self, effect: Dropped) -> None:
        """Whoever has called `hear` is told."""

    def _wait(self, effect: Wait) -> None:
        """Forget the present deadline, and begin another one."""
        before, deadline = self._deadline, self._waits.get(effect.waiting)
        if before is not None:
            before.pop(self, None)
        self._deadline = deadline
        if deadline is not None:
            deadline.add(self)

    def timed_out(self) -> None:
        """The deadline of the present wait is over."""
        self._deadline = None
        if self.server.paused is not None and self.server.paused.postpones(self):
            return
        self.handle(TimedOut())

    def _signal(self, effect: Signal) -> None:
        if effect is ENDED:
            if not self._over:
                self._end()
        elif effect is CONTINUE:
            self.client.send_continue()
        elif effect is FAIL:
            self.client.fail()
        elif effect is STOP_READING:
            self.client.stop_reading()
        elif effect is RESUME_READING:
            self.client.resume_reading()
        else:
            self.withdraw()


class Unroutable(Exchange):
    """The exchange of a request that no pool takes: it is answered 404."""

    __slots__ = ()

    def start(self) -> None:
        self.server.registry[self.stream.identity] = self
        self.server.clusters.soon(self._refuse)

    def _refuse(self) -> None:
        if not self._over:
            self.handle(OfferRefused(False, "no pool takes such requests", 404))


# What is for the client.


def _begin(exchange: Exchange, effect: m.ResponseStart) -> None:
    deadline, exchange._deadline = exchange._deadline, None
    if deadline is not None:
        deadline.pop(exchange, None)
    exchange.client.begin(effect)
    if effect.more_body:
        exchange._forget_offer()


def _open_file(exchange: Exchange, effect: m.ResponseFile) -> None:
    exchange.server.files.open(effect, exchange.handle)


def _send_file(exchange: Exchange, effect: SendFile) -> None:
    exchange.client.begin_file(effect.message, effect.file)


def _close_file(exchange: Exchange, effect: CloseFile) -> None:
    effect.file.close()


def _body(exchange: Exchange, effect: m.ResponseBody) -> None:
    exchange.client.body(effect)


def _answer(exchange: Exchange, effect: Answer) -> None:
    _log.log(
        _LEVELS.get(effect.status, logging.WARNING),
        "%s: answering %d: %s",
        exchange.stream.channel,
        effect.status,
        effect.why,
    )
    exchange.server.counters.add("requests_refused", label=str(effect.status))
    exchange.client.answer(effect.status)


def _abort(exchange: Exchange, effect: Abort) -> None:
    _log.error("%s: aborting the connection: %s", exchange.stream.channel, effect.why)
    if exchange.server.tracing is not None:
        exchange.server.tracing.failed(exchange.stream.identity, effect.why)
    exchange.client.abort()


def _finish(exchange: Exchange, effect: Finish) -> None:
    text = "%s: the client has its whole response, but the application has not ended it: %s"
    _log.warning(text, exchange.stream.channel, effect.why)
    exchange.client.finish()


def _accept(exchange: Exchange, effect: m.WebSocketAccept) -> None:
    exchange.client.accept(effect)
    if not exchange.stream.resumable:
        exchange._forget_offer()


def _send_message(exchange: Exchange, effect: m.WebSocketSend) -> None:
    if exchange.websocket is not None:
        exchange.websocket.send_message(effect)


def _close(exchange: Exchange, effect: m.WebSocketClose | CloseClient) -> None:
    if exchange.websocket is not None:
        exchange.websocket.close(effect.code, effect.reason)


def _unsaid(exchange: Exchange, effect: Unsaid) -> None:
    text = "%s: %d messages of a client that has left are lost: %s"
    _log.error(text, exchange.stream.channel, effect.count, effect.why)


def _close_client(exchange: Exchange, effect: CloseClient) -> None:
    if effect.is_told:
        exchange.server.bursts.add(f"closing the WebSocket with {effect.code}", effect.why, exchange.stream.channel)
    else:
        _log.warning("%s: closing the WebSocket with %d: %s", exchange.stream.channel, effect.code, effect.why)
    _close(exchange, effect)


_CARRY_OUT: Final[Mapping[type, Callable[[Exchange, Any], None]]] = {
    m.ResponseStart: _begin,
    m.ResponseBody: _body,
    m.ResponseFile: _open_file,
    SendFile: _send_file,
    CloseFile: _close_file,
    m.WebSocketAccept: _accept,
    m.WebSocketSend: _send_message,
    m.WebSocketClose: _close,
    CloseClient: _close_client,
    Answer: _answer,
    Abort: _abort,
    Finish: _finish,
    Unsaid: _unsaid,
    Tell: Exchange._tell,
    Dropped: Exchange._dropped,
    Wait: Exchange._wait,
    Offer: Exchange._offer_anew,
    Join: Exchange._join,
    Leave: Exchange._leave,
    Resume: Exchange._look_for_worker,
    Signal: Exchange._signal,
}
