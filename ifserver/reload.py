"""Restarts the workers when a Python file of the application changes; for development.

``watchfiles`` is imported only when that is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred, succeed

if TYPE_CHECKING:
    from watchfiles import Change

__all__ = ["Reloader"]

#: Changes count as one until there was none for this time: an editor writes a file in several steps ...
_QUIET_MS: Final = 50
#: ... and a checkout writes many, but after this time they have been gathered for long enough.
_GATHER_MS: Final = 500

_log = logging.getLogger(__name__)


class Reloader:
    """Watches the folder `app_dir` and all below it, from `start` to `stop`, and calls `restart` for each change."""

    def __init__(self, app_dir: str, restart: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._folder = os.path.realpath(app_dir)
        self._restart = restart
        self._loop = loop
        self._end = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch. Never fails: a folder that cannot be watched is logged."""
        # watchfiles would tell of each change in a line of its own.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        self._task = self._loop.create_task(self._run(), name="reload")

    def stop(self) -> Deferred[None]:
        """Stop watching. Fires when the watching thread has ended, within 50 ms."""
        self._end.set()
        if self._task is None:
            return succeed(None)
        return Deferred.fromFuture(self._task)

    async def _run(self) -> None:
        try:
            await self._watch()
        except OSError as error:
            _log.error("cannot watch %s, so changes are not noticed: %s", self._folder, error)
        except Exception:
            _log.exception("no longer watching %s", self._folder)

    async def _watch(self) -> None:
        from watchfiles import PythonFilter, awatch

        # watchfiles ignores what it cannot open, as it is told to below, and is silent also where that is all of it.
        os.scandir(self._folder).close()
        is_python = PythonFilter()

        def wanted(change: Change, path: str) -> bool:
            # Relative, for only what is ignored below the folder matters, not where the folder is.
            return is_python(change, os.path.relpath(path, self._folder))

        async for changes in awatch(
            self._folder,
            watch_filter=wanted,
            debounce=_GATHER_MS,
            step=_QUIET_MS,
            stop_event=self._end,
            ignore_permission_denied=True,
        ):
            if self._end.is_set():
                return
            files = sorted({os.path.relpath(path, self._folder) for _, path in changes})
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            _log.info("%s%s changed: restarting the workers", files[0], more)
            self._restart()
