"""The spans of a worker: what is current in the application, and in what the usual instrumentations make there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.trace import SpanKind, StatusCode

from ifserver.errors import ClientDisconnected
from ifserver.worker.tracing import Traced, Tracer
from ifserver.worker.wsgi import WSGIAdapter
from tests.process.test_children import run
from tests.spans import CLIENT, CLIENT_SPAN, TRACE, Spans, kept
from tests.worker.stage import STREAM, Play, http_request, turns, websocket_connect
from tests.worker.test_worker import Stage, get
from tests.worker.test_worker import played as stage_played
from tests.worker.test_wsgi import until

HEADERS = [(b"host", b"here"), (b"traceparent", CLIENT), (b"baggage", b"user=7")]


@pytest.fixture
def spans() -> Iterator[Spans]:
    with kept() as spans:
        yield spans


def played(application: Any, request: Any) -> None:
    """Run `application` for one request, to its end."""

    async def main() -> None:
        play = await Play.begin(request, Traced(application, Tracer()))
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

    stage_played(act, application=WSGIAdapter(application, 1), tracing=True)
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

        play = await Play.begin(http_request(headers=HEADERS), Traced(application, Tracer()))
        play.stream.let_go()
        await turns()

    run(main)
    assert spans.one("process http.request").status.status_code is StatusCode.UNSET
