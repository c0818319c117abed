"""The clocks of all are set forward and back while all are in use, or that of Redis alone: nobody feels it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.e2e.clocks import HOUR_S, Site, takes_a_step
from tests.e2e.running import Gate
from tests.stepped_clock import missing

if missing():
    pytest.skip(missing(), allow_module_level=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One after the other, all steps are taken by the same processes."""
    with ExitStack() as stack:
        site = Site(stack, tmp_path_factory.mktemp("clocks"))
        yield site
        site.end()


@pytest.mark.parametrize(("who", "seconds"), [("redis", 60), ("all", 60), ("all", -20), ("redis", -HOUR_S)])
def test_a_step_ends_nothing_and_holds_nothing_up(
    site: Site, gate: Gate, pool: ThreadPoolExecutor, who: str, seconds: float
) -> None:
    takes_a_step(site, gate, pool, who, seconds)
