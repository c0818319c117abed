"""Files that the server opens for its clients: the right ones, and none outside of the roots, whatever happens."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from ifserver.errors import ConfigurationError
from ifserver.front import files as f
from ifserver.front.files import Disk, File, Files, read_cached
from ifserver.messages import ResponseFile
from ifserver.metrics import Counters
from ifserver.state_machines.effects import FileOpened, FileRefused
from tests.net.test_endpoints import MIB

#: A race is tried so often.
ROUNDS = 3000


class Place:
    """A root, what is outside of it, and the `Files` of the root. The test is the loop that hears of threads."""

    def __init__(self, folder: Path) -> None:
        self.root, self.outside = folder / "root", folder / "outside"
        self.root.mkdir()
        self.outside.mkdir()
        self.due: SimpleQueue[Any] = SimpleQueue()
        self.counters = Counters()
        self.disk = Disk(lambda *call: self.due.put(call))
        self.files = self.made([str(self.root)])

    def made(self, roots: list[str], workers_here: bool = False) -> Files:
        return Files(roots, workers_here, self.disk, self.counters)

    def open(
        self, path: Path | str | bytes, as_file: Path | None = None, files: Files | None = None, **fields: Any
    ) -> Any:
        """What comes of a worker's wish: the bytes of the file, or None if it is refused.

        Args:
            as_file: what the worker has opened; None: what is at `path`.
        """
        said: list[FileOpened | FileRefused] = []
        found = os.stat(path if as_file is None else as_file)
        named = {
            "offset": 0, "count": found.st_size, "device": found.st_dev, "inode": found.st_ino,
            "size": found.st_size, "modified_ns": found.st_mtime_ns, **fields,
        }  # fmt: skip
        message = ResponseFile("p.1", 0, "!n.w", 0, 200, [], os.fsencode(path), **named)
        (files or self.files).open(message, said.append)
        while not said:
            call, *arguments = self.due.get(timeout=120)
            call(*arguments)
        (event,) = said
        assert event.message is message
        if isinstance(event, FileRefused):
            return None
        assert isinstance(event.file, File)
        assert not os.get_inheritable(event.file.fd)
        try:
            return os.pread(event.file.fd, MIB, 0)
        finally:
            event.file.close()
            event.file.close()


@pytest.fixture(params=["openat2", "walk"])
def place(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """With a kernel that has openat2, and with one that has not."""
    if request.param == "walk":

        def missing(folder: int, path: bytes, resolve: int) -> int:
            raise OSError(errno.ENOSYS, "there is none")

        monkeypatch.setattr(f, "_openat2", missing)
    place = Place(tmp_path)
    yield place
    assert place.files.statistics() == {"files_open": 0}
    place.files.stop()
    assert not place.files.enabled


def test_a_file_below_the_root(place: Place) -> None:
    (place.root / "a" / "b").mkdir(parents=True)
    file = place.root / "a" / "b" / "c"
    file.write_bytes(b"content")
    assert place.open(file) == b"content"
    assert place.open(f"{place.root}//a/./b//c") == b"content"
    assert place.counters.statistics() == {"files_sent": 2}


@pytest.mark.parametrize(
    "changed", [{"inode": 1}, {"size": 8, "count": 8}, {"modified_ns": 1}, {"offset": 1}, {"count": 8}, {"offset": -1}]
)
def test_another_one_than_the_worker_has_or_less_of_it_is_refused(place: Place, changed: dict[str, int]) -> None:
    file = place.root / "a"
    file.write_bytes(b"content")
    assert place.open(file, **changed) is None
    assert place.counters.statistics() == {"files_declined": 1}


def test_the_device_counts_where_the_workers_run_here(place: Place) -> None:
    file = place.root / "a"
    file.write_bytes(b"content")
    assert place.open(file, device=1) == b"content"
    here = place.made([], workers_here=True)
    assert here.enabled
    assert place.open(file, files=here) == b"content"
    assert place.open(file, files=here, device=1) is None
    (place.outside / "x").write_bytes(b"else")
    assert place.open(place.outside / "x", files=here) == b"else"
    # Unless there are roots.
    here.change([str(place.root)])
    assert place.open(place.outside / "x", files=here) is None


def test_what_is_outside_is_refused_however_it_is_named(place: Place) -> None:
    secret = place.outside / "secret"
    secret.write_bytes(b"secret")
    beside = place.root.with_name("root2")
    beside.mkdir()
    (beside / "x").write_bytes(b"secret")
    (place.root / "d").mkdir()
    (place.root / "link").symlink_to(secret)
    (place.root / "folder").symlink_to(place.outside)
    (place.root / "d" / "up").symlink_to("../../outside")
    for path in (
        secret,
        beside / "x",
        f"{place.root}/../outside/secret",
        f"{place.root}/d/../../outside/secret",
        f"{place.root}/link",
        f"{place.root}/folder/secret",
        f"{place.root}/d/up/secret",
    ):
        assert place.open(path) is None, path
    assert place.open(f"{place.root}/{secret}", secret) is None
    assert place.open(b"\0" + os.fsencode(secret), secret) is None
    assert place.open(b"", secret) is None
    assert place.open(os.fsencode(place.root), secret) is None


def test_magic_links_are_refused(place: Place) -> None:
    secret = place.outside / "secret"
    secret.write_bytes(b"secret")
    files = place.made(["/proc"])
    fd = os.open(secret, os.O_RDONLY)
    assert place.open(f"/proc/self/fd/{fd}", files=files) is None
    assert place.open(f"/proc/{os.getpid()}/fd/{fd}", files=files) is None
    os.close(fd)


def test_what_is_no_file_is_refused_and_nobody_waits_for_it(place: Place) -> None:
    (place.root / "folder").mkdir()
    os.mkfifo(place.root / "fifo")
    assert place.open(place.root / "folder") is None
    assert place.open(place.root / "fifo") is None
    assert place.open("/dev/null", files=place.made(["/dev"])) is None


def test_what_cannot_be_read_or_is_not_there_is_refused(place: Place) -> None:
    file = place.root / "a"
    file.write_bytes(b"content")
    found = os.stat(file)
    file.unlink()
    named = {"device": found.st_dev, "inode": found.st_ino, "size": 7, "count": 7, "modified_ns": found.st_mtime_ns}
    assert place.open(file, place.root, **named) is None
    assert place.open(place.root / "no" / "such" / "folder", place.root) is None
    if os.geteuid():
        file.write_bytes(b"content")
        file.chmod(0)
        assert place.open(file) is None


def race(swap: Callable[[], None], attack: Callable[[], Any]) -> list[Any]:
    """The results of `attack`, done again and again while `swap` is."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            swap()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        return [attack() for _ in range(ROUNDS)]
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_race_with_symbolic_links_leads_nowhere(place: Place, kind: str) -> None:
    """Somebody exchanges what is named for a link to the outside and back, all the time."""
    secret = place.outside / "x"
    secret.write_bytes(b"secret!")
    (place.root / "d").mkdir()
    good = place.root / "d" / "x"
    good.write_bytes(b"content")
    named = good if kind == "file" else good.parent
    link, kept = place.root / "link", place.root / "kept"
    link.symlink_to(secret if kind == "file" else place.outside)

    def swap() -> None:
        os.rename(named, kept)
        os.rename(link, named)
        os.rename(named, link)
        os.rename(kept, named)

    # The attacker tells of the secret what there is to tell, so that nothing but the path protects it.
    assert set(race(swap, lambda: place.open(good, secret))) == {None}
    inside = os.stat(good)
    named_so = {"inode": inside.st_ino, "size": 7, "count": 7, "modified_ns": inside.st_mtime_ns}
    assert set(race(swap, lambda: place.open(good, secret, **named_so))) <= {None, b"content"}


def test_a_race_with_a_folder_that_leaves_the_root(place: Place) -> None:
    secret = place.outside / "x"
    secret.write_bytes(b"secret!")
    inner = place.root / "d" / "e"
    inner.mkdir(parents=True)

    def swap() -> None:
        os.rename(inner, place.outside / "e")
        os.rename(place.outside / "e", inner)

    path = f"{place.root}/d/e/../x"
    assert set(race(swap, lambda: place.open(path, secret))) == {None}


def test_roots_are_found_without_links_and_anew_when_they_change(place: Place, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(place.root)
    (place.root / "a").write_bytes(b"old")
    (place.outside / "a").write_bytes(b"new")
    files = place.made([str(link)])
    # A worker tells the path without links.
    assert place.open(place.root / "a", files=files) == b"old"
    link.unlink()
    link.symlink_to(place.outside)
    assert place.open(place.outside / "a", files=files) is None
    files.change([str(link)])
    assert place.open(place.outside / "a", files=files) == b"new"
    assert place.open(place.root / "a", files=files) is None


@pytest.mark.parametrize("name", ["nothing", "file", "\0"])
def test_a_root_that_is_no_folder_is_an_error_that_names_it(place: Place, name: str) -> None:
    (place.root / "file").write_bytes(b"")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigurationError, match=r"front\.file_roots: "):
        place.files.change([str(place.outside), str(place.root / name)])
    assert set(os.listdir("/proc/self/fd")) == before
    (place.root / "a").write_bytes(b"content")
    assert place.open(place.root / "a") == b"content"


def test_one_file_too_many_is_left_to_the_worker(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f, "MAX_FILES", 1)
    file = place.root / "a"
    file.write_bytes(b"content")
    held = File(place.files, os.open(file, os.O_RDONLY))
    place.files._open += 1
    assert place.open(file) is None
    held.close()
    assert place.open(file) == b"content"


def test_nobody_is_told_when_the_server_has_ended(place: Place) -> None:
    (place.root / "a").write_bytes(b"x")
    done = threading.Event()
    place.disk.do(lambda: done.wait(120) and os.open(place.root / "a", os.O_RDONLY), pytest.fail)  # type: ignore[arg-type]
    place.disk.stop()
    before = len(os.listdir("/proc/self/fd"))
    done.set()
    call, *arguments = place.due.get(timeout=120)
    call(*arguments)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_what_is_cached_is_read_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * MIB)
    with file.open("rb") as opened:
        fd = opened.fileno()
        os.pread(fd, MIB, 0)
        # Where the file system cannot tell, nothing is.
        assert read_cached(fd, 5, 7) in (b"x" * 5, None)
        assert read_cached(fd, 5, MIB) in (b"", None)
    with pytest.raises(OSError, match="Bad file"):
        read_cached(fd, 1, 0)


def test_where_no_thread_can_be_started_the_file_is_declined(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def uncached(folder: int, path: bytes, resolve: int) -> int:
        if resolve:
            raise OSError(errno.EAGAIN, "not cached")
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)

    def fails(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    file = place.root / "a"
    file.write_bytes(b"content")
    before = set(os.listdir("/proc/self/fd"))
    if place.files._has_openat2:
        monkeypatch.setattr(f, "_openat2", uncached)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        for _ in range(10):
            assert place.open(file) is None
        with pytest.raises(OSError, match="can't start"):
            place.disk.do(int, pytest.fail)
    assert set(os.listdir("/proc/self/fd")) == before
    # When there is room again, all is as before.
    assert place.open(file) == b"content"


def test_while_all_threads_hang_files_that_are_not_cached_are_declined(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = place.root / "a"
    file.write_bytes(b"content")
    named = f"{place.root}/a"
    now = [1000.0]
    place.disk._seconds = lambda: now[0]
    network = threading.Semaphore(0)

    def uncached(folder: int, path: bytes, resolve: int) -> int:
        raise OSError(errno.EAGAIN if resolve else errno.ENOENT, "not cached")

    monkeypatch.setattr(f, "_openat2", uncached)
    for _ in range(f._THREADS):
        place.disk.do(lambda: network.acquire(timeout=120), lambda result: None)
    # Not at once: a disk may have much to do.
    assert not place.disk.hangs
    now[0] += 1.1
    assert place.disk.hangs
    assert place.open(named) is None  # or it would wait for ever
    network.release()
    call, *arguments = place.due.get(timeout=120)
    call(*arguments)
    assert not place.disk.hangs
    network.release(f._THREADS)
    for _ in range(f._THREADS - 1):
        call, *arguments = place.due.get(timeout=120)
        call(*arguments)
    now[0] += 100.0
    assert not place.disk.hangs
