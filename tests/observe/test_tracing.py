"""The spans of servers and workers, as OpenTelemetry's SDK makes them, and how a trace's context travels."""

from __future__ import annotations

import asyncio
import builtins
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.trace import SpanKind, StatusCode

from ifserver import channels
from ifserver import headers as h
from ifserver.errors import ClientDisconnected, ConfigurationError
from ifserver.messages import Headers
from ifserver.observe.tracing import context_in, put_context
from ifserver.services.worker import _traced
from ifserver.worker.wsgi import WSGIAdapter
from tests.front.fakes import GET, HANDSHAKE, World
from tests.process.test_children import run
from tests.spans import CLIENT, CLIENT_SPAN, TRACE, Spans, kept
from tests.worker.stage import STREAM, Play, http_request, turns, websocket_connect
from tests.worker.test_worker import Stage, get
from tests.worker.test_worker import played as stage_played
from tests.worker.test_wsgi import until


@pytest.fixture
def spans() -> Iterator[Spans]:
    with kept() as spans:
        yield spans


def traced(**settings: Any) -> World:
    return World(tracing=True, **settings)


def parent_in(request: Any) -> tuple[int, int]:
    """The trace and the span that a request names in the queue."""
    [value] = h.values(request.headers, b"traceparent")
    _, trace_id, span_id, _ = value.split(b"-")
    return int(trace_id, 16), int(span_id, 16)


def test_a_request_has_a_span_from_its_head_to_its_end_and_one_for_its_offer(spans: Spans) -> None:
    world = traced(request_id=True)
    target = b"/caf%C3%A9?a=1"
    head = b"GET " + target + b" HTTP/1.1\r\nHost: [::1]:8000\r\nUser-Agent: x\xff\r\nTraceparent: " + CLIENT
    client = world.client(head + b"\r\nTracestate: v=1\r\n\r\n")
    job = world.worker.job()
    offer = spans.one("send http.request")
    assert parent_in(job.request) == (TRACE, offer.context.span_id)
    assert h.values(job.request.headers, b"tracestate") == [b"v=1"]
    assert spans.named("GET") == []
    job.claim()
    world.advance(1.0)
    job.respond(200, [], b"four")
    assert client.received().endswith(b"four")
    request = spans.one("GET")
    assert (request.kind, offer.kind) == (SpanKind.SERVER, SpanKind.PRODUCER)
    assert request.parent.span_id == CLIENT_SPAN
    assert offer.parent.span_id == request.context.span_id
    assert request.context.trace_id == offer.context.trace_id == TRACE
    assert dict(request.attributes) == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/caf%C3%A9",
        "url.query": "a=1",
        "network.protocol.version": "1.1",
        "server.address": "::1",
        "server.port": 8000,
        "client.address": "192.0.2.1",
        "user_agent.original": "x\\xff",
        "http.response.status_code": 200,
        "http.response.body.size": 4,
        "ifserver.queue.duration": 0.0,
        "ifserver.stream": job.stream,
        "ifserver.request_id": job.stream,
    }
    assert request.status.status_code is StatusCode.UNSET
    # It is an access log too.
    assert [entry.stream for entry in world.access.entries] == [job.stream]
    assert world.server.exchanges.tracing is not None
    assert world.server.exchanges.tracing._open == {}


def test_without_a_context_of_the_client_a_trace_begins(spans: Spans) -> None:
    world = traced(access_log_queries=False)
    world.client(b"PROPFIND /?secret HTTP/1.1\r\nHost: a\r\nTracestate: stale=1\r\n\r\n")
    world.worker.job().respond()
    request = spans.one("HTTP")
    assert request.parent is None
    assert "url.query" not in request.attributes
    assert (request.attributes["http.request.method"], request.attributes["http.request.method_original"]) == (
        "_OTHER",
        "PROPFIND",
    )
    other = spans.one("send http.request")
    assert other.context.trace_id == request.context.trace_id
    assert (request.attributes["server.address"], request.attributes["server.port"]) == ("a", 80)


def test_what_is_not_answered_well_is_an_error(spans: Spans) -> None:
    world = traced(queue_timeout_s=30)
    world.client(GET)
    world.advance(30.1)
    request = spans.one("GET")
    assert (request.status.status_code, request.attributes["error.type"]) == (StatusCode.ERROR, "503")


def test_a_request_that_is_refused_unread_has_a_span(spans: Spans) -> None:
    world = traced()
    world.client(b"GET / HTTP/1.1\r\n\r\n", b"")
    world.client(b"nonsense\r\n\r\n")
    first, second = spans.all
    assert (first.name, second.name) == ("GET", "HTTP")
    assert first.attributes["http.response.status_code"] == 400
    assert first.status.status_code is StatusCode.UNSET


def test_a_response_that_is_cut_off_is_an_error(spans: Spans) -> None:
    world = traced()
    world.client(GET)
    job = world.worker.job()
    job.respond(200, [], b"half", more_body=True)
    job.release()
    world.settle()
    request = spans.one("GET")
    assert request.status.status_code is StatusCode.ERROR
    assert request.attributes["error.type"] == "aborted"
    assert request.attributes["http.response.status_code"] == 200


def test_a_retry_is_an_event_and_an_offer_of_its_own(spans: Spans) -> None:
    world = traced()
    world.client(GET)
    job = world.worker.job()
    job.claim()
    job.release()
    world.settle()
    again = world.worker.job()
    again.respond()
    first, second = spans.named("send http.request")
    request = spans.one("GET")
    assert parent_in(job.request) == (request.context.trace_id, first.context.span_id)
    assert parent_in(again.request) == (request.context.trace_id, second.context.span_id)
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
    assert first.parent.span_id == second.parent.span_id == request.context.span_id
    assert second.attributes["ifserver.attempt"] == 1
    [event] = request.events
    assert event.name == "ifserver.offered_again"
    assert event.attributes["ifserver.attempt"] == 1


def test_a_websocket_has_one_span_until_it_is_closed(spans: Spans) -> None:
    world = traced()
    client = world.client(HANDSHAKE.replace(b"\r\n\r\n", b"\r\nTraceparent: " + CLIENT + b"\r\n\r\n"))
    job = world.worker.job(channels.WEBSOCKET_CONNECT)
    assert parent_in(job.request) == (TRACE, spans.one("send websocket.connect").context.span_id)
    job.accept()
    assert client.received().startswith(b"HTTP/1.1 101")
    world.advance(10.0)
    assert spans.named("GET") == []
    client.leave()
    world.settle()
    request = spans.one("GET")
    assert request.parent.span_id == CLIENT_SPAN
    assert request.attributes["http.response.status_code"] == 101
    assert request.attributes["ifserver.websocket.close_code"] == 1006
    assert request.status.status_code is StatusCode.UNSET


def test_a_context_that_is_not_valid_is_not_passed_on(spans: Spans) -> None:
    world = traced()
    world.client(b"GET / HTTP/1.1\r\nHost: a\r\nTraceparent: x\r\nTracestate: y=1\r\n\r\n")
    job = world.worker.job()
    assert [name for name, _ in job.request.headers] == [b"host", b"traceparent"]
    assert parent_in(job.request)[1] == spans.one("send http.request").context.span_id


@pytest.mark.parametrize(("head", "channel"), [(GET, channels.HTTP_REQUEST), (HANDSHAKE, channels.WEBSOCKET_CONNECT)])
def test_without_tracing_it_is_a_header_like_any_other(head: bytes, channel: str, spans: Spans) -> None:
    world = World()
    world.client(head.replace(b"\r\n\r\n", b"\r\nTraceparent: x\r\nTracestate: y\r\n\r\n"))
    assert world.worker.job(channel).request.headers[-2:] == [(b"traceparent", b"x"), (b"tracestate", b"y")]
    assert spans.all == []


def test_what_is_open_when_the_server_ends_is_ended(spans: Spans) -> None:
    world = traced()
    world.client(GET)
    world.worker.job()
    world.server.access_log.close()
    assert spans.one("GET").end_time is not None


def test_without_the_api_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = builtins.__import__

    def fails(name: str, *others: Any) -> Any:
        if name == "ifserver.observe" and "tracing" in others[2]:
            raise ModuleNotFoundError("No module named 'opentelemetry'")
        return real(name, *others)

    monkeypatch.setattr(builtins, "__import__", fails)
    with pytest.raises(ConfigurationError, match=r"front.tracing: No module named 'opentelemetry': pip install"):
        traced()


# Workers: what is current in the application, and in what the usual instrumentations make there.


HEADERS = [(b"host", b"here"), (b"traceparent", CLIENT), (b"baggage", b"user=7")]


def played(application: Any, request: Any) -> None:
    """Run `application` for one request, to its end."""

    async def main() -> None:
        play = await Play.begin(request, _traced(application, ""))
        task = play.stream.task
        await turns()
        if task is not None:
            await task

    run(main)


def test_the_application_runs_in_the_span_of_its_message(spans: Spans) -> None:
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        async def elsewhere() -> None:
            seen.append(trace.get_current_span().get_span_context().span_id)

        await asyncio.create_task(elsewhere())
        await asyncio.to_thread(lambda: seen.append(trace.get_current_span().get_span_context().span_id))
        seen.append(baggage.get_baggage("user"))
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    played(application, http_request(headers=HEADERS, attempt=1))
    span = spans.one("process http.request")
    assert span.kind is SpanKind.CONSUMER
    assert (span.context.trace_id, span.parent.span_id) == (TRACE, CLIENT_SPAN)
    assert seen == [span.context.span_id, span.context.span_id, "7"]
    assert dict(span.attributes) == {
        "messaging.system": "ifserver",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "http.request",
        "messaging.message.id": STREAM,
        "ifserver.attempt": 1,
    }
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_the_asgi_instrumentation_joins_it(spans: Spans) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    played(OpenTelemetryMiddleware(application), http_request(headers=HEADERS, path="/", raw_path=b"/"))
    [inner] = spans.named("GET /")
    assert inner.parent.span_id == spans.one("process http.request").context.span_id
    assert inner.kind is SpanKind.INTERNAL


def test_a_wsgi_application_runs_in_it_too(spans: Spans) -> None:
    seen: list[Any] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        seen.append((threading.current_thread().name, trace.get_current_span().get_span_context().span_id))
        start_response("200 OK", [])
        return [b"x"]

    async def act(stage: Stage) -> None:
        stage.ask(get("/", headers=HEADERS))
        await until(lambda: spans.all)

    stage_played(act, application=_traced(WSGIAdapter(application, 1), ""))
    [(thread, span_id)] = seen
    assert thread.startswith("wsgi")
    assert span_id == spans.one("process http.request").context.span_id


@pytest.mark.parametrize(("unconfirmed", "channel"), [(None, "websocket.connect"), (0, "websocket.resume")])
def test_a_websocket_has_one_span_in_each_worker(spans: Spans, unconfirmed: int | None, channel: str) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})

    played(application, websocket_connect(headers=HEADERS, unconfirmed=unconfirmed))
    span = spans.one(f"process {channel}")
    assert (span.context.trace_id, span.parent.span_id) == (TRACE, CLIENT_SPAN)


def test_what_the_application_raises_is_an_error(spans: Spans) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("x")

    played(application, http_request(headers=HEADERS))
    span = spans.one("process http.request")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "KeyError"
    assert [event.name for event in span.events] == ["exception"]


def test_that_a_client_has_left_is_none(spans: Spans) -> None:
    async def main() -> None:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            raise ClientDisconnected("gone")

        play = await Play.begin(http_request(headers=HEADERS), _traced(application, ""))
        play.stream.lose()
        await turns()

    run(main)
    assert spans.one("process http.request").status.status_code is StatusCode.UNSET


# How a trace's context travels in the headers of a request.


OTHERS: Headers = [(b"host", b"a"), (b"cookie", b"x"), (b"cookie", b"y")]


def test_a_context_is_read_and_written() -> None:
    headers = [
        *OTHERS,
        (b"traceparent", CLIENT),
        (b"tracestate", b"a=1"),
        (b"tracestate", b"b=2"),
        (b"baggage", b"u=7"),
    ]
    context = context_in(headers)
    span = trace.get_current_span(context).get_span_context()
    assert (span.trace_id, span.span_id, span.is_remote) == (TRACE, CLIENT_SPAN, True)
    assert dict(span.trace_state) == {"a": "1", "b": "2"}
    assert baggage.get_all(context) == {"u": "7"}
    put_context(headers, context)
    assert headers == [*OTHERS, (b"traceparent", CLIENT), (b"tracestate", b"a=1,b=2"), (b"baggage", b"u=7")]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"traceparent", b"nonsense"), (b"tracestate", b"a=1")],
        [(b"traceparent", CLIENT)] * 2,
        [(b"tracestate", b"a=1")],
    ],
)
def test_one_that_is_not_valid_is_none_and_not_passed_on(headers: Headers) -> None:
    mixed = [*headers, *OTHERS, (b"baggage", b"\xff\xfe")]
    context = context_in(mixed)
    assert not trace.get_current_span(context).get_span_context().is_valid
    put_context(mixed, context)
    assert [field for field in mixed if field[0] != b"baggage"] == OTHERS
