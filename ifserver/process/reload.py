"""Restarts the workers when a file of the application changes; for development.

``watchfiles`` is imported only when that is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred, succeed

from ifserver.logs import events

if TYPE_CHECKING:
    from watchfiles import Change

__all__ = ["Reloader", "Wanted"]

#: Code; what Django's own autoreload watches beside it, templates and compiled translations; and settings. A folder
#: means all that is in it. Not every .html, for what users upload and what is built restarts nothing.
INCLUDED: Final = ("*.py", "*.mo", ".env", "templates", "jinja2")
#: What is nobody's own code; and what editors write beside the file that they change.
EXCLUDED: Final = (
    ".*",
    "__pycache__",
    "node_modules",
    "site-packages",
    "*.py[cod]",
    "*~",
    "~*",
    "*.sw?",
    "#*#",
    "*___jb_???___",
    "flycheck_*",
    "4913",
)

#: Changes count as one until there was none for this time: an editor writes a file in several steps ...
_QUIET_MS: Final = 50
#: ... and a checkout writes many, but after this time they have been gathered for long enough.
_GATHER_MS: Final = 500

_log = logging.getLogger(__name__)


class _Patterns:
    """Patterns of files, of which some may be paths: ``*.py``, ``config/*.toml``."""

    def __init__(self, patterns: Iterable[str]) -> None:
        tidy = [str(PurePath(pattern)) for pattern in patterns]
        #: Those that need no look at more than a name: one expression, for there may be many thousands of names.
        self._names = re.compile("|".join(translate(each) for each in tidy if "/" not in each) or "(?!)")
        self._paths = [each for each in tidy if "/" in each]

    def fit(self, path: PurePath) -> bool:
        """Whether one fits `path` itself."""
        return self._names.match(path.name) is not None or any(map(path.match, self._paths))

    def fit_folder(self, path: PurePath) -> bool:
        """Whether one fits a folder in which `path` is."""
        folders = path.parts[:-1]
        return any(map(self._names.match, folders)) or (
            bool(self._paths) and any(parent.match(each) for parent in path.parents for each in self._paths)
        )


class Wanted:
    """Which files are watched.

    A pattern fits a file, or a folder and then all that is in it. `exclude` wins against `include`, and both against
    what is watched and what is not without them (`INCLUDED`, `EXCLUDED`).
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._included = _Patterns((*INCLUDED, *include))
        self._excluded = _Patterns((*(each for each in EXCLUDED if each not in include), *exclude))
        #: Hidden files that were named, and not only fit a pattern.
        self._named = {each for each in (*INCLUDED, *include) if each not in exclude}

    def __call__(self, path: str) -> bool:
        """Whether the file is watched that has this path, relative to the folder that is watched."""
        file = PurePath(path)
        if self._excluded.fit_folder(file) or (self._excluded.fit(file) and file.name not in self._named):
            return False
        return self._included.fit(file) or self._included.fit_folder(file)


class Reloader:
    """Watches folders and all below them, from `start` to `stop`, and calls `restart` for each change."""

    def __init__(
        self,
        folders: Sequence[str],
        wanted: Callable[[str], bool],
        restart: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._folders = [os.path.realpath(folder) for folder in folders]
        self._wanted = wanted
        self._restart = restart
        self._loop = loop
        self._end = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch. Never fails: a folder that cannot be watched is logged."""
        # watchfiles would log each change in a line of its own.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        self._task = self._loop.create_task(self._run(), name="reload")

    def stop(self) -> Deferred[None]:
        """Stop watching. Fires when the watching thread has ended, within 50 ms."""
        self._end.set()
        if self._task is None:
            return succeed(None)
        return Deferred.fromFuture(self._task)

    async def _run(self) -> None:
        where = ", ".join(self._folders)
        try:
            await self._watch()
        except OSError as error:
            _log.error("cannot watch %s, so changes are not noticed: %s", where, error)
        except Exception:
            _log.exception("no longer watching %s", where)

    async def _watch(self) -> None:
        from watchfiles import awatch

        # watchfiles ignores what it cannot open, as it is asked to below, and is silent also where that is all of it.
        for folder in self._folders:
            os.scandir(folder).close()

        def wanted(change: Change, path: str) -> bool:
            return any(map(self._wanted, self._relative(path)))

        async for changes in awatch(
            *self._folders,
            watch_filter=wanted,
            debounce=_GATHER_MS,
            step=_QUIET_MS,
            stop_event=self._end,
            ignore_permission_denied=True,
        ):
            if self._end.is_set():
                return
            files = sorted({min(self._relative(path), key=len) for _, path in changes})
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            text = "%s%s changed: restarting the workers"
            events.report(_log, logging.INFO, events.Mark.NEW_CODE, text, files[0], more)
            self._restart()

    def _relative(self, path: str) -> list[str]:
        """`path`, relative to each of the folders in which it is: only what is ignored below a folder matters, and not
        where the folder is."""
        return [os.path.relpath(path, folder) for folder in self._folders if PurePath(path).is_relative_to(folder)]
