"""Asking an endpoint that is played by the test, over a real socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from ifserver.observe.viewer.client import Client
from ifserver.status import encode_status
from tests.observe.viewer.stage import status, stream

STATUS = status(stream(1))


class Endpoint:
    """Answers as it was told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer = 200, encode_status(STATUS)
        self.asked: list[tuple[str, str, str | None]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.asked.append((self.command, self.path, self.headers.get("X-Ifserver-Close")))
                code, body = endpoint.answer
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
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


def test_answers_that_are_none(endpoint: Endpoint) -> None:
    client = Client(endpoint.url)
    endpoint.answer = 200, b"<html>"
    with pytest.raises(ValueError, match="JSON"):
        client.status()
    endpoint.answer = 421, b"not by this name"
    with pytest.raises(OSError, match="421"):
        client.status()


def test_nobody_there(endpoint: Endpoint) -> None:
    with pytest.raises(OSError, match="refused"):
        Client("http://127.0.0.1:1").status()
