"""The clocks of workers or of a server are set forward and back while all are in use; and what follows wall clocks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from tests.e2e.clocks import AT_ONCE_S, HOUR_S, QUESTIONS, Site, answers, takes_a_step
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


@pytest.mark.parametrize(
    ("who", "seconds"),
    [("workers", -5), ("workers", HOUR_S), ("server", 30), ("server", -20), ("server", -2 * HOUR_S)],
)
def test_a_step_ends_nothing_and_holds_nothing_up(
    site: Site, gate: Gate, pool: ThreadPoolExecutor, who: str, seconds: float
) -> None:
    takes_a_step(site, gate, pool, who, seconds)


def test_what_is_queued_expires_when_redis_is_set_forward_by_more_than_it_is_kept_for(
    tmp_path: Path, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    with ExitStack() as stack:
        site = Site(stack, tmp_path, "--queue-timeout", "15")
        sockets = [site.socket(path) for path in ("/ws", "/resume")]
        held = pool.submit(site.ask, "POST", f"/wait?gate={gate}")
        gate.reached()
        queued = [pool.submit(site.ask, method, "/") for method in ("GET", "POST")]
        site.queued(2)
        site.step("redis", HOUR_S)
        site.queued(0, 1)  # the GET may be there again
        gate.open()
        # As whatever a node loses: what may be offered again is.
        assert [each.result() for each in (held, *queued)] == [200, 200, 504]
        site.watch(QUESTIONS, lambda: answers(site))
        for socket in sockets:
            socket.send("after")
            assert str(socket.recv(AT_ONCE_S)).endswith("after")
        site.end()


def test_dates_are_by_the_wall_clock_and_a_step_back_holds_up_no_end(tmp_path: Path) -> None:
    with ExitStack() as stack:
        site = Site(stack, tmp_path)
        site.socket("/ws")
        for clock in site.clocks.values():
            clock.step(-2 * HOUR_S)
        date = httpx.get(site.server.url, timeout=AT_ONCE_S).headers["date"]
        at = time.time() - 2 * HOUR_S
        assert abs(parsedate_to_datetime(date).timestamp() - at) < 60
        line = site.server.said(r'\[(\S+ \S+)\] "GET / HTTP/1.1')
        assert abs(time.mktime(time.strptime(line[1].split(" ")[0], "%d/%b/%Y:%H:%M:%S")) - at) < 60
        site.end()
