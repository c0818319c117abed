"""How long a request was queued, and how long the application took: what the access log and Server-Timing say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ifserver import messages as m
from ifserver.front.driver import Exchange, HttpClient
from ifserver.streams.base import Stream

if TYPE_CHECKING:
    from ifserver.front.server import InterfaceServer

__all__ = ["TimedExchange", "server_timing"]


class TimedExchange(Exchange):
    """An exchange that knows when its request was claimed."""

    __slots__ = ("_claimed_at",)

    def __init__(self, server: InterfaceServer, stream: Stream, client: HttpClient, request_channel: str) -> None:
        super().__init__(server, stream, client, request_channel)
        self._claimed_at: float | None = None

    def queue_s(self, began_at: float) -> float | None:
        """How long the request that began then, in seconds since the epoch, was queued.

        None: no worker has claimed it. Those that answer at once do not (design, section 5), and then nobody here can
        tell the one time from the other.
        """
        return None if self._claimed_at is None else max(0.0, self._claimed_at - began_at)

    def hear(self, message: m.ToServer) -> bool:
        if type(message) is not m.Claim:
            return super().hear(message)
        unclaimed = self.is_unclaimed
        heard = super().hear(message)
        if unclaimed and not self.is_unclaimed:
            # Once more after another attempt: until that was claimed, the request was queued.
            self._claimed_at = self.server.clock.seconds()
        return heard


def server_timing(queue_s: float | None, until_start_s: float) -> bytes:
    """The line of Server-Timing (W3C, https://www.w3.org/TR/server-timing/), whose times are in milliseconds.

    Args:
        until_start_s: from the request's head until the response began.
    """
    if queue_s is None:
        return b'server-timing: app;dur=%.1f;desc="queue included"\r\n' % (until_start_s * 1000)
    return b"server-timing: queue;dur=%.1f, app;dur=%.1f\r\n" % (
        queue_s * 1000,
        max(0.0, until_start_s - queue_s) * 1000,
    )
