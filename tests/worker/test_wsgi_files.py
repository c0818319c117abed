"""Files that a WSGI application answers with: offered to the server, sent by the loop, or read by the thread."""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ifserver.errors import ApplicationError
from ifserver.flow_control import PIECE_BYTES
from ifserver.messages import STOPPED, Disconnect, FileDeclined, FileTaken, Release, ResponseFile
from ifserver.worker.wsgi_call import FileWrapper
from ifserver.worker.wsgi_stream import ThreadedStream
from tests.fresh_loop import run
from tests.worker.stage import SLOT, STREAM, WORKER, FakeHost, http_request, turns
from tests.worker.test_wsgi import Call, until

SIZE = 3 * PIECE_BYTES + 5
CONTENT = os.urandom(SIZE)
TEXT = ("Content-Type", "text/plain")
REQUEST = http_request(files=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    return path


class Site:
    """An application that answers with a file, and what has become of it."""

    def __init__(self, opened: Callable[[], Any], *headers: tuple[str, str], status: str = "200 OK") -> None:
        self._opened = opened
        self._status = status
        self._headers = [TEXT, *headers]
        self.file: Any = None

    def __call__(self, environ: Any, start_response: Any) -> Any:
        start_response(self._status, self._headers)
        self.file = self._opened()
        return environ["wsgi.file_wrapper"](self.file, 8192)

    @property
    def is_closed(self) -> bool:
        """Whether the file was opened, and is closed again."""
        return self.file is not None and bool(self.file.closed)


def play(site: Any, answer: Any = None, request: Any = REQUEST, file_header: bytes | None = None) -> Call:
    """The call of an application, to whose offer of a file the server gives this answer."""

    async def main() -> Call:
        call = Call(site, request)
        call.stream.consumed(2**40)
        if answer is not None:
            await until(lambda: call.host.sent)
            assert call.stream.arrived(answer) is None
        await call.ended()
        await turns()
        return call

    before = set(os.listdir("/proc/self/fd"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeHost, "file_header", file_header)
        call = run(main)
    assert set(os.listdir("/proc/self/fd")) == before
    return call


def offer(file: Path, *headers: tuple[bytes, bytes], offset: int = 0, count: int = SIZE) -> ResponseFile:
    found = os.stat(file)
    path = os.fsencode(os.path.realpath(file))
    return ResponseFile(
        STREAM, 0, WORKER, 0, 200, list(headers), path, offset, count,
        found.st_dev, found.st_ino, SIZE, found.st_mtime_ns,
    )  # fmt: skip


SENT = (b"content-type", b"text/plain")
LENGTH = (b"content-length", b"%d" % SIZE)


def test_a_file_is_offered_and_taken(file: Path) -> None:
    site = Site(lambda: file.open("rb"))
    call = play(site, FileTaken(STREAM, 0, 0))
    assert call.host.sent == [offer(file, SENT, LENGTH)]
    assert call.host.slots_cleared == [SLOT]
    assert site.is_closed


@pytest.mark.parametrize("taken", [True, False])
def test_from_where_it_stands_and_as_much_as_was_told(taken: bool, file: Path) -> None:
    def opened() -> Any:
        opened = file.open("rb")
        opened.seek(7)
        return opened

    headers = [("Content-Length", "100000"), ("Content-Range", f"bytes 7-100006/{SIZE}")]
    site = Site(opened, *headers, status="206 Partial Content")
    call = play(site, FileTaken(STREAM, 0, 0) if taken else FileDeclined(STREAM, 0, 0))
    sent = [SENT, *((name.lower().encode(), value.encode()) for name, value in headers)]
    assert call.host.sent.pop(0) == replace(offer(file, *sent, offset=7, count=100_000), status=206)
    if not taken:
        assert call.answer() == (206, sent, CONTENT[7:100_007])


def test_one_that_is_declined_is_sent_by_the_worker(file: Path) -> None:
    site = Site(lambda: file.open("rb"), ("Content-Length", str(SIZE)))
    call = play(site, FileDeclined(STREAM, 0, 0))
    offered, *rest = call.host.sent
    assert offered == offer(file, SENT, LENGTH)
    call.host.sent = rest
    assert call.answer() == (200, [SENT, LENGTH], CONTENT)
    assert rest[0].seq == 1
    assert site.is_closed


@pytest.mark.parametrize("why", ["server", "small", "compressed"])
def test_others_are_not_offered(file: Path, why: str) -> None:
    content, request = CONTENT, REQUEST
    opened: Callable[[], Any] = lambda: file.open("rb")  # noqa: E731
    if why == "server":
        request = http_request()
    elif why == "small":
        content = CONTENT[:PIECE_BYTES]
        file.write_bytes(content)
    else:
        file.write_bytes(gzip.compress(CONTENT))
        opened = lambda: gzip.open(file)  # noqa: E731, SIM115
    site = Site(opened)
    # What the server does not send, the worker's loop reads, and it has a length; the others the thread reads.
    assert play(site, None, request).answer() == (200, [SENT, LENGTH] if why == "server" else [SENT], content)
    assert site.is_closed


def test_to_head_there_is_the_length_and_nobody_reads(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FileWrapper, "__iter__")
    site = Site(lambda: file.open("rb"))
    call = play(site, request=http_request(method="HEAD"))
    assert call.answer() == (200, [SENT, LENGTH], b"")
    assert site.is_closed


def test_what_follows_a_part_of_the_body_is_read_by_the_thread(file: Path) -> None:
    def site(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [TEXT])(b"first")
        return environ["wsgi.file_wrapper"](file.open("rb"))

    assert play(site).answer() == (200, [SENT], b"first" + CONTENT)


def test_one_that_is_shorter_than_its_length_is_500(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(lambda: file.open("rb"), ("Content-Length", str(SIZE + 1)))
    assert play(site).answer()[0] == 500
    assert site.is_closed
    assert "wsgi.file_wrapper: the file is shorter than its Content-Length by 1 bytes" in caplog.text


def test_one_that_becomes_shorter_is_broken_off(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> list[Any]:
        call = Call(Site(lambda: file.open("rb")), REQUEST)
        await until(lambda: call.host.sent)
        os.truncate(file, SIZE - 1)
        call.stream.consumed(2**40)
        call.stream.arrived(FileDeclined(STREAM, 0, 0))
        await call.ended()
        return call.host.sent

    assert isinstance(run(main)[-1], Release)
    assert "the file was truncated while being sent" in caplog.text


@pytest.mark.parametrize("taken", [True, False])
def test_what_close_raises_is_logged(taken: bool, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(lambda: file.open("rb"))

    def failing(environ: Any, start_response: Any) -> Any:
        wrapper = site(environ, start_response)

        def close() -> None:
            site.file.close()
            raise ZeroDivisionError

        wrapper.close = close
        return wrapper

    call = play(failing, FileTaken(STREAM, 0, 0) if taken else FileDeclined(STREAM, 0, 0))
    assert call.host.sent.pop(0) == offer(file, SENT, LENGTH)
    if not taken:
        assert call.answer() == (200, [SENT, LENGTH], CONTENT)
    assert "ZeroDivisionError" in caplog.text


def test_a_client_that_leaves_before_the_file_is_offered(file: Path) -> None:
    site = Site(lambda: file.open("rb"))

    async def main() -> list[Any]:
        call = Call(site, REQUEST)
        while not call.stream._returned:
            pass  # the loop has no turn before the thread is done
        call.stream.look()
        call.say(None)
        await call.ended()
        return call.host.sent

    before = set(os.listdir("/proc/self/fd"))
    assert run(main) == []
    assert set(os.listdir("/proc/self/fd")) == before
    assert site.is_closed


@pytest.mark.parametrize("in_close", [True, False])
def test_a_worker_that_stops_waits_for_neither_server_nor_thread(in_close: bool, file: Path) -> None:
    goes_on = threading.Event()
    site = Site(lambda: file.open("rb"))

    def slow(environ: Any, start_response: Any) -> Any:
        wrapper = site(environ, start_response)

        def close() -> None:
            goes_on.wait(60)
            site.file.close()

        wrapper.close = close if in_close else site.file.close
        return wrapper

    async def main() -> list[Any]:
        call = Call(slow, REQUEST)
        await until(lambda: call.host.sent)
        call.stream.cancel()
        await call.ended()
        goes_on.set()
        await until(lambda: site.is_closed and call.stream._returned)
        await turns()
        assert call.host.has_ended == 1
        return call.host.sent

    before = set(os.listdir("/proc/self/fd"))
    offered, released = run(main)
    assert (offered, released.reason) == (offer(file, SENT, LENGTH), STOPPED)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_handed_over_when_nobody_waits_any_more_is_closed(file: Path) -> None:
    site = Site(lambda: file.open("rb"))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.MonkeyPatch.context() as patch:
            ended = threading.Event()
            check = ThreadedStream.check_client

            def check_and_lose(stream: ThreadedStream) -> None:
                check(stream)
                loop.call_soon_threadsafe(stream.cancel)
                loop.call_soon_threadsafe(ended.set)
                assert ended.wait(60)

            patch.setattr(ThreadedStream, "check_client", check_and_lose)
            call = Call(site, REQUEST)
            await until(lambda: site.is_closed and call.stream._returned)
            await turns()
            assert call.stream._file is None

    before = set(os.listdir("/proc/self/fd"))
    run(main)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_client_that_leaves_meanwhile_ends_it(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(lambda: file.open("rb"))
    call = play(site, Disconnect(STREAM, 0, 0, 0, ""))
    assert call.host.sent == [offer(file, SENT, LENGTH)]
    assert site.is_closed
    assert not caplog.records


# A header that names a file.


def naming(path: Path | str, lazily: bool) -> Any:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [TEXT, ("X-Sendfile", str(path)), ("Content-Length", "7")])
        yield b"igno"
        yield b"red"

    def at_once(environ: Any, start_response: Any) -> list[bytes]:
        return list(application(environ, start_response))

    return application if lazily else at_once


@pytest.mark.parametrize("lazily", [False, True])
def test_a_header_names_the_file(file: Path, lazily: bool) -> None:
    call = play(naming(file, lazily), FileTaken(STREAM, 0, 0), file_header=b"x-sendfile")
    assert call.host.sent == [offer(file, SENT, LENGTH)]


def test_one_that_is_named_and_declined_is_sent_by_the_worker(file: Path) -> None:
    call = play(naming(file, True), FileDeclined(STREAM, 0, 0), file_header=b"x-sendfile")
    call.host.sent.pop(0)
    assert call.answer() == (200, [SENT, LENGTH], CONTENT)


def test_to_head_there_is_its_length(file: Path) -> None:
    head = http_request(files=True, method="HEAD")
    call = play(naming(file, False), request=head, file_header=b"x-sendfile")
    assert call.answer() == (200, [SENT, LENGTH], b"")


def test_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    call = play(naming(tmp_path / "empty", False), file_header=b"x-sendfile")
    assert call.answer() == (200, [SENT, (b"content-length", b"0")], b"")


def test_one_that_is_not_there_is_500(caplog: pytest.LogCaptureFixture) -> None:
    call = play(naming("/no/such/file", True), file_header=b"x-sendfile")
    assert call.answer()[0] == 500
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ApplicationError)
    assert "x-sendfile: cannot send the file b'/no/such/file': No such file" in str(record.exc_info[1])


def test_a_header_with_a_range_is_that_part_of_the_file(file: Path) -> None:
    def site(environ: Any, start_response: Any) -> Any:
        fields = [("Content-Range", f"bytes 900-949/{SIZE}"), ("Content-Length", "50"), ("X-Sendfile", str(file))]
        start_response("206 Partial Content", [TEXT, *fields])
        return [b""]

    sent = [SENT, (b"content-range", b"bytes 900-949/%d" % SIZE), (b"content-length", b"50")]
    assert play(site, file_header=b"x-sendfile").answer() == (206, sent, CONTENT[900:950])
