"""The access log."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifserver.errors import ConfigurationError
from ifserver.front.access import CombinedLog, NoLog, open_log

#: The Combined Log Format: host, ident, user, time, request, status, bytes, referer, user agent.
LINE = re.compile(
    r"(\S+) - - \[(\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    r'"((?:[^"\\]|\\.)*)" (\d+) (\d+) "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"\n\Z'
)


def written(host: str = "::1", line: str = "GET / HTTP/1.1", headers: list[tuple[bytes, bytes]] | None = None) -> str:
    stream = io.StringIO()
    CombinedLog(stream, close=False).write(host, line, 200, 12, headers or [])
    return stream.getvalue()


def test_a_request_is_one_line() -> None:
    headers = [(b"user-agent", b"curl/8"), (b"referer", b"http://x/"), (b"user-agent", b"second")]
    match = LINE.match(written(headers=headers))
    assert match is not None
    host, _, line, status, sent, referer, agent = match.groups()
    assert (host, line, status, sent) == ("::1", "GET / HTTP/1.1", "200", "12")
    assert (referer, agent) == ("http://x/", "curl/8")


def test_what_is_missing_is_a_dash() -> None:
    text = written(host="")
    assert text.startswith("- - - [")
    assert text.endswith(' 200 12 "-" "-"\n')


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b'a"b', r"a\"b"),
        (b"a\\", "a\\\\"),
        (b'\\"', r"\\\""),
        (b"a\r\nb", r"a\x0d\x0ab"),
        (b"\x1b[31m", r"\x1b[31m"),
        (b"\xe4\x85", r"\xe4\x85"),
    ],
)
def test_nothing_that_a_client_sends_can_end_the_quote_or_the_line(value: bytes, text: str) -> None:
    line = written(headers=[(b"user-agent", value), (b"referer", value)], line=f"GET /{value.decode('latin-1')}")
    assert line.endswith(f'"GET /{text}" 200 12 "{text}" "{text}"\n')


@given(st.binary(max_size=50))
def test_whatever_a_client_sends_the_line_can_be_read_back(value: bytes) -> None:
    match = LINE.match(written(headers=[(b"user-agent", value)], line=value.decode("latin-1")))
    assert match is not None
    unescaped = re.sub(r"\\(x(..)|.)", lambda m: chr(int(m[2], 16)) if m[2] else m[1], match[7], flags=re.DOTALL)
    assert unescaped.encode("latin-1") == value
    assert match[3] == match[7]


def test_a_target_outside_latin_1_is_written_all_the_same() -> None:
    assert LINE.match(written(line="GET /€ HTTP/1.1"))


def test_a_path_is_appended_to_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("before\n")
    log = open_log(str(path))
    assert log.enabled
    log.write("::1", "GET / HTTP/1.1", 200, 0, [])
    # Before it is closed, so that the line of a request is there when the request has ended.
    assert len(path.read_text().splitlines()) == 2
    log.close()
    assert path.read_text().startswith("before\n::1 - - [")


def test_a_dash_is_standard_output_which_stays_open(capsys: pytest.CaptureFixture[str]) -> None:
    log = open_log("-")
    log.write("::1", "GET / HTTP/1.1", 200, 0, [])
    log.close()
    log.write("::1", "GET / HTTP/1.1", 404, 0, [])
    assert [line.split()[8] for line in capsys.readouterr().out.splitlines()] == ["200", "404"]


def test_no_path_is_no_log() -> None:
    log = open_log(None)
    assert isinstance(log, NoLog)
    assert not log.enabled
    assert log.write("::1", "GET / HTTP/1.1", 200, 0, []) is None  # type: ignore[func-returns-value]
    assert log.close() is None  # type: ignore[func-returns-value]


def test_a_path_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"front\.access_log: '.*no/such': No such file or directory"):
        open_log(str(tmp_path / "no" / "such"))


class FullDisk(io.StringIO):
    """A file on a disk that is full at times."""

    full = True

    def flush(self) -> None:
        if self.full:
            raise OSError(28, "No space left on device")

    def close(self) -> None:
        self.flush()
        super().close()


def test_a_full_disk_costs_lines_but_no_request_and_is_told_once_each_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    disk = FullDisk()
    log = CombinedLog(disk, close=True)
    for full in (True, True, False, True):
        disk.full = full
        log.write("::1", "GET / HTTP/1.1", 200, 0, [])
    log.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the access log cannot be written: [Errno 28] No space left on device"
    ] * 2
    disk.full = False
    disk.close()
