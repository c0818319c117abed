"""The lines of ``manage.py runserver`` for each request: those of Django, and of Daphne for WebSockets.

They go to Django's logger ``django.server``, so that the project's ``LOGGING`` holds for them. Only workers of
``runserver`` wrap their applications so; `ifserver.front.access_log` is what production has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ifserver.asgi_events import ASGIApplication, Event, Receive, Scope, Send

__all__ = ["log_asgi", "log_wsgi"]

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
#: "Service restart" (RFC 6455 7.4.1 and its registry): the WebSocket stays open and goes to the next worker.
_RESTART: Final = 1012

_log = logging.getLogger("django.server")


def _http(line: str, status: int, size: int) -> None:
    level = logging.ERROR if status >= 500 else logging.WARNING if status >= 400 else logging.INFO
    extra = {"server_time": _now(), "status_code": status}
    # Three arguments, as Django's own server has them: filters look at these.
    _log.log(level, '"%s" %s %s', line, str(status), str(size), extra=extra)


def _websocket(what: str, scope: Scope) -> None:
    client = scope.get("client")
    where = f"{client[0]}:{client[1]}" if client else "-"
    _log.info("WebSocket %s %s [%s]", what, _printable(scope["path"]), where, extra={"server_time": _now()})


def _now() -> str:
    now = time.localtime()
    # Not strftime's %b, which speaks the locale's language.
    return f"{now.tm_mday:02}/{_MONTHS[now.tm_mon - 1]}/{time.strftime('%Y %H:%M:%S', now)}"


def _printable(text: str) -> str:
    """What a client sends must not write to the terminal as it likes."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


# ASGI.


def log_asgi(application: ASGIApplication) -> ASGIApplication:
    """`application`, whose requests and WebSockets are logged."""

    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _run_http(application, scope, receive, send)
        elif scope["type"] == "websocket":
            await _run_websocket(application, scope, receive, send)
        else:
            await application(scope, receive, send)

    return logged


async def _run_http(application: ASGIApplication, scope: Scope, receive: Receive, send: Send) -> None:
    status = size = 0

    async def noting(event: Event) -> None:
        nonlocal status, size
        await send(event)
        if event["type"] == "http.response.start":
            status = event["status"]
        elif event["type"] == "http.response.body":
            size += len(event.get("body") or b"")

    try:
        await application(scope, receive, noting)
    except Exception:
        status = status or 500
        raise
    finally:
        if status:
            target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
            text = target.decode("ascii", "backslashreplace")
            _http(_printable(f"{scope['method']} {text} HTTP/{scope['http_version']}"), status, size)


async def _run_websocket(application: ASGIApplication, scope: Scope, receive: Receive, send: Send) -> None:
    resumed = scope.get("extensions", {}).get("websocket.resume", {}).get("resumed", False)
    is_open = False

    async def heard() -> Event:
        nonlocal is_open
        event = await receive()
        if event["type"] == "websocket.disconnect" and is_open:
            is_open = False
            # It is still open for the client, and the next worker has it.
            if event.get("code") != _RESTART:
                _websocket("DISCONNECT", scope)
        return event

    async def noting(event: Event) -> None:
        nonlocal is_open
        await send(event)
        kind = event["type"]
        if kind == "websocket.accept":
            is_open = True
            _websocket("RESUME" if resumed else "CONNECT", scope)
        elif kind == "websocket.close":
            _websocket("DISCONNECT" if is_open else "REJECT", scope)
            is_open = False
        elif kind == "websocket.http.response.start":
            _websocket("REJECT", scope)

    if not resumed:
        _websocket("HANDSHAKING", scope)
    await application(scope, heard, noting)


# WSGI.


def log_wsgi(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """`application`, whose requests are logged."""

    def logged(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        statuses: list[str] = []

        def noting(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            statuses.append(status)
            return start_response(status, headers, exc_info)

        line = _printable(f"{environ['REQUEST_METHOD']} {_target(environ)} {environ['SERVER_PROTOCOL']}")
        try:
            return _Response(application(environ, noting), line, statuses)
        except Exception:
            _http(line, 500, 0)
            raise

    return logged


def _target(environ: dict[str, Any]) -> str:
    """The target of a request, as it came."""
    path, query = environ["RAW_URI"], environ["QUERY_STRING"]
    return f"{path}?{query}" if query and "?" not in path else path


class _Response:
    """What the application has returned. The request is over when it is closed."""

    def __init__(self, result: Iterable[bytes], line: str, statuses: list[str]) -> None:
        self._result = result
        self._line = line
        self._statuses = statuses
        self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._result:
            self._size += len(piece)
            yield piece

    def close(self) -> None:
        """Log it."""
        try:
            close = getattr(self._result, "close", None)
            if close is not None:
                close()
        finally:
            status = self._statuses[-1][:3] if self._statuses else ""
            _http(self._line, int(status) if status.isdecimal() else 500, self._size)
