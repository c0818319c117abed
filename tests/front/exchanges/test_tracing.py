"""The spans of a server, as OpenTelemetry's SDK makes them."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from ifserver import channels
from ifserver import headers as h
from ifserver.errors import ConfigurationError
from tests.front.fakes import GET, HANDSHAKE, World
from tests.spans import CLIENT, CLIENT_SPAN, TRACE, Spans, kept


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
        if name == "ifserver.front.exchanges.tracing":
            raise ModuleNotFoundError("No module named 'opentelemetry'")
        return real(name, *others)

    monkeypatch.setattr(builtins, "__import__", fails)
    with pytest.raises(ConfigurationError, match=r"front.tracing: No module named 'opentelemetry': pip install"):
        traced()
