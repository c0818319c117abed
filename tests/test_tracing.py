"""How a trace's context travels in the headers of a request."""

from __future__ import annotations

import pytest
from opentelemetry import baggage, trace

from ifserver.messages import Headers
from ifserver.tracing import context_in, put_context
from tests.spans import CLIENT, CLIENT_SPAN, TRACE

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
