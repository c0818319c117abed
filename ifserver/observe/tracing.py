"""Spans for OpenTelemetry. This can be imported only where its API is installed.

A server makes one for each request, and one for each offer of it to the workers. A request's span ends where the access
log writes it down, and takes from there how it went. A worker makes one around each call of the application: what the
application calls finds it as the current span, also in threads and tasks that it starts, so that the usual
instrumentations of frameworks join the trace.

A context travels in headers of the request, in the form that is configured for the whole process (OTEL_PROPAGATORS). By
default that is W3C Trace Context, ``traceparent`` and ``tracestate``, and W3C Baggage. The names of attributes are
those of OpenTelemetry's semantic conventions for HTTP and for messaging, or begin with ``ifserver.``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opentelemetry import context as current
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    get_tracer,
    set_span_in_context,
    use_span,
)
from opentelemetry.util.types import AttributeValue

from ifserver import __version__, channels
from ifserver import headers as h
from ifserver import messages as m
from ifserver.messages import Headers

if TYPE_CHECKING:
    from ifserver.front.access_log import AccessLog, Entry, Format
    from ifserver.worker.stream import Stream

__all__ = ["Tracer", "Tracing", "context_in", "put_context"]

#: ``messaging.system`` of the spans of both sides.
_SYSTEM: Final = "ifserver"
#: The methods that are named: a client can invent any number (RFC 9110 9, RFC 5789).
_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
#: Spans are timed in nanoseconds.
_NS: Final = 1_000_000_000
#: RFC 6455 7.4.1: an unexpected condition.
_INTERNAL_ERROR: Final = 1011
#: What an application, or a proxy, may have put there by itself. It is replaced only by a context that has some.
_BAGGAGE: Final = "baggage"
_CHANNELS: Final = {"http": channels.HTTP_REQUEST, "websocket": channels.WEBSOCKET_CONNECT}

_Attributes = dict[str, AttributeValue]

_log = logging.getLogger(__name__)


class _Fields(Getter[Headers]):
    """Reads header fields for a propagator."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        name = key.lower().encode("latin-1")
        found = [value.decode("latin-1") for value in h.values(carrier, name)]
        # Trace Context 3.2.2: traceparent is one field. Of two, either may be wrong.
        return None if not found or (name == b"traceparent" and len(found) > 1) else found

    def keys(self, carrier: Headers) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier]


_FIELDS: Final = _Fields()


def context_in(headers: Headers) -> Context:
    """The context that a request came with; an empty one if it has none, or none that is valid."""
    return propagate.extract(headers, Context(), _FIELDS)


def put_context(headers: Headers, context: Context) -> None:
    """Let a request carry `context`, and no other."""
    fresh: dict[str, str] = {}
    propagate.inject(fresh, context)
    # What is not written now belongs to a context that is not passed on: a tracestate without its traceparent.
    stale = {name.encode("latin-1") for name in (propagate.get_global_textmap().fields | fresh.keys())}
    if _BAGGAGE not in fresh:
        stale.discard(_BAGGAGE.encode())
    headers[:] = [field for field in headers if field[0] not in stale]
    headers += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fresh.items()]


def _warn_without_sdk(setting: str) -> None:
    """Warn the operator if there is nothing that takes spans."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        _log.warning("%s: OpenTelemetry's SDK is not configured, so no spans are made", setting)


class _Open:
    """A stream that is open."""

    __slots__ = ("context", "offered", "span")

    def __init__(self, span: Span, context: Context) -> None:
        self.span = span
        #: The client's context, with our span in it.
        self.context = context
        #: The span of the last offer.
        self.offered: SpanContext | None = None


class Tracing:
    """Makes the spans of a server's streams. It stands in the place of the access log `log`, and writes to that too."""

    enabled = True

    def __init__(self, log: AccessLog) -> None:
        self._log = log
        self._queries = True
        self._tracer = get_tracer("ifserver.front", __version__)
        self._open: dict[str, _Open] = {}
        _warn_without_sdk("front.tracing")

    # For `ifserver.front.exchanges`.

    def begin(self, identity: str, request: m.HttpRequest | m.WebSocketConnect, channel: str) -> None:
        """The request of a new stream is about to be offered on `channel`: from now on its headers carry our context.

        Without a channel it is not offered.
        """
        client = context_in(request.headers)
        attributes = self._attributes_of(request)
        span = self._tracer.start_span(_name(attributes), client, SpanKind.SERVER, attributes)
        traced = self._open[identity] = _Open(span, set_span_in_context(span, client))
        if channel:  # (of those that no pool takes)
            self._offer(traced, identity, request.headers, channel, 0)

    def again(self, identity: str, request: m.ToWorkers, channel: str, why: str) -> Headers:
        """Its next attempt is about to be. Returns the headers for that."""
        headers = list(request.headers)
        traced = self._open.get(identity)
        if traced is not None:
            event: _Attributes = {"ifserver.attempt": request.attempt, "ifserver.reason": why}
            traced.span.add_event("ifserver.offered_again", event)
            self._offer(traced, identity, headers, channel, request.attempt)
        return headers

    def failed(self, identity: str, why: str) -> None:
        """Its client cannot have what was begun."""
        traced = self._open.get(identity)
        if traced is not None:
            _fail(traced.span, "aborted", why)

    def _offer(self, traced: _Open, identity: str, headers: Headers, channel: str, attempt: int) -> None:
        """The span of an offer is over when the request is handed to the channel layer."""
        if not traced.span.is_recording():
            put_context(headers, traced.context)
            return
        attributes: _Attributes = {
            "messaging.system": _SYSTEM,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": channel,
            "messaging.message.id": identity,
        }
        if attempt:
            attributes["ifserver.attempt"] = attempt
        links = [] if traced.offered is None else [Link(traced.offered)]
        span = self._tracer.start_span(f"send {channel}", traced.context, SpanKind.PRODUCER, attributes, links)
        traced.offered = span.get_span_context()
        put_context(headers, set_span_in_context(span, traced.context))
        span.end()

    def _attributes_of(self, request: m.HttpRequest | m.WebSocketConnect) -> _Attributes:
        """What is known of a request from the beginning, when it is decided whether it is sampled."""
        method = request.method if isinstance(request, m.HttpRequest) else "GET"
        attributes = _common(method, request.raw_path, request.query_string if self._queries else b"")
        attributes["url.scheme"] = request.scheme
        attributes["network.protocol.version"] = request.http_version
        host = h.find(request.headers, b"host")
        if host:
            attributes["server.address"], attributes["server.port"] = _host_and_port(host, request.scheme)
        if request.client is not None:
            attributes["client.address"] = request.client[0]
        agent = h.find(request.headers, b"user-agent")
        if agent is not None:
            attributes["user_agent.original"] = _text(agent)
        return attributes

    # An `ifserver.front.access_log.AccessLog`.

    def change(self, style: Format, queries: bool) -> None:
        self._queries = queries
        self._log.change(style, queries)

    def write(self, entry: Entry) -> None:
        if self._log.enabled:
            self._log.write(entry)
        traced = self._open.pop(entry.stream, None)
        span = self._refused(entry) if traced is None else traced.span
        if span.is_recording():
            _conclude(span, entry)
        span.end()

    def _refused(self, entry: Entry) -> Span:
        """The span of a request that never was a stream."""
        path, _, query = entry.target.partition(b"?")
        attributes = _common(entry.method, path, query if self._queries else b"")
        if entry.client:
            attributes["client.address"] = entry.client
        if entry.http_version:
            attributes["network.protocol.version"] = entry.http_version
        began_ns = int((entry.at - entry.duration_s) * _NS)
        return self._tracer.start_span(_name(attributes), Context(), SpanKind.SERVER, attributes, (), began_ns)

    def reopen(self) -> None:
        self._log.reopen()

    def close(self) -> None:
        for traced in self._open.values():
            traced.span.end()
        self._open.clear()
        self._log.close()

    def statistics(self) -> dict[str, int]:
        return self._log.statistics()


class Tracer:
    """Makes the spans of a worker.

    Args:
        pool: whose requests it takes.
        is_expected: whether an exception that the application raises is no error.
    """

    def __init__(self, pool: str, is_expected: Callable[[Stream, Exception], bool]) -> None:
        self._pool = pool
        self._is_expected = is_expected
        self._tracer = get_tracer("ifserver.worker", __version__)
        self._is_first = True

    @contextmanager
    def span(self, stream: Stream) -> Iterator[None]:
        """The application is called for `stream` in this block."""
        if self._is_first:
            # Not before: an application may configure the SDK in its lifespan's startup.
            self._is_first = False
            _warn_without_sdk("worker.tracing")
        request = stream.request
        client = context_in(request.headers)
        channel = _CHANNELS[stream.KIND]
        if isinstance(request, m.WebSocketConnect) and request.unconfirmed is not None:
            channel = channels.WEBSOCKET_RESUME
        channel = channels.of_pool(self._pool, channel)
        attributes: _Attributes = {
            "messaging.system": _SYSTEM,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": channel,
            "messaging.message.id": stream.link.identity,
        }
        if stream.link.attempt:
            attributes["ifserver.attempt"] = stream.link.attempt
        span = self._tracer.start_span(f"process {channel}", client, SpanKind.CONSUMER, attributes)
        # With what else the client's context holds: baggage.
        token = current.attach(client)
        try:
            with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
                try:
                    yield
                except Exception as error:
                    if not self._is_expected(stream, error):
                        span.record_exception(error)
                        _fail(span, type(error).__qualname__, f"{type(error).__name__}: {error}")
                    raise
        finally:
            current.detach(token)


def _conclude(span: Span, entry: Entry) -> None:
    """Add how a request went."""
    if entry.status:
        span.set_attribute("http.response.status_code", entry.status)
        span.set_attribute("http.response.body.size", entry.sent_bytes)
    if entry.queue_s is not None:
        span.set_attribute("ifserver.queue.duration", entry.queue_s)
    if entry.stream:
        span.set_attribute("ifserver.stream", entry.stream)
    if entry.request_id:
        span.set_attribute("ifserver.request_id", entry.request_id)
    if entry.close_code is not None:
        span.set_attribute("ifserver.websocket.close_code", entry.close_code)
    if entry.status >= 500:
        _fail(span, str(entry.status))
    elif entry.close_code == _INTERNAL_ERROR:
        _fail(span, str(entry.close_code))


def _fail(span: Span, kind: str, why: str | None = None) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, why))


def _name(attributes: _Attributes) -> str:
    """The method alone: what the path means only the application knows, and there are too many of them."""
    method = str(attributes["http.request.method"])
    return "HTTP" if method == "_OTHER" else method


def _common(method: str, path: bytes, query: bytes) -> _Attributes:
    is_known = method in _METHODS
    attributes: _Attributes = {"http.request.method": method if is_known else "_OTHER", "url.path": _text(path)}
    if not is_known and method:
        attributes["http.request.method_original"] = method
    if query:
        attributes["url.query"] = _text(query)
    return attributes


def _host_and_port(host: bytes, scheme: str) -> tuple[str, int]:
    text = _text(host)
    name, colon, port = text.rpartition(":")
    if not colon or (port and not port.isdigit()):  # (the end of an IPv6 address has a bracket)
        name, port = text, ""
    return name.removeprefix("[").removesuffix("]"), int(port or (443 if scheme in ("https", "wss") else 80))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
