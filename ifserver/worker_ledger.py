"""Which streams a worker process holds, and what it has counted, where somebody else can read it after a ``kill -9``.

Pure: works on any buffer. `ifserver.process.children` hands it memory that a child shares with its supervisor.

Layout, in bytes; texts are ASCII::

    0    8    b"ifledger"
    8    1    format version, 2
    9    1    which of the two inboxes counts: 0 (none was written), 1 or 2
    10   6    zero
    16   8    the supervisor's beats, little-endian
    24   8    the child's turns, little-endian
    32   224  inbox 1: "CHANNEL", newline
    256  224  inbox 2
    480  32   zero
    512  512  the child's counts, 64-bit numbers of this machine (`ifserver.metrics.CELLS`)
    1024 224  slot 0: 1 byte valid (0 or 1), then "ATTEMPT CHANNEL", newline
    1248 224  slot 1 ...

Slots are taken into use in order, so the first that was never written ends the reading. A slot is written before its
valid byte, and an inbox before the byte that says that it counts: whoever writes may be killed between any two bytes.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, SupportsIndex, overload

from ifserver import channels
from ifserver.errors import ChannelNameError, IfserverError
from ifserver.metrics import CELLS

__all__ = ["Buffer", "Ledger", "LedgerFull"]

_MAGIC: Final = b"ifledger\x02"
_WHICH: Final = 9
_INBOXES: Final = (32, 256)
_BEATS: Final = 16
_TURNS: Final = 24
_COUNTS: Final = slice(512, 1024)
_HEADER: Final = 1024
#: A valid byte, an attempt of 20 characters (any 64-bit integer), a space, a channel name and a newline.
_SLOT: Final = 224
assert 1 + 20 + 1 + channels.MAX_LENGTH + 1 <= _SLOT
assert len(CELLS) * 8 <= _COUNTS.stop - _COUNTS.start


class Buffer(Protocol):
    """Memory: a ``bytearray``, a ``memoryview`` of bytes or an ``mmap``."""

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> int: ...
    @overload
    def __getitem__(self, key: slice, /) -> bytes | bytearray | memoryview: ...
    @overload
    def __setitem__(self, key: SupportsIndex, value: int, /) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: bytes, /) -> None: ...


class LedgerFull(IfserverError, IndexError):
    """Every slot is taken. The limit on a process's streams is the number of slots, so this is our bug."""


class Ledger:
    """The streams of one process. One process enters and clears, any other reads.

    Raises:
        ValueError: `buffer` is too small for `slots`, or holds something else.
    """

    __slots__ = ("_buffer", "_end", "_free", "_unused")

    def __init__(self, buffer: Buffer, slots: int) -> None:
        if len(buffer) < self.size(slots):
            raise ValueError(f"a ledger of {slots} slots needs {self.size(slots)} bytes, got {len(buffer)}")
        start = bytes(buffer[: len(_MAGIC)])
        if start == bytes(len(_MAGIC)):
            buffer[: len(_MAGIC)] = _MAGIC
        elif start != _MAGIC:
            raise ValueError(f"no ledger of this version: it begins with {start!r}")
        self._buffer = buffer
        self._free: list[int] = []
        #: The first slot that was never taken; only right in the process that enters.
        self._unused = _HEADER
        self._end = self.size(slots)

    @staticmethod
    def size(slots: int) -> int:
        """Bytes that a ledger of `slots` slots needs. Untouched memory costs nothing, and few slots are touched."""
        return _HEADER + slots * _SLOT

    def enter(self, reply_channel: str, attempt: int) -> int:
        """Note that the stream is held from now on; what is returned is for `clear`.

        Raises:
            LedgerFull: there is no free slot.
            ChannelNameError: `reply_channel` is too long to be one, or not ASCII.
        """
        try:
            record = f"{attempt} {reply_channel}\n".encode("ascii")
        except UnicodeEncodeError as error:
            raise ChannelNameError(f"not a channel name: {reply_channel!r}") from error
        size = len(record)
        if size >= _SLOT:
            raise ChannelNameError(f"channel name of {len(reply_channel)} characters: {reply_channel[:40]!r}...")
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._unused
            if slot >= self._end:
                raise LedgerFull(f"all {(self._end - _HEADER) // _SLOT} slots are taken")
            self._unused = slot + _SLOT
        buffer = self._buffer
        buffer[slot + 1 : slot + 1 + size] = record
        buffer[slot] = 1
        return slot

    def clear(self, slot: int) -> None:
        """The stream in `slot` has ended. Once for each `enter`."""
        self._buffer[slot] = 0
        self._free.append(slot)

    def entries(self) -> list[tuple[str, int]]:
        """Reply channel and attempt of every stream that is held. Slots that are being written are left out."""
        buffer, found = self._buffer, []
        for slot in range(_HEADER, self._end, _SLOT):
            if not buffer[slot + 1]:
                break
            if buffer[slot] == 1:
                attempt, _, channel = self._text(slot + 1, _SLOT - 1).partition(" ")
                if channel and attempt.removeprefix("-").isdecimal():
                    found.append((channel, int(attempt)))
        return found

    @property
    def inbox(self) -> str:
        """The inbox of the process, as it was last set; empty before that."""
        which = self._buffer[_WHICH]
        return self._text(_INBOXES[which - 1], _SLOT) if which in (1, 2) else ""

    @inbox.setter
    def inbox(self, inbox: str) -> None:
        which = 2 if self._buffer[_WHICH] == 1 else 1
        start = _INBOXES[which - 1]
        text = channels.check(inbox).encode("ascii") + b"\n"
        self._buffer[start : start + len(text)] = text
        self._buffer[_WHICH] = which

    @property
    def beats(self) -> int:
        """How often the supervisor has beaten."""
        return int.from_bytes(self._buffer[_BEATS : _BEATS + 8], "little")

    def beat(self) -> None:
        """The supervisor is there."""
        self._buffer[_BEATS : _BEATS + 8] = (self.beats + 1).to_bytes(8, "little")

    @property
    def turns(self) -> int:
        """How often the loop of the process has turned since it said so first."""
        return int.from_bytes(self._buffer[_TURNS : _TURNS + 8], "little")

    def turn(self) -> None:
        """The loop of the process turns."""
        self._buffer[_TURNS : _TURNS + 8] = (self.turns + 1).to_bytes(8, "little")

    @property
    def cells(self) -> memoryview:
        """Where the process counts (`ifserver.metrics.Counters`)."""
        buffer: Any = self._buffer  # each of its kinds has the buffer protocol, which Python 3.11 cannot say
        return memoryview(buffer)[_COUNTS].cast("q")

    def _text(self, start: int, size: int) -> str:
        """The text at `start`; empty when it does not end within `size` bytes."""
        text, newline, _ = bytes(self._buffer[start : start + size]).partition(b"\n")
        return text.decode("ascii", "replace") if newline else ""
