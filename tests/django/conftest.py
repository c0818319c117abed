from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeAlias

import pytest

from tests.django.process import LIMIT_S, Machine, in_thread

Run: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def machine() -> Iterator[Machine]:
    one = Machine()
    yield one
    one.close()


@pytest.fixture(params=["a loop of its own", "the loop of the nodes"])
def run(request: pytest.FixtureRequest, machine: Machine) -> Run:
    """Runs a coroutine, on either loop that a caller may have."""
    if request.param == "a loop of its own":
        return lambda work: in_thread(lambda: asyncio.run(work))
    return lambda work: asyncio.run_coroutine_threadsafe(work, machine.loop).result(LIMIT_S)
