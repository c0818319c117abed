"""WSGI applications (PEP 3333), checked by the validator of Python's own `wsgiref`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import pytest

from ifserver.config.settings import WorkerSettings
from ifserver.errors import ApplicationError
from ifserver.messages import Claim, Disconnect, RequestBody, ResponseBody, ResponseStart, Window
from ifserver.worker.wsgi import WSGIAdapter, adapted, environ_of, is_wsgi
from tests.process.test_children import run
from tests.worker.stage import turns
from tests.worker.test_worker import Stage, get, kinds, played

HEADERS = [("Content-Type", "text/plain")]
SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "scheme": "https",
    "path": "/app/ä",
    "raw_path": b"/app/%C3%A4",
    "query_string": b"a=1",
    "root_path": "/app",
    "headers": [(b"host", b"here"), (b"content-type", b"text/x"), (b"content-length", b"3"), (b"x-a", b"1")],
    "client": ("192.0.2.1", 4000),
    "server": ("here", 443),
}


def serve(application: Any, *events: dict[str, Any], scope: Any = SCOPE) -> list[dict[str, Any]]:
    """What the application sends, for the events that it receives."""
    sent: list[dict[str, Any]] = []

    async def main() -> None:
        waiting = list(events) or [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> dict[str, Any]:
            return waiting.pop(0)

        async def send(event: dict[str, Any]) -> None:
            sent.append(event)

        await WSGIAdapter(application, 2)(scope, receive, send)

    run(main)
    return sent


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


def sent_body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def answering(result: Callable[[], Iterable[bytes]], *headers: tuple[str, str]) -> Any:
    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [*HEADERS, *headers])
        return result()

    return application


START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


def test_the_environment() -> None:
    environ = environ_of(SCOPE)
    assert environ["REQUEST_METHOD"] == "POST"
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/app", "/ä".encode().decode("latin-1"))
    assert (environ["QUERY_STRING"], environ["RAW_URI"]) == ("a=1", "/app/%C3%A4")
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("here", "443")
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("192.0.2.1", "4000")
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"], environ["HTTP_X_A"]) == ("text/x", "3", "1")
    assert (environ["wsgi.url_scheme"], environ["wsgi.input_terminated"]) == ("https", True)


def test_of_a_unix_socket_there_is_no_client_and_a_port_is_made_up() -> None:
    environ = environ_of({**SCOPE, "client": None, "server": ("/run/x.sock", None), "scheme": "http"})
    assert "REMOTE_ADDR" not in environ
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("/run/x.sock", "80")


def test_fields_that_come_twice_are_joined() -> None:
    headers = [(b"x-a", b"1"), (b"x-a", b"2"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
    environ = environ_of({**SCOPE, "headers": headers})
    assert (environ["HTTP_X_A"], environ["HTTP_COOKIE"]) == ("1,2", "a=1; b=2")


def test_pythons_own_validator_has_nothing_to_object() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        assert environ["wsgi.input"].read(3) == b"abc"
        start_response("200 OK", HEADERS)
        return [b"one", b"two"]

    scope = {**SCOPE, "path": "/app/a"}
    sent = serve(validator(application), body(b"abc"), scope=scope)
    assert b"".join(event["body"] for event in sent[1:]) == b"onetwo"


def test_a_list_is_one_message() -> None:
    assert serve(answering(lambda: [b"one", b"two"])) == [START, sent_body(b"onetwo")]
    assert serve(answering(list)) == [START, sent_body(b"")]


def test_a_body_whose_length_is_known_ends_with_its_last_piece() -> None:
    sent = serve(answering(lambda: iter([b"one", b"", b"two"]), ("Content-Length", "6")))
    assert sent[1:] == [sent_body(b"one", True), sent_body(b"two")]


def test_pieces_are_sent_as_they_come() -> None:
    assert serve(answering(lambda: iter([b"one", b"two"])))[1:] == [
        sent_body(b"one", True),
        sent_body(b"two", True),
        sent_body(b""),
    ]


def test_write_is_still_there() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", HEADERS)(b"written")
        return []

    assert serve(application) == [START, sent_body(b"written", True), sent_body(b"")]


@pytest.mark.parametrize("pieces", [[b"ab\ncd\n", b"ef"], [b"a", b"b\nc", b"d\nef"]], ids=str)
def test_the_pieces_of_a_body_are_one_file(pieces: list[bytes]) -> None:
    lines: list[bytes] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        lines.extend(environ["wsgi.input"])
        start_response("200 OK", HEADERS)
        return [b""]

    serve(application, *[body(piece, more=i + 1 < len(pieces)) for i, piece in enumerate(pieces)])
    assert lines == [b"ab\n", b"cd\n", b"ef"]


def test_a_body_that_is_cut_off_is_not_shown_to_the_application() -> None:
    assert serve(None, body(b"ab", more=True), {"type": "http.disconnect"}) == []


def test_a_long_body_goes_through_a_temporary_file() -> None:
    piece = b"0123456789" * 5_000

    def application(environ: Any, start_response: Any) -> list[bytes]:
        assert environ["wsgi.input"]._rolled
        start_response("200 OK", HEADERS)
        return [environ["wsgi.input"].read()]

    assert serve(application, *[body(piece, more=True)] * 3, body(b"end"))[1] == sent_body(piece * 3 + b"end")


def test_a_client_that_has_left_already_is_not_served() -> None:
    assert serve(None, {"type": "http.disconnect"}) == []


def test_no_thread_is_used_before_all_of_the_body_is_there() -> None:
    assert serve(None, body(b"", more=True), body(b"", more=True), {"type": "http.disconnect"}) == []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", HEADERS)
        return [environ["wsgi.input"].read()]

    assert serve(application, body(b"", more=True), body(b"ab", more=True), body(b"c"))[1] == sent_body(b"abc")
    assert serve(application, body(b"", more=True), body(b""))[1] == sent_body(b"")


class Closing:
    """A result that remembers that it was closed."""

    closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield b"one"
        raise ValueError("a defect")

    def close(self) -> None:
        self.closed = True


def test_a_result_is_closed_however_it_ends() -> None:
    result = Closing()
    with pytest.raises(ValueError, match="a defect"):
        serve(answering(lambda: result))
    assert result.closed


def test_an_error_before_anything_was_sent_may_change_the_answer() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", HEADERS)
        try:
            raise ValueError("a defect")
        except ValueError as error:
            start_response("500 Oh no", HEADERS, (ValueError, error, error.__traceback__))
        return [b"sorry"]

    assert serve(application)[0]["status"] == 500


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
        (lambda environ, start: start("200 OK", [("Connection", "close")]), "Connection is the server's affair"),
    ],
)
def test_what_breaks_the_specification_is_told(application: Any, message: str) -> None:
    with pytest.raises(ApplicationError, match=message):
        serve(application)


def test_a_websocket_is_denied_and_the_lifespan_is_acted() -> None:
    connect = {"type": "websocket.connect"}
    assert serve(None, connect, scope={"type": "websocket"}) == [{"type": "websocket.close"}]
    events = ({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    sent = serve(None, *events, scope={"type": "lifespan"})
    assert [event["type"] for event in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


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


def test_the_setting_decides_where_it_does_not() -> None:
    settings = WorkerSettings(application="a:b", interface="wsgi")
    assert isinstance(adapted(settings, returns_a_coroutine)[1], WSGIAdapter)
    settings = WorkerSettings(application="a:b", interface="asgi")
    application = WsgiInstance()
    assert adapted(settings, application) == (settings, application)


def test_many_at_a_time_use_as_many_threads_as_there_are() -> None:
    together = asyncio.Barrier(2)

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def application(environ: Any, start_response: Any) -> list[bytes]:
            asyncio.run_coroutine_threadsafe(together.wait(), loop).result(120)
            start_response("200 OK", HEADERS)
            return [b""]

        async def receive() -> dict[str, Any]:
            return body(b"")

        async def send(event: dict[str, Any]) -> None: ...

        adapter = WSGIAdapter(application, 2)
        await asyncio.gather(*(adapter(SCOPE, receive, send) for _ in range(2)))

    run(main)


# A thread is a slot, in a worker.


class Threads:
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


async def until(look: Callable[[], Any]) -> None:
    """Let the loop turn until `look` finds what threads do in their own time."""
    end = time.monotonic() + 20
    while not look():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


async def heard(stage: Stage, count: int) -> list[Any]:
    """The next messages, which are that many, but for claims."""
    messages: list[Any] = []

    def look() -> bool:
        messages.extend(message for message in stage.heard() if not isinstance(message, Claim | Window))
        return len(messages) >= count

    await until(look)
    return messages


def test_a_thread_that_sends_a_response_which_has_begun_holds_its_slot() -> None:
    threads = Threads()

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


def test_a_client_that_leaves_does_not_free_the_thread() -> None:
    threads = Threads()

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
    threads = Threads()

    async def act(stage: Stage) -> None:
        stage.ask(*(get("/upload", str(number), more_body=True) for number in range(5)))
        await turns(40)
        assert stage.worker.statistics()["streams"] == 5
        assert (threads.begun, stage.worker.free()) == ([], 2)
        stage.tell(RequestBody("0123456789.0", 0, 0, b"a", True))
        await turns(40)
        assert (threads.begun, stage.worker.free()) == ([], 2)
        stage.tell(RequestBody("0123456789.0", 0, 1, b"b", False))
        (start, _) = await heard(stage, 2)
        assert (type(start), start.body) == (ResponseStart, b"ab")
        await until(lambda: stage.worker.free() == 2)
        for number in range(1, 5):
            stage.tell(Disconnect(f"0123456789.{number}", 0, 0, 0, ""))
            await turns()
        assert threads.begun == ["/upload"]

    threads.played(act)
