"""The same applications behind uvicorn and ifserver: clients see no difference but for those named here.

The values of Date and Server are not compared. Differences that are meant:

* Where the application gives no Content-Length, uvicorn sends chunks. So do we for what comes in pieces; of a body that
  is there as a whole when the response begins, we send the length.
* The text of an answer that is the server's own (400, 403, 500) is its own.
* What is no HTTP/1 is refused with the status that says why (501, 505); uvicorn has 400 for all, and answers HTTP/0.9.
* A target in absolute form that names another host than the Host field is refused; uvicorn goes by the field.
* An exception in a WebSocket's handler is 1011 here; with uvicorn the connection is cut, so that the client sees 1006.
* Requests and responses carry an X-Request-ID, which is switched off here.
* Of a WebSocket client that vanished the application is told 1006 (RFC 6455 7.1.5), by uvicorn 1005.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.e2e.running import APPS, EXAMPLES, LIMIT_S, Running, eventually
from tests.e2e.wire import Cut, Reply, Wire, close_of

#: How the end of a body is told.
FRAMING = {"transfer-encoding", "content-length", "connection"}


class Pair(NamedTuple):
    """The two servers of one application."""

    uvicorn: Running
    ifserver: Running

    def both(self, look: Callable[[str], object]) -> None:
        """Look at both, given the URL; they must show the same."""
        theirs, ours = (look(server) for server in (_url(self.uvicorn), _url(self.ifserver)))
        assert ours == theirs


def _url(server: Running) -> str:
    return server.said(r"(?:listening|running) on (http://\S+)")[1]


def _pair(application: str, app_dir: Path, environment: dict[str, str]) -> Iterator[Pair]:
    uvicorn = [sys.executable, "-m", "uvicorn", application, "--port", "0", "--app-dir", str(app_dir)]
    with (
        Running(uvicorn, environment=environment, status=-signal.SIGTERM) as theirs,
        Running(
            "run", application, "-p", "0", "--workers", "1", "--no-request-id", app_dir=app_dir, environment=environment
        ) as ours,
    ):
        yield Pair(theirs.ready(), ours.ready())


@pytest.fixture(scope="module")
def zoo() -> Iterator[Pair]:
    for pair in _pair("zoo:app", APPS, {}):
        yield pair
        for server in pair:
            server.tracebacks = server.output.count("Traceback (most recent call last)")


@pytest.fixture(scope="module")
def hello() -> Iterator[Pair]:
    yield from _pair("hello:app", EXAMPLES, {})


@pytest.fixture(scope="module")
def fastapi() -> Iterator[Pair]:
    yield from _pair("fastapi_app:app", EXAMPLES, {})


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("static")
    for name, content in STATIC.items():
        (folder / name).write_bytes(content)
    yield from _pair("file_zoo:static", APPS, {"STATIC": str(folder)})


@pytest.fixture(scope="module")
def django(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    data = {"DJANGO_SITE_DATA": str(tmp_path_factory.mktemp("django"))}
    yield from _pair("demo.asgi:application", EXAMPLES / "django_site", data)


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def _comparable(reply: Reply) -> object:
    """What must be the same of two responses, the order of headers too; a length only where uvicorn tells one."""
    left_out = {"date", "server"} | FRAMING
    headers = [field for field in reply.headers if field[0] not in left_out]
    return reply.status, reply.version, headers, reply.header("connection"), reply.body


def _exchange(*lines: str, body: bytes = b"", method: str = "GET") -> Callable[[str], object]:
    """Send a request, written by hand; what must be the same of its response."""

    def look(url: str) -> object:
        with Wire(_address(url)) as wire:
            wire.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            return _comparable(wire.receive(method))

    return look


HOST = "host: a.test"

#: Files that are long enough to be sent by the server itself, and some that are not.
STATIC = {
    "app.js": b"function f() { return 1 }\n" * 10_000,
    "no-suffix": b"some words\n" * 20_000,
    "small.css": b"a { color: red }\n" * 100,
    "tiny.css": b"a {}",
    "photo.jpg": bytes(range(256)) * 1000,
}

REQUESTS = {
    "a page": ("GET /status?body=abc HTTP/1.1", HOST),
    "not found": ("GET /nothing HTTP/1.1", HOST),
    "percent and slash": ("GET /show/a%20b?x=%2F&y=%C3%A9&&z HTTP/1.1", HOST),
    "an escaped slash": ("GET /%73how%2Fno HTTP/1.1", HOST),
    "question marks": ("GET /show??a=b?c HTTP/1.1", HOST),
    "an empty query": ("GET /show? HTTP/1.1", HOST),
    "duplicate headers": ("GET /show HTTP/1.1", HOST, "x-a: 1", "X-B: 2", "x-a: 3", "cookie: a=1", "cookie: b=2"),
    "an empty header": ("GET /show HTTP/1.1", HOST, "x-empty:", "x-latin: \xe9"),
    "a large header": ("GET /show HTTP/1.1", HOST, "x-large: " + "x" * 30_000),
    "HTTP/1.0": ("GET /show HTTP/1.0", HOST),
    "another method": ("PATCH /show HTTP/1.1", HOST),
    "a method with a body and none": ("POST /show HTTP/1.1", HOST, "content-length: 0"),
    "two cookies": ("GET /duplicates HTTP/1.1", HOST),
    "many large headers": ("GET /large-headers HTTP/1.1", HOST),
    "a stream": ("GET /stream HTTP/1.1", HOST),
    "a stream over HTTP/1.0": ("GET /stream HTTP/1.0", HOST),
    "what the application sees of its process": ("GET /looked-at HTTP/1.1", HOST),
    "204": ("GET /status?status=204 HTTP/1.1", HOST),
    "304": ("GET /status?status=304 HTTP/1.1", HOST),
    "an empty body": ("GET /status HTTP/1.1", HOST),
    "a length": ("GET /status?body=abc&length=3 HTTP/1.1", HOST),
    "an absolute target": ("GET http://a.test/show?x HTTP/1.1", HOST),
    "a status without a name": ("GET /status?status=299&body=x HTTP/1.1", HOST),
}


@pytest.mark.parametrize("accepted", ["gzip, deflate, br", "identity", None])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", STATIC)
def test_static_files_and_their_compression(static: Pair, name: str, method: str, accepted: str | None) -> None:
    headers = [HOST] if accepted is None else [HOST, f"accept-encoding: {accepted}"]
    static.both(_exchange(f"{method} /{name} HTTP/1.1", *headers, method=method))


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request(zoo: Pair, name: str) -> None:
    zoo.both(_without_ports(_exchange(*REQUESTS[name])))


def _without_ports(look: Callable[[str], object]) -> Callable[[str], object]:
    """Each server has its own port, which shows in the scope."""
    return lambda url: json.loads(json.dumps(look(url), default=repr).replace(str(_address(url)[1]), "PORT"))


@pytest.mark.parametrize("target", ["/status?body=abc", "/status?body=abc&length=3", "/stream", "/nothing"])
def test_head(zoo: Pair, target: str) -> None:
    zoo.both(_exchange(f"HEAD {target} HTTP/1.1", HOST, method="HEAD"))


@pytest.mark.parametrize("path", ["/echo", "/whole", "/show"])
@pytest.mark.parametrize("body", [b"", b"abc", b"\0\xff" * 200_000], ids=["empty", "short", "long"])
def test_a_body(zoo: Pair, path: str, body: bytes) -> None:
    lines = (f"POST {path} HTTP/1.1", HOST, "content-type: a/b", f"content-length: {len(body)}")
    zoo.both(_without_ports(_exchange(*lines, body=body)))


@pytest.mark.parametrize("path", ["/echo", "/whole", "/show"])
def test_a_chunked_body(zoo: Pair, path: str) -> None:
    lines = (f"POST {path} HTTP/1.1", HOST, "transfer-encoding: chunked")
    zoo.both(_without_ports(_exchange(*lines, body=b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n")))


@pytest.mark.parametrize("target", ["/status?body=abc&length=3", "/stream", "/status?status=304", "/status?status=204"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_framing_where_the_application_has_chosen_it(zoo: Pair, method: str, target: str) -> None:
    def look(url: str) -> object:
        with Wire(_address(url)) as wire:
            reply = wire.get(target, method=method)
            return reply.framing, [reply.header(name) for name in FRAMING]

    zoo.both(look)


@pytest.mark.parametrize(
    "lines",
    [
        ("GET /show?\xe9=\xff HTTP/1.1", HOST),
        ("GET /show HTTP/1.1", HOST, "no colon"),
        ("POST /show HTTP/1.1", HOST, "content-length: 1", "content-length: 2"),
        ("POST /show HTTP/1.1", HOST, "content-length: -1"),
        ("POST /show HTTP/1.1", HOST, "content-length: 1", "transfer-encoding: chunked"),
    ],
)
def test_a_request_that_is_none(zoo: Pair, lines: tuple[str, ...]) -> None:
    zoo.both(lambda url: _exchange(*lines)(url)[0])  # type: ignore[index]


def test_an_exception_before_the_response(zoo: Pair) -> None:
    def look(url: str) -> object:
        with Wire(_address(url)) as wire:
            reply = wire.get("/fails")
            return reply.status, reply.header("content-type")

    zoo.both(look)


def test_an_exception_in_the_middle_of_the_response(zoo: Pair) -> None:
    def look(url: str) -> object:
        with Wire(_address(url)) as wire:
            wire.send(b"GET /fails-late HTTP/1.1\r\nhost: a\r\n\r\n")
            begun = (wire.head()[0], wire.chunk())
            with pytest.raises(Cut):
                wire.chunks()
            return begun

    zoo.both(look)


def test_keep_alive_and_close(zoo: Pair) -> None:
    def look(url: str) -> object:
        with Wire(_address(url)) as wire:
            for _ in range(2):
                assert wire.get("/status?body=a").body == b"a"
            return wire.get("/status?body=a", "connection: close").header("connection"), wire.closed()

    zoo.both(look)


# WebSockets.


def _socket(url: str, path: str) -> str:
    return url.replace("http", "ws", 1) + path


@pytest.mark.parametrize("offered", [None, ["a"], ["a", "b"]])
def test_a_websocket(zoo: Pair, offered: list[str] | None) -> None:
    def look(url: str) -> object:
        with connect(_socket(url, "/ws"), subprotocols=offered) as client:  # type: ignore[arg-type]
            assert client.response is not None
            shown = {key.lower() for key in client.response.headers}
            client.send("text")
            client.send(b"\0\xff" * 100_000)
            answers = client.recv(LIMIT_S), client.recv(LIMIT_S)
            client.close(4000, "enough")
            return client.subprotocol, shown - {"date", "server"}, answers, client.close_code, client.close_reason

    zoo.both(look)


@pytest.mark.parametrize(
    "wish", [{}, {"code": 1000}, {"code": 1001}, {"code": 3000, "reason": "\N{SNOWMAN}"}, {"code": 4999, "reason": "x"}]
)
def test_a_close_by_the_application(zoo: Pair, wish: dict[str, object]) -> None:
    def look(url: str) -> object:
        with connect(_socket(url, "/close")) as client:
            client.send(json.dumps(wish))
            return close_of(client)

    zoo.both(look)


@pytest.mark.parametrize("path", ["/nothing", "/deny", "/fails"])
def test_a_handshake_that_is_denied(zoo: Pair, path: str) -> None:
    def look(url: str) -> object:
        with pytest.raises(InvalidStatus) as caught, connect(_socket(url, path)):
            pass
        response = caught.value.response
        # The text of a refusal that is the server's own is its own.
        return response.status_code, response.headers.get("x-why"), response.body if path == "/deny" else None

    zoo.both(look)


@pytest.mark.parametrize("close", [(1000, ""), (1001, "away"), (4321, "enough")])
def test_what_the_application_is_told_of_a_close(zoo: Pair, tmp_path: Path, close: tuple[int, str]) -> None:
    def look(url: str) -> object:
        report = tmp_path / f"report-{_address(url)[1]}"
        with connect(_socket(url, f"/report?report={report}")) as client:
            client.close(*close)
        return _appears(report)

    zoo.both(look)


def _appears(path: Path) -> str:
    eventually(path.exists, "the application was told")
    return path.read_text()


# The examples, by the clients that people use.


def _curl(*arguments: str) -> Callable[[str], object]:
    def look(url: str) -> object:
        command = ["curl", "-s", "-w", "%{http_code} %{num_connects} %{content_type}", *arguments]
        done = subprocess.run([word.replace("URL", url) for word in command], capture_output=True, timeout=LIMIT_S)
        return done.returncode, done.stdout

    return look


@pytest.mark.parametrize(
    "arguments",
    [
        ("URL/",),
        ("URL/", "URL/nothing"),
        ("-I", "-o", "/dev/null", "URL/"),
        ("-d", "a=b", "URL/echo"),
        ("-T", __file__, "-X", "POST", "URL/echo"),
        ("-H", "expect: 100-continue", "--data-binary", f"@{__file__}", "URL/echo"),
        ("-H", "transfer-encoding: chunked", "--data-binary", f"@{__file__}", "URL/echo"),
        ("--http1.0", "URL/"),
        ("--http2", "URL/"),
        ("-X", "OPTIONS", "URL/"),
    ],
)
def test_curl(hello: Pair, arguments: tuple[str, ...]) -> None:
    hello.both(_curl(*arguments))


@pytest.mark.parametrize("path", ["/", "/openapi.json", "/docs", "/events?count=1", "/events?count=0", "/nothing"])
def test_fastapi(fastapi: Pair, path: str) -> None:
    def look(url: str) -> object:
        response = httpx.get(url + path, timeout=LIMIT_S)
        # The process, its age and the time differ.
        body = None if path in ("/", "/events?count=1") else response.content
        return response.status_code, _kept(response), body

    fastapi.both(look)


def _kept(response: httpx.Response) -> list[tuple[str, str]]:
    left_out = {"date", "expires", "server", "set-cookie"} | FRAMING  # Django's never_cache says when it answered
    return [field for field in response.headers.multi_items() if field[0] not in left_out]


def test_fastapi_upload(fastapi: Pair) -> None:
    def look(url: str) -> object:
        response = httpx.post(f"{url}/upload", files={"file": ("a", b"x" * 300_000)}, timeout=LIMIT_S)
        return response.status_code, _kept(response), response.content

    fastapi.both(look)


@pytest.mark.parametrize(
    "path", ["/guestbook/", "/accounts/login/", "/admin/", "/static/pages/style.css", "/stream", "/nothing", "/chat/"]
)
def test_django(django: Pair, path: str) -> None:
    def look(url: str) -> object:
        response = httpx.get(url + path, timeout=LIMIT_S)
        # A CSRF token is another each time.
        body = None if "csrfmiddlewaretoken" in response.text else response.content
        return response.status_code, response.http_version, _kept(response), body

    django.both(look)
