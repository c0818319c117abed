"""Every kind of node, held to the one suite."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted

from tests.layers import conformance
from tests.layers.harnesses import HARNESSES, Harness
from tests.layers.helpers import within


@pytest_twisted.async_yield_fixture
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    harness = HARNESSES[request.param]()
    await harness.open()
    yield harness
    await within(harness.close())


@pytest.mark.parametrize("harness", HARNESSES, indirect=True)
class TestNode(conformance.NodeSuite):
    """All kinds."""


@pytest.mark.parametrize("harness", [kind for kind in HARNESSES if HARNESSES[kind].remote], indirect=True)
class TestRemoteNode(conformance.RemoteSuite):
    """Those that can be lost."""
