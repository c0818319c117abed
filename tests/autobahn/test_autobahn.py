"""The quick cases of the Autobahn test suite; ``make autobahn`` makes the suite, and runs all in three setups."""

from __future__ import annotations

from tests.autobahn.run import run, serving

#: 6.4.4 waits for ``close_timeout_s``: the suite's close frame comes inside a frame that it has not ended.
CASES = ("1.* 2.* 3.* 4.* 5.* 6.* 7.* 10.* !6.4.*", "6.4.1 6.4.2 6.4.3")


def test_quick_cases():
    with serving("local") as served:
        report = run(served, CASES, ())
    assert report.ok, f"\n{report}"
    assert len(report.results) == 246
