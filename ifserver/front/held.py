"""What a pause does to an exchange (`ifserver.front.pauses`)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from msgspec.structs import replace

from ifserver import channels
from ifserver.front.offering import Offered
from ifserver.streams.effects import WAIT_RESUMPTION, WAIT_WORKER, OfferRefused, TimedOut, Wait
from ifserver.streams.websocket_state import State as WebSocketState

__all__ = ["Held"]


class Held(Offered):
    """That part of an exchange which a pause holds. A base class for the same reason as `Offered`."""

    __slots__ = ()

    #: The client's WebSocket, once it is open.
    websocket: Any

    @abstractmethod
    def _wait(self, effect: Wait) -> None:
        """Forget the present deadline, and begin another one."""

    @property
    def pool_name(self) -> str:
        """The pool whose workers may have it."""
        return channels.pool_of(self._channel)

    @property
    def is_under_way(self) -> bool:
        """Whether the application has its request, or may have. That of an open WebSocket that does nothing has not."""
        return self.websocket is None or self.offer is not None or self.stream.state is WebSocketState.TAKEN

    @property
    def looks_for_worker(self) -> bool:
        """Whether it is an open WebSocket that is offered to nobody yet."""
        return self._resumes and self.offer is None and self.stream.state is WebSocketState.WAITING

    @property
    def is_read(self) -> bool:
        """Whether its stream wants to have what its client sends."""
        return self.stream.reading

    def go_on(self, offer: bool) -> None:
        """The pause is over: its present wait begins anew, and if `offer`, it is offered."""
        if self._over:
            return
        self._wait(WAIT_RESUMPTION if self._resumes else WAIT_WORKER)
        if not offer:
            return
        self.has_waited = False
        if self._resumes:
            self.offer_resumption()
            return
        server, stream = self.server, self.stream
        self._since = server.clock.seconds()
        # Whoever takes it drops it behind its deadline.
        stream.request = replace(stream.request, deadline=server.deadline())
        self._offer(stream.request)

    def paused_too_long(self) -> None:
        """It was held for ``pause_timeout_s``."""
        if self._resumes:
            self.handle(TimedOut())
        else:
            why = f"its pool is paused for longer than {self.server.settings.pause_timeout_s:g} s (pause_timeout)"
            self.handle(OfferRefused(False, why))
