"""What a server listens on: its settings, what systemd has opened, and what its predecessor had."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from ifserver.config.settings import ListenSettings
from ifserver.errors import ConfigurationError
from ifserver.process.addresses import opened
from ifserver.process.handover import Handover
from ifserver.process.systemd import GivenSocket


def listening(family: int = socket.AF_INET) -> int:
    """The descriptor of a socket that is listened on."""
    sock = socket.socket(family)
    if family == socket.AF_INET:
        sock.bind(("127.0.0.1", 0))
    sock.listen()
    os.set_inheritable(sock.fileno(), True)
    return sock.detach()


@pytest.fixture
def given() -> GivenSocket:
    return GivenSocket(listening(), "web")


def close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def test_the_default_address_is_for_those_who_are_given_nothing(given: GivenSocket) -> None:
    with opened(ListenSettings(), [given]) as addresses:
        assert [sock.fileno() for sock in addresses.sockets] == [given.fd]
        assert not os.get_inheritable(given.fd)
        close(addresses.sockets)


def test_an_address_that_was_asked_for_is_had_besides(given: GivenSocket, tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with opened(ListenSettings(port=0, unix=str(path)), [given]) as addresses:
        assert [sock.family for sock in addresses.sockets] == [socket.AF_INET, socket.AF_UNIX, socket.AF_INET]
        assert path.exists()
        close(addresses.sockets)
    assert not path.exists()


def test_the_mode_of_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with opened(ListenSettings(unix=str(path), unix_mode="0600")) as addresses:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        close(addresses.sockets)


def test_what_is_given_and_cannot_be_listened_on() -> None:
    read_end, write_end = os.pipe()
    with (
        pytest.raises(ConfigurationError, match=rf"^LISTEN_FDS: socket {read_end}, named 'x': Socket operation on"),
        opened(ListenSettings(), [GivenSocket(read_end, "x")]),
    ):
        pass
    os.close(read_end)
    os.close(write_end)


def test_several_servers_have_a_socket_each() -> None:
    with opened(ListenSettings(port=0), servers=3) as addresses:
        assert len(addresses.sockets) == 3
        assert len({sock.getsockname() for sock in addresses.sockets}) == 1
        close(addresses.sockets)


def test_what_is_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listen = ListenSettings(port=0, unix="sock")
    with opened(listen) as old:
        handed = old.handover()
        assert handed.files == (str(tmp_path / "sock"),)
        duplicates = tuple(os.dup(fd) for fd in handed.sockets)
        told = Handover(sockets=duplicates, listen=listen, files=handed.files)
        with opened(ListenSettings(port=0, unix="sock", processes=3), handed=told) as new:
            assert new.taken_over
            assert [sock.getsockname() for sock in new.sockets] == [sock.getsockname() for sock in old.sockets]
            assert len(new.files) == 1
            old.given_away()
            close(old.sockets)
            old.close()
            assert Path("sock").exists()
            close(new.sockets)
        assert not Path("sock").exists()


def test_a_file_that_is_gone_is_nobodys() -> None:
    told = Handover(sockets=(), listen=ListenSettings(), files=("/nowhere/sock",))
    with opened(ListenSettings(), handed=told) as addresses:
        assert addresses.files == []


def test_an_address_that_has_changed_meanwhile() -> None:
    told = Handover(sockets=(), listen=ListenSettings(port=1), files=())
    with pytest.raises(ConfigurationError, match="another address"), opened(ListenSettings(port=2), handed=told):
        pass


def test_an_endpoint_cannot_be_handed_over() -> None:
    with opened(ListenSettings(endpoints=("tcp:0",))) as addresses, pytest.raises(ConfigurationError, match="tcp:0"):
        addresses.handover()
