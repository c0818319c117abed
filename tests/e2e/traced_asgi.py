"""The zoo, as a site instruments its ASGI application; and what it finds where the server's context is due."""

from __future__ import annotations

import zoo
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

app = OpenTelemetryMiddleware(zoo.app, exclude_spans=["receive", "send"])
