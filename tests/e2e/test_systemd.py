"""Under systemd: played by a test that passes sockets and listens to what it is told; and the unit files, verified."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.running import APPS, LIMIT_S, ROOT, Running, command_line, eventually
from tests.e2e.wire import Wire
from tests.redis_server import RedisServer

UNITS = ROOT / "packaging/systemd"
SERVE = ("serve", "--cluster", "none=redis+unix:///nowhere")

#: Becomes the service as systemd starts one: its sockets begin at descriptor 3, and the variables name its process id.
START = """
import os, sys
fd, pid, *command = sys.argv[1:]
os.dup2(int(fd), 3)
os.environ["LISTEN_PID"] = pid or str(os.getpid())
os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(command[0], command)
"""

Message = dict[str, str]


class Systemd:
    """What a service sees of systemd: a socket on which it listens, and one where it is told things."""

    def __init__(self, folder: Path) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.listening.getsockname()
        self._path = folder / "notify"
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told.bind(str(self._path))
        self._told.settimeout(LIMIT_S)
        self._told.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        #: Who has sent the last message.
        self.sender = 0

    def close(self) -> None:
        self.listening.close()
        self._told.close()

    def start(self, *arguments: str, pid: str = "", watchdog_s: float = 0.4, app_dir: Path | None = None) -> Running:
        """Start the service; `pid` is whose the sockets are, if not its own."""
        command = [sys.executable, "-c", START, str(self.listening.fileno()), pid, *command_line(*arguments)]
        environment = {
            "NOTIFY_SOCKET": str(self._path), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web",
            "WATCHDOG_USEC": str(round(watchdog_s * 1_000_000)),
        }  # fmt: skip
        return Running(command, environment=environment, pass_fds=[self.listening.fileno()], app_dir=app_dir)

    def hear(self, within_s: float = LIMIT_S) -> Message:
        """The next message."""
        self._told.settimeout(within_s)
        data, ancillary, _, _ = self._told.recvmsg(4096, socket.CMSG_SPACE(12))
        self.sender = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
        return dict(line.split("=", 1) for line in data.decode().split("\n"))

    def heard(self, name: str) -> Message:
        """The next message that says something of that name."""
        while name not in (message := self.hear()):
            pass
        return message

    def forget(self) -> None:
        """Read what has been sent so far."""
        self._told.settimeout(0)
        try:
            while True:
                self._told.recv(4096)
        except BlockingIOError:
            pass


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path)
    yield systemd
    systemd.close()


def test_a_service_from_its_start_to_its_end(systemd: Systemd) -> None:
    with systemd.start(*SERVE) as server:
        # Who comes early waits; and is answered before, or as, systemd is told.
        with Wire(systemd.address) as early:
            assert systemd.hear() == {"READY": "1", "STATUS": "1 connection, 0 streams"}
            assert systemd.sender == server.pid
            assert early.get("/").status == 503
            assert systemd.hear() == {"WATCHDOG": "1"}
        assert server.url == f"http://127.0.0.1:{systemd.address[1]}", "and not the default address"
        assert systemd.heard("STATUS") == {"STATUS": "0 connections, 0 streams"}
        server.process.send_signal(signal.SIGTERM)
        assert systemd.heard("STOPPING") == {"STOPPING": "1"}
        server.ended()


def test_a_process_that_stands_still_does_not_feed_the_watchdog(systemd: Systemd) -> None:
    with systemd.start(*SERVE) as server:
        systemd.heard("WATCHDOG")
        systemd.heard("WATCHDOG")
        server.process.send_signal(signal.SIGSTOP)
        eventually(lambda: _state(server.pid) == "T", "it is stopped")
        systemd.forget()
        with pytest.raises(TimeoutError):
            systemd.hear(within_s=1.0)
        server.process.send_signal(signal.SIGCONT)
        systemd.heard("WATCHDOG")


def test_settings_that_are_read_anew(systemd: Systemd) -> None:
    with systemd.start(*SERVE) as server:
        systemd.heard("READY")
        server.process.send_signal(signal.SIGHUP)
        told = systemd.heard("RELOADING")
        assert told.keys() == {"RELOADING", "MONOTONIC_USEC"}
        assert int(told["MONOTONIC_USEC"]) > 0
        systemd.heard("READY")


@pytest.mark.parametrize("more", [(), ("--processes", "2")])
def test_a_successor_becomes_the_main_process(systemd: Systemd, more: tuple[str, ...]) -> None:
    with systemd.start(*SERVE, *more) as server:
        systemd.heard("READY")
        server.process.send_signal(signal.SIGUSR2)
        successor = int(systemd.heard("MAINPID")["MAINPID"])
        assert systemd.sender == server.pid
        server.said(f"process {successor} is ready and takes over")
        assert server.process.wait(LIMIT_S) == 0
        systemd.forget()
        systemd.heard("WATCHDOG")
        assert systemd.sender == successor
        with Wire(systemd.address) as wire:
            assert wire.get("/").status == 503
        os.kill(successor, signal.SIGTERM)
        systemd.heard("STOPPING")
        assert systemd.sender == successor, "of the first one's end nothing was said"
        eventually(lambda: not server.left(), "all have ended")
        server.ended()


def test_several_servers_are_one_service(systemd: Systemd) -> None:
    with systemd.start(*SERVE, "--processes", "2") as server:
        told = systemd.heard("READY")
        assert told["STATUS"] == "0 connections, 0 streams, 2 servers"
        assert systemd.sender == server.pid
        server.said("listening on", times=2)
        systemd.heard("WATCHDOG")
        with Wire(systemd.address) as wire:
            assert wire.get("/").status == 503
            assert systemd.heard("STATUS")["STATUS"].startswith("1 connection, ")


def test_with_workers_it_is_ready_when_requests_are_answered(systemd: Systemd) -> None:
    with systemd.start("run", "zoo:app", "--workers", "1", app_dir=APPS) as server:
        assert systemd.heard("READY")["STATUS"] == "0 connections, 0 streams, 1 worker"
        server.said("requests are answered")
        with Wire(systemd.address) as wire:
            assert wire.get("/").status == 200
            # What is meant for the service is not told to its children.
            assert json.loads(wire.get("/looked-at").body)["of systemd"] == []


def test_it_is_not_ready_when_the_application_cannot_be_started(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_STARTUP_FAILED", "no")
    with systemd.start("run", "zoo:app", "--workers", "1", app_dir=APPS) as server:
        server.said(r"worker \d+ has ended with exit code 3")
        with pytest.raises(BlockingIOError):
            systemd.hear(within_s=0)


def test_workers_alone(systemd: Systemd, tmp_path: Path) -> None:
    with RedisServer() as redis:
        cluster = f"main=redis://127.0.0.1:{redis.port}"
        with systemd.start("worker", "zoo:app", "--processes", "2", "--cluster", cluster, app_dir=APPS) as worker:
            assert systemd.heard("READY") == {"READY": "1", "STATUS": "2 workers"}
            worker.process.send_signal(signal.SIGHUP)
            systemd.heard("RELOADING")
            systemd.heard("READY")
            worker.said(r"worker \d+ is ready", times=4)


def test_sockets_for_another_process_are_left_alone(systemd: Systemd) -> None:
    with systemd.start(*SERVE, "-p", "0", pid="1") as server:
        systemd.heard("READY")
        assert server.port != systemd.address[1]


def test_an_address_that_is_asked_for_is_listened_on_besides(systemd: Systemd, tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with systemd.start(*SERVE, "-u", str(path)):
        systemd.heard("READY")
        for address in (systemd.address, str(path)):
            with Wire(address) as wire:
                assert wire.get("/").status == 503


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# The units.


def test_the_units_are_what_systemd_understands(tmp_path: Path) -> None:
    names = sorted(path.name for path in UNITS.iterdir())
    assert names == ["ifserver-run.service", "ifserver-worker.service", "ifserver.service", "ifserver.socket"]
    command = shutil.which("ifserver", path=str(Path(sys.executable).parent))
    assert command is not None
    for name in names:
        # What is verified too is that the command is there.
        text = (UNITS / name).read_text().replace("/opt/ifserver/bin/ifserver", command)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("name", "limit"), [("ifserver.service", 2.0), ("ifserver-worker.service", 2.5), ("ifserver-run.service", 2.5)]
)
def test_the_units_stay_hardened(name: str, limit: float) -> None:
    """10 is everything, 0 is nothing."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=true", str(UNITS / name)],
        capture_output=True, text=True, timeout=LIMIT_S,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= limit


def test_the_units_leave_enough_time_for_a_drain() -> None:
    from ifserver.config.settings import FrontSettings, WorkerSettings

    front, worker = FrontSettings(), WorkerSettings(application="a:b")
    for name, needed_s in (
        ("ifserver.service", front.shutdown_delay_s + front.drain_timeout_s),
        ("ifserver-worker.service", worker.drain_timeout_s + worker.shutdown_timeout_s),
        ("ifserver-run.service", front.drain_timeout_s + worker.drain_timeout_s + worker.shutdown_timeout_s),
    ):
        found = re.search(r"^TimeoutStopSec=(\d+)$", (UNITS / name).read_text(), re.MULTILINE)
        assert found is not None
        assert int(found[1]) >= needed_s + 10
