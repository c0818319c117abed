"""What the process of a command sets for itself, before anything else is imported: Ctrl-C, and memory that is freed.

Ctrl-C while the command starts, which takes a few tenths of a second, ends it quietly, as it does later.
``KeyboardInterrupt`` would not do. In the middle of an import its traceback is of no use to anybody, or it comes where
Python ignores exceptions (the import system's own callbacks), and is lost: then the service starts all the same.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ifserver.clock import Clock

__all__ = ["end_at_once", "give_back", "keep_freed", "keep_interrupts", "postpone", "raise_again"]


# Ctrl-C.


def end_at_once() -> None:
    """From now on SIGINT ends the process, also one that was postponed: nothing has begun that would have to be ended.
    Where it is ignored or handled already, that stays."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def postpone() -> None:
    """Let SIGINT wait until `end_at_once` of the Python by which this process replaces itself: else it is lost, or
    interrupts what Python imports by itself."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def raise_again() -> None:
    """From now on SIGINT raises ``KeyboardInterrupt``, as it does in Python; undoes `end_at_once`."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def keep_interrupts() -> list[int]:
    """From now on SIGINT does nothing but to be put into this list, to be handled later."""
    kept: list[int] = []
    if signal.getsignal(signal.SIGINT) in (_end, signal.default_int_handler):
        signal.signal(signal.SIGINT, lambda number, frame: kept.append(number))
    return kept


def _end(number: int, frame: object) -> None:
    os._exit(0)


# Memory.

# <malloc.h>
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
#: Blocks from this size on are taken from the kernel one by one, and given back at once. Pieces of bodies and what is
#: read at once are smaller, and so is a batch of pieces as one command, which may have a little more than a MiB.
_LARGE_BYTES: Final = 2 * 1024 * 1024
#: So much that is free is kept.
_KEPT_BYTES: Final = 4 * 1024 * 1024
#: How often the rest is given back, in seconds; and the part of the time that this may take, if it takes long.
_PERIOD_S: Final = 10.0
_SHARE: Final = 0.001


def keep_freed(environ: Mapping[str, str]) -> bool:
    """Let glibc keep a few MiB of what is freed; whether it does.

    By itself it gives blocks from 128 KiB on back to the kernel, which has to clear the pages when they are asked for
    again with the next large message: a quarter of what a worker spends on a body of 1 MiB (1,050 us, 750 with this).
    Where `environ` tunes glibc (mallopt(3)), or there is another C library, nothing is changed.
    """
    if any(name.startswith("MALLOC_") for name in environ) or "malloc" in environ.get("GLIBC_TUNABLES", ""):
        return False
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))


def give_back(clock: Clock, trim: Callable[[int], object] | None = None) -> None:
    """Let the kernel have what is free, again and again (malloc_trim(3)); for after `keep_freed`.

    glibc by itself gives back what is at the top of the heap only. Of a hundred messages of a MiB that are freed, one
    small object behind the last would keep all: 100 MiB for nothing, until as many come again.

    Args:
        trim: does it; None: glibc's.
    """
    import ctypes

    trim = trim or ctypes.CDLL(None).malloc_trim

    def again() -> None:
        began = clock.seconds()
        trim(_KEPT_BYTES)
        clock.callLater(max(_PERIOD_S, (clock.seconds() - began) / _SHARE), again)

    clock.callLater(_PERIOD_S, again)
