"""Starting our own processes, and never leaving one behind.

A child gets its instructions through an anonymous file (``memfd``) or a socket: nothing of it is in its arguments, its
environment or on the disk, and passwords are among it. It reports through a pipe that its application is loaded, that
it is ready, or why it cannot be; and that it has ended, by its pidfd: there is no handler for SIGCHLD, and only
processes that were started here are waited for.

A child ends with its parent, however that ends: the kernel sends it SIGKILL (`die_with_parent`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

import ifserver
from ifserver.config.settings import LayerSettings, LogSettings, WorkerSettings
from ifserver.worker_ledger import Ledger

if TYPE_CHECKING:
    import asyncio
    import subprocess

#: <linux/prctl.h>
_PR_SET_PDEATHSIG: Final = 1

#: What a child reports through its pipe: its application is loaded, and of which kind it is; it shows an error in place
#: of the application, which follows, up to a zero byte; it is ready; it cannot be, for a reason that follows, up to the
#: end of the line.
_LOADED: Final = {b"a": "asgi", b"w": "wsgi"}
_BROKEN: Final = b"?"
_READY: Final = b"."
_FAILED: Final = b"!"
#: The longest report, which a pipe takes in one piece (PIPE_BUF).
_REPORT_BYTES: Final = 4096


_T = TypeVar("_T", bound="Instructions")


class Instructions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every process that is started here is to do."""

    #: The pipe for `report_ready`. `start` fills it in.
    ready_fd: int = -1

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What it inherits beside that pipe."""
        return ()


class Launch(Instructions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker is to do."""

    #: Process id of its parent.
    parent: int
    layer: LayerSettings
    worker: WorkerSettings
    #: The pool whose requests it takes; empty: there are none. And variables for its application.
    pool: str = ""
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    #: Process name of the supervisor that watches over it.
    supervisor: str = ""
    #: Whether no worker of this supervisor has loaded the application yet.
    first: bool = False
    #: The memory of a worker's ledger (`open_ledger`).
    ledger_fd: int | None = None
    log: LogSettings = LogSettings()

    @property
    def descriptors(self) -> tuple[int, ...]:
        return () if self.ledger_fd is None else (self.ledger_fd,)


class Child:
    """A process that was started here.

    Args:
        pidfd: by which it is signalled.
        poll: the status once it has ended (see `status`), waiting for it so that no zombie is left; None before that.
        reports_fd: the end of its pipe that is read here.
        ready: is called when it has reported that it is ready; at most once, and not after it has ended.
        ended: is called when it has ended and was waited for.
        ended_fd: becomes readable when it has ended; None: the pidfd does.
    """

    def __init__(
        self,
        pid: int,
        pidfd: int,
        poll: Callable[[], int | None],
        reports_fd: int,
        loop: asyncio.AbstractEventLoop,
        ready: Callable[[], None],
        ended: Callable[[], None],
        ended_fd: int | None = None,
    ) -> None:
        self.pid = pid
        #: Exit code, or minus the number of the signal that ended it; None while it lives.
        self.status: int | None = None
        #: Whether its application was loaded, and why it could not get ready; None: not reported.
        self.loaded = False
        #: Of which kind the application is, ``asgi`` or ``wsgi``, once it was loaded.
        self.interface = ""
        self.failure: str | None = None
        #: The error that it shows in place of its application; None: it runs the application.
        self.error: str | None = None
        self._report = b""
        self._poll = poll
        self._pidfd = pidfd
        self._ended_fd = pidfd if ended_fd is None else ended_fd
        self._reports_fd: int | None = reports_fd
        self._loop = loop
        self._ready = ready
        self._ended = ended
        os.set_blocking(reports_fd, False)
        loop.add_reader(self._ended_fd, self._exited)
        loop.add_reader(reports_fd, self._read_reports)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM). Does nothing once it has."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it (SIGKILL). Does nothing once it has."""
        self.signal(signal.SIGKILL)

    @property
    def ending(self) -> str:
        """How it has ended, for people: ``exit code 1`` or ``SIGKILL``."""
        return ending_of(self.status)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal. Does nothing once it has ended."""
        if self.status is None:
            # By the pidfd, which can never mean another process that was given the same id.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _read_reports(self) -> None:
        """Read what it reports; nothing follows the report that it is ready, or cannot be."""
        try:
            text = os.read(self._reports_fd, _REPORT_BYTES) if self._reports_fd is not None else b""
        except BlockingIOError:
            return
        text, is_over = self._report + text, not text
        if text[:1] in _LOADED:
            self.loaded, self.interface = True, _LOADED[text[:1]]
            text = text[1:]
        if text.startswith(_BROKEN) and b"\0" in text:
            error, _, text = text[1:].partition(b"\0")
            self.error = error.decode("utf-8", "replace")
        self._report = text
        if not is_over and (not text or text.startswith(_BROKEN)):
            return
        self._close_reports()
        if text.startswith(_FAILED):
            self.failure = text[1:].decode("utf-8", "replace").strip()
        elif text.startswith(_READY):
            self._ready()

    def _close_reports(self) -> None:
        fd, self._reports_fd = self._reports_fd, None
        if fd is not None:
            self._loop.remove_reader(fd)
            os.close(fd)

    def _exited(self) -> None:
        status = self._poll()
        if status is None:
            return
        self._loop.remove_reader(self._ended_fd)
        for fd in {self._pidfd, self._ended_fd}:
            os.close(fd)
        if self._reports_fd is not None:
            self._ready = _nothing
            self._read_reports()  # it may have reported why it ends
        self._close_reports()
        self.status = status
        # Both refer to what refers to this object.
        ended, self._ready, self._ended, self._poll = self._ended, _nothing, _nothing, _no_status
        ended()


def ending_of(status: int | None) -> str:
    """What a status means, for people."""
    if status is None:
        return "still running"
    if status >= 0:
        return f"exit code {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _no_status() -> int | None:
    return None


def _nothing() -> None:
    pass


def spawn(
    launch: Launch,
    loop: asyncio.AbstractEventLoop,
    ready: Callable[[], None],
    ended: Callable[[], None],
    instead: Sequence[str] | None = None,
) -> Child:
    """Start a process that does what `launch` asks for; `ready` and `ended` are called later, on `loop`.

    It shares standard output and error with this process, and has the same current folder and environment. `instead`
    is what to run instead of ourselves; the number of the descriptor for `become_child` is its last argument.

    Must be called on the main thread: a child ends with the *thread* that started it.

    Raises:
        OSError: there are no processes, descriptors or memory left.
    """
    words = instead or command("worker")
    return start(launch, lambda fd, fds: popen([*words, str(fd)], fds), loop, ready, ended)


def start(
    instructions: Instructions,
    opener: Callable[[int, list[int]], subprocess.Popen[bytes]],
    loop: asyncio.AbstractEventLoop,
    ready: Callable[[], None],
    ended: Callable[[], None],
) -> Child:
    """Start a process that reads `instructions` from a descriptor (`read`).

    Args:
        opener: starts it, given that descriptor and all that it inherits, that one among them.

    Raises:
        OSError: there are no processes, descriptors or memory left, or `opener` raises it.
    """
    with contextlib.ExitStack() as opened:
        read_end, write_end = os.pipe()
        opened.callback(os.close, write_end)
        on_failure = opened.enter_context(contextlib.ExitStack())
        on_failure.callback(os.close, read_end)
        file = os.memfd_create("ifserver-launch")
        opened.callback(os.close, file)
        # MessagePack and not JSON, which has no infinity, and a timeout may be infinite.
        os.write(file, msgspec.msgpack.encode(msgspec.structs.replace(instructions, ready_fd=write_end)))
        process = opener(file, [file, write_end, *instructions.descriptors])
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise
        on_failure.pop_all()
    return Child(process.pid, pidfd, process.poll, read_end, loop, ready, ended)


def popen(arguments: Sequence[str], fds: Sequence[int]) -> subprocess.Popen[bytes]:
    """A process that inherits `fds` and nothing of the terminal's input, born with Ctrl-C blocked.

    An interrupt between the start of Python and `belong_to` would print a traceback; the mask is inherited.
    """
    import subprocess

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, pass_fds=fds)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def command(role: str) -> list[str]:
    """What starts ourselves as a child; the number of its descriptor is still to be added."""
    # The role is for people who look at a list of processes.
    return [*program(), "child", role]


def program() -> list[str]:
    """What starts the command ``ifserver`` with this very Python; its arguments are still to be added."""
    # `-m` puts the current folder in front of sys.path, where a site's own secrets.py would hide Python's; `-P` does
    # not. But where we run right from a checkout, that folder is where we are found.
    here = Path(ifserver.__file__).resolve().parent.parent == Path.cwd()
    return [sys.executable, *([] if here else ["-P"]), "-m", "ifserver"]


def create_ledger(slots: int) -> tuple[Ledger, int]:
    """A new ledger, and the descriptor by which a child opens it, to be closed once the child was started.

    The memory has no name, so nothing can be left over: it is freed when the last process that holds it has ended.
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
    """First of all in a child: read what `spawn` started it for, and belong to its parent."""
    launch = read(fd, Launch)
    belong_to(launch.parent)
    return launch


def belong_to(parent: int) -> None:
    """End with the parent, whose process id that is, and leave Ctrl-C to it.

    Ctrl-C reaches every process of the terminal; the parent decides in which order they end.
    """
    # A handler that does nothing: programs that the application starts would inherit SIG_IGN, and then could not be
    # interrupted. A parent that has us started with SIG_IGN (a shell script with ``&``) wants just that.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _left_to_parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    die_with_parent(parent)


def _left_to_parent(number: int, frame: object) -> None:
    """A signal's handler."""


def read(fd: int, kind: type[_T]) -> _T:
    """What `start` wrote. Closes `fd`, and keeps the other descriptors from processes that the application starts."""
    with open(fd, "rb") as file:
        file.seek(0)  # the parent's position is shared
        instructions = msgspec.msgpack.decode(file.read(), type=kind)
    for inherited in (*instructions.descriptors, instructions.ready_fd):
        os.set_inheritable(inherited, False)
    return instructions


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, whose id is `parent`, ends; at once if it has ended already.

    Raises:
        OSError: the kernel refuses.
    """
    import ctypes

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


def report_loaded(fd: int, interface: str) -> None:
    """Report to the parent that the application is loaded, and whether it is run as ``asgi`` or ``wsgi``."""
    os.write(fd, next(report for report, kind in _LOADED.items() if kind == interface))


def report_broken(fd: int, error: str) -> None:
    """Report to the parent that this process shows `error`, which may have many lines, in place of its application."""
    with open(fd, "wb", closefd=False) as pipe:
        pipe.write(_BROKEN + error.encode("utf-8", "backslashreplace").replace(b"\0", b"") + b"\0")


def report_ready(fd: int) -> None:
    """Report to the parent that this process is ready. Closes `fd`."""
    try:
        os.write(fd, _READY)
    finally:
        os.close(fd)


def report_failure(fd: int, why: str) -> None:
    """Report to the parent in one line why this process cannot get ready. Closes `fd`."""
    line = " ".join(why.split()).encode()[: _REPORT_BYTES - 8]
    try:
        os.write(fd, _FAILED + line + b"\n")
    finally:
        os.close(fd)
