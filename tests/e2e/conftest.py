"""What many of these tests need."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.running import Gate


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate that opens at the end, also of a test that fails."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads, for clients that wait."""
    with ThreadPoolExecutor(12) as pool:
        yield pool
