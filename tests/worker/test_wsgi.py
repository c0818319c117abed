"""WSGI applications (PEP 3333), checked by the validator of Python's own `wsgiref`."""

from __future__ import annotations

import asyncio
import io
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest
from msgspec.structs import replace

from ifserver.config.settings import WorkerSettings
from ifserver.errors import ApplicationError, ClientDisconnected
from ifserver.messages import Claim, Disconnect, Release, RequestBody, ResponseBody, ResponseStart, Window
from ifserver.worker.claims import CLAIM_GRACE_S as GRACE_S
from ifserver.worker.wsgi import Threads, WSGIAdapter, adapted, is_wsgi
from ifserver.worker.wsgi_call import as_get, environ_of
from ifserver.worker.wsgi_stream import ThreadedStream
from tests.fresh_loop import run as run_afresh
from tests.process.test_children import run
from tests.worker.stage import SERVER, SLOT, STREAM, FakeHost, http_request, turns, websocket_connect
from tests.worker.test_worker import Stage, get, kinds, played, problems

HEADERS = [("Content-Type", "text/plain")]
REQUEST = http_request(
    method="POST",
    scheme="https",
    path="/app/ä",
    raw_path=b"/app/%C3%A4",
    query_string=b"a=1",
    root_path="/app",
    headers=[(b"host", b"here"), (b"content-type", b"text/x"), (b"content-length", b"3"), (b"x-a", b"1")],
    client=("192.0.2.1", 4000),
    server=("here", 443),
)


async def until(look: Callable[[], Any]) -> None:
    """Let the loop turn until `look` finds what threads do in their own time."""
    end = time.monotonic() + 20
    while not look():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


class Errors(logging.Handler):
    """Keeps the exceptions that are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(record.exc_info[1])


class Call:
    """One request to an application."""

    def __init__(self, application: Any, request: Any = REQUEST, body: bytes = b"", more_body: bool = False) -> None:
        self.host = FakeHost(application if isinstance(application, WSGIAdapter) else WSGIAdapter(application, 2))
        request = replace(request, body=body, more_body=more_body)
        self.stream = ThreadedStream(self.host, request, SERVER, STREAM, SLOT)
        self._seq = 0
        self.stream.start()

    def say(self, body: bytes | None, more: bool = False) -> None:
        """The client sends more of the request's body, or leaves."""
        self._seq += 1
        message: Any = RequestBody(STREAM, 0, self._seq - 1, body or b"", more)
        if body is None:
            message = Disconnect(STREAM, 0, self._seq - 1, 0, "")
        self.stream.arrived(message)

    async def ended(self) -> None:
        await until(lambda: self.host.has_ended)

    def answer(self) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, headers and body of the response, which is complete."""
        start, *rest = messages = [message for message in self.host.sent if not isinstance(message, Window)]
        assert [message.more_body for message in messages] == [True] * len(rest) + [False]
        return start.status, start.headers, b"".join(message.body for message in messages)


def serve(application: Any, *bodies: bytes | None, request: Any = REQUEST) -> Call:
    """Let `application` answer a request that has these pieces of a body; None: its client leaves.

    Raises what the application is logged to have raised.
    """
    errors = Errors()
    log = logging.getLogger("ifserver.worker.stream")

    async def main() -> Call:
        first, *rest = bodies or (b"",)
        call = Call(application, request, first or b"", bool(rest))
        for i, piece in enumerate(rest):
            await turns()
            call.say(piece, more=i + 1 < len(rest))
        await call.ended()
        return call

    log.addHandler(errors)
    try:
        call = run(main)
    finally:
        log.removeHandler(errors)
    for error in errors.found:
        raise error
    return call


def answering(result: Callable[[], Iterable[bytes]], *headers: tuple[str, str]) -> Any:
    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [*HEADERS, *headers])
        return result()

    return application


SENT = [(b"content-type", b"text/plain")]


def request(**fields: Any) -> Any:
    return replace(REQUEST, **fields)


def test_the_environment() -> None:
    environ = environ_of(REQUEST)
    assert environ["REQUEST_METHOD"] == "POST"
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/app", "/ä".encode().decode("latin-1"))
    assert (environ["QUERY_STRING"], environ["RAW_URI"]) == ("a=1", "/app/%C3%A4")
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("here", "443")
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("192.0.2.1", "4000")
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"], environ["HTTP_X_A"]) == ("text/x", "3", "1")
    assert (environ["wsgi.url_scheme"], environ["wsgi.input_terminated"]) == ("https", True)


def test_a_path_is_its_bytes_also_where_they_are_no_utf8() -> None:
    environ = environ_of(request(path="/\ufffd/%", raw_path=b"/%FF/%25", root_path=""))
    assert environ["PATH_INFO"] == "/\xff/%"
    environ = environ_of(request(path="/ä/\ufffd", raw_path="/ä".encode() + b"/%fe", root_path="/ä"))
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/ä".encode().decode("latin-1"), "/\xfe")


@pytest.mark.parametrize(
    ("host", "scheme", "name", "port"),
    [
        ("example.com", "http", "example.com", "80"),
        ("example.com", "https", "example.com", "443"),
        ("example.com:8000", "http", "example.com", "8000"),
        ("[::1]", "http", "[::1]", "80"),
        ("[::1]:81", "http", "[::1]", "81"),
        (None, "http", "localhost", "80"),
    ],
)
def test_of_a_unix_socket_the_server_is_the_one_that_was_asked_for(
    host: str | None, scheme: str, name: str, port: str
) -> None:
    headers = [] if host is None else [(b"host", host.encode())]
    environ = environ_of(request(client=None, server=("/run/x.sock", None), scheme=scheme, headers=headers))
    assert (environ["REMOTE_ADDR"], "REMOTE_PORT" in environ) == ("", False)
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (name, port)


def test_fields_that_come_twice_are_joined() -> None:
    headers = [(b"x-a", b"1"), (b"x-a", b"2"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
    environ = environ_of(request(headers=headers))
    assert (environ["HTTP_X_A"], environ["HTTP_COOKIE"]) == ("1,2", "a=1; b=2")


def test_a_client_names_no_proxy_for_what_the_application_asks() -> None:
    """CVE-2016-5385 and others, "httpoxy"."""
    headers = [
        (b"proxy", b"http://evil"),
        (b"proxy", b"http://evil:2"),
        (b"x-proxy", b"1"),
        (b"proxy-connection", b"2"),
    ]
    environ = environ_of(request(headers=headers))
    assert "HTTP_PROXY" not in environ
    assert (environ["HTTP_X_PROXY"], environ["HTTP_PROXY_CONNECTION"]) == ("1", "2")


@pytest.mark.parametrize("asked", [REQUEST, request(client=None, server=("/run/x.sock", None))], ids=["tcp", "unix"])
def test_pythons_own_validator_has_nothing_to_object(asked: Any) -> None:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        assert environ["wsgi.input"].read(3) == b"abc"
        start_response("200 OK", HEADERS)
        return iter([b"one", b"two"])

    call = serve(validator(application), b"abc", request=replace(asked, path="/app/a"))
    assert call.answer() == (200, SENT, b"onetwo")


def test_a_list_is_one_message() -> None:
    call = serve(answering(lambda: [b"one", b"two"]))
    assert (len(call.host.sent), call.answer()) == (1, (200, SENT, b"onetwo"))
    call = serve(answering(list))
    assert (len(call.host.sent), call.answer()) == (1, (200, SENT, b""))


def test_a_body_whose_length_is_known_is_one_message_with_its_head() -> None:
    call = serve(answering(lambda: iter([b"one"]), ("Content-Length", "3")))
    assert (len(call.host.sent), call.answer()[2]) == (1, b"one")


class Gate:
    """Where the application waits until the test lets it go on."""

    def __init__(self) -> None:
        self._lock = threading.Semaphore(0)

    def open(self) -> None:
        self._lock.release()

    def wait(self) -> None:
        assert self._lock.acquire(timeout=120)


def test_pieces_are_sent_as_they_come_and_a_body_whose_length_is_known_ends_with_its_last_piece() -> None:
    gate = Gate()

    def pieces() -> Iterator[bytes]:
        yield b"one"
        gate.wait()
        yield b""
        yield b"two"
        gate.wait()

    async def main() -> None:
        call = Call(answering(pieces, ("Content-Length", "6")))
        await until(lambda: len(call.host.sent) == 1)
        assert (call.host.sent[0].body, call.host.sent[0].more_body) == (b"one", True)
        gate.open()
        await until(lambda: len(call.host.sent) == 2)
        assert call.answer()[2] == b"onetwo"
        assert not call.host.has_ended, "it holds its thread"
        gate.open()
        await call.ended()

    run(main)


def test_many_small_pieces_that_come_at_once_are_few_messages() -> None:
    async def main() -> None:
        call = Call(answering(lambda: iter([b"x" * 1000] * 100)))
        time.sleep(0.2)  # the loop is busy meanwhile
        await call.ended()
        assert call.answer()[2] == b"x" * 100_000
        assert len(call.host.sent) < 20

    run(main)


def test_write_is_still_there() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", HEADERS)(b"written")
        return []

    assert serve(application).answer() == (200, SENT, b"written")


@pytest.mark.parametrize("pieces", [[b"ab\ncd\n", b"ef"], [b"a", b"b\nc", b"d\nef"]], ids=str)
def test_the_pieces_of_a_body_are_one_file(pieces: list[bytes]) -> None:
    lines: list[bytes] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        lines.extend(environ["wsgi.input"])
        start_response("200 OK", HEADERS)
        return [b""]

    serve(application, *pieces)
    assert lines == [b"ab\n", b"cd\n", b"ef"]


def test_a_body_that_is_cut_off_is_not_shown_to_the_application() -> None:
    assert serve(None, b"ab", None).host.sent == []
    assert serve(None, b"ab", b"cd", None).host.sent == []


def test_a_long_body_goes_through_a_temporary_file() -> None:
    piece = b"0123456789" * 5_000

    def application(environ: Any, start_response: Any) -> list[bytes]:
        assert environ["wsgi.input"]._rolled
        start_response("200 OK", HEADERS)
        return [environ["wsgi.input"].read()]

    assert serve(application, *[piece] * 3, b"end").answer()[2] == piece * 3 + b"end"


@pytest.mark.parametrize("pieces", [[b"abc"], [b"", b"ab", b"c"], [b"x" * 100_000, b""], [b""]], ids=len)
def test_a_body_in_chunks_has_a_length_for_applications_that_read_no_more(pieces: list[bytes]) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", HEADERS)
        return [environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])), environ["wsgi.input"].read()]

    chunked = request(headers=[(b"transfer-encoding", b"chunked")])
    assert serve(application, *pieces, request=chunked).answer()[2] == b"".join(pieces)


def test_no_thread_is_used_before_all_of_the_body_is_there() -> None:
    assert serve(None, b"", b"", None).host.sent == []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", HEADERS)
        return [environ["wsgi.input"].read()]

    assert serve(application, b"", b"ab", b"c").answer()[2] == b"abc"
    assert serve(application, b"", b"").answer()[2] == b""


def echo(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", HEADERS)
    while piece := environ["wsgi.input"].read1(10_000):
        yield piece
    yield b"end"


def test_streams_go_both_ways_where_uploads_are_streamed() -> None:
    async def main() -> None:
        call = Call(WSGIAdapter(echo, 1, stream_uploads=True), body=b"one", more_body=True)
        await until(lambda: len(call.host.sent) == 1)
        for i, piece in enumerate((b"two", b"", b"three")):
            assert call.host.sent[-1].more_body
            call.say(piece, more=i < 2)
            await until(lambda piece=piece: not piece or any(piece in message.body for message in call.host.sent))
        await call.ended()
        assert call.answer() == (200, SENT, b"onetwothreeend")

    run(main)


def test_a_body_that_is_read_slowly_fills_its_window_alone() -> None:
    gate = Gate()

    def application(environ: Any, start_response: Any) -> list[bytes]:
        gate.wait()
        body = environ["wsgi.input"].read()
        start_response("200 OK", HEADERS)
        return [str(len(body)).encode(), environ["wsgi.input"].read()]

    async def main() -> None:
        call = Call(WSGIAdapter(application, 1, stream_uploads=True), more_body=True)
        for i in range(4):
            call.say(b"x" * 65_536, more=i < 3)
        await turns()
        assert call.host.sent == [], "nothing is consumed"
        gate.open()
        await call.ended()
        assert call.answer()[2] == b"262144"
        assert max(message.consumed for message in call.host.sent if isinstance(message, Window)) > 190_000

    run(main)


@pytest.mark.parametrize("how", ["leaves", "has its response"])
def test_who_reads_on_when_nothing_more_will_come_is_told(how: str) -> None:
    raised: list[BaseException] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [*HEADERS, ("Content-Length", "3")])
        if how != "leaves":
            write(b"one")
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            raised.append(error)
        return []

    async def main() -> None:
        call = Call(WSGIAdapter(application, 1, stream_uploads=True), body=b"half", more_body=True)
        await turns()
        if how == "leaves":
            call.say(None)
        await call.ended()
        assert [type(error) for error in raised] == [ClientDisconnected]

    run(main)


PIECES = [b"%03d" % i * 21_845 for i in range(100)]


def impatient(result: Callable[[], Iterable[bytes]], extents: int) -> WSGIAdapter:
    """An application whose threads wait for no client, as long as there is room in this many extents."""
    adapter = WSGIAdapter(answering(result), 2)
    adapter.patience_s = 0.0
    adapter.extents = threading.Semaphore(extents)
    return adapter


async def take_all(call: Call) -> None:
    """The client takes what there is."""
    while not call.host.has_ended:
        call.stream.consumed(call.stream.link.credit.sent)
        await asyncio.sleep(0.001)
    assert call.answer()[2] == b"".join(PIECES)


@pytest.mark.parametrize("is_one", [False, True], ids=["pieces", "one piece"])
def test_a_thread_is_free_while_its_client_takes_its_time(is_one: bool) -> None:
    async def main() -> None:
        adapter = impatient(lambda: [b"".join(PIECES)] if is_one else iter(PIECES), 2)
        call = Call(adapter)
        await until(lambda: call.host.begun)  # its slot is free
        assert not call.host.has_ended
        assert len(call.host.sent) <= 5, "the window is full"
        assert not adapter.extents.acquire(blocking=False), "6.5 MB are in 4 MiB, twice"
        await take_all(call)
        assert call.host.begun == 1
        assert [adapter.extents.acquire(blocking=False) for _ in range(3)] == [True, True, False]

    run(main)


@pytest.mark.parametrize("extents", [0, 1])
def test_a_thread_waits_where_files_have_no_room(extents: int, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        adapter = impatient(lambda: iter(PIECES), extents)
        call = Call(adapter)
        await until(lambda: problems(caplog))
        await turns()
        assert call.stream.output.made < 500_000 + extents * 4_200_000  # type: ignore[attr-defined]
        assert not call.host.begun
        await take_all(call)
        assert [adapter.extents.acquire(blocking=False) for _ in range(2)] == [extents == 1, False]

    run(main)
    [warning] = problems(caplog)
    assert "a thread waits for its client, which reads slowly: responses for slow clients take all" in warning


def test_a_thread_waits_where_there_are_no_files(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")

    async def main() -> None:
        call = Call(impatient(lambda: iter(PIECES), 9))
        await until(lambda: problems(caplog))
        await take_all(call)

    run(main)
    assert "No such file or directory" in problems(caplog)[0]


@pytest.mark.parametrize("how", ["client", "worker"])
def test_the_room_of_a_file_is_given_back_once_the_application_has_returned(how: str) -> None:
    gate = Gate()

    def pieces() -> Iterator[bytes]:
        yield from PIECES
        gate.wait()
        yield b"more"

    async def main() -> None:
        adapter = impatient(pieces, 2)
        call = Call(adapter)
        await until(lambda: call.stream.output.made == sum(map(len, PIECES)))  # type: ignore[attr-defined]
        if how == "client":
            call.say(None)
        else:
            call.stream.cancel()
        await turns()
        assert not adapter.extents.acquire(blocking=False), "the thread may write still"
        gate.open()
        await until(lambda: adapter.extents.acquire(blocking=False))
        await call.ended()

    run(main)


def test_a_thread_waits_for_a_client_before_it_uses_a_file() -> None:
    async def main() -> None:
        adapter = impatient(lambda: iter(PIECES), 2)
        adapter.patience_s = 3600.0
        call = Call(adapter)
        await until(lambda: call.stream.output.room)  # type: ignore[attr-defined]
        assert call.stream.output.made <= 8 * 65_536, "what is unsent is bounded"  # type: ignore[attr-defined]
        await take_all(call)
        assert call.stream.output.overflow is None  # type: ignore[attr-defined]

    run(main)


def test_a_client_that_leaves_wakes_the_thread() -> None:
    async def main() -> None:
        adapter = impatient(lambda: [b"".join(PIECES)], 2)
        adapter.patience_s = 3600.0
        call = Call(adapter)
        await until(lambda: call.stream.output.room)  # type: ignore[attr-defined]
        call.say(None)
        await call.ended()

    run(main)


def test_an_application_learns_from_its_next_piece_that_the_client_has_left() -> None:
    result = Closing([b"x" * 65_536] * 1000)

    async def main() -> None:
        call = Call(answering(lambda: result))
        await until(lambda: call.host.sent)
        call.say(None)
        await call.ended()
        assert result.closed == 1

    run(main)


class Closing:
    """A result that remembers that it was closed."""

    def __init__(self, pieces: Iterable[bytes | Exception] = (b"one", ValueError("a defect"))) -> None:
        self._pieces = pieces
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def close(self) -> None:
        self.closed += 1


class ClosingList(list[bytes]):
    """The same, which is also a list."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_result_is_closed_however_it_ends() -> None:
    result = Closing()
    with pytest.raises(ValueError, match="a defect"):
        serve(answering(lambda: result))
    assert result.closed == 1
    result = Closing([b"one"])
    assert serve(answering(lambda: result)).answer()[2] == b"one"
    assert result.closed == 1


def test_a_result_that_is_a_kind_of_list_is_closed_as_well() -> None:
    result = ClosingList([b"one", b"two"])
    assert serve(answering(lambda: result)).answer()[2] == b"onetwo"
    assert result.closed == 1


def test_what_a_generator_does_behind_its_last_piece_is_done() -> None:
    done: list[bool] = []

    def pieces() -> Iterator[bytes]:
        yield b"one"
        done.append(True)

    assert serve(answering(pieces, ("Content-Length", "3"))).answer()[2] == b"one"
    assert done


@pytest.mark.parametrize(
    "result",
    [[b"one", b"two"], iter([b"one", b"two"]), iter([b"on", b"e", b"two", b"three"])],
    ids=["list", "pieces", "more pieces"],
)
def test_of_a_body_that_is_longer_than_its_content_length_no_more_is_sent(
    result: Any, caplog: pytest.LogCaptureFixture
) -> None:
    call = serve(answering(lambda: result, ("Content-Length", "3")))
    assert call.answer() == (200, [*SENT, (b"content-length", b"3")], b"one")
    [warning] = problems(caplog)
    assert "the body is longer than its Content-Length" in warning


def test_one_that_is_longer_is_asked_for_nothing_more() -> None:
    result = Closing([b"one", b"two", ValueError("asked for")])
    assert serve(answering(lambda: result, ("Content-Length", "3"))).answer()[2] == b"one"
    assert result.closed == 1


def test_a_body_that_is_shorter_than_its_content_length_is_no_whole_response() -> None:
    with pytest.raises(ApplicationError, match="shorter than its Content-Length by 2 bytes"):
        serve(answering(lambda: iter([b"one"]), ("Content-Length", "5")))


@pytest.mark.parametrize("pieces", [[], [b"no", b"thing"]])
def test_a_head_request_has_an_answer_without_a_body(pieces: list[bytes]) -> None:
    for result in (list(pieces), iter(pieces)):
        call = serve(answering(lambda result=result: result, ("Content-Length", "7")), request=request(method="HEAD"))
        assert call.answer() == (200, [*SENT, (b"content-length", b"7")], b"")


def test_headers_of_the_connection_are_dropped() -> None:
    headers = [("Connection", "keep-alive"), ("Keep-Alive", "5"), ("transfer-encoding", "chunked"), ("UPGRADE", "x")]
    call = serve(answering(lambda: [b"one"], *headers, ("X-A", "1")))
    assert call.answer() == (200, [*SENT, (b"x-a", b"1")], b"one")


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_file_is_sent_in_large_pieces_and_closed(on_disk: bool, tmp_path: Path) -> None:
    content = b"0123456789" * 20_000
    (tmp_path / "file").write_bytes(content)
    opened: list[Any] = []
    reads: list[int] = []

    class File(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            reads.append(size or 0)
            return super().read(size)

    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [*HEADERS, ("Content-Length", str(len(content)))])
        opened.append((tmp_path / "file").open("rb") if on_disk else File(content))
        return environ["wsgi.file_wrapper"](opened[0], 4096)

    call = serve(application)
    assert call.answer()[2] == content
    assert opened[0].closed
    assert len(call.host.sent) <= 5 or not on_disk
    assert set(reads) <= {4096}, "what is no file on a disk may be slow"


@pytest.mark.parametrize("exists", [True, False])
def test_a_file_that_is_named_in_a_header_is_sent_in_place_of_the_body(exists: bool, tmp_path: Path) -> None:
    content = b"0123456789" * 50_000
    if exists:
        (tmp_path / "file").write_bytes(content)

    async def main() -> Call:
        headers = [("X-Sendfile", str(tmp_path / "file")), ("Content-Length", "7")]
        call = Call(answering(lambda: [b"nothing"], *headers))
        while not call.host.has_ended:
            call.stream.consumed(call.stream.link.credit.sent)
            await asyncio.sleep(0.001)
        return call

    FakeHost.file_header = b"x-sendfile"
    try:
        status, headers, body = run(main).answer()
    finally:
        FakeHost.file_header = None
    if exists:
        assert (status, headers, body) == (200, [*SENT, (b"content-length", b"500000")], content)
    else:
        assert (status, body) == (500, b"Internal Server Error")


def test_a_request_is_in_one_thread_from_its_start_to_its_end() -> None:
    threads: list[int] = []

    class Result(Closing):
        def __iter__(self) -> Iterator[bytes]:
            for _ in range(10):
                threads.append(threading.get_ident())
                yield b"x" * 65_536

        def close(self) -> None:
            threads.append(threading.get_ident())

    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        threads.append(threading.get_ident())
        start_response("200 OK", HEADERS)
        return Result()

    async def main() -> None:
        calls = [Call(application) for _ in range(2)]
        for call in calls:
            while not call.host.has_ended:
                call.stream.consumed(call.stream.link.credit.sent)
                await asyncio.sleep(0.001)

    run(main)
    assert len(threads) == 24
    assert len(set(threads)) == 2
    assert threading.get_ident() not in threads


def test_an_error_before_anything_was_sent_may_change_the_answer() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", HEADERS)
        try:
            raise ValueError("a defect")
        except ValueError as error:
            start_response("500 Oh no", HEADERS, (ValueError, error, error.__traceback__))
        return [b"sorry"]

    assert serve(application).answer() == (500, SENT, b"sorry")


def test_and_is_raised_when_something_was() -> None:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", HEADERS)
        yield b"one"
        error = ValueError("a defect")
        start_response("500 Oh no", HEADERS, (ValueError, error, None))

    with pytest.raises(ValueError, match="a defect"):
        serve(application)


@pytest.mark.parametrize(
    ("application", "message"),
    [
        (lambda environ, start: [b"x"], "before start_response"),
        (lambda environ, start: [start("200 OK", []), start("200 OK", [])], "a second time"),
        (lambda environ, start: start("OK", []), "three digits, got 'OK'"),
        (lambda environ, start: start("2000 OK", []), "three digits, got '2000 OK'"),
        (lambda environ, start: start("101 Switching Protocols", []), "status must be an int from 200 to 599, got 101"),
        (lambda environ, start: start("200 OK", [("X-A", "1\r\nX-B: 2")]), "holds the control 0x0d"),
        (lambda environ, start: start("200 OK", []) and ["text"], "its body must be bytes, got str"),
    ],
)
def test_what_breaks_the_specification_is_told(application: Any, message: str) -> None:
    with pytest.raises(ApplicationError, match=message):
        serve(application)


def test_the_lifespan_is_acted_and_an_open_websocket_finds_nobody() -> None:
    def acted(kind: str, *events: dict[str, Any]) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []
        waiting = list(events)

        async def receive() -> dict[str, Any]:
            return waiting.pop(0)

        async def send(event: dict[str, Any]) -> None:
            sent.append(event)

        run(lambda: WSGIAdapter(lambda environ, start_response: [], 2)({"type": kind}, receive, send))
        return sent

    assert acted("websocket", {"type": "websocket.connect"}) == [{"type": "websocket.close"}]
    sent = acted("lifespan", {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    assert [event["type"] for event in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_websocket_handshake_is_a_get_request() -> None:
    headers = [(b"host", b"here"), (b"upgrade", b"websocket"), (b"connection", b"upgrade")]
    environ = environ_of(as_get(websocket_connect(scheme="wss", headers=headers, query_string=b"a=1")))
    assert (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]) == ("GET", "/chat", "a=1")
    assert (environ["wsgi.url_scheme"], environ["HTTP_UPGRADE"]) == ("https", "websocket")


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


class AsgiInstance:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class WsgiInstance:
    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        return []


def returns_a_coroutine(*arguments: Any) -> Any: ...


@pytest.mark.parametrize(
    ("application", "expected"),
    [(asgi, False), (AsgiInstance(), False), (WsgiInstance(), True), (returns_a_coroutine, False), (map, False)],
)
def test_which_it_is_shows_in_its_parameters(application: Any, expected: bool) -> None:
    assert is_wsgi(application) is expected
    settings, found = adapted(WorkerSettings(application="a:b", threads=3), application)
    assert isinstance(found, WSGIAdapter) is expected
    assert settings.concurrency == (3 if expected else 100), "no more than there are threads"


def test_uploads_are_streamed_where_the_settings_say_so() -> None:
    for streams in (True, False):
        settings = WorkerSettings(application="a:b", stream_uploads=streams)
        adapter = adapted(settings, WsgiInstance())[1]
        assert isinstance(adapter, WSGIAdapter)
        assert adapter.stream_uploads is streams


def test_the_setting_decides_where_it_does_not() -> None:
    settings = WorkerSettings(application="a:b", interface="wsgi")
    assert isinstance(adapted(settings, returns_a_coroutine)[1], WSGIAdapter)
    settings = WorkerSettings(application="a:b", interface="asgi")
    application = WsgiInstance()
    assert adapted(settings, application) == (settings, application)


def test_many_at_a_time_use_as_many_threads_as_there_are() -> None:
    together = threading.Barrier(2)

    def application(environ: Any, start_response: Any) -> list[bytes]:
        together.wait(120)
        start_response("200 OK", HEADERS)
        return [b""]

    async def main() -> None:
        adapter = WSGIAdapter(application, 2)
        calls = [Call(adapter) for _ in range(10)]
        for call in calls:
            await call.ended()

    run(main)


# A thread is a slot, in a worker.


class Waiters:
    """A WSGI application whose requests to ``/wait`` hold their threads, in the middle of the response, until `go`."""

    def __init__(self) -> None:
        self.adapter = WSGIAdapter(self._serve, 2)
        self.begun: list[str] = []
        self._gate = threading.Semaphore(0)

    def go(self) -> None:
        self._gate.release()

    def _serve(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        self.begun.append(environ["PATH_INFO"])
        start_response("200 OK", HEADERS)
        if environ["PATH_INFO"] == "/wait":
            yield b"begun"
            assert self._gate.acquire(timeout=120)
        yield environ["wsgi.input"].read()

    def played(self, act: Callable[[Stage], Any]) -> None:
        played(act, application=self.adapter, concurrency=2, pull_batch=1)


async def heard(stage: Stage, count: int) -> list[Any]:
    """The next messages, which are that many, but for claims."""
    messages: list[Any] = []

    def look() -> bool:
        messages.extend(message for message in stage.heard() if not isinstance(message, Claim | Window))
        return len(messages) >= count

    await until(look)
    return messages


def test_a_thread_that_sends_a_response_which_has_begun_holds_its_slot() -> None:
    threads = Waiters()

    async def act(stage: Stage) -> None:
        stage.ask(*(get("/wait", name) for name in "12"), *(get("/", name) for name in "34"))
        assert kinds(await heard(stage, 2)) == [ResponseStart] * 2
        await turns()
        assert threads.begun == ["/wait"] * 2
        assert stage.worker.statistics() == {"streams": 2, "unanswered": 2, "ledger": 2, "free": 0, "reads": 0}
        threads.go()
        # The end of the one, and all of the other two, by the thread that is free now.
        assert {type(message) for message in await heard(stage, 3)} == {ResponseStart, ResponseBody}
        await until(lambda: stage.worker.free() == 1)
        assert threads.begun == ["/wait"] * 2 + ["/"] * 2
        threads.go()

    threads.played(act)


def test_what_close_raises_does_not_cut_a_response_that_is_whole() -> None:
    class Result:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"x" * 1_000_000])

        def close(self) -> None:
            raise ZeroDivisionError

    errors = Errors()
    log = logging.getLogger("ifserver.worker.stream")

    async def main() -> Call:
        call = Call(answering(Result, ("Content-Length", str(1_000_000))))
        await until(lambda: call.stream._returned)
        assert not call.host.has_ended, "most of it waits for the client"
        while not call.host.has_ended:
            call.stream.consumed(call.stream.link.credit.sent)
            await turns()
        return call

    log.addHandler(errors)
    try:
        status, _, body = run(main).answer()
    finally:
        log.removeHandler(errors)
    assert (status, body) == (200, b"x" * 1_000_000)
    assert [type(error) for error in errors.found] == [ZeroDivisionError]


def test_a_client_that_leaves_does_not_free_the_thread() -> None:
    threads = Waiters()

    async def act(stage: Stage) -> None:
        stage.ask(get("/wait", "1"), get("/wait", "2"))
        await heard(stage, 2)
        stage.tell(Disconnect("0123456789.1", 0, 0, 0, ""))
        await turns()
        assert stage.worker.free() == 0
        threads.go()
        threads.go()
        await until(lambda: stage.worker.free() == 2)

    threads.played(act)


def test_an_upload_holds_no_thread_before_all_of_it_has_come_and_then_one_to_the_end() -> None:
    threads = Waiters()

    async def act(stage: Stage) -> None:
        stage.ask(*(get("/upload", str(number), more_body=True) for number in range(5)))
        await turns(40)
        assert stage.worker.statistics()["streams"] == 5
        assert (threads.begun, stage.worker.free()) == ([], 2)
        stage.tell(RequestBody("0123456789.0", 0, 0, b"a", True))
        await turns(40)
        assert (threads.begun, stage.worker.free()) == ([], 2)
        stage.tell(RequestBody("0123456789.0", 0, 1, b"b", False))
        (start, *_) = await heard(stage, 1)
        assert (type(start), start.body) == (ResponseStart, b"ab")
        await until(lambda: stage.worker.free() == 2)
        for number in range(1, 5):
            stage.tell(Disconnect(f"0123456789.{number}", 0, 0, 0, ""))
            await turns()
        assert threads.begun == ["/upload"]

    threads.played(act)


def test_a_request_is_claimed_only_if_its_thread_does_not_answer_soon() -> None:
    gate = Gate()

    def application(environ: Any, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/wait":
            gate.wait()
        start_response("200 OK", HEADERS)
        return [b"one"]

    async def act(stage: Stage) -> None:
        stage.ask(get("/", "1"), get("/wait", "2"))
        assert kinds(await heard(stage, 1)) == [ResponseStart]
        await turns()
        assert stage.count("claims") == 0
        await stage.advance(2 * GRACE_S)
        assert kinds(stage.heard()) == [Claim]
        gate.open()
        assert kinds(await heard(stage, 1)) == [ResponseStart]
        await until(lambda: stage.worker.free() == 2)
        stage.ask(get("/upload", "3", more_body=True))
        await turns(40)
        assert kinds(stage.heard()) == [Claim], "whose body is to come at once"
        stage.tell(Disconnect("0123456789.3", 0, 0, 0, ""))
        await turns()

    played(act, application=WSGIAdapter(application, 2), concurrency=2)


def test_a_websocket_handshake_reaches_the_application_and_its_answer_the_client() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("426 Upgrade Required", [("Upgrade", "h2c"), ("X-A", "1")])
        return [environ["REQUEST_METHOD"].encode(), environ["PATH_INFO"].encode()]

    async def act(stage: Stage) -> None:
        stage.connect()
        [start] = await heard(stage, 1)
        assert (start.status, start.headers, start.body) == (426, [(b"x-a", b"1")], b"GET/chat")
        await until(lambda: stage.worker.free() == 2)

    played(act, application=WSGIAdapter(application, 2), concurrency=2)


def test_a_thread_that_does_not_end_is_left_behind() -> None:
    gate = Gate()
    raised: list[BaseException] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", HEADERS)
        gate.wait()
        try:
            write(b"one")
        except OSError as error:
            raised.append(error)
        return []

    async def act(stage: Stage) -> None:
        stage.ask(get("/", "1"))
        await until(lambda: stage.worker.free() == 1)
        await stage.stop(drain_timeout_s=0.1)
        [*_, release] = stage.heard()
        assert (type(release), release.reason) == (Release, "stopped")
        gate.open()
        await until(lambda: raised)

    played(act, application=WSGIAdapter(application, 2), concurrency=2)


@pytest.mark.parametrize("more", [False, True])
def test_where_no_thread_can_be_started_it_is_500(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, more: bool
) -> None:
    def fails(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fails)
    call = serve(lambda environ, start_response: [], *([b"ab", b"c"] if more else [b"abc"]))
    assert call.answer()[0] == 500
    assert "answering 500: no thread can be started: can't start new thread" in caplog.text


class Work:
    """A job that tells its thread, and may wait for others."""

    def __init__(self, threads: Threads, loop: asyncio.AbstractEventLoop, barrier: threading.Barrier | None) -> None:
        self._threads, self._loop, self._barrier = threads, loop, barrier
        self.thread: threading.Thread | None = None
        self.seen: asyncio.Future[None] = loop.create_future()

    def work(self) -> None:
        if self._barrier is not None:
            self._barrier.wait(120)
        self.thread = threading.current_thread()
        self._threads.notify(self, self._loop)

    def look(self) -> None:
        if not self.seen.done():
            self.seen.set_result(None)


async def done(threads: Threads, count: int, barrier: threading.Barrier | None = None) -> set[threading.Thread | None]:
    """Have so many jobs done. Returns the threads that have done them."""
    loop = asyncio.get_running_loop()
    jobs = [Work(threads, loop, barrier) for _ in range(count)]
    for job in jobs:
        threads.submit(job)
    await asyncio.wait_for(asyncio.gather(*(job.seen for job in jobs)), 120)
    return {job.thread for job in jobs}


def test_jobs_that_wait_for_each_other_have_as_many_threads_as_they_need() -> None:
    async def main() -> None:
        threads = Threads(5)
        for _ in range(20):
            assert len(await done(threads, 5, threading.Barrier(5))) == 5
        threads.stop()

    run_afresh(main)


def test_many_jobs_are_done_by_few_threads_and_none_is_forgotten() -> None:
    async def main() -> None:
        threads = Threads(3)
        used = set()
        for count in [1, 2, 3, 50, 1, 1000] * 10:
            used |= await done(threads, count)
        assert len(used) <= 3
        assert {thread.name for thread in used if thread} <= {"wsgi_1", "wsgi_2", "wsgi_3"}
        threads.stop()

    run_afresh(main)


def test_jobs_one_after_the_other_are_all_done_by_the_same_thread() -> None:
    async def main() -> None:
        threads = Threads(8)
        first = await done(threads, 1)
        for _ in range(20):
            await asyncio.sleep(0.002)  # the thread goes to sleep meanwhile
            assert await done(threads, 1) == first
        threads.stop()

    run_afresh(main)


def test_threads_that_are_stopped_end_when_they_have_done_their_jobs() -> None:
    async def main() -> None:
        threads = Threads(4)
        used = await done(threads, 4, threading.Barrier(4))
        gate = threading.Barrier(2)
        last = Work(threads, asyncio.get_running_loop(), gate)
        forgotten = Work(threads, asyncio.get_running_loop(), None)
        threads.submit(last)
        while not gate.n_waiting:
            await asyncio.sleep(0.001)
        threads.stop()
        threads.submit(forgotten)
        gate.wait(120)
        await asyncio.wait_for(last.seen, 120)
        end = time.monotonic() + 120
        while any(thread is not None and thread.is_alive() for thread in used):
            assert time.monotonic() < end
            await asyncio.sleep(0.001)

    run_afresh(main)


def test_what_is_told_to_a_loop_that_is_closed_is_lost() -> None:
    threads = Threads(1)
    loop = asyncio.new_event_loop()
    job = Work(threads, loop, None)
    loop.close()
    job.work()
    assert not job.seen.done()


def test_where_no_thread_can_be_started_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    starts = threading.Thread.start

    def fails(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        threads = Threads(4)
        monkeypatch.setattr(threading.Thread, "start", fails)
        with pytest.raises(RuntimeError, match="can't start"):
            threads.submit(Work(threads, loop, None))
        monkeypatch.setattr(threading.Thread, "start", starts)
        barrier = threading.Barrier(2)
        first = Work(threads, loop, barrier)
        threads.submit(first)
        while not barrier.n_waiting:
            await asyncio.sleep(0.001)
        monkeypatch.setattr(threading.Thread, "start", fails)
        others = [Work(threads, loop, None) for _ in range(3)]
        for each in others:
            threads.submit(each)
        barrier.wait(120)
        await asyncio.wait_for(asyncio.gather(*(each.seen for each in (first, *others))), 120)
        assert {each.thread for each in others} == {first.thread}
        assert [record.getMessage() for record in caplog.records] == [
            "cannot start one more of 4 threads, 1 go on: can't start new thread"
        ]
        # And when there is room again.
        monkeypatch.setattr(threading.Thread, "start", starts)
        assert len(await done(threads, 4, threading.Barrier(4))) == 4
        threads.stop()

    run_afresh(main)
