"""The spans of a server, for OpenTelemetry: one for each request, and one for each offer of it to the workers.

A request's span ends where the access log writes it down, and takes from there how it went. The names of attributes are
those of OpenTelemetry's semantic conventions for HTTP and for messaging, or begin with ``ifserver.``.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, get_tracer, set_span_in_context
from opentelemetry.util.types import AttributeValue

from ifserver import __version__
from ifserver import headers as h
from ifserver import messages as m
from ifserver.front.access_log import AccessLog, Entry, Format
from ifserver.messages import Headers
from ifserver.tracing import SYSTEM, context_in, put_context, warn_without_sdk

__all__ = ["Tracing"]

#: The methods that are told by their names: a client can invent any number (RFC 9110 9, RFC 5789).
_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
#: Spans are timed in nanoseconds.
_NS: Final = 1_000_000_000
#: RFC 6455 7.4.1: an unexpected condition.
_INTERNAL_ERROR: Final = 1011

_Attributes = dict[str, AttributeValue]


class _Traced:
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
        self._open: dict[str, _Traced] = {}
        warn_without_sdk("front.tracing")

    # What becomes of a stream.

    def begin(self, identity: str, request: m.HttpRequest | m.WebSocketConnect, channel: str) -> None:
        """The request of a new stream is about to be offered on `channel`: from now on its headers carry our context.

        Without a channel it is not offered.
        """
        client = context_in(request.headers)
        attributes = self._attributes_of(request)
        span = self._tracer.start_span(_name(attributes), client, SpanKind.SERVER, attributes)
        traced = self._open[identity] = _Traced(span, set_span_in_context(span, client))
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

    def _offer(self, traced: _Traced, identity: str, headers: Headers, channel: str, attempt: int) -> None:
        """The span of an offer is over when the request is handed to the channel layer."""
        if not traced.span.is_recording():
            put_context(headers, traced.context)
            return
        attributes: _Attributes = {
            "messaging.system": SYSTEM,
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


def _conclude(span: Span, entry: Entry) -> None:
    """Say how a request went."""
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
