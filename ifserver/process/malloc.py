"""What becomes of the memory that this process frees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["keep_freed"]

# <malloc.h>
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
#: Blocks from this size on are taken from the kernel one by one, and given back at once. Pieces of bodies and what is
#: read at once are smaller, and so is a batch of pieces as one command, which may have a little more than a MiB.
_LARGE_BYTES: Final = 2 * 1024 * 1024
#: So much that is free is kept.
_KEPT_BYTES: Final = 4 * 1024 * 1024


def keep_freed(environ: Mapping[str, str]) -> bool:
    """Let glibc keep a few MiB of what is freed; whether it is told so.

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
