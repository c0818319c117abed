"""What has happened in other tests of this process has not happened here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.logs.kept import no_events


@pytest.fixture(autouse=True)
def _no_events() -> Iterator[None]:
    with no_events():
        yield
