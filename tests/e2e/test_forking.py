"""The process that starts the workers by forking: what becomes of it, and what of theirs."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.e2e.running import APPS, Running, eventually


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_workers_come_from_it_and_everybody_can_tell_them_apart() -> None:
    with Running("run", "zoo:app", "-p", "0", "--workers", "2", app_dir=APPS) as server:
        server.ready()
        (forker,) = server.fork_servers()
        workers = server.workers()
        assert len(workers) == 2
        assert {parent_of(pid) for pid in workers} == {forker}
        assert {name_of(pid) for pid in workers} == {"ifserver child worker"}
        assert name_of(forker) == "ifserver child fork-server"
        os.kill(workers[0], signal.SIGKILL)
        eventually(lambda: len(server.workers()) == 2 and workers[0] not in server.workers(), "another is forked")
        assert {parent_of(pid) for pid in server.workers()} == {forker}
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: not set(workers) & set(server.workers()), "all are replaced")
        eventually(lambda: {parent_of(pid) for pid in server.workers()} == {forker}, "by forking")
        assert httpx.get(server.url, timeout=60).status_code == 200


def test_it_is_killed_and_no_get_fails() -> None:
    with Running("run", "zoo:app", "-p", "0", "--workers", "2", app_dir=APPS) as server:
        server.ready()
        with httpx.Client(base_url=server.url, timeout=60) as client:
            (forker,) = server.fork_servers()
            workers = server.workers()
            os.kill(forker, signal.SIGKILL)
            assert client.get("/").status_code == 200
            eventually(lambda: not set(workers) & set(server.workers()), "its workers have ended with it")
            # Theirs are started without it; and those that follow by the next one, as soon as that can be asked.
            (other,) = eventually(lambda: [pid for pid in server.fork_servers() if pid != forker], "there is another")

            server.said(r"worker \d+ is ready", 4)
            while {parent_of(pid) for pid in server.workers()} != {other}:
                before = set(server.workers())
                server.process.send_signal(signal.SIGHUP)
                eventually(lambda before=before: not before & set(server.workers()), "all are replaced")  # type: ignore[misc]
            assert client.get("/").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_all_processes_does_not_end_it(number: signal.Signals) -> None:
    """As a service manager sends it, or a terminal."""
    with Running("run", "zoo:app", "-p", "0", "--workers", "2", app_dir=APPS) as server:
        server.ready()
        if number != signal.SIGHUP:
            os.killpg(server.pid, number)
            server.ended()
            return
        (forker,) = server.fork_servers()
        os.killpg(server.pid, number)
        eventually(lambda: httpx.get(server.url, timeout=60).status_code == 200, "it goes on")
        assert server.fork_servers() == [forker]


def test_listening_sockets_that_were_given_are_the_servers_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        fd = given.fileno()
        with Running("run", "zoo:app", "--fd", str(fd), "--workers", "1", app_dir=APPS, pass_fds=[fd]) as server:
            server.ready()
            link = f"socket:[{os.fstat(fd).st_ino}]"
            assert link in links_of(server.pid)
            for pid in (*server.fork_servers(), *server.workers()):
                assert link not in links_of(pid)


def links_of(pid: int) -> list[str]:
    """What the descriptors of a process are."""
    return [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
