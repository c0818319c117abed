"""The log of what happens: where it goes, in what form, and what never is in it."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from twisted.logger import Logger, STDLibLogObserver, globalLogBeginner
from twisted.python.failure import Failure

from ifserver import logs
from ifserver.config.settings import LogSettings
from ifserver.errors import ConfigurationError

LOG = logging.getLogger("ifserver.some.module")


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test finds and leaves the loggers as they were; Twisted's log can begin once only in a process."""
    monkeypatch.setattr(logs, "_twisted_is_joined", True)
    ours = [logging.getLogger(name) for name in ("ifserver", "twisted")]
    before = [(each, each.handlers, each.propagate, each.level) for each in ours]
    for each in ours:
        each.handlers = []
    yield
    for each, handlers, propagate, level in before:
        for handler in each.handlers:
            with contextlib.suppress(ValueError):  # what pytest had in place of standard error is closed
                handler.close()
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(), Clock())
    LOG.info("it is %s", "well")
    LOG.debug("unseen")
    line = capsys.readouterr().err
    assert line.endswith("] it is well\n")
    assert line.split()[1] == "INFO"


def test_for_developers(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(log_format="short"), Clock())
    LOG.info("a worker is ready")
    LOG.warning("it is %s", "odd")
    logging.getLogger("ifserver.process.reload").info("a.py changed")
    assert capsys.readouterr().err == "WARNING: it is odd\na.py changed\n"


@pytest.mark.parametrize(
    ("verbosity", "ours", "twisteds"),
    [(0, "WARNING", "WARNING"), (1, "INFO", "WARNING"), (2, "DEBUG", "WARNING"), (3, "DEBUG", "DEBUG")],
)
def test_verbosity(verbosity: int, ours: str, twisteds: str) -> None:
    logs.configure(LogSettings(), Clock())
    logs.at(verbosity)
    levels = [logging.getLevelName(logging.getLogger(name).level) for name in ("ifserver", "twisted")]
    assert levels == [ours, twisteds]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(log_format="json"), Clock())
    try:
        raise ValueError("wröng\n")
    except ValueError:
        LOG.exception("%s: the application has raised", "it", extra=logs.about("!a.b.1", "id-1"))
    LOG.warning("\udcff")
    first, second = capsys.readouterr().err.splitlines()
    fields = json.loads(first)
    assert fields.pop("exception").endswith("ValueError: wröng\n")
    assert (
        time.time() - 60 < time.mktime(time.strptime(fields.pop("time")[:19], "%Y-%m-%dT%H:%M:%S")) < time.time() + 60
    )
    assert fields.pop("pid") > 0
    assert fields == {
        "level": "error",
        "logger": "ifserver.some.module",
        "message": "it: the application has raised",
        "stream": "!a.b.1",
        "request_id": "id-1",
    }
    assert json.loads(second)["message"] == "\udcff"


def test_a_request_without_an_id() -> None:
    assert logs.about("!a.b.1", "") == {"stream": "!a.b.1"}


def test_repeated_errors_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    logs.configure(LogSettings(), clock)
    for _ in range(3):
        LOG.error("again")
    clock.advance(10)
    assert [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "again",
        "... and 2 more like this, the last: again",
    ]


def test_configured_anew_nothing_is_said_twice(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        logs.configure(LogSettings(), Clock())
    LOG.info("once")
    assert capsys.readouterr().err.count("once") == 1


# The journal.


def test_the_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        journal.settimeout(120)
        logs.configure(LogSettings(log_to="journal"), Clock(), path)
        assert journal.recv(10) == b""
        LOG.warning("it is %s", "odd", extra=logs.about("!a.b.1", "id-1"))
        fields = dict(line.split("=", 1) for line in journal.recv(65536).decode().splitlines())
    assert fields.pop("CODE_FILE") == __file__
    assert fields.pop("CODE_LINE").isdigit()
    assert fields == {
        "SYSLOG_IDENTIFIER": "ifserver",
        "MESSAGE": "it is odd",
        "PRIORITY": "4",
        "CODE_FUNC": "test_the_journal",
        "LOGGER": "ifserver.some.module",
        "IFSERVER_STREAM": "!a.b.1",
        "IFSERVER_REQUEST_ID": "id-1",
    }
    # It is gone: nothing is lost, and that is told once.
    LOG.warning("the first")
    LOG.warning("the second")
    told = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert told[0].startswith("the journal cannot be written, so this goes to standard error: ")
    assert told[1:] == ["the first", "the second"]


@pytest.mark.parametrize(
    ("level", "priority"), [("critical", 2), ("error", 3), ("warning", 4), ("info", 6), ("debug", 7)]
)
def test_priorities(level: str, priority: int, tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        logs.configure(LogSettings(verbosity=2, log_to="journal", log_format="json"), Clock(), path)
        journal.recv(10)
        getattr(LOG, level)("x")
        entry = journal.recv(65536).decode()
    assert f"\nPRIORITY={priority}\n" in entry
    assert '\nMESSAGE={"time": ' in entry


def test_no_journal(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^log\.log_to: there is no journal here: "):
        logs.configure(LogSettings(log_to="journal"), Clock(), str(tmp_path / "none"))


# What comes from elsewhere.


def test_twisted_s_log_is_joined(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(), Clock())
    observer = STDLibLogObserver()
    log = Logger("somewhere", observer=observer)
    log.info("not seen")
    log.warn("{what} is odd", what="it")
    try:
        raise ValueError("wrong")
    except ValueError:
        log.failure("it failed", Failure())
    said = capsys.readouterr().err
    assert "not seen" not in said
    assert "WARNING" in said.splitlines()[0]
    assert said.splitlines()[0].endswith("] it is odd")
    assert said.count("CRITICAL") == said.count("it failed") == 1
    assert said.endswith("ValueError: wrong\n")


def test_twisted_s_log_begins_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []
    monkeypatch.setattr(logs, "_twisted_is_joined", False)
    monkeypatch.setattr(globalLogBeginner, "beginLoggingTo", lambda *args, **kwargs: begun.append(args))
    with warnings.catch_warnings():
        for _ in range(2):
            logs.configure(LogSettings(), Clock())
    assert len(begun) == 1


@pytest.mark.parametrize("logged", [True, False])
def test_python_s_warnings_are_logged_or_left_alone(monkeypatch: pytest.MonkeyPatch, logged: bool) -> None:
    def begin(*args: object, **kwargs: object) -> None:
        warnings.showwarning = LOG.warning  # type: ignore[assignment]  # as Twisted does

    monkeypatch.setattr(logs, "_twisted_is_joined", False)
    monkeypatch.setattr(globalLogBeginner, "beginLoggingTo", begin)
    monkeypatch.setattr(warnings, "showwarning", shows := warnings.showwarning)
    logs.configure(LogSettings(), Clock(), python_warnings=logged)
    assert (warnings.showwarning is shows) is not logged


def test_loggers_that_others_have_switched_off() -> None:
    for name in ("ifserver.some.module", "twisted", "app"):
        logging.getLogger(name).disabled = True
    logs.enable()
    assert not LOG.disabled
    assert not logging.getLogger("twisted").disabled
    assert logging.getLogger("app").disabled
    logging.getLogger("app").disabled = False


# Secrets.


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://me:geheim@host:1/0?a=b@c", "redis://***@host:1/0?a=b@c"),
        ("at redis://:p@ss@host, and http://u@h", "at redis://***@host, and http://***@h"),
        ("http://host/a@b me@host", "http://host/a@b me@host"),
        ("me@host", "me@host"),
        ("http://host", "http://host"),
    ],
)
def test_users_and_passwords_in_urls_are_not_shown(text: str, shown: str) -> None:
    assert logs.masked(text) == shown


@pytest.mark.parametrize("form", ["human", "json", "short"])
def test_nor_are_they_in_any_line_or_traceback(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(log_format=form), Clock())  # type: ignore[arg-type]
    try:
        raise OSError("cannot reach redis://me:geheim@host")
    except OSError as error:
        LOG.error("failed: %s", error, exc_info=sys.exc_info(), stack_info=True)
    said = capsys.readouterr().err
    assert "geheim" not in said
    assert said.count("redis://***@host") >= 2


@pytest.mark.parametrize("form", ["human", "short"])
def test_what_others_say_holds_no_control_characters(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(log_format=form), Clock())  # type: ignore[arg-type]
    text = "a\x1b[31m\rb\x00\x9bc\x7f\u2028d\te\x85\nforged"
    try:
        raise ValueError(text)
    except ValueError as error:
        LOG.error("failed: %s", error, exc_info=True)
    LOG.error("of two lines:\n%s", text)
    said = capsys.readouterr().err
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]", said)
    shown = r"a\x1b[31m\rb\x00\x9bc\x7f\u2028d" + "\te" + r"\x85"
    lines = said.splitlines()
    assert lines[0].endswith(f"failed: {shown}\\nforged")
    assert lines[1] == "Traceback (most recent call last):"
    assert f"ValueError: {shown}" in lines
    assert lines[-2:] == [shown, "forged"]


def test_times(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX+3:30")
        time.tzset()
        logs._iso_second.cache_clear()
        assert logs.iso_time(1_000_000_000.0616) == "2001-09-08T22:16:40.062-03:30"
        assert logs.iso_time(1_000_000_000.9996) == "2001-09-08T22:16:41.000-03:30"
    time.tzset()
    logs._iso_second.cache_clear()
