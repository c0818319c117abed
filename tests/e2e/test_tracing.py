"""Traces through real processes, whose spans a thread of OpenTelemetry's SDK writes to a file: threads are there before
the workers are forked."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.e2e.running import APPS, ROOT, Gate, Running, eventually
from tests.spans import CLIENT, CLIENT_SPAN, TRACE

TRACEPARENT = {"traceparent": CLIENT.decode(), "tracestate": "vendor=1"}


class Spans:
    """What all processes have written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": os.pathsep.join((str(APPS / "spans"), str(ROOT))), "SPANS": str(self._path)}

    @property
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_text().splitlines()] if self._path.exists() else []

    def found(self, *names: str, fits: Callable[[dict[str, Any]], bool] = lambda span: True) -> list[dict[str, Any]]:
        """One span of each name, as soon as they are there."""

        def look() -> list[dict[str, Any]] | None:
            spans = [span for span in self.all if fits(span)]
            found = [next((span for span in spans if span["name"] == name), None) for name in names]
            return None if None in found else found  # type: ignore[return-value]

        return eventually(look, f"spans: {names}") or []


@pytest.fixture
def spans(tmp_path: Path) -> Spans:
    return Spans(tmp_path / "spans")


@pytest.fixture
def site(spans: Spans) -> Iterator[Running]:
    words = ("run", "traced_asgi:app", "-p", "0", "--workers", "2", "--tracing")
    with Running(*words, app_dir=APPS, environment=spans.environment) as server:
        yield server.ready()


def is_chain(*spans: dict[str, Any]) -> bool:
    """Whether each is the parent of the next, in the client's trace."""
    parents = [CLIENT_SPAN, *(span["id"] for span in spans)]
    return all(
        span["parent"] == parent and span["trace"] == TRACE for span, parent in zip(spans, parents, strict=False)
    )


def test_one_trace_goes_through_server_and_worker_into_the_application(site: Running, spans: Spans) -> None:
    assert httpx.get(f"{site.url}/", headers=TRACEPARENT).status_code == 200
    names = ("GET", "send http.request", "process http.request", "GET /")
    found = spans.found(*names)
    assert is_chain(*found)
    assert [span["kind"] for span in found] == ["SERVER", "PRODUCER", "CONSUMER", "INTERNAL"]
    assert found[0]["pid"] == found[1]["pid"] == site.pid
    assert found[2]["pid"] == found[3]["pid"]
    assert found[2]["pid"] in site.workers()


def test_a_websocket_that_is_resumed_and_a_request_that_is_retried(
    site: Running, spans: Spans, gate: Gate, pool: Any
) -> None:
    answer = pool.submit(httpx.get, f"{site.url}/wait?gate={gate}", headers=TRACEPARENT)
    [worker] = gate.reached()
    os.kill(worker, signal.SIGKILL)
    gate.reached(2)
    gate.open()
    assert answer.result().status_code == 200
    server, again = spans.found("GET", "process http.request", fits=lambda span: span["kind"] != "INTERNAL")
    assert server["events"] == ["ifserver.offered_again"]
    assert again["attributes"]["ifserver.attempt"] == 1
    offers = [span for span in spans.all if span["name"] == "send http.request"]
    assert [offer["parent"] for offer in offers] == [server["id"]] * 2
    assert offers[1]["links"] == [offers[0]["id"]]
    assert again["parent"] == offers[1]["id"]
    with connect(f"{site.url.replace('http', 'ws', 1)}/resume", additional_headers=TRACEPARENT) as client:
        client.send("0")
        first = client.recv()
        site.process.send_signal(signal.SIGHUP)
        [given_back] = spans.found("process websocket.connect")
        client.send("1")
        assert client.recv() != first
        client.close(4001)
    socket, resumed = spans.found(
        "GET", "process websocket.resume", fits=lambda span: "resume" in span["name"] or "101" in str(span)
    )
    assert socket["attributes"]["ifserver.websocket.close_code"] == 4001
    assert socket["events"] == ["ifserver.offered_again"]
    assert {socket["trace"], given_back["trace"], resumed["trace"]} == {TRACE}
    assert given_back["pid"] != resumed["pid"]


def test_threads_before_the_fork_take_no_signals(site: Running, spans: Spans) -> None:
    """A service manager tells every process of a service to end, the fork server too."""
    assert httpx.get(f"{site.url}/").status_code == 200
    os.killpg(site.pid, signal.SIGTERM)
    site.ended()
    site.said(r"worker \d+ has stopped", 2)
    assert "SIGKILL" not in site.output
    # What the thread had not sent yet was sent in the end.
    assert {"GET", "process http.request"} <= {span["name"] for span in spans.all}


def test_the_django_instrumentation_joins_in_the_threads_of_a_wsgi_worker(spans: Spans) -> None:
    words = ("run", "traced_django:app", "-p", "0", "--workers", "1", "--tracing")
    with Running(*words, app_dir=APPS, environment=spans.environment) as server:
        assert httpx.get(f"{server.ready().url}/hello/you", headers=TRACEPARENT).text == "hello you"
        names = ("GET", "send http.request", "process http.request", "GET hello/<str:name>")
        assert is_chain(*spans.found(*names))


@pytest.mark.parametrize("command", ["run", "worker"])
def test_without_the_api_the_error_names_the_extra(command: str, tmp_path: Path) -> None:
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('not here')")
    listen = ("-p", "0") if command == "run" else ("--cluster", "main=redis://127.0.0.1:1")
    words = (command, "zoo:app", *listen, "--tracing")
    environment = {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    server = Running(*words, app_dir=APPS, environment=environment, status=2)
    with server:
        server.ended()
    assert "ifserver[otel]" in server.output
    assert ("front" if command == "run" else "worker") + ".tracing" in server.output
