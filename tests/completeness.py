"""A pytest plugin: a test process that dies is one failed test, and the last line says how many tests were not run.

Without it, a run that ends early looks like a short one: "382 passed" says nothing of the 5,000 others.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_timeout
from xdist.scheduler import LoadFileScheduling

__all__ = ["Completeness", "FileScheduling"]


class FileScheduling(LoadFileScheduling):
    """``--dist loadfile``, but a test whose process died is not run again.

    xdist puts the rest of the dead process's files back into the queue, with the test that killed it in front: that
    would kill one process after another, until there may be no more.
    """

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
