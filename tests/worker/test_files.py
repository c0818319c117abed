"""Files that an application answers with: offered to the server, or sent by the worker."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from django.core.files import File as DjangoFile
from django.core.files.base import ContentFile

from ifserver.errors import ApplicationError, ClientDisconnected
from ifserver.flow_control import PIECE_BYTES
from ifserver.messages import FileDeclined, FileTaken, Release, ResponseBody, ResponseFile, ResponseStart
from ifserver.worker.files import Source, source_of
from ifserver.worker.wsgi_bodies import EXTENT_BYTES, Overflow
from tests.fresh_loop import run
from tests.worker.stage import SLOT, STREAM, WORKER, Play, http_request, turns

SIZE = 3 * PIECE_BYTES + 5
CONTENT = os.urandom(SIZE)


def start(status: int = 200, **headers: str) -> dict[str, Any]:
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": fields}


def pathsend(path: Any) -> dict[str, Any]:
    return {"type": "http.response.pathsend", "path": path}


def play(act: Callable[[Play], Awaitable[None]], file_header: bytes | None = None, **request: Any) -> Play:
    """Run `act` with an exchange whose server sends files, unless `request` says otherwise."""

    async def main() -> Play:
        one = await Play.begin(http_request(**{"files": True, **request}))
        one.host.file_header = file_header  # type: ignore[misc]
        one.let_everything_through()
        before = set(os.listdir("/proc/self/fd"))
        await act(one)
        if not one.host.has_ended:
            await one.returns()
        # (A thread of an executor may have brought nothing that stays open.)
        assert set(os.listdir("/proc/self/fd")) == before
        return one

    return run(main)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    return path


def offer(file: Path, seq: int = 0, status: int = 200, headers: Any = (), offset: int = 0) -> ResponseFile:
    found = os.stat(file)
    path = os.fsencode(os.path.realpath(file))
    return ResponseFile(
        STREAM, 0, WORKER, seq, status, list(headers), path, offset, SIZE - offset,
        found.st_dev, found.st_ino, SIZE, found.st_mtime_ns,
    )  # fmt: skip


def whole(sent: list[Any], status: int = 200) -> tuple[dict[bytes, bytes], bytes]:
    """Headers and body of the response that these messages are."""
    first, *rest = sent
    assert isinstance(first, ResponseStart)
    assert first.status == status
    assert all(isinstance(each, ResponseBody) for each in rest)
    assert [each.more_body for each in sent] == [True] * len(rest) + [False]
    assert max(len(each.body) for each in sent) <= PIECE_BYTES
    return dict(first.headers), b"".join(each.body for each in sent)


async def offered(one: Play, event: dict[str, Any]) -> tuple[asyncio.Task[None], ResponseFile]:
    """Send an event by which a file is offered to the server; the send that waits, and the offer."""
    sending = asyncio.ensure_future(one.send(event))
    await turns()
    assert not sending.done()
    message = one.take_sent()[-1]
    assert isinstance(message, ResponseFile)
    return sending, message


def test_a_file_is_offered_and_taken(file: Path) -> None:
    async def act(one: Play) -> None:
        await one.send(start(content_length=str(SIZE), x_a="b"))
        sending, message = await offered(one, pathsend(str(file)))
        assert message == offer(file, headers=[(b"content-length", b"%d" % SIZE), (b"x-a", b"b")])
        assert one.host.begun == 0
        assert one.receive_message(FileTaken(STREAM, 0, 0)) is None
        await sending
        assert one.host.begun == 1
        assert one.host.slots_cleared == [SLOT]
        assert await one.receive() == {"type": "http.disconnect"}
        with pytest.raises(ApplicationError, match="complete"):
            await one.send({"type": "http.response.body"})
        assert one.take_sent() == []

    play(act)


def test_one_that_is_declined_is_sent_from_here(file: Path) -> None:
    async def act(one: Play) -> None:
        await one.send(start())
        sending, message = await offered(one, pathsend(file))
        # What the server has declined has cost one number, and nothing of the window.
        assert one.stream.link.credit.sent == 0
        assert one.receive_message(FileDeclined(STREAM, 0, 0)) is None
        await sending
        sent = one.take_sent()
        assert [each.seq for each in sent] == list(range(1, len(sent) + 1))
        assert whole(sent) == ({b"content-length": b"%d" % SIZE}, CONTENT)
        assert message.headers == [(b"content-length", b"%d" % SIZE)]

    play(act)


def test_a_server_that_sends_no_files_is_not_asked(file: Path) -> None:
    async def act(one: Play) -> None:
        await one.send(start(206))
        await one.send(pathsend(os.fsencode(file)))
        assert whole(one.sent, 206) == ({b"content-length": b"%d" % SIZE}, CONTENT)

    play(act, files=False)


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES])
def test_a_small_file_is_one_message(tmp_path: Path, size: int) -> None:
    path = tmp_path / "small"
    path.write_bytes(CONTENT[:size])

    async def act(one: Play) -> None:
        await one.send(start())
        await one.send(pathsend(str(path)))
        (message,) = one.sent
        assert whole([message]) == ({b"content-length": b"%d" % size}, CONTENT[:size])

    play(act)


def test_to_head_there_is_its_length_and_no_body(file: Path) -> None:
    async def act(one: Play) -> None:
        await one.send(start())
        await one.send(pathsend(str(file)))
        assert whole(one.sent) == ({b"content-length": b"%d" % SIZE}, b"")

    play(act, method="HEAD")


def test_a_304_has_neither(file: Path) -> None:
    async def act(one: Play) -> None:
        await one.send(start(304))
        await one.send(pathsend(str(file)))
        assert whole(one.sent, 304) == ({}, b"")

    play(act)


def test_of_a_file_that_has_grown_as_much_is_sent_as_was_told(file: Path) -> None:
    async def act(one: Play) -> None:
        await one.send(start(content_length=str(SIZE - 5)))
        sending, message = await offered(one, pathsend(str(file)))
        assert message.count == SIZE - 5
        one.receive_message(FileDeclined(STREAM, 0, 0))
        await sending
        assert whole(one.take_sent())[1] == CONTENT[:-5]

    play(act)


def test_one_that_is_too_short_is_500(file: Path) -> None:
    async def act(one: Play) -> None:
        await one.send(start(content_length=str(SIZE + 2)))
        with pytest.raises(ApplicationError, match="shorter than its Content-Length by 2 bytes"):
            await one.send(pathsend(str(file)))
        assert [each.status for each in one.sent] == [500]

    play(act)


def test_one_that_becomes_shorter_while_it_is_sent_cuts_the_response(file: Path) -> None:
    async def act(one: Play) -> None:
        await one.send(start())
        sending, _ = await offered(one, pathsend(str(file)))
        os.truncate(file, PIECE_BYTES + 1)
        one.receive_message(FileDeclined(STREAM, 0, 0))
        with pytest.raises(ApplicationError, match="was truncated while being sent"):
            await sending
        assert isinstance(one.take_sent()[-1], Release)

    play(act)


@pytest.mark.parametrize("what", ["nothing", "folder", "fifo", None, 3, "\0", "forbidden"])
def test_what_cannot_be_sent_is_told_and_answered_with_500(tmp_path: Path, what: Any) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "forbidden").write_bytes(b"x")
    (tmp_path / "forbidden").chmod(0)
    if what == "forbidden" and not os.geteuid():
        pytest.skip("root may read everything")
    path = tmp_path / what if isinstance(what, str) and what != "\0" else what

    async def act(one: Play) -> None:
        await one.send(start())
        with pytest.raises(ApplicationError, match=r"http.response.pathsend: cannot send"):
            await one.send(pathsend(path))
        assert one.sent == []
        await one.returns()
        assert [each.status for each in one.sent] == [500]

    play(act)


def test_behind_some_of_the_body_the_file_is_the_rest(file: Path) -> None:
    async def act(one: Play) -> None:
        await one.send(start())
        await one.send({"type": "http.response.body", "body": b"before", "more_body": True})
        await one.send(pathsend(str(file)))
        assert whole(one.sent) == ({}, b"before" + CONTENT)

    play(act)


def test_before_the_start_and_behind_the_end_it_is_refused(file: Path) -> None:
    async def act(one: Play) -> None:
        with pytest.raises(ApplicationError, match="no response has been started"):
            await one.send(pathsend(str(file)))
        await one.send(start())
        await one.send({"type": "http.response.body"})
        with pytest.raises(ApplicationError, match="the response is complete"):
            await one.send(pathsend(str(file)))

    play(act)


def test_a_client_that_leaves_meanwhile_ends_the_wait(file: Path) -> None:
    async def act(one: Play) -> None:
        await one.send(start())
        sending, _ = await offered(one, pathsend(str(file)))
        one.leave()
        with pytest.raises(ClientDisconnected):
            await sending
        assert one.take_sent() == []

    play(act)


def test_an_application_that_gives_up_meanwhile_lets_the_stream_go(file: Path) -> None:
    async def act(one: Play) -> None:
        await one.send(start())
        sending, _ = await offered(one, pathsend(str(file)))
        sending.cancel()
        await asyncio.wait([sending])
        with pytest.raises(ApplicationError, match="not expected now: a file is being sent"):
            await one.send({"type": "http.response.body"})
        await one.returns()
        assert [each.reason for each in one.take_sent()] == ["failed"]

    play(act)


def offer_of(source: Source | None) -> ResponseFile | None:
    assert source is not None
    try:
        return source.message(STREAM, 0, WORKER, 0, 200, [], source.count)
    finally:
        source.close()


def test_a_deleted_file_is_not_offered(file: Path) -> None:
    with file.open("rb") as opened:
        assert offer_of(source_of(opened)) == offer(file)
        file.unlink()
        assert offer_of(source_of(opened)) is None


def test_an_open_file_is_sent_from_where_it_stands(file: Path) -> None:
    with file.open("rb") as opened:
        opened.read(7)
        assert offer_of(source_of(opened)) == offer(file, offset=7)
        opened.seek(SIZE + 1)
        source = source_of(opened)
    assert source is not None
    assert source.count == 0
    source.close()


# What a `wsgi.file_wrapper` may hold.


def test_wrappers_that_read_a_file_as_it_is_are_that_file(file: Path) -> None:
    with file.open("rb") as opened, tempfile.NamedTemporaryFile() as temporary:
        temporary.write(CONTENT)
        temporary.seek(0)
        for each in (opened, DjangoFile(opened), temporary, DjangoFile(temporary), opened.raw):  # type: ignore[attr-defined]
            source = source_of(each)
            assert source is not None, each
            assert source.count == SIZE
            source.close()


def test_those_that_are_no_such_file_are_read_as_ever(file: Path) -> None:
    file.write_bytes(gzip.compress(CONTENT))
    with gzip.open(file) as compressed, file.open("rb") as opened, file.open(encoding="latin-1") as text:

        class Reversed:
            file = opened

            def read(self, size: int = -1) -> bytes:
                return opened.read(size)[::-1]

        reading, writing = os.pipe()
        with open(reading, "rb") as pipe, open(writing, "wb"):
            for each in (compressed, text, io.BytesIO(b"x"), ContentFile(b"x"), Reversed(), pipe, FileWrapper(opened)):
                assert source_of(each) is None, each
    assert source_of(opened) is None


# A header that names a file.


def test_a_header_names_the_file(file: Path) -> None:
    async def act(one: Play) -> None:
        await one.send(start(x_sendfile=str(file), content_length="7", content_type="text/x"))
        one.stream.send_head()  # as is done where a body is slow to come
        await one.send({"type": "http.response.body", "body": b"igno", "more_body": True})
        assert one.sent == []
        sending, message = await offered(one, {"type": "http.response.body", "body": b"red"})
        assert message == offer(file, headers=[(b"content-type", b"text/x"), (b"content-length", b"%d" % SIZE)])
        one.receive_message(FileTaken(STREAM, 0, 0))
        await sending

    play(act, b"x-sendfile")


def test_without_the_setting_it_is_a_header_like_any_other(file: Path) -> None:
    async def act(one: Play) -> None:
        await one.send(start(x_sendfile=str(file)))
        await one.send({"type": "http.response.body", "body": b"x"})
        assert whole(one.sent) == ({b"x-sendfile": os.fsencode(file)}, b"x")

    play(act)


@pytest.mark.parametrize(
    ("path", "why"), [("a/b", "expected an absolute path"), ("", "absolute"), ("/no/x", "No such")]
)
def test_a_header_with_a_bad_path_is_500(path: str, why: str) -> None:
    async def act(one: Play) -> None:
        await one.send(start(x_sendfile=path))
        with pytest.raises(ApplicationError, match=f"x-sendfile: .*{why}"):
            await one.send({"type": "http.response.body"})
        await one.returns()
        assert [each.status for each in one.sent] == [500]

    play(act, b"x-sendfile")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("size", [b"%d" % SIZE, b"*"])
def test_a_header_with_a_range_is_that_part_of_the_file(file: Path, method: str, size: bytes) -> None:
    content_range = f"bytes 9-100008/{size.decode()}"

    async def act(one: Play) -> None:
        await one.send(start(206, x_sendfile=str(file), content_range=content_range, content_length="100000"))
        end = {"type": "http.response.body"}
        fields = [(b"content-range", content_range.encode()), (b"content-length", b"100000")]
        if method == "HEAD":
            await one.send(end)
            assert whole(one.take_sent(), 206) == (dict(fields), b"")
            return
        sending, message = await offered(one, end)
        assert (message.status, message.headers, message.offset, message.count) == (206, fields, 9, 100_000)
        one.receive_message(FileDeclined(STREAM, 0, 0))
        await sending
        assert whole(one.take_sent(), 206) == (dict(fields), CONTENT[9:100_009])

    play(act, b"x-sendfile", method=method)


@pytest.mark.parametrize(
    "content_range",
    [
        f"bytes 0-{SIZE}/{SIZE}", f"bytes 5-4/{SIZE}", f"bytes 0-4/{SIZE + 1}", f"bytes {SIZE}-{SIZE}/*", "bytes */5",
        "bytes 0-/5", "lines 0-4/5", "bytes 0-4", "0-4/5", "bytes -1-4/*", f"bytes 0-{'9' * 5000}/*", "",
    ],
)  # fmt: skip
def test_a_range_that_is_none_of_the_file_is_the_whole_file(file: Path, content_range: str) -> None:
    async def act(one: Play) -> None:
        await one.send(start(206, x_sendfile=str(file), content_range=content_range, content_length="5"))
        await one.send({"type": "http.response.body"})
        assert whole(one.sent) == ({b"content-length": b"%d" % SIZE}, CONTENT)

    play(act, b"x-sendfile", files=False)


# What waits for a client in a temporary file.


def test_what_is_put_is_taken_in_its_order_and_its_place_is_used_again() -> None:
    extents = threading.Semaphore(1)
    overflow = Overflow(extents)
    for round in range(3):  # 9 MiB through 4 MiB
        parts = [bytes([round, i]) * (512 * 1024) for i in range(3)]
        for part in parts:
            overflow.put(part)
        assert overflow.due == 3 * 1024 * 1024
        taken = b"".join(overflow.take(min(overflow.due, 1_000_000)) for _ in range(4))
        assert (taken, overflow.due) == (b"".join(parts), 0)
    overflow.close()
    overflow.close()
    assert [extents.acquire(blocking=False) for _ in range(2)] == [True, False]


def test_there_is_no_more_room_than_for_all() -> None:
    extents = threading.Semaphore(1)
    one, other = Overflow(extents), Overflow(extents)
    one.put(b"x" * EXTENT_BYTES)
    for each in (one, other):
        with pytest.raises(OSError, match="responses for slow clients take all the room"):
            each.put(b"x")
    one.close()
    other.put(b"x")
    assert other.take(1) == b"x"
    other.close()
