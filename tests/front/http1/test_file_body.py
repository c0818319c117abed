"""Responses whose bodies are files: over a transport that is written to, and past one, as the kernel does it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ifserver import messages as m
from ifserver.front.http1 import connection, file_body
from ifserver.front.http1.file_body import PART_BYTES
from tests.front.fakes import GET, FakeTransport, Job, World, of, split_response

KIB = 1024
MIB = 1024 * KIB
CONTENT = os.urandom(3 * PART_BYTES + 17)
HTTP10 = GET.replace(b"HTTP/1.1", b"HTTP/1.0")
HEAD = GET.replace(b"GET", b"HEAD", 1)
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\nabc"
#: One more, behind the first.
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


class Kernel:
    """The socket under each transport, for sendfile: the client takes as much at a time as the test says."""

    def __init__(self, site: Site, fake: FakeTransport) -> None:
        self.transport = fake
        #: What the socket has room for.
        self.room = site.room
        self._soon = site.world.soon
        self.failure: OSError | None = None
        self.call: Callable[[], None] | None = None
        self.closed = False

    def _take(self, data: bytes) -> int:
        assert not self.closed
        if self.failure is not None:
            raise self.failure
        taken = data[: self.room]
        if data and not taken:
            raise BlockingIOError(errno.EAGAIN, "full")
        self.room -= len(taken)
        self.transport._written += taken
        return len(taken)

    def send_head(self, data: bytes) -> int:
        return self._take(data)

    def send_file(self, fd: int, offset: int, count: int) -> int:
        return self._take(os.pread(fd, count, offset))

    def wait(self, call: Callable[[], None]) -> None:
        if self.call is None:
            self._soon(self._poll)
        self.call = call

    def _poll(self) -> None:
        if self.call is not None and self.room:
            self._soon(self._poll)
            self.call()

    def wait_not(self) -> None:
        self.call = None

    def close(self) -> None:
        self.closed = True
        self.call = None

    def takes(self, count: int) -> None:
        """There is room for so much now."""
        self.room = count
        self._soon(self._poll)


class Site:
    """A server that may send the files of a folder, and its client."""

    def __init__(self, folder: Path, kernel: bool = False, **settings: Any) -> None:
        self.file = folder / "a"
        self.file.write_bytes(CONTENT)
        self.world = World(file_roots=(str(folder),), write_timeout_s=60.0, **settings)
        self.kernels: list[Kernel] = []
        self.has_kernel = kernel
        #: For how much each kernel has room.
        self.room = 100 * 1024 * KIB

    def outlet(self, transport: Any) -> Kernel | None:
        if not self.has_kernel:
            return None
        self.kernels.append(Kernel(self, transport))
        return self.kernels[-1]

    def offer(self, job: Job, status: int = 200, offset: int = 0, count: int | None = None, **changes: Any) -> None:
        """The worker answers with the file."""
        found = os.stat(self.file)
        count = found.st_size - offset if count is None else count
        headers = [(b"content-length", b"%d" % count)]
        named = {"path": os.fsencode(self.file), "inode": found.st_ino, **changes}
        job.say(
            m.ResponseFile, status, headers, named["path"], offset, count,
            found.st_dev, named["inode"], found.st_size, found.st_mtime_ns,
        )  # fmt: skip
        self.world.settle()

    @property
    def open(self) -> int:
        return self.world.server.exchanges.files.statistics()["files_open"]

    def assert_over(self, *lines: tuple[int, int]) -> None:
        """Nothing is left, and the access log has these: status and bytes."""
        assert self.open == 0
        assert all(kernel.closed for kernel in self.kernels)
        assert [line[2:] for line in self.world.access.lines] == list(lines)


@pytest.fixture(params=[False, True], ids=["copied", "sendfile"])
def site(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(tmp_path, request.param)
    monkeypatch.setattr(file_body.Outlet, "of", site.outlet)
    # (tmpfs cannot tell, and then there are threads. Of those there are other tests.)
    monkeypatch.setattr(file_body, "read_cached", lambda fd, size, offset: os.pread(fd, size, offset))
    return site


def body_of(data: bytes) -> bytes:
    return split_response(data)[2]


def test_a_file_is_sent_and_the_connection_goes_on(site: Site) -> None:
    world = site.world
    client = world.client(GET, NEXT)
    job = world.worker.job()
    assert job.request.files
    site.offer(job)
    status, headers, body = split_response(client.received())
    assert (status, headers[b"content-length"], body == CONTENT) == (b"HTTP/1.1 200 OK", b"%d" % len(CONTENT), True)
    assert of(m.FileTaken, job.heard()) == [m.FileTaken(job.stream, 0, 0)]
    world.worker.job().respond(body=b"next")
    assert body_of(client.received()) == b"next"
    assert not client.lost
    site.assert_over((200, len(CONTENT)), (200, 4))
    assert world.server.exchanges.tally.http_bytes_out > len(CONTENT)
    client.leave()
    world.assert_empty()


def test_a_part_of_a_file(site: Site) -> None:
    client = site.world.client(GET)
    site.offer(site.world.worker.job(), 206, 5, 70 * KIB)
    assert body_of(client.received()) == CONTENT[5 : 5 + 70 * KIB]
    site.assert_over((206, 70 * KIB))


def test_one_that_is_declined_is_answered_by_the_worker(site: Site) -> None:
    client = site.world.client(GET)
    job = site.world.worker.job()
    site.offer(job, inode=1)
    assert of(m.FileDeclined, job.heard()) == [m.FileDeclined(job.stream, 0, 0)]
    assert client.received() == b""
    job.respond(body=b"else")
    assert body_of(client.received()) == b"else"
    site.assert_over((200, 4))


def test_the_connection_ends_with_it_where_the_client_keeps_none(site: Site) -> None:
    client = site.world.client(HTTP10)
    site.offer(site.world.worker.job())
    data = client.received()
    assert split_response(data)[1][b"connection"] == b"close"
    assert body_of(data) == CONTENT
    assert client.lost
    site.assert_over((200, len(CONTENT)))


def test_to_head_nothing_of_it_is_sent(site: Site) -> None:
    client = site.world.client(HEAD)
    site.offer(site.world.worker.job())
    assert client.received().endswith(b"\r\n\r\n")
    site.assert_over((200, 0))


def test_a_slow_client_gets_all_of_it_and_the_server_holds_little(site: Site) -> None:
    world = site.world
    client, got, most = world.client(), b"", PART_BYTES + KIB
    site.room = 10
    if not site.has_kernel:
        client.stop_taking()
    client.send(GET)
    site.offer(world.worker.job())
    assert site.open == 1
    while site.open:
        if site.has_kernel:
            site.kernels[0].takes(50 * KIB)
        else:
            client.take_again()
            client.stop_taking()
        # Every now and then somebody looks whether the client takes anything.
        world.advance(1.0)
        assert len(client._written) <= most
        got += client.received()
    client.take_again()
    got += client.received()
    assert body_of(got) == CONTENT
    assert not client.lost
    site.assert_over((200, len(CONTENT)))


def test_one_that_takes_nothing_is_cut(site: Site) -> None:
    world = site.world
    client = world.client(GET)
    job = world.worker.job()
    site.room = 100 * KIB
    if not site.has_kernel:
        client.stop_taking()
    site.offer(job)
    assert site.open == 1
    world.advance(1.0)
    world.advance(59.0)
    assert not client.lost
    world.advance(2.0)
    assert client.aborted
    sent = world.access.entries[0].sent_bytes
    assert sent <= 100 * KIB
    site.assert_over((200, sent))
    assert world.counters.value("connections_cut") == 1


@pytest.mark.parametrize("how", ["leaves", "half_close", "cut"])
def test_a_client_that_leaves_in_the_middle(site: Site, how: str) -> None:
    world = site.world
    client = world.client(GET)
    job = world.worker.job()
    site.room = 100 * KIB
    if not site.has_kernel:
        client.stop_taking()
    site.offer(job)
    assert site.open == 1
    if how == "leaves":
        client.leave()
    elif how == "half_close":
        # It may still take what it is sent: only `write_timeout` decides.
        client.half_close()
        world.advance(3.0)
        assert not client.lost
        client.leave()
    else:
        world.server.drain_now()
        world.settle()
        assert client.aborted
    assert of(m.Disconnect, job.heard()) == []  # the worker has done its part
    site.assert_over((200, world.access.entries[0].sent_bytes))
    world.assert_empty()


def test_a_file_that_becomes_shorter_cuts_the_connection(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    world = site.world
    client = world.client(GET)
    job = world.worker.job()
    opened = world.server.exchanges.files.open

    def open_and_truncate(message: Any, say: Any) -> None:
        def then(event: Any) -> None:
            os.truncate(site.file, 1000)
            say(event)

        opened(message, then)

    world.server.exchanges.files.open = open_and_truncate  # type: ignore[method-assign]
    site.offer(job)
    assert client.aborted
    assert body_of(client.received()) == CONTENT[:1000]
    assert (
        f"cutting the connection: the file {os.fsencode(site.file)!r} cannot be sent: it was truncated" in caplog.text
    )
    assert job.request.reply_channel in caplog.text
    site.assert_over((200, 1000))


def test_a_body_that_still_comes_is_thrown_away(site: Site) -> None:
    world = site.world
    client = world.client(POST)
    job = world.worker.job()
    job.claim()
    site.offer(job)
    assert body_of(client.received()) == CONTENT
    client.send(b"x" * (200_000 - 3))
    client.send(NEXT)
    world.settle()
    world.worker.job().respond(body=b"next")
    assert body_of(client.received()) == b"next"
    site.assert_over((200, len(CONTENT)), (200, 4))


def test_while_the_server_drains_the_file_is_sent_to_its_end(site: Site) -> None:
    world = site.world
    client = world.client(GET)
    job = world.worker.job()
    world.server.draining = True
    site.offer(job)
    data = client.received()
    assert split_response(data)[1][b"connection"] == b"close"
    assert body_of(data) == CONTENT
    assert client.lost


# What only one of the ways has.


@pytest.fixture
def by_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(tmp_path, True, body_timeout_s=5.0)
    monkeypatch.setattr(file_body.Outlet, "of", site.outlet)
    monkeypatch.setattr(file_body, "read_cached", lambda fd, size, offset: os.pread(fd, size, offset))
    return site


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPIPE, errno.EIO])
def test_errors_of_the_kernel(by_kernel: Site, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = by_kernel.world
    client = world.client(GET)

    def fails(self: Kernel, fd: int, offset: int, count: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Kernel, "send_file", fails)
    by_kernel.offer(world.worker.job())
    data = client.received()
    if number == errno.EINVAL:
        # Of this file system it cannot send: it is copied.
        assert body_of(data) == CONTENT
        by_kernel.assert_over((200, len(CONTENT)))
    else:
        assert client.aborted
        by_kernel.assert_over((200, 0))


@pytest.mark.parametrize("kernel", [False, True], ids=["copied", "sendfile"])
def test_what_is_not_cached_is_read_in_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool) -> None:
    site = Site(tmp_path, kernel)
    world = site.world
    monkeypatch.setattr(file_body.Outlet, "of", site.outlet)
    monkeypatch.setattr(file_body, "read_cached", lambda fd, size, offset: None)
    jobs: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
    monkeypatch.setattr(world.server.exchanges.files.disk, "do", lambda what, then: jobs.append((what, then)))
    client = world.client(GET)
    site.offer(world.worker.job())
    got = b""
    while jobs:
        what, then = jobs.pop()
        assert not jobs, "one thing at a time"
        then(what())
        world.settle()
        got += client.received()
    assert body_of(got) == CONTENT
    site.assert_over((200, len(CONTENT)))


@pytest.mark.parametrize("kernel", [False, True], ids=["copied", "sendfile"])
def test_what_a_thread_reads_for_a_client_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool
) -> None:
    site = Site(tmp_path, kernel)
    world = site.world
    monkeypatch.setattr(file_body.Outlet, "of", site.outlet)
    monkeypatch.setattr(file_body, "read_cached", lambda fd, size, offset: None)
    jobs: list[Any] = []
    monkeypatch.setattr(world.server.exchanges.files.disk, "do", lambda what, then: jobs.append((what, then)))
    client = world.client(GET)
    site.offer(world.worker.job())
    client.leave()
    ((what, then),) = jobs
    with pytest.raises(OSError, match="Bad file"):
        what()
    then(OSError(errno.EIO, "too late"))
    world.settle()
    site.assert_over((200, 0))


def test_a_disk_that_fails_cuts_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path)
    world = site.world
    monkeypatch.setattr(file_body, "read_cached", lambda fd, size, offset: None)
    monkeypatch.setattr(world.server.exchanges.files.disk, "do", lambda what, then: then(OSError(errno.EIO, "broken")))
    client = world.client(GET)
    site.offer(world.worker.job())
    assert client.aborted
    site.assert_over((200, 0))


@pytest.mark.parametrize("kernel", [False, True], ids=["copied", "sendfile"])
def test_a_disk_that_is_gone_keeps_no_client_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool
) -> None:
    site = Site(tmp_path, kernel)
    world = site.world
    monkeypatch.setattr(file_body.Outlet, "of", site.outlet)
    monkeypatch.setattr(file_body, "read_cached", lambda fd, size, offset: None)
    monkeypatch.setattr(world.server.exchanges.files.disk, "do", lambda what, then: None)
    client = world.client(GET)
    site.offer(world.worker.job())
    world.advance(1.0)
    world.advance(61.0)
    assert client.aborted
    site.assert_over((200, 0))


# The request's body, while it is sent.


def sends_and_uploads(site: Site, head: bytes, piece: bytes, times: int, pause_s: float) -> FakeTransport:
    """A client that goes on with its upload while it is sent a file, with a `body_timeout_s` of 5."""
    world = site.world
    client = world.client(head)
    job = world.worker.job()
    job.claim()
    site.room = 10 * KIB
    site.offer(job)
    for _ in range(times):
        world.advance(pause_s)
        assert not client.lost
        client.send(piece)
        site.kernels[0].takes(10 * KIB)
        world.settle()
    return client


def test_a_client_that_uploads_slowly_meanwhile_is_not_cut(by_kernel: Site) -> None:
    client = sends_and_uploads(by_kernel, POST, b"x" * 100, 13, 3.0)
    client.send(b"x" * (200_000 - 1303))
    by_kernel.kernels[0].takes(MIB)
    by_kernel.world.settle()
    assert body_of(client.received()) == CONTENT
    assert not client.lost
    by_kernel.assert_over((200, len(CONTENT)))


def test_what_is_uploaded_meanwhile_is_bounded(by_kernel: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DISCARD_BYTES", 250)
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    client = sends_and_uploads(by_kernel, chunked, b"64\r\n" + b"x" * 100 + b"\r\n", 2, 1.0)
    assert client.reading
    client.send(b"64\r\n" + b"x" * 100 + b"\r\n")
    assert not client.reading
    # It is we who do not read.
    for _ in range(8):
        by_kernel.world.advance(6.0)
        by_kernel.kernels[0].takes(10 * KIB)
        by_kernel.world.settle()
    assert not client.lost
    by_kernel.kernels[0].takes(MIB)
    by_kernel.world.settle()
    assert client.reading
    client.send(b"0\r\n\r\n")
    assert body_of(client.received()) == CONTENT
    assert not client.lost
    by_kernel.assert_over((200, len(CONTENT)))
