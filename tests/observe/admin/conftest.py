"""What holds for every test of the admin endpoint: nothing goes wrong unseen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unseen_failures import no_unseen_failures


@pytest.fixture(autouse=True)
def _nothing_unseen() -> Iterator[None]:
    with no_unseen_failures():
        yield
