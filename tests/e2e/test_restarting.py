"""Ends, restarts and changes while clients come and go: none of them is refused or cut."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import httpx
import pytest
from websockets.sync.client import connect

from tests.e2e.running import APPS, LIMIT_S, Gate, Running, command_line, eventually
from tests.e2e.wire import Wire, close_of

#: A server alone. It answers 503, which is enough where only the way to it matters.
SERVE = ("serve", "--cluster", "none=redis+unix:///nowhere", "-v", "1")


class Comers:
    """Clients that connect, ask once and go, one after the other, from `with` to its end."""

    def __init__(self, address: tuple[str, int] | str, count: int = 3) -> None:
        self.answers: Counter[str] = Counter()
        self._address = address
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._come, daemon=True) for _ in range(count)]
        self._lock = threading.Lock()

    def __enter__(self) -> Comers:
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(LIMIT_S)

    def more(self, count: int = 20) -> None:
        """Wait for so many more answers."""
        until = self.answers.total() + count
        eventually(lambda: self.answers.total() >= until, f"{count} more answers")

    def _come(self) -> None:
        while not self._over.wait(0.005):
            try:
                with Wire(self._address) as wire:
                    answer = str(wire.get("/").status)
            except Exception as error:
                answer = repr(error)
            with self._lock:
                self.answers[answer] += 1


class Lineage:
    """A server and its successors."""

    def __init__(self, server: Running) -> None:
        self.server = server
        #: The process that serves now.
        self.pid = server.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def succeed(self, times: int = 1) -> int:
        """Let a successor take over; its process id."""
        self.signal(signal.SIGUSR2)
        self.pid = int(self.server.said(r"process (\d+) is ready and takes over", times)[1])
        return self.pid

    def end(self) -> None:
        """End the last one in good order."""
        self.signal(signal.SIGTERM)
        # Nobody waits for a process whose parent has ended.
        eventually(lambda: not self.server.left(), "the last one has ended")
        self.server.ended()


# Successors.


def test_a_successor_takes_over_and_nobody_notices(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with Running(*SERVE, "-p", "0", "-u", str(path)) as server:
        server.said("listening on")
        lineage = Lineage(server)
        with Comers(("127.0.0.1", server.port)) as tcp, Comers(str(path), 1) as unix:
            lineage.succeed()
            assert server.process.wait(LIMIT_S) == 0
            for comers in (tcp, unix):
                comers.more()
            lineage.succeed(times=2)
            for comers in (tcp, unix):
                comers.more()
        assert set(tcp.answers) == set(unix.answers) == {"503"}
        assert path.exists()
        lineage.end()
        eventually(lambda: not path.exists(), "the last one removes the file")


def test_several_servers_have_several_successors() -> None:
    with Running(*SERVE, "-p", "0", "--processes", "2") as server:
        server.said("ready: 2 servers")
        lineage = Lineage(server)
        with Comers(("127.0.0.1", server.port)) as comers:
            lineage.succeed()
            assert server.process.wait(LIMIT_S) == 0
            comers.more()
        assert set(comers.answers) == {"503"}
        assert len(server.left()) == 3
        lineage.end()


def test_each_of_several_servers_has_an_admin_endpoint_and_so_have_its_successors() -> None:
    port = _two_free_ports()
    with Running(*SERVE, "-p", "0", "--processes", "2", "--admin", f"127.0.0.1:{port}") as server:
        server.said("ready: 2 servers")
        lineage = Lineage(server)
        for _ in range(2):
            for number in (port, port + 1):
                eventually(lambda number=number: _lives(number), "it lives")
            if lineage.pid == server.pid:
                lineage.succeed()
                assert server.process.wait(LIMIT_S) == 0
        lineage.end()


def _lives(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _two_free_ports() -> int:
    """The first of two that follow each other."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port: int = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except (OSError, OverflowError):
                continue
            return port


def test_a_successor_that_cannot_be_started_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "ifserver.toml"
    file.write_text("[front]\nmax_headers = 20\n")
    with Running(*SERVE, "-p", "0", "--config", str(file)) as server:
        server.said("listening on")
        lineage = Lineage(server)
        file.write_text("[front]\nmax_heads = 20\n")
        lineage.signal(signal.SIGUSR2)
        server.said(r"front.max_heads: unknown")
        server.said(r"process \d+ was to take over and has ended \(exit code 2\): this one goes on")
        with Wire(("127.0.0.1", server.port)) as wire:
            assert wire.get("/").status == 503
        file.write_text("")
        lineage.succeed()
        lineage.end()


def test_a_server_with_workers_hands_over_while_it_answers(gate: Gate, pool: ThreadPoolExecutor) -> None:
    with Running("run", "zoo:app", "-p", "0", "--workers", "1", app_dir=APPS) as server:
        server.ready()
        lineage = Lineage(server)
        waiting = pool.submit(httpx.get, f"{server.url}/wait?gate={gate}", timeout=LIMIT_S * 2)
        gate.reached()
        with Comers(("127.0.0.1", server.port), 2) as comers, Wire(("127.0.0.1", server.port)) as kept:
            assert kept.get("/").status == 200
            lineage.succeed()
            comers.more()
            # Its next request comes after the change, and on a connection of before.
            eventually(lambda: server.output.count("waiting up to 30 s for") == 1, "the old one ends")
            assert kept.get("/").header("connection") == "close"
            gate.open()
            assert waiting.result().status_code == 200
            assert server.process.wait(LIMIT_S) == 0
            comers.more()
        assert set(comers.answers) == {"200"}
        lineage.end()


def test_an_endpoint_of_twisted_cannot_be_handed_over() -> None:
    with Running(*SERVE, "-e", "tcp:0:interface=127.0.0.1") as server:
        server.said("listening on")
        server.process.send_signal(signal.SIGUSR2)
        server.said("cannot start a successor: what listens on the endpoint tcp:0:interface=127.0.0.1 cannot be handed")


# Several servers.


def test_a_server_that_is_killed_is_replaced_and_nobody_is_refused() -> None:
    with Running(*SERVE, "-p", "0", "--processes", "2") as server:
        server.said("ready: 2 servers")
        first, second = server.left()
        with Comers(("127.0.0.1", server.port), 1) as comers:
            os.kill(first, signal.SIGKILL)
            server.said(rf"server {first} has ended \(SIGKILL\); a new server starts in")
            server.said("listening on", times=3)
            comers.more(40)
        # What was in its hands at that moment is lost, and cut.
        assert comers.answers["503"] >= 40
        assert comers.answers.total() - comers.answers["503"] <= 1, comers.answers
        assert second in server.left()
        assert first not in server.left()


def test_all_of_them_serve(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Running(*SERVE, "-p", "0", "--processes", "2", "--access-log", str(log)) as server:
        server.said("ready: 2 servers")
        for _ in range(40):
            with Wire(("127.0.0.1", server.port)) as wire:
                wire.get("/")
        told = Counter(re.findall(r"\[(\d+)\] !none\.\w+\.\w+: answering 503", server.output))
        assert set(map(int, told)) == set(server.left())
        # SIGUSR1 reaches them all: what is written now goes into a new file.
        log.rename(tmp_path / "old")
        server.process.send_signal(signal.SIGUSR1)
        server.said("SIGUSR1: reopening the log files", times=3)
        eventually(log.exists, "a new file")


def test_what_one_of_several_cannot_do_is_said_and_ends_them(tmp_path: Path) -> None:
    with Running(*SERVE, "-p", "0", "--processes", "2", "--access-log", "/nowhere/log", status=2) as server:
        server.said("front.access_log: '/nowhere/log': No such file or directory")
        server.ended()


def test_ctrl_c_reaches_several_servers_by_their_parent() -> None:
    with Running(*SERVE, "-p", "0", "--processes", "2", "--verbosity", "2") as server:
        server.said("ready: 2 servers")
        with Wire(("127.0.0.1", server.port)) as idle:
            idle.get("/")
            os.killpg(server.pid, signal.SIGINT)
            server.ended()
        assert server.output.count("SIGQUIT: stopping") == 2


def test_several_servers_in_the_background_of_a_script_are_ended_at_once_by_a_second_sigterm() -> None:
    """A shell without job control has these signals ignored by what it starts with ``&``, and nohup the last one."""
    ignoring = ["sh", "-c", 'trap "" INT QUIT HUP; exec "$0" "$@"']
    command = command_line(*SERVE, "-p", "0", "--processes", "2", "--shutdown-delay", "1h")
    with Running([*ignoring, *command]) as server:
        server.said("ready: 2 servers")
        for number in (signal.SIGINT, signal.SIGHUP):
            os.killpg(server.pid, number)
        server.process.send_signal(signal.SIGTERM)
        server.said("not ready any more", times=2)
        assert "SIGINT" not in server.output
        assert "SIGHUP:" not in server.output
        # Whoever wonders is told, once.
        assert server.output.count("SIGHUP will be ignored") == 1

        def again() -> bool:
            server.process.send_signal(signal.SIGTERM)
            return "SIGTERM again: stopping at once" in server.output

        eventually(again, "the second signal")
        server.ended()


# The end.


def test_a_server_that_is_not_ready_any_more_goes_on_for_a_while(gate: Gate) -> None:
    with Running("run", "zoo:app", "-p", "0", "--workers", "1", "--shutdown-delay", "1h", app_dir=APPS) as server:
        server.ready()
        server.process.send_signal(signal.SIGTERM)
        server.said("not ready any more; still accepting clients for 3600 s")
        with Wire(("127.0.0.1", server.port)) as wire:
            for _ in range(2):
                assert wire.get("/").header("connection") is None
        # A second SIGTERM ends it at once; one that comes too soon is taken for the first.

        def again() -> bool:
            server.process.send_signal(signal.SIGTERM)
            return "SIGTERM again: stopping at once" in server.output

        eventually(again, "the second signal")
        server.ended()


def test_websockets_are_closed_one_after_the_other(pool: ThreadPoolExecutor) -> None:
    count = 8
    with Running("run", "zoo:app", "-p", "0", "--workers", "1", app_dir=APPS) as server, ExitStack() as stack:
        url = server.ready().url.replace("http", "ws", 1) + "/ws"
        clients = [stack.enter_context(connect(url)) for _ in range(count)]
        closing = [pool.submit(lambda client=client: (close_of(client), monotonic())) for client in clients]
        server.process.send_signal(signal.SIGTERM)
        ends = [each.result(LIMIT_S) for each in closing]
        assert {code for code, _ in ends} == {(1001, "")}
        times = sorted(time for _, time in ends)
        # 0.1 s apart, so 0.7 s in all; a busy machine may be late with the first, and not with all.
        assert times[-1] - times[0] > 0.35
        server.ended()


# New settings.


def test_settings_are_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "ifserver.toml"
    file.write_text("[front]\nmax_headers = 20\n[log]\nverbosity = 1\n")
    with Running("serve", "--cluster", "none=redis+unix:///nowhere", "-p", "0", "--config", str(file)) as server:
        server.said("listening on")
        assert "will be ignored" not in server.output
        with Wire(("127.0.0.1", server.port)) as wire:
            assert wire.get("/", "a: b", "c: d").status == 503
        file.write_text("[front]\nmax_headers = 2\nproxy_protocol = true\n[log]\nverbosity = 2\n")
        server.process.send_signal(signal.SIGHUP)
        server.said(r"SIGHUP: changed, for what begins now: front\.max_headers, log\.verbosity$")
        server.said(r"SIGHUP: changed, but a restart is needed for: front\.proxy_protocol$")
        with Wire(("127.0.0.1", server.port)) as wire:
            assert wire.get("/", "a: b", "c: d").status == 431
        server.said("DEBUG")
        file.write_text("[front]\nmax_heads = 2")
        server.process.send_signal(signal.SIGHUP)
        server.said(r"SIGHUP: the settings stay as they are: .*ifserver\.toml:2: front\.max_heads: unknown")
        with Wire(("127.0.0.1", server.port)) as wire:
            assert wire.get("/", "a: b", "c: d").status == 431


def test_several_servers_read_their_settings_anew(tmp_path: Path) -> None:
    file = tmp_path / "ifserver.toml"
    file.write_text("[front]\nmax_headers = 20\n[listen]\nprocesses = 2\n")
    with Running(*SERVE, "-p", "0", "--config", str(file)) as server:
        server.said("ready: 2 servers")
        file.write_text("[front]\nmax_headers = 2\n[listen]\nprocesses = 3\n")
        server.process.send_signal(signal.SIGHUP)
        server.said(r"SIGHUP: changed, but a restart is needed for: listen\.processes")

        def refused() -> bool:
            statuses = set()
            for _ in range(20):
                with Wire(("127.0.0.1", server.port)) as wire:
                    statuses.add(wire.get("/", "a: b", "c: d").status)
            return statuses == {431}

        eventually(refused, "all have the new limit")
        # So has one that is started now.
        os.kill(server.left()[0], signal.SIGKILL)
        server.said("listening on", times=3)
        assert refused()


def test_a_port_that_is_not_free_any_more_is_still_ours() -> None:
    """Several sockets at one address let nobody else in."""
    with Running(*SERVE, "-p", "0", "--processes", "2") as server:
        server.said("ready: 2 servers")
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", server.port))
