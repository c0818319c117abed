"""How long a request was queued, and how long the application took, as Server-Timing says it."""

from __future__ import annotations

__all__ = ["server_timing"]


def server_timing(queue_s: float | None, until_start_s: float) -> bytes:
    """The field Server-Timing (W3C, https://www.w3.org/TR/server-timing/), whose times are in milliseconds.

    Args:
        until_start_s: from the request's head until the response began.
    """
    if queue_s is None:
        return b'server-timing: app;dur=%.1f;desc="queue included"' % (until_start_s * 1000)
    return b"server-timing: queue;dur=%.1f, app;dur=%.1f" % (
        queue_s * 1000,
        max(0.0, until_start_s - queue_s) * 1000,
    )
