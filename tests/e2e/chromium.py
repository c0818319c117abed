"""Chromium, driven by Playwright on a thread of its own.

Playwright's plain functions must all be called on one thread, in which no event loop runs; pytest's has the reactor's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Playwright, sync_playwright

__all__ = ["LIMIT_MS", "Chromium"]

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ON_A_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
#: In milliseconds, for everything that is waited for in a page.
LIMIT_MS = 120_000
START_MS = 120_000


class Chromium:
    """A browser without windows. Use it in a ``with`` statement."""

    _playwright: Playwright
    _browser: Browser

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Chromium:
        self._thread.submit(self._start).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.submit(self._stop).result()
        self._thread.shutdown()

    def visit(self, story: Callable[[BrowserContext], None], **options: Any) -> None:
        """Run `story` with a new profile: no cookies, nothing stored. `options` are Playwright's for a context."""
        self._thread.submit(self._visit, story, options).result()

    def _start(self) -> None:
        self._playwright = sync_playwright().start()
        # Chromium refuses to run as root with its sandbox.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        try:
            self._browser = self._playwright.chromium.launch(
                executable_path=_executable(), args=flags, timeout=START_MS
            )
        except BaseException:
            self._playwright.stop()
            raise

    def _stop(self) -> None:
        self._browser.close()
        self._playwright.stop()

    def _visit(self, story: Callable[[BrowserContext], None], options: dict[str, Any]) -> None:
        context = self._browser.new_context(**options)
        context.set_default_timeout(LIMIT_MS)
        try:
            story(context)
        finally:
            context.close()


def _executable() -> str:
    """The first Chromium, or Chrome, that there is."""
    found = next(filter(None, map(shutil.which, EXECUTABLES)), None)
    if found is None and os.path.exists(ON_A_MAC):
        return ON_A_MAC
    assert found is not None, "no Chromium; tools/install-system-packages says how to install one"
    return found
