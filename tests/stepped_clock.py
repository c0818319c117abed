"""A wall clock for processes that a test steps while they run, as NTP and operators do.

::

    clock = SteppedClock(build(folder), folder / "clock")
    with Running(..., environment=clock.environment):
        clock.step(-20)

What is moved is what the process asks the C library for the time of day (``stepped_clock.c``); the monotonic clock and
every wait go on as they are. libfaketime would do the same, but not for these programs: its version 0.9.10 lets
``time.sleep`` of Python 3.11 fail after a step, and Redis with jemalloc does not start below it.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import sys
from pathlib import Path

__all__ = ["SteppedClock", "build", "missing"]

_SOURCE = Path(__file__).with_suffix(".c")
_OFFSET = struct.Struct("q")


def missing() -> str:
    """Why no clock can be stepped here; empty: it can."""
    if sys.platform != "linux":
        return "a library is preloaded into processes, which is done for Linux only"
    if shutil.which("cc") is None:
        return "there is no C compiler (tools/install-system-packages installs one)"
    return ""


def build(folder: Path) -> Path:
    """Compile the library that is preloaded into processes; where it is."""
    library = folder / "stepped_clock.so"
    subprocess.run(["cc", "-O1", "-Wall", "-shared", "-fPIC", "-o", library, _SOURCE], check=True)
    return library


class SteppedClock:
    """The wall clock of all processes that are started with `environment`; `file` is made."""

    def __init__(self, library: Path, file: Path) -> None:
        file.write_bytes(_OFFSET.pack(0))
        self.environment = {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(file)}
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), _OFFSET.size)

    def step(self, seconds: float) -> None:
        """Set the clock forward, or back, from where it is."""
        (offset,) = _OFFSET.unpack_from(self._memory)
        # One aligned word: no process sees half of it.
        _OFFSET.pack_into(self._memory, 0, offset + round(seconds * 1e9))
