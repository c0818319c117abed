"""Starting our own processes, and never leaving one behind.

A child is told what to do through an anonymous file (``memfd``): nothing of it is in its arguments, its environment or
on the disk, and passwords are among it. It says that it is ready by a byte in a pipe, and that it has ended by its
pidfd: there is no handler for SIGCHLD, and only processes that were started here are waited for.

A child ends with its parent, however that ends: the kernel sends it SIGKILL (`die_with_parent`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

import ifserver
from ifserver.settings import LayerSettings, LogSettings, WorkerSettings
from ifserver.streams.ledger import Ledger

__all__ = [
    "Child",
    "Launch",
    "become_child",
    "create_ledger",
    "die_with_parent",
    "open_ledger",
    "read_launch",
    "report_ready",
    "spawn",
]

#: <linux/prctl.h>
_PR_SET_PDEATHSIG: Final = 1


class Launch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a child is told."""

    role: Literal["worker", "supervisor"]
    #: Process id of whoever starts it.
    parent: int
    layer: LayerSettings
    worker: WorkerSettings
    #: Process name of the supervisor that watches over a worker; empty for a supervisor itself.
    supervisor: str = ""
    #: The memory of a worker's ledger (`open_ledger`).
    ledger_fd: int | None = None
    #: The pipe for `report_ready`. `spawn` fills it in.
    ready_fd: int | None = None
    log: LogSettings = LogSettings()


class Child:
    """A process that was started here.

    Args:
        ready_fd: the end of its pipe that is read here.
        ready: is called when it has said that it is ready; at most once, and not after it has ended.
        ended: is called when it has ended and was waited for.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        pidfd: int,
        ready_fd: int,
        loop: asyncio.AbstractEventLoop,
        ready: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self.pid = process.pid
        #: Exit code, or minus the number of the signal that ended it; None while it lives.
        self.status: int | None = None
        self._process = process
        self._pidfd = pidfd
        self._ready_fd: int | None = ready_fd
        self._loop = loop
        self._ready = ready
        self._ended = ended
        loop.add_reader(pidfd, self._exited)
        loop.add_reader(ready_fd, self._said)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM). Does nothing once it has."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it (SIGKILL). Does nothing once it has."""
        self._signal(signal.SIGKILL)

    @property
    def ending(self) -> str:
        """How it has ended, for people: ``exit code 1`` or ``SIGKILL``."""
        if self.status is None:
            return "still running"
        if self.status >= 0:
            return f"exit code {self.status}"
        try:
            return signal.Signals(-self.status).name
        except ValueError:
            return f"signal {-self.status}"

    def _signal(self, number: signal.Signals) -> None:
        if self.status is None:
            # By the pidfd, which can never mean another process that was given the same id.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _said(self) -> None:
        said = os.read(self._ready_fd, 1) if self._ready_fd is not None else b""
        self._close_ready()
        if said:
            self._ready()

    def _close_ready(self) -> None:
        fd, self._ready_fd = self._ready_fd, None
        if fd is not None:
            self._loop.remove_reader(fd)
            os.close(fd)

    def _exited(self) -> None:
        status = self._process.poll()
        if status is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._close_ready()
        self.status = status
        # Both refer to whoever refers to this object.
        ended, self._ready, self._ended = self._ended, _nothing, _nothing
        ended()


def _nothing() -> None:
    pass


def spawn(
    launch: Launch,
    loop: asyncio.AbstractEventLoop,
    ready: Callable[[], None],
    ended: Callable[[], None],
    command: Sequence[str] | None = None,
) -> Child:
    """Start a process that does what `launch` says; `ready` and `ended` are called later, on `loop`.

    It shares standard output and error with this process, and has the same current folder and environment. `command`
    is what to run instead of ourselves; the number of the descriptor for `become_child` is its last argument.

    Must be called on the main thread: a child ends with the *thread* that started it.

    Raises:
        OSError: there are no processes, descriptors or memory left.
    """
    with contextlib.ExitStack() as opened:
        read_end, write_end = os.pipe()
        opened.callback(os.close, write_end)
        on_failure = opened.enter_context(contextlib.ExitStack())
        on_failure.callback(os.close, read_end)
        os.set_blocking(read_end, False)
        told = os.memfd_create("ifserver-launch")
        opened.callback(os.close, told)
        # MessagePack and not JSON, which has no infinity, and a timeout may be infinite.
        os.write(told, msgspec.msgpack.encode(msgspec.structs.replace(launch, ready_fd=write_end)))
        fds = [told, write_end] if launch.ledger_fd is None else [told, write_end, launch.ledger_fd]
        process = _start([*(command or _command(launch.role)), str(told)], fds)
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise
        on_failure.pop_all()
    return Child(process, pidfd, read_end, loop, ready, ended)


def _start(arguments: list[str], fds: list[int]) -> subprocess.Popen[bytes]:
    # An interrupt between the start of Python and `become_child` would print a traceback. So the child is born with it
    # blocked, for the mask is inherited.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, pass_fds=fds)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _command(role: str) -> list[str]:
    # The role is there for whoever looks at a list of processes.
    # `-m` puts the current folder in front of sys.path, where a site's own secrets.py would hide Python's; `-P` does
    # not. But where we run right from a checkout, that folder is where we are found.
    here = Path(ifserver.__file__).resolve().parent.parent == Path.cwd()
    return [sys.executable, *([] if here else ["-P"]), "-m", "ifserver", "child", role]


def create_ledger(slots: int) -> tuple[Ledger, int]:
    """A new ledger, and the descriptor by which a child opens it, to be closed once the child was started.

    The memory has no name, so nothing can be left over: it is gone when the last process that holds it is.
    """
    fd = os.memfd_create("ifserver-ledger")
    try:
        os.ftruncate(fd, Ledger.size(slots))
        return Ledger(mmap.mmap(fd, Ledger.size(slots)), slots), fd
    except BaseException:
        os.close(fd)
        raise


# What a child calls.


def become_child(fd: int) -> Launch:
    """First of all in a child: read what it was started for, end with the parent, and leave Ctrl-C to it.

    Ctrl-C reaches every process of the terminal; the parent decides in which order they end.
    """
    launch = read_launch(fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    die_with_parent(launch.parent)
    return launch


def read_launch(fd: int) -> Launch:
    """What `spawn` wrote. Closes `fd`, and keeps the other descriptors from processes that the application starts."""
    with open(fd, "rb") as file:
        file.seek(0)  # the parent's position is shared
        launch = msgspec.msgpack.decode(file.read(), type=Launch)
    for inherited in (launch.ledger_fd, launch.ready_fd):
        if inherited is not None:
            os.set_inheritable(inherited, False)
    return launch


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, whose id is `parent`, ends; at once if it has ended already.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    if os.getppid() != parent:
        # It ended before the call, and the kernel watches somebody else.
        os._exit(1)


def open_ledger(fd: int, slots: int) -> Ledger:
    """The ledger that the parent made with `create_ledger`. Closes `fd`."""
    try:
        return Ledger(mmap.mmap(fd, Ledger.size(slots)), slots)
    finally:
        os.close(fd)


def report_ready(fd: int) -> None:
    """Tell the parent that this process is ready. Closes `fd`."""
    try:
        os.write(fd, b".")
    finally:
        os.close(fd)
