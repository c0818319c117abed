"""Files that the server sends by itself: which it may, and opening them so that no other can be slipped in.

A worker names a file without symbolic links in its path, and reports which one it has opened. The path is opened from a
root that an operator has given, and must not leave it: no ``..``, and no symbolic link, even if one is put there at the
last moment. The kernel sees to that (openat2(2), since Linux 5.6); where it cannot, each folder is opened from the one
before. What is open in the end must be what the worker had.

The loop of a server serves all clients, so it waits for no disk. A file that a worker has just opened is in the
kernel's caches, as a rule: that is tried first (RESOLVE_CACHED, since Linux 5.12), and takes microseconds. Only what is
not there is left to threads (`Disk`).
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

from ifserver.errors import ConfigurationError
from ifserver.messages import ResponseFile
from ifserver.metrics import Counters
from ifserver.state_machines.effects import FileOpened, FileRefused

__all__ = ["MAX_FILES", "Disk", "File", "Files", "read_cached"]

#: Files that are sent at a time, each with one more descriptor for its client; beyond, they are left to the workers.
MAX_FILES: Final = 1000
#: Threads that wait for disks. A few, as a disk does a few things at a time.
_THREADS: Final = 4
#: If none of them has finished anything for so long, in seconds, their disk may be lost, as those of networks are.
_HANGS_S: Final = 1.0

#: <linux/openat2.h>
_OPENAT2: Final = 437
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _CACHED = 0x02, 0x04, 0x08, 0x20
#: A FIFO must not make anybody wait, nor a terminal become ours.
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW
_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
#: The error of a kernel that does not know openat2, or a sandbox that does not allow it.
_NO_OPENAT2: Final = (errno.ENOSYS, errno.EPERM, errno.EINVAL)

_T = TypeVar("_T")
_Soon: TypeAlias = Callable[..., object]
_Report: TypeAlias = Callable[[FileOpened | FileRefused], object]

_log = logging.getLogger(__name__)
_syscall: Final = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _openat2(folder: int, path: bytes, resolve: int) -> int:
    how = _OpenHow(_FLAGS, 0, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS | resolve)
    fd: int = _syscall(_OPENAT2, folder, path, ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd


def _walk(folder: int, path: bytes) -> int:
    """The same where there is no openat2: one name after the other, none of which may be a symbolic link."""
    *folders, name = path.split(b"/")
    if b".." in (*folders, name):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    at = folder
    try:
        for each in folders:
            # Of a symbolic link, O_NOFOLLOW with O_PATH opens the link itself, which is no folder: ENOTDIR.
            inner = os.open(each or b".", _FOLDER | os.O_NOFOLLOW, dir_fd=at)
            if at != folder:
                os.close(at)
            at = inner
        return os.open(name, _FLAGS, dir_fd=at)
    finally:
        if at != folder:
            os.close(at)


class Disk:
    """Does what may have to wait for a disk, in threads that are started when they are needed.

    They are daemons: a network's disk that is lost must not keep the server from ending.

    Args:
        soon: runs a function on the loop, soon (``call_soon_threadsafe``).
        seconds: as `Clock.seconds`.
    """

    def __init__(self, soon: _Soon, seconds: Callable[[], float] = time.monotonic) -> None:
        self._soon = soon
        self._seconds = seconds
        # Bounded, since each file that is sent waits for one thing at a time.
        self._queue: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = SimpleQueue()
        self._threads = self._busy = 0
        #: When a thread was last free, or has become so.
        self._free_at = 0.0
        self._stopped = False

    @property
    def hangs(self) -> bool:
        """Whether all threads have been busy with the same for more than a second."""
        return self._busy >= _THREADS and self._seconds() - self._free_at > _HANGS_S

    def do(self, what: Callable[[], _T], then: Callable[[_T | OSError], None]) -> None:
        """Do `what` in a thread, and hand its result, or the `OSError` that it has raised, to `then` on the loop.

        Raises:
            OSError: there is no thread, and the system lets none be started.
        """
        if self._busy < _THREADS:
            self._free_at = self._seconds()
        if self._busy >= self._threads < _THREADS:
            try:
                threading.Thread(target=self._run, name=f"disk-{self._threads + 1}", daemon=True).start()
                self._threads += 1
            except RuntimeError as error:
                # Those that run will do it.
                if not self._threads:
                    raise OSError(errno.EAGAIN, str(error)) from error
        self._busy += 1
        self._queue.put((what, then))

    def stop(self) -> None:
        """End the threads. What is under way is done, and not reported."""
        self._stopped = True
        for _ in range(self._threads):
            self._queue.put(None)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            what, then = job
            try:
                result = what()
            except OSError as error:
                result = error
            try:
                self._soon(self._done, then, result)
            except RuntimeError:
                return  # the loop is closed

    def _done(self, then: Callable[[Any], None], result: Any) -> None:
        self._busy -= 1
        self._free_at = self._seconds()
        if self._stopped and type(result) is int:
            os.close(result)  # a file that nothing waits for any more
        elif not self._stopped:
            then(result)


def read_cached(fd: int, size: int, offset: int) -> bytes | None:
    """Up to `size` bytes of a file, as far as they are in the kernel's cache; None: the first are not, or may not be.

    Raises:
        OSError: it cannot be read.
    """
    buffer = bytearray(size)
    try:
        count = os.preadv(fd, (buffer,), offset, os.RWF_NOWAIT)
    except OSError as error:
        # Some file systems do not know: those of networks are among them, and tmpfs.
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise
    return bytes(memoryview(buffer)[:count])


class File:
    """A file that is open, and counted."""

    __slots__ = ("_files", "fd")

    def __init__(self, files: Files, fd: int) -> None:
        self._files = files
        self.fd = fd

    def close(self) -> None:
        """Close it, once."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._files.closed()


class Files:
    """Opens the files of responses below `roots`.

    Args:
        roots: folders below which files may be sent.
        workers_here: the workers run on this machine, and see all files that we see: without roots, any may be sent.
            Elsewhere none may, and workers may see the same file through another mount, so that the number of its
            device means nothing.

    Raises:
        ConfigurationError: a root is no folder that can be opened.
    """

    def __init__(self, roots: Sequence[str], workers_here: bool, disk: Disk, counters: Counters) -> None:
        self.disk = disk
        self._workers_here = workers_here
        self._counters = counters
        self._open = 0
        self._has_openat2 = True
        #: Whether any file may be sent from here.
        self.enabled = False
        self._folders: list[int] = []
        #: What the paths below a root begin with, and its descriptor.
        self._roots: list[tuple[bytes, int]] = []
        self.change(roots)

    def change(self, roots: Sequence[str]) -> None:
        """Send what is below these from now on. A root that has become another folder is found anew.

        Raises:
            ConfigurationError: one is no folder that can be opened; nothing has changed then.
        """
        found: list[tuple[bytes, int]] = []
        folders: list[int] = []
        for root in roots or (("/",) if self._workers_here else ()):
            try:
                folders.append(os.open(root, _FOLDER))
            except (OSError, ValueError) as error:
                for folder in folders:
                    os.close(folder)
                why = getattr(error, "strerror", None) or error
                raise ConfigurationError(f"front.file_roots: {root!r}: {why}") from error
            # As workers see it: without symbolic links.
            path = os.fsencode(os.path.realpath(root))
            found.append((path.rstrip(b"/") + b"/", folders[-1]))
        self._replace(folders, found)

    def _replace(self, folders: list[int], roots: list[tuple[bytes, int]]) -> None:
        before, self._folders, self._roots = self._folders, folders, roots
        self.enabled = bool(roots)
        for folder in before:
            os.close(folder)

    def stop(self) -> None:
        """Open no more."""
        self._replace([], [])
        self.disk.stop()

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
        return {"files_open": self._open}

    def closed(self) -> None:
        """A `File` is closed."""
        self._open -= 1

    def open(self, message: ResponseFile, report: _Report) -> None:
        """Open the file of `message`, and report what has come of it, at once or later."""
        path = message.path
        root = next((each for each in self._roots if path.startswith(each[0])), None)
        if root is None or self._open >= MAX_FILES or b"\0" in path:
            self._refuse(message, report)
            return
        prefix, folder = root
        below = path[len(prefix) :].lstrip(b"/")
        if self._has_openat2:
            try:
                self._look(message, report, _openat2(folder, below, _CACHED))
                return
            except OSError as error:
                if error.errno in _NO_OPENAT2:
                    self._has_openat2 = False
                elif error.errno != errno.EAGAIN:
                    self._refuse(message, report)
                    return
        if self.disk.hangs:
            # What waits now would wait for the others' disk. The worker has the file open.
            self._refuse(message, report)
            return
        has_openat2 = self._has_openat2
        # Of its own, since the roots may change meanwhile.
        folder = os.dup(folder)

        def open_slowly() -> int:
            try:
                return _openat2(folder, below, 0) if has_openat2 else _walk(folder, below)
            finally:
                os.close(folder)

        self._open += 1  # what is under way counts

        def opened(result: int | OSError) -> None:
            self._open -= 1
            if isinstance(result, OSError):
                self._refuse(message, report)
            else:
                self._look(message, report, result)

        try:
            self.disk.do(open_slowly, opened)
        except OSError as error:
            os.close(folder)
            opened(error)

    def _look(self, message: ResponseFile, report: _Report, fd: int) -> None:
        """Whether this is the file that the worker had."""
        found = os.fstat(fd)
        if (
            stat.S_ISREG(found.st_mode)
            and found.st_ino == message.inode
            and found.st_size == message.size
            and found.st_mtime_ns == message.modified_ns
            and (found.st_dev == message.device or not self._workers_here)
            and 0 <= message.offset <= message.offset + message.count <= found.st_size
        ):
            self._open += 1
            self._counters.add("files_sent")
            report(FileOpened(message, File(self, fd)))
        else:
            os.close(fd)
            self._refuse(message, report)

    def _refuse(self, message: ResponseFile, report: _Report) -> None:
        self._counters.add("files_declined")
        report(FileRefused(message))
