"""When what a connection has sent is parsed: so much of it in one turn of the event loop, and nothing while its stream
does not want it. The rest waits as it came, and meanwhile the socket is not read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from ifserver.clock import Timer

__all__ = ["STEP_UNITS", "TURN_UNITS", "Inflow"]

#: What one connection may cost in one turn of the event loop, in units. A byte that is read or inflated costs one, a
#: step of the parser (the head of a frame, or a piece of its payload) costs `STEP_UNITS`. Small frames take 1 to 4 ms a
#: turn with this; then the other connections are served.
TURN_UNITS: Final = 128 * 1024
STEP_UNITS: Final = 512
#: Bytes that are handed to the parser at once. It copies all that it has for each frame.
_SLICE_BYTES: Final = 32 * 1024

# Why the socket is not read; plain bits.
#: The stream does not want more.
_STREAM: Final = 1
#: What has been read is not parsed yet.
_TURN: Final = 2


class Inflow(ABC):
    """The bytes of one connection, between its transport and its parser.

    Memory for a client is bounded by this: one read of its socket waits here, and what its stream holds is bounded by
    the stream's window.
    """

    transport: Any
    #: What the parser has and has not taken.
    data: bytes

    # Class attributes, so that an idle connection needs no memory for them.
    _held = 0
    _unparsed = b""
    _parsed_bytes = 0
    _turn: Timer | None = None
    _units = 0

    @abstractmethod
    def call_later(self, delay: float, call: Callable[..., Any], *args: Any) -> Timer:
        """Call `call` in `delay` seconds."""

    @abstractmethod
    def parse_step(self) -> bool:
        """Parse what is next in `data`; whether there may be more in it."""

    @abstractmethod
    def ended(self) -> bool:
        """Whether nothing is parsed any more."""

    @property
    def is_read(self) -> bool:
        """Whether all that the client sends is read and parsed as it comes."""
        return not self._held

    @property
    def is_stopped(self) -> bool:
        """Whether the stream wants no more."""
        return bool(self._held & _STREAM)

    def spend(self, units: int) -> None:
        """Charge this turn for work that the bytes do not show, such as inflating them."""
        self._units -= units

    def receive(self, data: bytes) -> None:
        """The transport has read `data`."""
        if self._held:
            # TLS may still deliver what it has decrypted after it was paused.
            self._unparsed = self._unparsed[self._parsed_bytes :] + data
            self._parsed_bytes = 0
        else:
            self._unparsed = data
            if not self._parse() and not self._held & _STREAM:
                self._await_turn()

    def stop_reading(self) -> None:
        """The stream wants no more, not even what has been read."""
        self._hold(_STREAM)

    def resume_reading(self) -> None:
        """The stream wants more. What has been read is parsed first, from the next turn on."""
        if self._held & _STREAM:
            if self._waits():
                self._await_turn()
            self._release(_STREAM)

    def forget_turn(self) -> None:
        """The connection is lost."""
        timer, self._turn = self._turn, None
        if timer is not None:
            timer.cancel()

    @property
    def will_go_on(self) -> bool:
        """Whether what has been read is parsed further in the next turn."""
        return self._turn is not None

    def turn_over(self) -> None:
        """The later turns are over: all has been parsed, or the stream wants no more."""
        self._release(_TURN)

    def _parse(self) -> bool:
        """Parse as far as the stream and this turn allow. Returns whether that was all."""
        self._units = TURN_UNITS
        more = bool(self.data)
        while not self.ended():
            if not more:
                start = self._parsed_bytes
                piece = self._unparsed[start : start + _SLICE_BYTES]
                if not piece:
                    break
                self._parsed_bytes = start + len(piece)
                self._units -= len(piece)
                self.data += piece
            more = self.parse_step()
            self._units -= STEP_UNITS
            if self._held & _STREAM or self._units <= 0:
                if self._waits():
                    return False
                break
        self._unparsed = b""
        self._parsed_bytes = 0
        return True

    def _waits(self) -> bool:
        return bool(self.data) or self._parsed_bytes < len(self._unparsed)

    def _await_turn(self) -> None:
        if self._turn is None:
            self._hold(_TURN)
            self._turn = self.call_later(0, self._next_turn)

    def _next_turn(self) -> None:
        self._turn = None
        if not self._held & _STREAM and not self._parse() and not self._held & _STREAM:
            self._await_turn()
        elif self._turn is None:
            self.turn_over()

    def _hold(self, why: int) -> None:
        if not self._held:
            self.transport.pauseProducing()
        self._held |= why

    def _release(self, why: int) -> None:
        if self._held:
            self._held &= ~why
            if not self._held:
                self.transport.resumeProducing()
