"""Processes that are forked from one that has imported what they need: real ones, each scene in a process of its own.

A test process has threads and a loop, so it cannot be forked itself.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = str(Path(__file__).resolve().parents[2])
#: Within the time limit of a test, so that it is told what a scene that hangs has printed.
SCENE_S = 60

#: What every scene has: a launch, and a child with futures. A child that ends before it is ready ends the scene.
BEGIN = """
import asyncio, os, signal, sys, time, traceback
from ifserver.process import children
from ifserver.process.fork_server import ForkServer
from ifserver.config.node_urls import parse_cluster
from ifserver.process.children import Launch
from ifserver.config.settings import LayerSettings, WorkerSettings

def launch(**more):
    layer = LayerSettings(clusters=(parse_cluster("east=redis://localhost"),))
    return Launch(parent=os.getpid(), layer=layer, worker=WorkerSettings(application="a:b"), **more)

class Started:
    def __init__(self, start, launch):
        loop = asyncio.get_running_loop()
        self.got_ready, self.ended = loop.create_future(), loop.create_future()
        self.child = start(launch, loop, lambda: self.got_ready.set_result(None), lambda: self.ended.set_result(None))

    @property
    async def ready(self):
        await asyncio.wait((self.got_ready, self.ended), return_when=asyncio.FIRST_COMPLETED)
        if not self.got_ready.done():
            sys.exit(f"a child has ended before it was ready: {self.child.ending}, {self.child.failure}")

    async def end(self, number=signal.SIGTERM):
        os.kill(self.child.pid, number)
        await self.ended
        return self.child.status

def child_pids(pid):
    return sorted(map(int, open(f"/proc/{pid}/task/{pid}/children").read().split()))

# A worker that is started as a new process waits for a signal.
def new_workers_wait():
    code = (
        "import sys, signal; from ifserver.process import children; launch = children.become_child(int(sys.argv[1])); "
        "children.report_ready(launch.ready_fd); signal.pause()"
    )
    before = children.command
    children.command = lambda role: [sys.executable, "-c", code] if role == "worker" else before(role)

def fork_server(be=lambda launch: signal.pause()):
    server = ForkServer.fork()
    if isinstance(server, Launch):
        try:
            be(server)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return server
"""


def scene(text: str) -> str:
    """Run a scene; what it has printed."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", BEGIN + textwrap.dedent(text)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SCENE_S,
            cwd=ROOT,
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"the scene has not ended: {(error.stderr or b'').decode()}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_children_report_and_their_end_is_told() -> None:
    said = scene(
        """
        def be(launch):
            children.report_loaded(launch.ready_fd, "wsgi")
            children.report_ready(launch.ready_fd)
            signal.pause()

        server = fork_server(be)

        async def main():
            all_started = [Started(server.spawn, launch()) for _ in range(3)]
            for started in all_started:
                await started.ready
            (forker,) = child_pids(os.getpid())
            assert child_pids(forker) == sorted(started.child.pid for started in all_started)
            print([await started.end(number) for started, number in zip(all_started, (15, 9, 15))])
            assert all(started.child.loaded and started.child.interface == "wsgi" for started in all_started)
            assert child_pids(forker) == []
            fds = set(os.listdir("/proc/self/fd"))
            started = Started(server.spawn, launch())
            await started.ready
            print(await started.end(9))
            assert set(os.listdir("/proc/self/fd")) == fds, "nothing of a child stays open"

        asyncio.run(main())
        """
    )
    assert said == "[-15, -9, -15]\n-9\n"


def test_a_child_has_its_ledger_and_nothing_of_others() -> None:
    said = scene(
        """
        def be(launch):
            ledger = children.open_ledger(launch.ledger_fd, 8)
            ledger.inbox = "!east." + launch.supervisor
            open_fds = {os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in os.listdir("/proc/self/fd")
                        if int(fd) > 2 and os.path.exists(f"/proc/self/fd/{fd}")}
            # (libffi, which ctypes is made with, may keep itself open.)
            open_fds = sorted(name for name in open_fds if "/libffi.so" not in name)
            children.report_failure(launch.ready_fd, " ".join(open_fds))

        server = fork_server(be)

        async def main():
            for name in ("aaaaaaaaaa", "bbbbbbbbbb"):
                ledger, fd = children.create_ledger(8)
                started = Started(server.spawn, launch(supervisor=name, ledger_fd=fd))
                os.close(fd)
                await started.ended
                print(ledger.inbox, started.child.status, started.child.failure)

        asyncio.run(main())
        """
    )
    assert said == "!east.aaaaaaaaaa 0 /memfd pipe\n!east.bbbbbbbbbb 0 /memfd pipe\n"


def test_signals_are_for_the_children_as_if_they_had_been_started_alone() -> None:
    said = scene(
        """
        def be(launch):
            told = []
            signal.signal(signal.SIGTERM, lambda *_: told.append("TERM"))
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
            children.report_ready(launch.ready_fd)
            while not told:
                signal.pause()
            os._exit(7)

        server = fork_server(be)

        async def main():
            started = Started(server.spawn, launch())
            # Even before it can handle it.
            os.kill(started.child.pid, signal.SIGINT)
            await started.ready
            (forker,) = child_pids(os.getpid())
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
                os.kill(forker, number)
            another = Started(server.spawn, launch())
            await another.ready
            print(await started.end(), await another.end())

        asyncio.run(main())
        """
    )
    assert said == "7 7\n"


def test_children_end_with_the_fork_server_and_others_are_started_without_it_and_then_by_the_next() -> None:
    said = scene(
        """
        def be(launch):
            children.report_ready(launch.ready_fd)
            signal.pause()

        server = fork_server(be)
        new_workers_wait()

        async def main():
            started = Started(server.spawn, launch())
            await started.ready
            (forker,) = child_pids(os.getpid())
            os.kill(forker, signal.SIGKILL)
            await started.ended
            print(started.child.status)
            alone = Started(server.spawn, launch())
            await alone.ready
            assert alone.child.pid in child_pids(os.getpid())
            print(await alone.end())
            while True:
                forked = Started(server.spawn, launch(first=True))
                by = int(open(f"/proc/{forked.child.pid}/stat").read().rpartition(")")[2].split()[1])
                if by != os.getpid():
                    break
                await forked.ready
                await forked.end(9)
            assert "fork-server" in open(f"/proc/{by}/cmdline").read()
            await forked.ended  # there is no such application
            print(forked.child.failure)

        import logging
        logging.disable()
        asyncio.run(main())
        """
    )
    assert said == "-9\n-15\napplication 'a:b': No module named 'a' (looked in " + ROOT + " first)\n"


def test_one_that_does_not_answer_is_given_up_and_its_children_live() -> None:
    said = scene(
        """
        import contextlib

        def be(launch):
            children.report_ready(launch.ready_fd)
            signal.pause()

        server = fork_server(be)
        new_workers_wait()

        async def main():
            first = Started(server.spawn, launch())
            await first.ready
            (forker,) = child_pids(os.getpid())
            os.kill(forker, signal.SIGSTOP)
            server._socket.settimeout(0.2)  # only now: a fork may take longer on a busy machine
            second = Started(server.spawn, launch())
            await second.ready
            assert not first.ended.done()
            print(await second.end())
            # When it goes on, what it was asked for has come to nothing.
            os.kill(forker, signal.SIGCONT)
            print(await first.end())
            while left := child_pids(forker):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(left[0], signal.SIGKILL)
                time.sleep(0.01)

        import logging
        logging.disable()
        asyncio.run(main())
        """
    )
    assert said == "-15\n-15\n"


def test_it_ends_with_its_parent_and_its_children_too() -> None:
    said = scene(
        """
        read, write = os.pipe()
        if not os.fork():
            def be(launch):
                children.report_ready(launch.ready_fd)
                signal.pause()

            server = fork_server(be)

            async def main():
                started = Started(server.spawn, launch())
                await started.ready
                os.write(write, b"%d %d" % (*child_pids(os.getpid()), started.child.pid))
                os.kill(os.getpid(), signal.SIGKILL)

            asyncio.run(main())
        os.wait()
        left = [int(pid) for pid in os.read(read, 100).split()]
        while any(os.path.exists(f"/proc/{pid}") and " Z " not in open(f"/proc/{pid}/stat").read() for pid in left):
            time.sleep(0.01)
        print(len(left))
        """
    )
    assert said == "2\n"


def test_what_cannot_be_forked_is_an_error_and_nothing_is_left_open() -> None:
    said = scene(
        """
        import resource
        server = fork_server()
        (forker,) = child_pids(os.getpid())
        # No descriptor is left there for the pidfd.
        resource.prlimit(forker, resource.RLIMIT_NOFILE, (6, 6))
        fds = set(os.listdir("/proc/self/fd"))

        async def main():
            try:
                Started(server.spawn, launch())
            except OSError as error:
                print(type(error).__name__, error.strerror)
            assert child_pids(forker) == []

        asyncio.run(main())
        assert set(os.listdir("/proc/self/fd")) == fds
        """
    )
    assert said == "OSError Too many open files\n"


def test_no_descriptor_is_left_for_what_tells_of_the_child() -> None:
    said = scene(
        """
        import resource
        server = fork_server()
        (forker,) = child_pids(os.getpid())
        fds = set(os.listdir("/proc/self/fd"))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

        async def main():
            loop = asyncio.get_running_loop()
            holes = [os.open(os.devnull, os.O_RDONLY) for _ in range(50)]
            # The last of these is that of the listing itself, and free again. Two pipes take four.
            first_free = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + 4, hard))
            try:
                server.spawn(launch(), loop, lambda: None, lambda: None)
            except OSError as error:
                print(type(error).__name__, error.strerror)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for hole in holes:
                os.close(hole)
            while child_pids(forker):
                await asyncio.sleep(0.01)

        asyncio.run(main())
        assert set(os.listdir("/proc/self/fd")) == fds
        """
    )
    assert said == "OSError Too many open files\n"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_scene_fails_at_once_with_the_traceback_of_its_child(when: str) -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError: division by zero"):
        scene(
            f"""
            def be(launch):
                if {when == "after"}:
                    children.report_ready(launch.ready_fd)
                1 / 0

            server = fork_server(be)

            async def main():
                started = Started(server.spawn, launch())
                await started.ready
                await started.ended

            asyncio.run(main())
            """
        )
