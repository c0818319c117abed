"""The spans of a worker, for OpenTelemetry: one around each call of the application.

What the application calls finds it as the current span, also in threads and tasks that it starts, so that the usual
instrumentations of frameworks join the trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, get_tracer, use_span
from opentelemetry.util.types import AttributeValue

from ifserver import __version__, channels
from ifserver.messages import HttpRequest
from ifserver.tracing import SYSTEM, context_in, warn_without_sdk
from ifserver.worker.application import ASGIApplication, Receive, Scope, Send
from ifserver.worker.application_failure import is_disconnection
from ifserver.worker.asgi_stream import Stream, running
from ifserver.worker.stream_phases import LOST

__all__ = ["Traced", "Tracer"]

_CHANNELS: Final = {"http": channels.HTTP_REQUEST, "websocket": channels.WEBSOCKET_CONNECT}


class Tracer:
    """Makes the spans of a worker that takes the requests of `pool`."""

    def __init__(self, pool: str = "") -> None:
        self._pool = pool
        self._tracer = get_tracer("ifserver.worker", __version__)
        self._is_first = True

    @contextmanager
    def span(self, stream: Stream) -> Iterator[None]:
        """The application is called for `stream` in this block."""
        if self._is_first:
            # Not before: an application may configure the SDK in its lifespan's startup.
            self._is_first = False
            warn_without_sdk("worker.tracing")
        request = stream.request
        client = context_in(request.headers)
        channel = _CHANNELS[stream.KIND]
        if not isinstance(request, HttpRequest) and request.unconfirmed is not None:
            channel = channels.WEBSOCKET_RESUME
        channel = channels.of_pool(self._pool, channel)
        attributes: dict[str, AttributeValue] = {
            "messaging.system": SYSTEM,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": channel,
            "messaging.message.id": stream.identity,
        }
        if stream.attempt:
            attributes["ifserver.attempt"] = stream.attempt
        span = self._tracer.start_span(f"process {channel}", client, SpanKind.CONSUMER, attributes)
        # With what else the client's context holds: baggage.
        token = context.attach(client)
        try:
            with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
                try:
                    yield
                except Exception as error:
                    _note(span, stream, error)
                    raise
        finally:
            context.detach(token)


class Traced:
    """The ASGI application `application`, with a span around each call."""

    def __init__(self, application: ASGIApplication, tracer: Tracer) -> None:
        self._application = application
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._tracer.span(running.get()):
            await self._application(scope, receive, send)


def _note(span: Span, stream: Stream, error: Exception) -> None:
    """The application has raised. That its client has left is no error."""
    if stream.phase is not LOST or not is_disconnection(error):
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        span.set_attribute("error.type", type(error).__qualname__)
