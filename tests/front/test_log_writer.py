"""The thread that writes the access log: what is slow or broken costs lines at most, and is told."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from ifserver.front import log_writer
from ifserver.front.log_writer import FileOutput, LogWriter, StandardOutput


class Tap:
    """An output that takes lines when it is open, fails when it is told to, and says when it was asked."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Semaphore(0)
        self.error: OSError | None = None
        self.written: list[bytes] = []
        self.closed = False

    def write(self, lines: list[bytes]) -> None:
        self.asked.release()
        self.open.wait()
        if self.error is not None:
            raise self.error
        self.written += lines

    def renewed(self) -> None:
        raise AssertionError("nobody has asked for that")

    def close(self) -> None:
        self.closed = True


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def lines(*numbers: int) -> list[bytes]:
    return [b"%d\n" % number for number in numbers]


def test_lines_are_written_in_order_and_the_last_ones_at_the_end() -> None:
    tap = Tap()
    writer = LogWriter(tap)
    for line in lines(*range(5000)):
        writer.put(line)
    writer.close()
    assert tap.written == lines(*range(5000))
    assert tap.closed
    writer.close()


def test_without_a_line_there_is_no_thread() -> None:
    tap = Tap()
    before = threading.active_count()
    writer = LogWriter(tap)
    assert threading.active_count() == before
    writer.close()
    assert tap.closed


def test_a_line_need_not_wait_for_the_end() -> None:
    tap = Tap()
    writer = LogWriter(tap)
    writer.put(b"1\n")
    assert tap.asked.acquire(timeout=120)
    writer.close()


def test_what_is_not_taken_holds_up_nobody_and_is_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "_MAX_WAITING", 8)
    tap = Tap()
    tap.open.clear()
    writer = LogWriter(tap)
    writer.put(b"0\n")
    assert tap.asked.acquire(timeout=120)  # it is being written, and nothing waits
    for line in lines(1, 2, 3, 4, 5):
        writer.put(line)
    assert writer.statistics() == {"access_lines_waiting": 3, "access_lines_lost": 2}
    tap.open.set()
    writer.close()
    assert tap.written == lines(0, 1, 2, 3)
    assert said(caplog) == [
        "the access log is written too slowly: 8 bytes wait, further lines are dropped",
        "the access log is written again; lines that were lost: 2",
    ]


def test_an_end_that_nobody_takes_is_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "_END_S", 0.01)
    tap = Tap()
    tap.open.clear()
    writer = LogWriter(tap)
    writer.put(b"0\n")
    assert tap.asked.acquire(timeout=120)
    writer.put(b"1\n")
    writer.close()
    assert said(caplog) == ["the access log could not be written in time: its last 1 lines are lost"]
    tap.open.set()


def test_a_full_disk_is_told_once_each_time(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "_PAUSE_S", 0.0)
    tap = Tap()
    writer = LogWriter(tap)
    for number, full in enumerate((True, True, False, True)):
        tap.open.clear()
        writer.put(b"%d\n" % number)
        assert tap.asked.acquire(timeout=120)
        tap.error = OSError(28, "No space left on device") if full else None
        tap.open.set()
    writer.close()
    assert tap.written == lines(2)
    full = "the access log cannot be written: [Errno 28] No space left on device"
    assert said(caplog) == [full, "the access log is written again; lines that were lost: 2", full]


def test_the_old_file_goes_on_where_no_new_one_can_be_opened(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "access.log"
    writer = LogWriter(FileOutput(str(path)))
    writer.put(b"1\n")
    kept = tmp_path / "kept"
    path.rename(kept)
    folder.rmdir()
    writer.reopen()
    writer.put(b"2\n")
    writer.close()
    assert kept.read_bytes() == b"1\n2\n"
    [told] = said(caplog)
    assert told.startswith("the access log cannot be reopened, the old file is kept: [Errno 2]")
    caplog.set_level(logging.ERROR)


def test_a_broken_pipe(caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = LogWriter(StandardOutput(writing))
    writer.put(b"1\n")
    writer.put(b"2\n")
    writer.close()
    os.close(writing)
    assert said(caplog) == ["the access log cannot be written: [Errno 32] Broken pipe"]


def test_a_pipe_that_somebody_has_made_non_blocking_gets_every_byte() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    got = bytearray()

    def read() -> None:
        while piece := os.read(reading, 65536):
            got.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    wanted = lines(*range(50_000))
    StandardOutput(writing).write(wanted)
    os.close(writing)
    reader.join()
    os.close(reading)
    assert got == b"".join(wanted)


def test_a_line_behind_a_torn_one_begins_a_new_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "log"
    output = FileOutput(str(path))
    whole, calls = os.write, []

    def write(file: int, data: memoryview) -> int:
        calls.append(file)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return whole(file, bytes(data[:4]) if len(calls) == 1 else bytes(data))

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        output.write([b"1\n", b"2222\n"])
    output.write([b"3\n"])
    output.close()
    assert path.read_bytes() == b"1\n22\n3\n"
