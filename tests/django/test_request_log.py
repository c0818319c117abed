"""The lines of ``runserver``: one for each request, and for each WebSocket when it comes and goes."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable
from typing import Any

import pytest

from ifserver.django.request_log import log_asgi, log_wsgi
from tests.django.process import in_thread

HTTP = {
    "type": "http",
    "method": "GET",
    "raw_path": b"/a%20b",
    "query_string": b"c=d",
    "http_version": "1.1",
}
WEBSOCKET = {"type": "websocket", "path": "/ws", "client": ("127.0.0.1", 1), "extensions": {}}


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "django.server")


def run(
    caplog: pytest.LogCaptureFixture,
    scope: dict[str, Any],
    *sends: dict[str, Any],
    receives: Iterable[dict[str, Any]] = (),
    error: Exception | None = None,
) -> list[str]:
    """The lines of a logger while an application receives, sends and raises."""
    sent: list[dict[str, Any]] = []
    incoming = iter(receives)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for event in sends:
            await send(event)
        for _ in list(receives):
            await receive()
        if error is not None:
            raise error

    async def receive() -> dict[str, Any]:
        return next(incoming)

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    async def main() -> None:
        try:
            await log_asgi(application)(scope, receive, send)
        except ZeroDivisionError:
            assert error is not None

    in_thread(lambda: asyncio.run(main()))
    assert sent == list(sends)
    return [f"{each.levelname} {each.getMessage()}" for each in caplog.records]


def start(status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status}


def body(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data}


def test_http(caplog: pytest.LogCaptureFixture) -> None:
    said = run(caplog, HTTP, start(), body(b"abc"), body(b"de"))
    assert said == ['INFO "GET /a%20b?c=d HTTP/1.1" 200 5']
    [record] = caplog.records
    assert record.status_code == 200  # type: ignore[attr-defined]
    assert re.fullmatch(r"\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d", record.server_time)  # type: ignore[attr-defined]


def test_levels_follow_the_status(caplog: pytest.LogCaptureFixture) -> None:
    assert run(caplog, HTTP, start(404), body(b""))[-1].startswith("WARNING")
    assert run(caplog, HTTP, error=ZeroDivisionError())[-1] == 'ERROR "GET /a%20b?c=d HTTP/1.1" 500 0'


def test_other_scopes_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert run(caplog, {"type": "lifespan"}) == []


ACCEPT = {"type": "websocket.accept"}


def test_websockets(caplog: pytest.LogCaptureFixture) -> None:
    said = run(caplog, WEBSOCKET, ACCEPT, receives=[{"type": "websocket.disconnect", "code": 1001}])
    assert [line.split()[2] for line in said] == ["HANDSHAKING", "CONNECT", "DISCONNECT"]
    assert said[1] == "INFO WebSocket CONNECT /ws [127.0.0.1:1]"


def test_what_a_client_sends_does_not_write_to_the_terminal_as_it_likes(caplog: pytest.LogCaptureFixture) -> None:
    said = run(caplog, {**WEBSOCKET, "path": "/ws\n\x1b[2Jforged"}, ACCEPT)
    assert said[1] == r"INFO WebSocket CONNECT /ws\n\x1b[2Jforged [127.0.0.1:1]"


def test_a_body_may_be_none(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = run(caplog, HTTP, start(), {"type": "http.response.body", "body": None})
    assert line.endswith(" 200 0")


def test_a_websocket_that_goes_to_the_next_worker_is_not_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = run(caplog, WEBSOCKET, ACCEPT, receives=[{"type": "websocket.disconnect", "code": 1012}])
    assert "DISCONNECT" not in said[-1]
    resumed = {**WEBSOCKET, "extensions": {"websocket.resume": {"resumed": True, "unconfirmed": 0}}}
    assert run(caplog, resumed, ACCEPT)[2:] == ["INFO WebSocket RESUME /ws [127.0.0.1:1]"]


def test_a_websocket_that_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    assert run(caplog, WEBSOCKET, {"type": "websocket.close"})[-1].startswith("INFO WebSocket REJECT")


ENVIRON = {
    "REQUEST_METHOD": "POST",
    "RAW_URI": "/x",
    "QUERY_STRING": "q=\x1b[0m",
    "SERVER_PROTOCOL": "HTTP/1.1",
}


def test_wsgi(caplog: pytest.LogCaptureFixture) -> None:
    closed = []

    class Result:
        def __iter__(self) -> Any:
            return iter([b"ab", b"c"])

        def close(self) -> None:
            closed.append(True)

    def application(environ: Any, start_response: Any) -> Result:
        start_response("201 Created", [])
        return Result()

    response: Any = log_wsgi(application)(ENVIRON, lambda *arguments: None)
    assert list(response) == [b"ab", b"c"]
    assert not caplog.records
    response.close()
    assert closed == [True]
    # What writes to the terminal as it likes is escaped.
    assert caplog.records[-1].getMessage() == '"POST /x?q=\\x1b[0m HTTP/1.1" 201 3'


def test_wsgi_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: Any, start_response: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        log_wsgi(application)(ENVIRON, lambda *arguments: None)
    assert caplog.records[-1].getMessage().endswith(" 500 0")
