"""A pytest plugin: a test process that dies is one failed test, and the last line says how many tests were not run.

Without it, a run that ends early looks like a short one: "382 passed" says nothing of the 5,000 others.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pytest
import pytest_timeout
from xdist.scheduler import LoadFileScheduling

__all__ = ["LONG", "Completeness", "FileScheduling", "in_good_order"]

#: The files that take longest: half a minute and more, by themselves. They begin first, the longest in front.
LONG: Final = (
    "tests/e2e/test_open_sockets.py",
    "tests/e2e/test_clocks_of_processes.py",
    "tests/chaos/test_chaos.py",
    "tests/e2e/test_channels_layer.py",
    "tests/layers/test_conformance.py",
    "tests/e2e/test_clocks.py",
    "tests/e2e/test_restarting.py",
    "tests/e2e/test_canary.py",
    "tests/test_cli.py",
    "tests/e2e/test_broker_faults.py",
    "tests/e2e/test_live_view.py",
    "tests/e2e/test_liveness.py",
    "tests/e2e/test_browser.py",
    "tests/e2e/test_admin.py",
    "tests/e2e/test_groups.py",
    "tests/e2e/test_runserver.py",
    "tests/e2e/test_systemd.py",
    "tests/testing/test_server.py",
    "tests/test_distribution.py",
)


def in_good_order(files: Iterable[str]) -> list[str]:
    """`files`, as they should begin where several run at a time.

    Those of real processes wait most of the time, the others compute. Each kind gets its share of any moment, so that
    no CPU is idle; and what is short comes last, so that nobody waits for one file in the end.
    """
    names = list(files)
    long = [name for name in LONG if name in names]
    rest = [name for name in names if name not in long]
    waiting = [*long, *(name for name in rest if name.startswith("tests/e2e/"))]
    computing = [name for name in rest if not name.startswith("tests/e2e/")]
    places = [((number + 0.5) / len(kind), name) for kind in (waiting, computing) for number, name in enumerate(kind)]
    return [name for _, name in sorted(places)]


class FileScheduling(LoadFileScheduling):
    """``--dist loadfile``, but the files begin in a good order, and a test whose process died is not run again.

    xdist puts the rest of the dead process's files back into the queue, with the test that killed it in front: that
    would kill one process after another, until there may be no more.
    """

    _is_in_order = False

    def _assign_work_unit(self, node: Any) -> None:
        if not self._is_in_order:
            self._is_in_order = True
            self.workqueue = OrderedDict((name, self.workqueue[name]) for name in in_good_order(self.workqueue))
        super()._assign_work_unit(node)

    def remove_node(self, node: Any) -> str | None:
        """Take back what a process still had to run; the test that it died from, if there is one."""
        crashed = None
        for tests in self.assigned_work[node].values():
            crashed = next((test for test, completed in tests.items() if not completed), None)
            if crashed is not None:
                tests[crashed] = True
                break
        super().remove_node(node)
        return crashed


class Completeness:
    """Compares what was collected with what was reported. Registered in the process that the user started.

    Args:
        config: of that process.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._collected: set[str] = set()
        self._reported: set[str] = set()

    def not_run(self) -> int:
        """How many tests were collected, but have no result."""
        return len(self._collected - self._reported)

    # What was collected and reported. With xdist, its workers collect.

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if not self._config.option.collectonly:
            self._collected.update(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._collected.update(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # "???" is xdist's report of a test whose process has died.
        if report.failed or report.when in ("teardown", "???"):
            self._reported.add(report.nodeid)

    # What comes of it.

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> FileScheduling | None:
        return FileScheduling(config, log) if config.getvalue("dist") == "loadfile" else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.not_run() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_unconfigure(self) -> Iterator[None]:
        yield
        self.say()

    def say(self) -> None:
        """Write the last line, if there is something to say."""
        count = self.not_run()
        if count:
            what = "1 test was" if count == 1 else f"{count:,} tests were"
            print(f"{what} not run, of {len(self._collected):,}.", flush=True)

    # A test that hangs ends the whole process. Under xdist that is one of several, and this plugin is not in it.

    @pytest.hookimpl(tryfirst=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> bool | None:
        if settings.method != "thread":
            return None
        timer = threading.Timer(settings.timeout, self._hangs, (item, settings))
        timer.daemon = True

        def cancel() -> None:
            timer.cancel()
            timer.join()

        item.cancel_timeout = cancel  # type: ignore[attr-defined]
        timer.start()
        return True

    def _hangs(self, item: pytest.Item, settings: Any) -> None:
        if not settings.disable_debugger_detection and pytest_timeout.is_debugging():
            return
        try:
            capture = item.config.pluginmanager.getplugin("capturemanager")
            if capture is not None:
                capture.suspend_global_capture(in_=True)
                for text in capture.read_global_capture():
                    sys.stdout.write(text)
            sys.stdout.flush()
            faulthandler.dump_traceback(sys.__stderr__)
            print(f"\nFAILED {item.nodeid} - it has not ended within {settings.timeout:g} s", flush=True)
            self._reported.add(item.nodeid)
            self.say()
        finally:
            os._exit(1)
