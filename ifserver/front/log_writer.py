"""Writing the access log in a thread of its own, so that no disk, pipe or journal that is slow holds up requests."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections import deque
from typing import Final, Protocol

from ifserver.logs.journal import Journal

__all__ = ["FileOutput", "JournalOutput", "LogWriter", "Output", "StandardOutput"]

#: Bytes that wait while they are not taken; further lines are dropped and counted. Some 40,000 of 200 bytes.
_MAX_WAITING: Final = 8 * 1024 * 1024
#: Lines that are written at once.
_BATCH: Final = 1000
#: Pause behind a batch, in seconds: that a busy server's thread wakes up for many lines, and not for each.
_PAUSE_S: Final = 0.05
#: How long the end waits for the last lines to be taken, in seconds.
_END_S: Final = 2.0

_NEWLINE: Final = ord("\n")

_log = logging.getLogger(__name__)


class Output(Protocol):
    """Where lines go. Only the thread of a `LogWriter` uses it once that runs."""

    def write(self, lines: list[bytes]) -> None:
        """Write them all. Raises `OSError` when some were not taken."""

    def renewed(self) -> Output | None:
        """The same, opened anew; None if there is no need. Raises `OSError` when that cannot be done."""

    def close(self) -> None:
        """Nothing more will be written."""


class StandardOutput:
    """A file that was opened by somebody else, and stays open."""

    def __init__(self, file: int) -> None:
        self._file = file
        # A line was not written to its end, so that the next one must begin with a new one.
        self._torn = False

    def write(self, lines: list[bytes]) -> None:
        if self._torn:
            lines = [b"\n", *lines]
        # Whole lines in one call: those of several processes that append to one file are not mixed up.
        rest = memoryview(b"".join(lines))
        while rest:
            try:
                written = os.write(self._file, rest)
            except BlockingIOError:
                # A process that shares it with us has made it so, and it is not for us to change.
                select.select([], [self._file], [])
                continue
            self._torn = rest[written - 1] != _NEWLINE
            rest = rest[written:]

    def renewed(self) -> Output | None:
        return None

    def close(self) -> None:
        """It is not ours."""


class FileOutput(StandardOutput):
    """The file at `path`, which is appended to. Made if it is not there, for its owner and group to read.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__(_opened(path))

    def renewed(self) -> Output | None:
        return FileOutput(self._path)

    def close(self) -> None:
        os.close(self._file)


class JournalOutput:
    """The journal, whose lines are its entries."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def write(self, lines: list[bytes]) -> None:
        for line in lines:
            self._journal.send(line)

    def renewed(self) -> Output | None:
        return None  # it turns its files over by itself

    def close(self) -> None:
        self._journal.close()


def _opened(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


class LogWriter:
    """Takes lines, and has them written soon. The thread begins with the first line.

    Nothing here ever waits, but `close`. What is not taken is logged once, and counted until it is taken again.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        # Lines, and outputs that take the place of the one before.
        self._waiting: deque[bytes | Output] = deque()
        # Of lines in all, each changed by one thread only.
        self._put_bytes = self._taken_bytes = 0
        self._something = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = self._full = False
        # Lines, by the thread that loses them; and how many of all were reported.
        self._dropped_lines = self._failed_lines = self._reported_lost = 0

    def put(self, line: bytes) -> None:
        """Write `line`, which has its end."""
        if self._put_bytes - self._taken_bytes >= _MAX_WAITING:
            self._dropped()
            return
        self._put_bytes += len(line)
        self._waiting.append(line)
        # Asked first, since that costs a tenth of setting it.
        if not self._something.is_set():
            self._wake()

    def reopen(self) -> None:
        """Open the output anew, for the lines that come from now on. When that cannot be done, the old one goes on."""
        if self._closing.is_set():
            return
        try:
            new = self._output.renewed()
        except OSError as error:
            _log.error("the access log cannot be reopened, the old file is kept: %s", error)
            return
        if new is not None:
            self._waiting.append(new)
            self._wake()

    def statistics(self) -> dict[str, int]:
        """Counts: lines that wait, and those that were lost."""
        return {"access_lines_waiting": len(self._waiting), "access_lines_lost": self._lost}

    @property
    def _lost(self) -> int:
        return self._dropped_lines + self._failed_lines

    def close(self) -> None:
        """Write what waits, for 2 s at most, and close the output."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._thread is None:
            self._output.close()
            return
        self._something.set()
        self._thread.join(_END_S)
        if self._thread.is_alive():
            _log.error("the access log could not be written in time: its last %d lines are lost", len(self._waiting))

    def _wake(self) -> None:
        if self._thread is None and not self._closing.is_set():
            # A daemon, since its output may never take what it writes.
            self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
            self._thread.start()
        self._something.set()

    def _dropped(self) -> None:
        self._dropped_lines += 1
        if not self._full:
            self._full = True
            _log.error("the access log is written too slowly: %d bytes wait, further lines are dropped", _MAX_WAITING)

    # In the thread.

    def _run(self) -> None:
        # Python's handlers run in the main thread, which a signal that comes here might not wake.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            self._something.wait()
            # Before looking: what comes from now on sets it again.
            self._something.clear()
            self._write_waiting()
            if self._closing.is_set():
                # The last one may have come since.
                self._write_waiting()
                self._output.close()
                return
            self._closing.wait(_PAUSE_S)

    def _write_waiting(self) -> None:
        waiting = self._waiting
        batch: list[bytes] = []
        while waiting:
            item = waiting.popleft()
            if isinstance(item, bytes):
                batch.append(item)
                if waiting and len(batch) < _BATCH:
                    continue
            if batch:
                self._write(batch)
                batch = []
            if not isinstance(item, bytes):
                self._output.close()
                self._output = item

    def _write(self, lines: list[bytes]) -> None:
        try:
            self._output.write(lines)
        except OSError as error:
            self._failed_lines += len(lines)
            if not self._failing:
                self._failing = True
                _log.error("the access log cannot be written: %s", error)
        else:
            self._written()
        self._taken_bytes += sum(map(len, lines))

    def _written(self) -> None:
        # A full one has drained when these were all, or nearly.
        if self._failing or (self._full and len(self._waiting) < _BATCH):
            self._failing = self._full = False
            lost, self._reported_lost = self._lost - self._reported_lost, self._lost
            _log.warning("the access log is written again; lines that were lost: %d", lost)
