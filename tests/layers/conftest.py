"""What holds for every test of the nodes: nothing goes wrong unseen, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet import reactor

from tests.layers.helpers import LOOP
from tests.unseen_failures import no_unseen_failures

pytest.register_assert_rewrite("tests.layers.conformance")


@pytest.fixture(autouse=True)
def _nothing_unseen() -> Iterator[None]:
    """Fail for an exception in a Deferred that nobody has seen, or in the event loop, and for timers that are left."""
    with no_unseen_failures() as seen:

        def handle(loop: Any, context: dict[str, Any]) -> None:
            seen.append(f"{context.get('message')}: {context.get('exception')!r}")

        LOOP.set_exception_handler(handle)
        yield
        LOOP.set_exception_handler(None)
    assert [call for call in reactor.getDelayedCalls() if call.active()] == []
