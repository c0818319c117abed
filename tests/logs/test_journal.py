"""Entries for the journal, received as it would receive them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ifserver.errors import ConfigurationError
from ifserver.logs.journal import Journal, encode, open_journal


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


@pytest.fixture
def listener(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(120)
        yield listener


def test_fields() -> None:
    assert encode({"MESSAGE": "a=b", "PRIORITY": 6, "CODE_LINE": None}) == (
        b"SYSLOG_IDENTIFIER=ifserver\nMESSAGE=a=b\nPRIORITY=6\n"
    )


def test_a_value_of_several_lines_has_its_length() -> None:
    assert encode({"MESSAGE": "ä\nb"}) == (
        b"SYSLOG_IDENTIFIER=ifserver\nMESSAGE\n\x04\x00\x00\x00\x00\x00\x00\x00\xc3\xa4\nb\n"
    )


def test_what_is_no_unicode_is_escaped() -> None:
    assert encode({"MESSAGE": "\udcff"}).endswith(b"MESSAGE=\\udcff\n")


def test_an_entry_is_one_datagram(listener: socket.socket, path: str) -> None:
    journal = open_journal("x", path)
    assert listener.recv(100) == b""
    journal.send(encode({"MESSAGE": "a"}))
    assert listener.recv(100) == b"SYSLOG_IDENTIFIER=ifserver\nMESSAGE=a\n"
    journal.close()


def test_an_entry_too_long_for_a_datagram_is_a_sealed_file(listener: socket.socket, path: str) -> None:
    entry = encode({"MESSAGE": "x" * 1_000_000})
    journal = Journal(path)
    journal.send(entry)
    journal.close()
    data, [file], _, _ = socket.recv_fds(listener, 100, 1)
    assert data == b""
    with open(file, "rb") as stream:
        stream.seek(0)
        assert stream.read() == entry
        with pytest.raises(PermissionError):
            os.ftruncate(file, 0)


def test_a_journal_that_is_started_anew_is_found_again(listener: socket.socket, path: str) -> None:
    journal = Journal(path)
    journal.send(b"A=1\n")
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        journal.send(b"A=2\n")
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(path)
        journal.send(b"A=3\n")
        assert again.recv(100) == b"A=3\n"
    journal.close()


def test_one_that_takes_nothing_is_not_waited_for_long(listener: socket.socket, path: str) -> None:
    journal = Journal(path, timeout_s=0.01)

    def fill() -> None:
        for _ in range(10_000):
            journal.send(b"A=1\n")

    with pytest.raises(TimeoutError):
        fill()
    journal.close()


def test_no_journal(path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^log\.log_to: there is no journal here: /.*socket: No such file"):
        open_journal("log.log_to", path)
