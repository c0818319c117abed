"""Starts processes by forking one that has imported what they need.

A new Python that imports all of a worker takes a third of a second of CPU, and has 30 MB for itself. A forked one takes
milliseconds, and shares that memory. A process that has an event loop or threads cannot be forked safely, so this is
done by a process that has neither: the command forks a fork server before its loop exists, and that forks a child each
time its parent, the supervisor, asks for one. It has never imported the application, so each child reads the
application's code anew.

The children of a fork server end with it (`children.die_with_parent`), and it ends with its parent. It leaves all
signals to its children, which a service manager may send to every process of a service.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

import msgspec
import setproctitle

from ifserver.process import children
from ifserver.process.children import Child, Launch

__all__ = ["ForkServer", "become"]

#: A `Launch` is some kilobytes long; the kernel takes 200 in one piece.
_LAUNCH_BYTES: Final = 256 * 1024
#: Descriptors that come with a launch: the pipe for reports, the ledger, and the pipe for the status.
_MAX_FDS: Final = 8
#: The answer to a launch: the process id, or 0 and an error number. The pidfd comes with it.
_ANSWER: Final = struct.Struct("ii")
#: What a fork server that was started as a new process sends, once it can be asked.
_HELLO: Final = b"."
#: An exit code, or minus the number of a signal.
_STATUS: Final = struct.Struct("i")
#: How long the answer may take, in seconds. A fork takes milliseconds; a supervisor that waits for longer than its
#: beats live (3 s) would be taken for dead.
_PATIENCE_S: Final = 2.0
#: How long its end may take, in seconds. It has nothing to do.
_END_S: Final = 0.5
#: What a process manager, a terminal or a person may send to all processes of a service.
_SIGNALS: Final = frozenset(
    {signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
)

_Notified = Callable[[], None]

_log = logging.getLogger(__name__)


class ForkServer:
    """The fork server of this process, as its parent sees it. Used on the thread that has made it.

    Where it has ended, its children are started as new processes, and so is the next fork server.
    """

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self._socket = sock
        self._pid = pid
        sock.settimeout(_PATIENCE_S)
        #: Those of fork servers that do not answer, and have living children: they would end with them.
        self._given_up: list[socket.socket] = []
        #: Whether it has reported that it can be asked, and whether it is to be replaced.
        self._is_up = True
        self._is_lost = False

    @classmethod
    def fork(cls, not_for_it: Iterable[int] = ()) -> ForkServer | Launch:
        """Fork this process, which must have one thread and no loop, into a fork server.

        Returns more than once: here, and in each child of the fork server with its `Launch`.

        Args:
            not_for_it: descriptors that are closed in the fork server, so that its children do not have them.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        _share_memory()
        with _signals_blocked():
            pid = _fork()
        if pid:
            theirs.close()
            return cls(ours, pid)
        ours.close()
        for fd in not_for_it:
            with contextlib.suppress(OSError):
                os.close(fd)
        _become_child(parent)
        return serve(theirs)

    def spawn(self, launch: Launch, loop: asyncio.AbstractEventLoop, ready: _Notified, ended: _Notified) -> Child:
        """Start a child; as `ifserver.process.children.spawn`. Waits for the fork, which takes milliseconds.

        Raises:
            OSError: there are no processes, descriptors or memory left.
        """
        if self._can_be_asked():
            try:
                return self._fork_child(launch, loop, ready, ended)
            except (ConnectionError, TimeoutError) as error:
                why = error.strerror or "no answer"
                _log.error("the fork server has failed (%s): starting another; until then workers start slowly", why)
                self._is_lost = True
                if isinstance(error, TimeoutError):
                    self._given_up.append(self._socket)
                else:
                    self._socket.close()
        if self._is_lost:
            self._replace()
        return children.spawn(launch, loop, ready, ended)

    def close(self) -> None:
        """Let it end, and its children with it, and wait until it has, for half a second at most."""
        for sock in (self._socket, *self._given_up):
            sock.close()
        self._reap(_END_S)

    def _reap(self, patience_s: float) -> None:
        """Have the kernel forget the process: in many containers nobody else does that for orphans."""
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(self._pid)
            try:
                select.select([pidfd], [], [], patience_s)
            finally:
                os.close(pidfd)
            os.waitpid(self._pid, os.WNOHANG)

    def _can_be_asked(self) -> bool:
        if self._is_lost:
            return False
        if not self._is_up and select.select([self._socket], [], [], 0)[0]:
            self._is_up = self._socket.recv(1) == _HELLO
            if not self._is_up:
                self._is_lost = True
                self._socket.close()
        return self._is_up and not self._is_lost

    def _replace(self) -> None:
        """Start another as a new process: a process that has a loop cannot be forked."""
        self._reap(0.0)
        self._is_up = self._is_lost = False
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_PATIENCE_S)
        with theirs:
            command = [*children.command("fork-server"), str(theirs.fileno())]
            with _signals_blocked():
                self._pid = children.popen(command, [theirs.fileno()]).pid

    def _fork_child(self, launch: Launch, loop: asyncio.AbstractEventLoop, ready: _Notified, ended: _Notified) -> Child:
        with contextlib.ExitStack() as opened:
            on_failure = opened.enter_context(contextlib.ExitStack())

            def pipe() -> tuple[int, int]:
                read_end, write_end = os.pipe()
                opened.callback(os.close, write_end)
                on_failure.callback(os.close, read_end)
                return read_end, write_end

            (reports, reports_write), (status, status_write) = pipe(), pipe()
            _send(self._socket, launch, [reports_write, *launch.descriptors, status_write])
            data, fds, _, _ = socket.recv_fds(self._socket, _ANSWER.size, 1)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "it has ended")
            pid, error = _ANSWER.unpack(data)
            if error:
                raise OSError(error, os.strerror(error))
            if not fds:
                # The kernel leaves out what there is no descriptor for. Without it nobody could look after the child.
                os.kill(pid, signal.SIGKILL)
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            on_failure.pop_all()
        os.set_blocking(status, False)
        return Child(pid, fds[0], lambda: _status_of(status), reports, loop, ready, ended, status)


def _status_of(fd: int) -> int | None:
    """What the fork server reports of a child that has ended. If it has ended itself, so has the child."""
    try:
        data = os.read(fd, _STATUS.size)
    except BlockingIOError:
        return None
    if len(data) < _STATUS.size:
        return -signal.SIGKILL
    status: int = _STATUS.unpack(data)[0]
    return status


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Threads that libraries start by themselves in a new process (OpenTelemetry's SDK does) have no signals either.

    Otherwise one that every process of a service gets would end the fork server, and its children with it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _fork() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    return os.fork()


def _share_memory() -> None:
    """Before a fork: what lives now is never looked at again by the garbage collector, whose marks would make private
    what can be shared. The 300 KB of garbage that imports have left stay with it; to find them takes 30 ms."""
    gc.freeze()


def _send(sock: socket.socket, launch: Launch, fds: list[int]) -> None:
    socket.send_fds(sock, [msgspec.msgpack.encode(launch)], fds)


def _receive(sock: socket.socket) -> tuple[Launch, list[int]] | None:
    """The next launch with its descriptors; None when the parent has closed its end."""
    try:
        data, fds, _, _ = socket.recv_fds(sock, _LAUNCH_BYTES, _MAX_FDS)
    except ConnectionResetError:
        return None  # closed without having read our last answer
    return (msgspec.msgpack.decode(data, type=Launch), list(fds)) if data else None


def _become_child(parent: int) -> None:
    """Belong to the process `parent`, and have nothing of the terminal's input (as `children.popen` does it). Ctrl-C
    waits until this process has its launch."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    children.die_with_parent(parent)


def _name(role: str) -> None:
    """Be listed (ps, top, pkill) as a new process would be (`children.command`)."""
    setproctitle.setproctitle(f"ifserver child {role}")


def _nobody_reads(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, 0)
    return bool(poll.poll(0))


def _received_launch(launch: Launch, fds: list[int], parent: int) -> Launch:
    """The launch with the numbers that its descriptors have here, in the process that it is for; `parent` has forked
    it."""
    reports, *rest = fds
    if _nobody_reads(reports):
        os._exit(0)  # who has asked for it has given up, and knows nothing of it
    _name(f"worker {launch.pool}".rstrip())
    ledger = rest[0] if rest else None
    launch = msgspec.structs.replace(launch, ready_fd=reports, ledger_fd=ledger, parent=parent)
    children.belong_to(parent)
    return launch


# The fork server itself.


class _Living(NamedTuple):
    """A child of the fork server."""

    pid: int
    #: The pipe by which its parent's parent learns how it has ended.
    status_fd: int


def become(fd: int) -> Launch:
    """Be a fork server that was started as a new process (`ForkServer`); returns in its children only."""
    sock = socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    children.die_with_parent(os.getppid())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS - {signal.SIGINT})  # `serve` blocks them
    try:
        sock.sendall(_HELLO)
    except ConnectionError:
        os._exit(0)  # the parent has ended meanwhile
    return serve(sock)


def serve(sock: socket.socket) -> Launch:
    """Fork a child for each launch that comes from `sock`; returns in the children only."""
    _name("fork-server")
    _share_memory()
    me = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    living: dict[int, _Living] = {}
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd in living:
                poll.unregister(fd)
                _bury(fd, living.pop(fd))
                continue
            received = _receive(sock)
            if received is None:
                os._exit(0)  # no process is left that would ask
            pidfd = _start(sock, *received, living)
            if pidfd is None:
                launch, (*fds, status_fd) = received
                sock.close()
                os.close(status_fd)
                for each, child in living.items():
                    os.close(each)
                    os.close(child.status_fd)
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                return _received_launch(launch, fds, me)
            if pidfd >= 0:
                poll.register(pidfd, select.POLLIN)


def _start(sock: socket.socket, launch: Launch, fds: list[int], living: dict[int, _Living]) -> int | None:
    """Fork; the pidfd of the child, or -1 if there is none. Returns None in the child."""
    pid = error = 0
    pidfd = -1
    try:
        pid = _fork()
        if not pid:
            return None
        pidfd = os.pidfd_open(pid)
    except OSError as failure:
        error = failure.errno or errno.EAGAIN
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    *descriptors, status_fd = fds
    for fd in descriptors:
        os.close(fd)
    try:
        if error:
            os.close(status_fd)
            sock.sendall(_ANSWER.pack(0, error))
            return -1
        living[pidfd] = _Living(pid, status_fd)
        socket.send_fds(sock, [_ANSWER.pack(pid, 0)], [pidfd])
    except ConnectionError:
        os._exit(0)  # the parent has ended
    return pidfd


def _bury(pidfd: int, child: _Living) -> None:
    """A child has ended: report how."""
    _, status = os.waitpid(child.pid, 0)
    os.close(pidfd)
    with contextlib.suppress(OSError):  # no process is left that would read it
        os.write(child.status_fd, _STATUS.pack(os.waitstatus_to_exitcode(status)))
    os.close(child.status_fd)
