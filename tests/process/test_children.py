"""Real child processes: what they are told, what is heard of them, and that none is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ifserver.config.node_urls import ClusterSettings, parse_cluster
from ifserver.config.settings import LayerSettings, LogSettings, WorkerSettings
from ifserver.process import children
from ifserver.process.children import Child, Launch
from ifserver.worker_ledger import Ledger
from tests.fresh_loop import run

ROOT = str(Path(__file__).resolve().parents[2])
LAYER = LayerSettings(clusters=(parse_cluster("east=redis://user:geheim@localhost/3"),))
WORKER = WorkerSettings(application="site:app", drain_timeout_s=float("inf"))
BECOME = f"""
import os, signal, sys
sys.path.insert(0, {ROOT!r})
from ifserver.process import children
launch = children.become_child(int(sys.argv[1]))
"""
WAIT = "children.report_ready(launch.ready_fd)\nsignal.pause()\n"


def code(text: str) -> list[str]:
    """The command that becomes a child and then runs `text`."""
    return [sys.executable, "-c", BECOME + textwrap.dedent(text)]


def open_fds() -> set[str]:
    """The descriptors of this process, and what they are."""
    gc.collect()  # what other tests have left may go at any time
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            pass  # the one that reads the folder
    return found


class Started:
    """A child, and futures for what is heard of it. Only inside `run`."""

    def __init__(self, command: list[str], **launch: object) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        told = Launch(parent=os.getpid(), layer=LAYER, worker=WORKER, **launch)  # type: ignore[arg-type]
        self.child: Child = children.spawn(
            told, loop, lambda: self.ready.set_result(None), lambda: self.ended.set_result(None), command
        )


def test_a_child_is_told_all_and_nothing_of_it_is_in_its_arguments_or_environment(tmp_path: Path) -> None:
    report = tmp_path / "report"

    async def main() -> None:
        started = Started(
            code("""
                import json
                def read(path):
                    with open(path) as file:
                        return file.read()
                node = launch.layer.clusters[0].nodes[0]
                report = {
                    "parent": launch.parent, "password": node.password,
                    "drain": str(launch.worker.drain_timeout_s), "level": launch.log.verbosity,
                    "ledger": launch.ledger_fd,
                    "seen": read("/proc/self/cmdline") + read("/proc/self/environ"),
                    "inheritable": os.get_inheritable(launch.ready_fd),
                    "stdin": os.readlink("/proc/self/fd/0"), "folder": os.getcwd(),
                    "fds": [os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd")
                                if int(fd) > 2 and os.path.exists("/proc/self/fd/" + fd)],
                }
                with open(launch.supervisor, "w") as file:
                    json.dump(report, file)
            """),
            supervisor=str(report),
            log=LogSettings(verbosity=2),
        )
        await started.ended
        assert started.child.ending == "exit code 0"
        assert not started.ready.done()

    run(main)
    told = json.loads(report.read_text())
    assert "geheim" not in told.pop("seen")
    assert not [name for name in told.pop("fds") if "memfd" in name or "pidfd" in name or "socket" in name]
    assert told == {
        "parent": os.getpid(),
        "password": "geheim",
        "drain": "inf",
        "level": 2,
        "ledger": None,
        "inheritable": False,
        "stdin": "/dev/null",
        "folder": os.getcwd(),
    }


def test_a_child_says_that_it_is_ready_and_ends_when_it_is_told_to() -> None:
    async def main() -> None:
        before = open_fds()
        started = Started(code(WAIT))
        await started.ready
        assert started.child.status is None
        assert started.child.ending == "still running"
        assert not started.ended.done()
        started.child.terminate()
        await started.ended
        assert started.child.status == -signal.SIGTERM
        assert started.child.ending == "SIGTERM"
        assert not Path(f"/proc/{started.child.pid}").exists(), "a zombie"
        started.child.terminate()
        started.child.kill()
        assert open_fds() == before

    run(main)


def test_a_child_says_that_it_shows_an_error_however_long_that_is() -> None:
    async def main() -> None:
        before = open_fds()
        started = Started(
            code("""
                children.report_broken(launch.ready_fd, "first\\n\\0\\udcff" + "x" * 20_000 + ".last")
                children.report_ready(launch.ready_fd)
                signal.pause()
            """)
        )
        await started.ready
        assert started.child.error == "first\n\\udcff" + "x" * 20_000 + ".last"
        assert (started.child.loaded, started.child.failure) == (False, None)
        started.child.kill()
        await started.ended
        assert open_fds() == before

    run(main)


def test_a_child_that_ends_in_the_middle_of_its_report_is_not_ready() -> None:
    async def main() -> None:
        started = Started(code("os.write(launch.ready_fd, b'a?half of')\nsys.exit(3)"))
        await started.ended
        assert started.child.loaded
        assert started.child.error is None
        assert not started.ready.done()

    run(main)


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("sys.exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os.kill(os.getpid(), 40)", "signal 40"),
    ],
)
def test_how_a_child_has_ended(text: str, ending: str) -> None:
    async def main() -> None:
        started = Started(code(text))
        await started.ended
        assert started.child.ending == ending

    run(main)


def test_a_child_that_is_killed_ends_though_it_minds_nothing_else() -> None:
    async def main() -> None:
        started = Started(code("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAIT))
        await started.ready
        started.child.terminate()
        started.child.kill()
        await started.ended
        assert started.child.ending == "SIGKILL"

    run(main)


def test_an_interrupt_is_left_to_the_parent_from_the_very_first() -> None:
    async def main() -> None:
        started = Started(code(WAIT))
        os.kill(started.child.pid, signal.SIGINT)
        await started.ready
        os.kill(started.child.pid, signal.SIGINT)
        started.child.terminate()
        await started.ended
        assert started.child.ending == "SIGTERM"
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())

    run(main)


@pytest.mark.parametrize("more", range(7))
def test_a_start_that_fails_leaves_nothing_open_and_nobody_running(more: int) -> None:
    async def main() -> None:
        before, children_before = open_fds(), child_pids()
        # The number of the first descriptor that may not be opened.
        limit = max(int(fd.split()[0]) for fd in before) + 1 + more
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            started = Started(code("signal.pause()"))
        except OSError:
            pass
        else:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            started.child.kill()
            await started.ended
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert open_fds() == before
        assert child_pids() == children_before

    run(main)


def test_a_command_that_does_not_exist() -> None:
    async def main() -> None:
        before = open_fds()
        with pytest.raises(FileNotFoundError):
            Started(["/no/such/program"])
        assert open_fds() == before

    run(main)


def child_pids() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_what_a_child_held_can_be_read_after_it_was_killed() -> None:
    async def main() -> None:
        ledger, fd = children.create_ledger(4)
        started = Started(
            code("""
                ledger = children.open_ledger(launch.ledger_fd, 4)
                ledger.inbox = "!east.k3v9x2aq7m"
                ledger.enter("!east.0123456789.1", 0)
                slot = ledger.enter("!east.0123456789.2", 0)
                ledger.enter("!east.0123456789.3", 1)
                ledger.clear(slot)
                children.report_ready(launch.ready_fd)
                signal.pause()
            """),
            ledger_fd=fd,
        )
        os.close(fd)
        await started.ready
        started.child.kill()
        await started.ended
        assert ledger.inbox == "!east.k3v9x2aq7m"
        assert ledger.entries() == [("!east.0123456789.1", 0), ("!east.0123456789.3", 1)]

    run(main)


PARENT = f"""
import asyncio, os, sys
sys.path.insert(0, {ROOT!r})
import uvloop
from ifserver.process import children
from ifserver.config.node_urls import parse_cluster
from ifserver.config.settings import LayerSettings, WorkerSettings
async def main():
    launch = children.Launch(
        parent=os.getpid(), layer=LayerSettings(clusters=(parse_cluster("a=local:x"),)),
        worker=WorkerSettings(application="a:b"),
    )
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    ready = lambda: print("ready", flush=True)
    child = children.spawn(launch, loop, ready, ended.set, [sys.executable, "-c", sys.argv[1]])
    print(child.pid, flush=True)
    await ended.wait()
uvloop.run(main())
"""


def gone_within(pidfd: int, timeout_ms: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_ms))


def test_a_child_ends_with_its_parent_however_that_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, BECOME + WAIT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        try:
            assert parent.stdout.readline() == "ready\n"
            parent.kill()
            assert gone_within(child, 1000)
        finally:
            os.close(child)


def test_a_child_whose_parent_has_ended_before_it_began_to_mind_ends_itself() -> None:
    text = f"""
import os, select, sys
sys.path.insert(0, {ROOT!r})
from ifserver.process import children
launch = children.read(int(sys.argv[1]), children.Launch)
poll = select.poll()
poll.register(launch.ready_fd, 0)
os.kill(launch.parent, 9)
poll.poll()  # until the parent's end of the pipe is closed, for it is gone
while os.getppid() == launch.parent:
    pass
children.die_with_parent(launch.parent)
while True:
    pass
"""
    with subprocess.Popen([sys.executable, "-c", PARENT, text], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        try:
            assert gone_within(child, 10_000)
        finally:
            os.close(child)


def test_the_current_folder_is_not_searched_for_modules_unless_we_are_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert children.command("worker") == [sys.executable, "-P", "-m", "ifserver", "child", "worker"]
    monkeypatch.chdir(ROOT)
    assert children.command("worker") == [sys.executable, "-m", "ifserver", "child", "worker"]


def test_a_ledger_has_no_name_and_goes_with_whoever_holds_it() -> None:
    before = open_fds()
    ledger, fd = children.create_ledger(10)
    assert "(deleted)" in os.readlink(f"/proc/self/fd/{fd}")
    assert os.fstat(fd).st_size == Ledger.size(10)
    os.close(fd)
    del ledger
    assert open_fds() == before


def test_a_launch_keeps_what_it_holds() -> None:
    cluster = ClusterSettings(name="a", nodes=())
    launch = Launch(parent=1, layer=LayerSettings(clusters=(cluster,)), worker=WORKER)
    assert (launch.supervisor, launch.ledger_fd, launch.ready_fd, launch.log) == ("", None, -1, LogSettings())
