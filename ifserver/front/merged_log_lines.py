"""One event often concerns many streams: one line in the log tells of all of them."""

from __future__ import annotations

import logging
from typing import Final

from ifserver.clock import Clock

__all__ = ["MergedLogLines"]

#: How long more streams are waited for after the first, in seconds.
_WAIT_S: Final = 0.25
#: How many kinds of lines may wait at a time; further ones are logged at once.
_MAX_KINDS: Final = 64

_log = logging.getLogger(__name__)


class MergedLogLines:
    """Counts the streams to which the same happens for the same reason, and logs it once, at the level INFO."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: The streams, in their order, by what happens to them and why. It may happen to one several times.
        self._waiting: dict[tuple[str, str], dict[str, None]] = {}

    def add(self, what: str, why: str, channel: str) -> None:
        """`what` happens to the stream `channel`, and `why`."""
        if not _log.isEnabledFor(logging.INFO):
            return
        key = what, why
        streams = self._waiting.get(key)
        if streams is not None:
            streams[channel] = None
        elif len(self._waiting) < _MAX_KINDS:
            self._waiting[key] = {channel: None}
            self._clock.callLater(_WAIT_S, self._tell, key)
        else:
            _log.info("%s: %s: %s", channel, what, why)

    def _tell(self, key: tuple[str, str]) -> None:
        first, *more = self._waiting.pop(key)
        others = f" and {len(more)} more" if more else ""
        _log.info("%s%s: %s: %s", first, others, *key)
