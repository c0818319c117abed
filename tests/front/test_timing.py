"""What Server-Timing says."""

from __future__ import annotations

import pytest

from ifserver.front.timing import server_timing


@pytest.mark.parametrize(
    ("queue_s", "until_start_s", "line"),
    [
        (0.0012, 0.0137, b"server-timing: queue;dur=1.2, app;dur=12.5"),
        (0.0, 0.0, b"server-timing: queue;dur=0.0, app;dur=0.0"),
        (2.0, 1.0, b"server-timing: queue;dur=2000.0, app;dur=0.0"),
        (None, 0.0004, b'server-timing: app;dur=0.4;desc="queue included"'),
    ],
)
def test_times_are_in_milliseconds(queue_s: float | None, until_start_s: float, line: bytes) -> None:
    assert server_timing(queue_s, until_start_s) == line
