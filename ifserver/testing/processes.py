"""The processes of a server under test: started, listened to, and never left behind."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Final

#: What is kept of the output at least, in characters. A test that needs more should not read it there.
_KEPT_CHARACTERS: Final = 16 * 1024 * 1024
#: How its workers are listed.
_WORKER: Final = "ifserver child worker"


class ServerError(RuntimeError):
    """A server under test cannot start, has ended by itself, or does not do in time what it should."""


class Output:
    """What processes have written, the end of it if it is long."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._changed = threading.Condition()
        #: Characters that were written, and those of them that are not kept any more.
        self.written = self._dropped = 0

    def add(self, line: str) -> None:
        """Append a line."""
        with self._changed:
            self._lines.append(line)
            self.written += len(line)
            while self.written - self._dropped > _KEPT_CHARACTERS and len(self._lines) > 1:
                self._dropped += len(self._lines.popleft())
            self._changed.notify_all()

    def text(self, since: int = 0) -> str:
        """What was written, but for the first `since` characters."""
        with self._changed:
            return "".join(self._lines)[max(since - self._dropped, 0) :]

    def wait(self, pattern: str, since: int, seconds: float) -> re.Match[str] | None:
        """Wait until a regular expression is found in `text`; None if it is not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: re.search(pattern, self.text(since)), seconds)


class Process:
    """``ifserver`` in a process, with all that it starts. It ends with this process, however that ends.

    Args:
        arguments: of ``ifserver``.
        environment: all of it.
        output: to which its standard output and error are added, line by line.
        pass_fds: descriptors that it inherits.

    Raises:
        OSError: there are no processes, descriptors or memory left, or no folder `cwd`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        output: Output,
        *,
        cwd: str | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._output = output
        # It reports that it is ready as to systemd, however much it logs (sd_notify(3)).
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._notified.bind("")  # any free name in the abstract namespace (unix(7), autobind)
            name: bytes = self._notified.getsockname()
            command = [sys.executable, "-P", "-m", "ifserver.testing.child", str(os.getpid()), *arguments]
            variables = {**environment, "NOTIFY_SOCKET": f"@{name[1:].decode()}"}
            started: SimpleQueue[subprocess.Popen[str] | BaseException] = SimpleQueue()
            self._reader = threading.Thread(
                target=self._run, args=(command, variables, cwd, pass_fds, started), name="ifserver", daemon=True
            )
            self._reader.start()
            process = started.get()
            if isinstance(process, BaseException):
                raise process
            self._process = process
            self.pid = process.pid
            self._pidfd = os.pidfd_open(process.pid)
        except BaseException:
            self._notified.close()
            raise

    def _run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        cwd: str | None,
        pass_fds: Sequence[int],
        started: SimpleQueue[subprocess.Popen[str] | BaseException],
    ) -> None:
        """Start it and read its output. Both on one thread, since a process ends with the *thread* that started it:
        this one lives as long as anybody can write, while that of a test may be one of many."""
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                cwd=cwd,
                env=environment,
                pass_fds=pass_fds,
                start_new_session=True,  # Ctrl-C is for the tests, which end it in their order
            )
        except BaseException as error:
            started.put(error)
            return
        started.put(process)
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._output.add(line)

    @property
    def status(self) -> int | None:
        """Its exit code, or minus the number of the signal that ended it; None while it runs."""
        return self._process.poll()

    def wait_ready(self, end: float) -> bool:
        """Wait until it is ready, but no longer than until `end` of the monotonic clock. Whether it is."""
        poll = select.poll()
        poll.register(self._notified, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        while (left_s := end - time.monotonic()) > 0:
            ready = {fd for fd, _ in poll.poll(left_s * 1000)}
            if self._notified.fileno() in ready:
                # What follows is never read: it would be logged if nobody held the socket.
                if b"READY=1" in self._notified.recv(4096).splitlines():
                    return True
            elif self._pidfd in ready:
                return False
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal. Does nothing once it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def end(self, patience_s: float) -> None:
        """Tell it to end; to end at once after `patience_s` seconds; and kill it after as long again."""
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
            self.signal(number)
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if poll.poll(patience_s * 1000):
                break
        self.close()

    def close(self) -> None:
        """Kill it if it has not ended, and read what is left of its output."""
        self.signal(signal.SIGKILL)
        self._process.wait()
        # Something that the application has started may hold the pipe for ever.
        self._reader.join(1.0)
        self._notified.close()
        os.close(self._pidfd)


def workers_of(pid: int) -> list[int]:
    """The process ids of the workers that live below the process `pid`, oldest first."""
    parents = dict(_processes())

    def is_below(child: int) -> bool:
        while child in parents:
            child = parents[child]
            if child == pid:
                return True
        return False

    return sorted(child for child in parents if is_below(child) and _WORKER in _command_of(child))


def _processes() -> Iterator[tuple[int, int]]:
    """The process id and the parent of everything that lives."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                # The second field is a name, which may hold anything.
                state, parent = Path("/proc", name, "stat").read_text("latin-1").rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    yield int(name), int(parent)


def _command_of(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "cmdline").read_text("utf-8", "replace").replace("\0", " ")
    except OSError:
        return ""


def import_path() -> str:
    """PYTHONPATH for a process that is to find what this one finds."""
    own = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    own |= {f"{folder}/lib-dynload" for folder in own}
    # Python's own are there in any case, and another Python that the application runs has others.
    folders = (folder or os.getcwd() for folder in sys.path)
    return os.pathsep.join(
        folder for folder in dict.fromkeys(folders) if folder not in own and not folder.endswith(".zip")
    )
