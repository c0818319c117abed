"""What holds for every test of the nodes: nothing goes wrong unseen, and nothing is left behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.logger import globalLogPublisher

from tests.layers.helpers import LOOP

pytest.register_assert_rewrite("tests.layers.conformance")


@pytest.fixture(autouse=True)
def _nothing_unseen() -> Iterator[None]:
    """Fail for what only a log would tell: an exception in a Deferred that nobody has seen, or in the event loop."""
    seen: list[str] = []

    def observe(event: Any) -> None:
        if event.get("log_failure") is not None:
            seen.append(event["log_failure"].getTraceback())

    def handle(loop: Any, context: dict[str, Any]) -> None:
        seen.append(f"{context.get('message')}: {context.get('exception')!r}")

    loop = LOOP
    globalLogPublisher.addObserver(observe)
    loop.set_exception_handler(handle)
    yield
    gc.collect(0)
    loop.set_exception_handler(None)
    globalLogPublisher.removeObserver(observe)
    assert not seen, "\n".join(seen)
    assert [call for call in reactor.getDelayedCalls() if call.active()] == []
