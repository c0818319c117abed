"""Ctrl-C while the command starts, which takes a few tenths of a second: it ends it quietly, as it does later.

``KeyboardInterrupt`` would not do. In the middle of an import it is a traceback that tells nobody anything, or it comes
where Python ignores exceptions (the import system's own callbacks), and is lost: then the service starts all the same.
"""

from __future__ import annotations

import os
import signal

__all__ = ["end_at_once", "keep", "raise_again"]


def end_at_once() -> None:
    """From now on SIGINT ends the process: nothing has begun that would have to be ended. Where somebody has it ignored
    or handled, that stays."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """From now on SIGINT raises ``KeyboardInterrupt``, as it does in Python; undoes `end_at_once`."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def keep() -> list[int]:
    """From now on SIGINT does nothing but to be put into this list, for whoever handles it later."""
    kept: list[int] = []
    if signal.getsignal(signal.SIGINT) in (_end, signal.default_int_handler):
        signal.signal(signal.SIGINT, lambda number, frame: kept.append(number))
    return kept


def _end(number: int, frame: object) -> None:
    os._exit(0)
