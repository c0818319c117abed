"""Real processes for tests: started in a session of their own, listened to, and ended without a trace.

::

    with Running("run", "zoo:app", "-p", "0", app_dir=APPS) as server:
        httpx.get(server.url)

Leaving the block in good order ends the server as an operator would (SIGTERM), and then checks that it has ended with
exit code 0, that nothing of it is left, and that its output holds no traceback but those in `tracebacks`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

__all__ = ["APPS", "EXAMPLES", "LIMIT_S", "ROOT", "Gate", "Running", "command_line", "eventually", "frozen"]

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
#: Where the applications of these tests are.
APPS = Path(__file__).resolve().parent
#: How long anything may take here, in seconds. It ends what hangs, so it is far more than anything takes on a machine
#: that is busy with other things.
LIMIT_S = 120.0
#: How long it may take until every process has ended whose parent was killed: at once, when it has the CPU.
GONE_S = 20.0


def eventually(look: Callable[[], T], what: str, within_s: float = LIMIT_S) -> T:
    """What `look` returns, as soon as that is true; fails when it does not become so in time."""
    end = time.monotonic() + within_s
    while True:
        began = time.monotonic()
        found = look()
        if found:
            return found
        now = time.monotonic()
        assert now < end, f"not within {within_s} s: {what}"
        # Whoever looks should not keep from its work what is looked for.
        time.sleep(min(max(0.01, 3 * (now - began)), 0.25))


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Processes that are stopped, and go on in the end."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def command_line(*arguments: str) -> list[str]:
    """The command ``ifserver``, as this very Python runs it."""
    return [sys.executable, "-m", "ifserver", *arguments]


class Running:
    """A process and all that it starts.

    Args:
        arguments: of ``ifserver``; the first one may also be a list that is the whole command.
        app_dir: is given as ``--app-dir``.
        environment: is added to ours.
        tracebacks: how many the output must hold in the end.
        status: the exit code in the end.
    """

    def __init__(
        self,
        *arguments: str | Sequence[str],
        app_dir: Path | None = None,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        tracebacks: int = 0,
        status: int = 0,
    ) -> None:
        first = arguments[0]
        words = [str(word) for word in arguments]
        command = command_line(*words) if isinstance(first, str) else list(first)
        if app_dir is not None:
            command += ["--app-dir", str(app_dir)]
        self.tracebacks = tracebacks
        self._status = status
        #: When its output was closed, by the last process that held it.
        self.closed = threading.Event()
        #: Whether its end was seen and judged.
        self._over = False
        self._lines: list[str] = []
        self._more = threading.Condition()
        self._command = command
        # However the tests end, it ends with them.
        bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") is not None else []
        self.process = subprocess.Popen(
            [*bound, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            pass_fds=pass_fds,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                if not self._over:
                    self.end()
            else:
                error.add_note(f"The output of {self._command}:\n{self.output}")
        finally:
            self._sweep()

    # What it says.

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                with self._more:
                    self._lines.append(line)
                    self._more.notify_all()
        with self._more:
            self.closed.set()
            self._more.notify_all()

    @property
    def output(self) -> str:
        """All that was written so far, by every one of its processes."""
        with self._more:
            return "".join(self._lines)

    def said(self, pattern: str, times: int = 1, within_s: float = LIMIT_S) -> re.Match[str]:
        """Wait until `pattern` was written that many times; the last of these matches."""

        def matches() -> list[re.Match[str]]:
            return [found for line in self._lines if (found := re.search(pattern, line))]

        with self._more:
            self._more.wait_for(lambda: len(matches()) >= times or self.closed.is_set(), within_s)
            found = matches()
            assert len(found) >= times, f"not said: {pattern!r}\n{''.join(self._lines)}"
            return found[times - 1]

    @property
    def url(self) -> str:
        """The URL at which it says that it listens."""
        return self.said(r"listening on .*?(https?://\S+?)(,|$)")[1]

    @property
    def port(self) -> int:
        """The port in `url`."""
        return int(self.url.rpartition(":")[2])

    def ready(self) -> Running:
        """Wait until requests are answered; of a supervisor, until the workers run."""
        workers = r"\d+ workers? runs? " if self._command[3:4] == ["worker"] else "ready: requests are answered"
        self.said(f"{workers}|Uvicorn running on")
        return self

    # Its processes.

    @property
    def pid(self) -> int:
        """Process id of the one that was started here."""
        return self.process.pid

    def workers(self) -> list[int]:
        """The process ids of the workers that live, which are its children or its fork server's."""
        servers = self.fork_servers()
        children = [pid for each in (self.pid, *servers) for pid in _children(each)]
        return [pid for pid in children if pid not in servers]

    def fork_servers(self) -> list[int]:
        """The process ids of the processes that start workers."""
        return [pid for pid in _children(self.pid) if "fork-server" in _name_of(pid)]

    def left(self) -> list[int]:
        """The process ids of all that live and come from here."""
        return [pid for pid, _, session in _processes() if session == self.pid and pid != self.pid]

    # Its end.

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Tell it to end, and check that it does so in good order."""
        self.process.send_signal(number)
        self.ended()

    def ended(self) -> None:
        """Wait until it has ended, and check that it was in good order."""
        self._over = True
        assert self.process.wait(LIMIT_S) == self._status, f"exit code {self.process.returncode}\n{self.output}"
        assert self.closed.wait(LIMIT_S), f"processes that still hold its output: {self.left()}\n{self.output}"
        # A process that is killed closes its files before it is gone.
        eventually(lambda: not self.left(), "all that it started has ended", GONE_S)
        assert self.output.count("Traceback (most recent call last)") == self.tracebacks, self.output
        for word in ("Warning", "never retrieved", "was destroyed but it is pending", "defect of ifserver"):
            assert word not in self.output, self.output

    def killed(self) -> None:
        """Kill it with SIGKILL, and check that nothing outlives it."""
        self._over = True
        self.process.kill()
        self.process.wait(LIMIT_S)
        eventually(lambda: not self.left(), "the children of a killed process have ended", GONE_S)

    def _sweep(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(LIMIT_S)
        for pid in self.left():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._reader.join(LIMIT_S)


def _processes() -> Iterator[tuple[int, int, int]]:
    """Process id, parent and session of everything that lives."""
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            stat = Path("/proc", name, "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent, _, session = stat.rpartition(")")[2].split()[:4]
        if state not in "ZX":
            yield int(name), int(parent), int(session)


def _name_of(pid: int) -> str:
    """How a process is listed; empty where it has ended."""
    try:
        return Path("/proc", str(pid), "cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _children(pid: int) -> list[int]:
    return sorted(child for child, parent, _ in _processes() if parent == pid)


class Gate:
    """A file for which requests to the application ``zoo`` wait: ``/wait?gate=`` and its path.

    Args:
        path: is made by `open`. Beside it is one file for each request that waits there, or has.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def arrivals(self) -> list[int]:
        """The process ids of the workers whose requests have come here, in any order."""
        return [int(path.suffixes[-2][1:]) for path in self.path.parent.glob(f"{self.path.name}.*.*")]

    def reached(self, times: int = 1) -> list[int]:
        """Wait until that many requests have come here; the process ids of their workers, the latest last."""
        eventually(lambda: len(self.arrivals()) >= times, f"{times} requests at the gate")
        files = sorted(self.path.parent.glob(f"{self.path.name}.*.*"), key=lambda path: int(path.suffix[1:]))
        return [int(path.suffixes[-2][1:]) for path in files]

    def open(self) -> None:
        """Let everybody through."""
        self.path.touch()
