"""What servers listen on: by their settings, from systemd, shared with others; and real processes that have sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ifserver.config.configuration import CommandSettings
from ifserver.config.node_urls import parse_cluster
from ifserver.config.settings import FrontSettings, LayerSettings, ListenSettings
from ifserver.errors import ConfigurationError
from ifserver.process import addresses
from ifserver.process.addresses import Handover, ServerLaunch, opened
from ifserver.process.systemd import GivenSocket
from tests.fresh_loop import run


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


# Several servers, and a successor: real processes, but for ifserver itself.

ROOT = str(Path(__file__).resolve().parents[2])


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    """A socket that is listened on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


# Sockets.


def test_sockets_of_one_address_belong_together(sock: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket(fileno=os.dup(sock.fileno())) as twin:
        assert addresses.by_address([sock, other, twin]) == [[sock, twin], [other]]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_more_of_a_socket(family: socket.AddressFamily) -> None:
    with socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family) as first:
        sockets = addresses.more_of(first, 4)
        assert sockets[0] is first
        assert {each.getsockname() for each in sockets} == {first.getsockname()}
        clients = [socket.create_connection(first.getsockname()[:2]) for _ in range(200)]
        counts = []
        for each in sockets:
            each.setblocking(False)
            accepted = 0
            try:
                while True:
                    each.accept()[0].close()
                    accepted += 1
            except BlockingIOError:
                counts.append(accepted)
        # A hash decides. That one of four gets fewer than 10 of 200 does not happen in the life of this universe.
        assert sum(counts) == 200
        assert min(counts) >= 10, counts
        for each in (*sockets[1:], *clients):
            each.close()


def test_nobody_else_can_join(sock: socket.socket) -> None:
    sockets = addresses.more_of(sock, 2)
    with pytest.raises(OSError, match="in use"):
        socket.create_server(sock.getsockname())
    sockets[1].close()


def test_there_cannot_be_more_of_what_is_no_tcp_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "sock"))
        unix.listen()
        with pytest.raises(ConfigurationError, match=r"^listen\.processes: cannot share "):
            addresses.more_of(unix, 2)


@pytest.mark.parametrize(
    ("sizes", "count", "shares"),
    [
        ([1], 1, [["a0"]]),
        ([1], 3, [["a0"], ["a0"], ["a0"]]),
        ([3], 3, [["a0"], ["a1"], ["a2"]]),
        ([4], 2, [["a0", "a2"], ["a1", "a3"]]),
        ([2], 3, [["a0"], ["a1"], ["a0"]]),
        ([2, 1], 2, [["a0", "b0"], ["a1", "b0"]]),
        ([], 2, [[], []]),
    ],
)
def test_every_socket_has_a_server_and_every_server_one(sizes: list[int], count: int, shares: list[list[str]]) -> None:
    groups: list[list[str]] = [
        [f"{name}{number}" for number in range(size)] for name, size in zip("ab", sizes, strict=False)
    ]
    assert [addresses.share(groups, number, count) for number in range(count)] == shares  # type: ignore[arg-type]


# A successor.

SUCCESSOR = f"""
import json, os, sys
sys.path.insert(0, {ROOT!r})
from ifserver.net import sockets
from ifserver.process import addresses, children
handed = addresses.become_successor(os.environ)
sock = sockets.inherit(handed.sockets[0])
told = {{
    "name": sock.getsockname(), "listen": handed.listen.port, "files": handed.files, "left": sorted(os.environ),
    "extra": os.environ.get("EXTRA"),
    "inheritable": [os.get_inheritable(fd) for fd in (sock.fileno(), handed.ready_fd)],
    "again": addresses.become_successor(os.environ),
}}
print(json.dumps(told), file=open(sys.argv[1], "w"))
children.report_ready(handed.ready_fd)
"""


def test_a_successor_is_told_all(sock: socket.socket, tmp_path: Path) -> None:
    report = tmp_path / "report"

    async def main() -> str:
        loop = asyncio.get_running_loop()
        ready, ended = loop.create_future(), loop.create_future()
        told = Handover(sockets=(sock.fileno(),), listen=ListenSettings(port=7), files=("/x",))
        command = [sys.executable, "-c", SUCCESSOR, str(report)]
        child = addresses.start_successor(
            told, {"EXTRA": "1"}, loop, lambda: ready.set_result(None), lambda: ended.set_result(None), command
        )
        await ready
        await ended
        return child.ending

    assert run(main) == "exit code 0"
    told = json.loads(report.read_text())
    assert "IFSERVER_HANDOVER" not in told.pop("left")
    assert told == {
        "name": list(sock.getsockname()), "listen": 7, "files": ["/x"], "extra": "1", "inheritable": [False, False],
        "again": None,
    }  # fmt: skip


def test_a_successor_that_cannot_be_started_leaves_nothing_open(sock: socket.socket) -> None:
    async def main() -> None:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(FileNotFoundError):
            addresses.start_successor(
                Handover(sockets=(sock.fileno(),), listen=ListenSettings(), files=()),
                {}, asyncio.get_running_loop(), lambda: None, lambda: None, ["/no/such/program"],
            )  # fmt: skip
        assert os.listdir("/proc/self/fd") == before

    run(main)


@pytest.mark.parametrize("text", ["x", "99", ""])
def test_a_variable_that_somebody_else_has_set(text: str) -> None:
    environ = {"IFSERVER_HANDOVER": text}
    with pytest.raises(ConfigurationError, match=r"^IFSERVER_HANDOVER: .*: only ifserver itself sets it"):
        addresses.become_successor(environ)


# One of several servers.

SERVER = f"""
import os, signal, sys
sys.path.insert(0, {ROOT!r})
from ifserver.net import sockets
from ifserver.process import addresses, children
launch = addresses.become_server(int(sys.argv[1]))
assert launch.parent == os.getppid()
assert launch.settings.front.max_headers == 7
assert launch.settings.layer.clusters[0].nodes[0].password == "geheim"
assert "geheim" not in open("/proc/self/cmdline").read() + open("/proc/self/environ").read()
assert sockets.inherit(launch.sockets[0]).getsockname()
os.kill(os.getpid(), signal.SIGINT)
os.write(launch.report_fd, b"hello")
children.report_ready(launch.ready_fd)
signal.pause()
"""


def test_a_server_is_told_all(sock: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The command that would be started is ifserver itself, which is found in the current folder first.
    (tmp_path / "ifserver").mkdir()
    (tmp_path / "ifserver/__init__.py").touch()
    (tmp_path / "ifserver/__main__.py").write_text(
        "import sys\nsys.argv = sys.argv[2:]\nfor name in list(sys.modules):\n    if name.startswith('ifserver'):\n"
        "        del sys.modules[name]\n" + textwrap.dedent(SERVER)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ifserver.__file__", str(tmp_path / "ifserver/__init__.py"))

    async def main() -> tuple[bytes, str]:
        loop = asyncio.get_running_loop()
        ready, ended = loop.create_future(), loop.create_future()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        launch = ServerLaunch(
            sockets=(sock.fileno(),), parent=os.getpid(), words=(),
            settings=CommandSettings(
                front=FrontSettings(max_headers=7),
                layer=LayerSettings(clusters=(parse_cluster("east=redis://user:geheim@localhost/3"),)),
            ),
            report_fd=theirs.fileno(), taken_over=False,
        )  # fmt: skip
        child = addresses.start_server(launch, loop, lambda: ready.set_result(None), lambda: ended.set_result(None))
        theirs.close()
        await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
        os.kill(child.pid, signal.SIGTERM)
        await ended
        said = ours.recv(100)
        ours.close()
        return said, child.ending

    assert run(main) == (b"hello", "SIGTERM")
