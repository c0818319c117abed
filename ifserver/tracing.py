"""What servers and workers share of tracing with OpenTelemetry: how a context travels.

It can be imported only where OpenTelemetry's API is installed. A context travels in headers of the request, in the form
that is configured for the whole process (OTEL_PROPAGATORS). By default that is W3C Trace Context, ``traceparent`` and
``tracestate``, and W3C Baggage.
"""

from __future__ import annotations

import logging
from typing import Final

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter

from ifserver import headers as h
from ifserver.messages import Headers

__all__ = ["SYSTEM", "context_in", "put_context", "warn_without_sdk"]

#: ``messaging.system`` of the spans of both sides.
SYSTEM: Final = "ifserver"
#: What an application, or a proxy, may have put there by itself. It is replaced only by a context that has some.
_BAGGAGE: Final = "baggage"

_log = logging.getLogger(__name__)


class _Fields(Getter[Headers]):
    """Reads header fields for a propagator."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        name = key.lower().encode("latin-1")
        found = [value.decode("latin-1") for value in h.values(carrier, name)]
        # Trace Context 3.2.2: traceparent is one field. Of two, nobody knows which one is right.
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
    # What is not written now belongs to a context that is not passed on: a tracestate, say, without its traceparent.
    gone = {name.encode("latin-1") for name in (propagate.get_global_textmap().fields | fresh.keys())}
    if _BAGGAGE not in fresh:
        gone.discard(_BAGGAGE.encode())
    headers[:] = [field for field in headers if field[0] not in gone]
    headers += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fresh.items()]


def warn_without_sdk(setting: str) -> None:
    """Tell the operator if there is nothing that takes spans."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        _log.warning("%s: OpenTelemetry's SDK is not configured, so no spans are made", setting)
