"""Asking an endpoint that is played by the test, over a real socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.error import HTTPError

import pytest

from ifserver.errors import ConfigurationError
from ifserver.observe.publication import Publication
from ifserver.observe.viewer.client import Client
from ifserver.status import encode_status
from tests.observe.viewer.stage import status, stream

STATUS = status(stream(1))


class Endpoint:
    """Answers as it was told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer = 200, encode_status(STATUS)
        self.asked: list[tuple[str, str, str | None]] = []
        #: The tokens and bodies of what was published.
        self.published: list[tuple[str | None, bytes]] = []
        self.location: str | None = None
        #: What an admin endpoint is known by.
        self.policy = "default-src 'none'; frame-ancestors 'none'"
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.asked.append((self.command, self.path, self.headers.get("X-Ifserver-Close")))
                if self.path.startswith("/groups/"):
                    body = self.rfile.read(int(self.headers["Content-Length"]))
                    endpoint.published.append((self.headers.get("Authorization"), body))
                code, body = endpoint.answer
                self.send_response(code)
                if endpoint.location is not None:
                    self.send_header("Location", endpoint.location)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Security-Policy", endpoint.policy)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


def test_a_status(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    client = Client(endpoint.url + "/")
    assert client.status() == STATUS
    assert client.raw_status() == encode_status(STATUS)
    assert endpoint.asked == [("GET", "/status.json", None)] * 2


def test_closing(endpoint: Endpoint) -> None:
    client = Client(endpoint.url)
    endpoint.answer = 200, b"closed\n"
    assert client.close("!east.front00000.1") == "closed"
    assert endpoint.asked == [("POST", "/close?stream=%21east.front00000.1", "viewer")]
    endpoint.answer = 404, b"there is no such stream here\n"
    assert client.close("x") == "there is no such stream here"


def test_publishing(endpoint: Endpoint) -> None:
    client = Client(endpoint.url.removeprefix("http://"))
    endpoint.answer = 202, b'{"processes": 2}'
    assert client.publish("news", Publication(text="häh", exclude="k3v9x2aq7m.1f"), "geheim") == 2
    assert endpoint.asked == [("POST", "/groups/news", None)]
    assert endpoint.published == [("Bearer geheim", '{"text":"häh","exclude":"k3v9x2aq7m.1f"}'.encode())]
    endpoint.answer = 403, b"there is no token\n"
    with pytest.raises(HTTPError, match="403") as caught:
        client.publish("news", Publication(text="x"), "geheim")
    assert caught.value.read() == b"there is no token\n"
    endpoint.answer = 202, b"{}"
    with pytest.raises(ValueError, match="processes"):
        client.publish("news", Publication(text="x"), "geheim")


def test_a_token_is_sent_nowhere_else(endpoint: Endpoint) -> None:
    other = Endpoint()
    endpoint.answer, endpoint.location = (302, b""), f"{other.url}/groups/news"
    with pytest.raises(HTTPError, match="302") as caught:
        Client(endpoint.url).publish("news", Publication(text="x"), "geheim")
    caught.value.close()
    other.close()
    assert other.asked == []


def test_answers_that_are_none(endpoint: Endpoint) -> None:
    client = Client(endpoint.url)
    endpoint.answer = 200, b"<html>"
    with pytest.raises(ValueError, match="JSON"):
        client.status()
    endpoint.answer = 421, b"not by this name"
    with pytest.raises(HTTPError, match="421") as caught:
        client.status()
    caught.value.close()


@pytest.mark.parametrize("code", [200, 302, 403, 404, 502])
def test_something_else_answers(code: int, endpoint: Endpoint) -> None:
    """The site, or a proxy."""
    client = Client(endpoint.url)
    endpoint.policy, endpoint.answer = "default-src 'self'", (code, b"<html>")
    with pytest.raises(OSError, match=r"no admin endpoint of ifserver.*give the address") as caught:
        client.raw_status()
    assert not isinstance(caught.value, HTTPError)
    with pytest.raises(OSError, match="no admin endpoint of ifserver"):
        client.close("x")


def test_that_a_body_is_too_long_is_said_without_fields(endpoint: Endpoint) -> None:
    endpoint.policy, endpoint.answer = "", (413, b"the body is longer than 1 MiB\n")
    with pytest.raises(HTTPError, match="413") as caught:
        Client(endpoint.url).publish("news", Publication(text="x"), "geheim")
    caught.value.close()


@pytest.mark.parametrize(
    ("said", "why"), [(b"+OK redis\r\n\r\n", "it does not answer in HTTP"), (b"", "no answer: .*without response")]
)
def test_something_that_does_not_speak_http(said: bytes, why: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(OSError, match=why):
            Client(f"127.0.0.1:{listening.getsockname()[1]}").status()
        thread.join()


@pytest.mark.parametrize("address", ["banana", "127.0.0.1", "http://", "http://a:x", "a b:1", ":9100", "http://a b/"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"the admin endpoint: .*expected HOST:PORT"):
        Client(address)


def test_nobody_there() -> None:
    with pytest.raises(OSError, match="nobody listens there; give the address"):
        Client("http://127.0.0.1:1").status()
    with pytest.raises(OSError, match="the name of the host is not known"):
        Client("nobody.invalid:1").status()
