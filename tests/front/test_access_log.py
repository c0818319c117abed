"""The access log: its formats, and where it goes."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ifserver.errors import ConfigurationError
from ifserver.front.access_log import Entry, NoLog, as_combined, as_common, as_json, closed, open_log

#: The Combined Log Format: host, ident, user, time, request, status, bytes, referer, user agent.
LINE = re.compile(
    r"(\S+) - - \[(\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    r'"((?:[^"\\]|\\.)*)" (\d+) (\d+) "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"\n\Z'
)
ENTRY = Entry(
    at=1_000_000_000.25,
    client="::1",
    method="GET",
    target=b"/a?b=c",
    http_version="1.1",
    status=200,
    sent_bytes=12,
    duration_s=0.0625,
    queue_s=None,
    stream="k3v9x2aq7m.1f",
    request_id="k3v9x2aq7m.1f",
    referer=None,
    user_agent=None,
)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The time of a place that is not on UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


def entry(**fields: Any) -> Entry:
    return replace(ENTRY, **fields)


# Formats.


def test_the_combined_format(berlin: None) -> None:
    line = as_combined(entry(at=1_100_000_000.0, referer=b"http://x/", user_agent=b"curl/8"))
    assert line == b'::1 - - [09/Nov/2004:12:33:20 +0100] "GET /a?b=c HTTP/1.1" 200 12 "http://x/" "curl/8"\n'


def test_the_common_format_says_nothing_of_the_client_s_software(berlin: None) -> None:
    line = as_common(entry(at=1_120_000_000.0, referer=b"http://x/", user_agent=b"curl/8"))
    assert line == b'::1 - - [29/Jun/2005:01:06:40 +0200] "GET /a?b=c HTTP/1.1" 200 12\n'


def test_json(berlin: None) -> None:
    line = as_json(entry(at=1_130_000_000.9996, queue_s=0.0015, referer=b"http://x/", user_agent=b"curl/8"))
    assert line.endswith(b"}\n")
    assert json.loads(line) == {
        "time": "2005-10-22T18:53:21.000+02:00",
        "client": "::1",
        "method": "GET",
        "target": "/a?b=c",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 12,
        "duration_ms": 62.5,
        "queue_ms": 1.5,
        "request_id": "k3v9x2aq7m.1f",
        "stream": "k3v9x2aq7m.1f",
        "referer": "http://x/",
        "user_agent": "curl/8",
    }


def test_what_is_missing_is_a_dash_and_null_in_json() -> None:
    bare = entry(client="", stream="", request_id="")
    assert as_combined(bare).startswith(b"- - - [")
    assert as_combined(bare).endswith(b' 200 12 "-" "-"\n')
    shown = json.loads(as_json(bare))
    assert [name for name, value in shown.items() if value is None] == [
        "client", "queue_ms", "request_id", "stream", "referer", "user_agent"
    ]  # fmt: skip


def test_of_a_request_that_was_refused_only_what_is_known_is_said() -> None:
    nothing = entry(method="", target=b"", http_version="", status=400)
    assert as_common(nothing).endswith(b'] "-" 400 12\n')
    assert {json.loads(as_json(nothing))[name] for name in ("method", "target", "protocol")} == {None}
    assert as_common(entry(method="GET", target=b"/x", http_version="", status=408)).endswith(b'] "GET /x" 408 12\n')


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
    line = as_combined(entry(target=b"/" + value, user_agent=value, referer=value)).decode()
    assert line.endswith(f'"GET /{text} HTTP/1.1" 200 12 "{text}" "{text}"\n')


@given(st.binary(max_size=50).filter(lambda value: b"@" not in value))
def test_whatever_a_client_sends_the_line_can_be_read_back(value: bytes) -> None:
    match = LINE.match(as_combined(entry(user_agent=value)).decode("ascii"))
    assert match is not None
    unescaped = re.sub(r"\\(x(..)|.)", lambda m: chr(int(m[2], 16)) if m[2] else m[1], match[7], flags=re.DOTALL)
    assert unescaped.encode("latin-1") == value


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_whatever_a_client_sends_json_is_one_line_of_utf_8(target: bytes, agent: bytes) -> None:
    line = as_json(entry(target=target, user_agent=agent)).decode("utf-8", "strict")
    assert line.count("\n") == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", line)
    assert json.loads(line)["user_agent"] is not None


def test_json_shows_what_is_no_utf_8_as_escapes() -> None:
    shown = json.loads(as_json(entry(target=b"/\xff", user_agent="Zoë".encode())))
    assert (shown["target"], shown["user_agent"]) == (r"/\xff", "Zoë")


@pytest.mark.parametrize("write", [as_common, as_combined, as_json])
@pytest.mark.parametrize("value", [b"a", b"\\", b'"', b"\t", b"\xff", "\u20ac".encode(), b"://a@"])
def test_of_what_is_long_the_begin_is_written(write: Any, value: bytes) -> None:
    long = b"/" + value * (60_000 // len(value))
    line = write(entry(target=long, referer=long, user_agent=long))
    assert line.count(b"...") == (1 if write is as_common else 3)
    assert len(line) < 3 * 5 * 4096 + 500  # an escape has five characters at most
    assert b"..." not in write(entry(target=long[:4096], referer=long[:4096], user_agent=long[:4096]))


# Secrets.


@pytest.mark.parametrize("write", [as_common, as_combined, as_json])
def test_nobody_s_password_is_written(write: Any) -> None:
    secret = entry(target=b"http://me:geheim@host/a", referer=b"https://me:geheim@x/?to=me@y", user_agent=b"a@b")
    line = write(secret).decode()
    assert "geheim" not in line
    assert "http://***@host/a" in line


@pytest.mark.parametrize("write", [as_common, as_combined, as_json])
def test_nobody_s_password_is_written_that_is_cut(write: Any) -> None:
    for length in range(4060, 4110):
        url = b"x" * length + b"://me:geheim-" + b"g" * 50 + b"@host/a"
        line = write(entry(target=b"http://h/" + url, referer=url, user_agent=url))
        assert b"geh" not in line
        assert b"http://h/xxx" in line


@pytest.mark.parametrize("write", [as_common, as_combined, as_json])
def test_queries_are_written_unless_they_are_not_wanted(write: Any) -> None:
    secret = entry(target=b"/a?token=1#", referer=b"http://x/b?token=2")
    assert b"token=1" in write(secret)
    line = write(secret, False)
    assert b"token" not in line
    assert b"/a" in line


# WebSockets.


@pytest.mark.parametrize(
    ("mine", "local", "remote", "clean", "code"),
    [
        (False, 1000, 1000, True, 1000),
        (False, 4001, 4001, True, 4001),
        (True, 1012, 1000, True, 1012),
        (True, 1012, None, False, 1012),
        (False, None, None, True, 1005),
        (False, None, None, False, 1006),
    ],
)
def test_the_code_is_that_of_whoever_began_to_close(
    mine: bool, local: int | None, remote: int | None, clean: bool, code: int
) -> None:
    websocket: Any = SimpleNamespace(closedByMe=mine, localCloseCode=local, remoteCloseCode=remote, wasClean=clean)
    found = closed(entry(status=101), ENTRY.at - 3600, 10.0, websocket)
    assert (found.close_code, found.at, found.duration_s) == (code, ENTRY.at - 3600, 10.0625)
    assert json.loads(as_json(found))["close_code"] == code


# Where it goes.


def test_a_path_is_appended_to_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("before\n")
    log = open_log(str(path))
    assert log.enabled
    log.write(ENTRY)
    log.change("json", True)
    log.write(ENTRY)
    log.close()
    before, combined, written = path.read_text().splitlines()
    assert before == "before"
    assert combined.startswith("::1 - - [")
    assert json.loads(written)["client"] == "::1"
    assert log.statistics() == {"access_lines_waiting": 0, "access_lines_lost": 0}


def test_others_may_not_read_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    open_log(str(path)).close()
    assert path.stat().st_mode & 0o007 == 0


def test_a_file_that_was_moved_away_is_followed_by_a_new_one(tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    log = open_log(str(path))
    log.change("json", True)
    for number in range(100):
        if number == 50:
            path.rename(old)
            log.reopen()
        log.write(entry(status=number))
    log.close()
    kept, new = ([json.loads(line)["status"] for line in file.read_text().splitlines()] for file in (old, path))
    assert (kept, new) == (list(range(50)), list(range(50, 100)))


def test_a_dash_is_standard_output_which_stays_open(capfd: pytest.CaptureFixture[str]) -> None:
    log = open_log("-")
    log.write(ENTRY)
    log.reopen()
    log.write(entry(status=404))
    log.close()
    assert [line.split()[8] for line in capfd.readouterr().out.splitlines()] == ["200", "404"]
    os.fstat(1)


def test_standard_output_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.__stdout__", None)
    with pytest.raises(ConfigurationError, match=r"front\.access_log: '-': standard output is closed"):
        open_log("-")


def test_the_journal(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        log = open_log("journal", path)
        assert journal.recv(65536) == b""
        log.write(entry(queue_s=0.001, user_agent=b"curl/8"))
        fields = dict(line.split("=", 1) for line in journal.recv(65536).decode().splitlines())
        log.close()
    assert fields.pop("MESSAGE").endswith('"GET /a?b=c HTTP/1.1" 200 12 "-" "curl/8"')
    assert fields == {
        "SYSLOG_IDENTIFIER": "ifserver",
        "PRIORITY": "6",
        "IFSERVER_CLIENT": "::1",
        "IFSERVER_METHOD": "GET",
        "IFSERVER_TARGET": "/a?b=c",
        "IFSERVER_STATUS": "200",
        "IFSERVER_DURATION_MS": "62.500",
        "IFSERVER_STREAM": "k3v9x2aq7m.1f",
        "IFSERVER_REQUEST_ID": "k3v9x2aq7m.1f",
    }


def test_no_journal(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"front\.access_log: there is no journal here: /.*: No such file"):
        open_log("journal", str(tmp_path / "none"))


def test_no_path_is_no_log() -> None:
    log = open_log(None)
    assert isinstance(log, NoLog)
    assert not log.enabled
    log.change("json", False)
    log.write(ENTRY)
    log.reopen()
    log.close()
    assert log.statistics() == {}


def test_a_path_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"front\.access_log: '.*no/such': No such file or directory"):
        open_log(str(tmp_path / "no" / "such"))


def test_the_pool_is_told_where_there_are_pools() -> None:
    assert "pool" not in json.loads(as_json(ENTRY))
    assert json.loads(as_json(entry(pool="reports")))["pool"] == "reports"
    assert as_combined(entry(pool="reports")) == as_combined(ENTRY)
