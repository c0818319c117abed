"""Imports of libraries without those parts of them that we do not use, and that would cost each process much.

Twisted's TLS alone, with pyOpenSSL and cryptography, is 70 ms of CPU and 14 MB. We speak TLS with Python's ``ssl``.

Only the command ``ifserver`` does this, before there are threads of an application. In other programs (a shell, a
Celery worker) another thread may import the same modules meanwhile, so there they are imported whole.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

__all__ = ["be_lean", "begin_twisted", "is_lean", "not_importable", "stand_ins"]

_lean = False


def be_lean() -> None:
    """From now on, leave out what is not used. For processes of our own, before they import anything else of ours."""
    global _lean
    _lean = True


def is_lean() -> bool:
    """Whether imports leave anything out."""
    return _lean


class _StandIn(ModuleType):
    """An empty module in the place of another one."""

    def __getattr__(self, name: str) -> Any:
        # Machinery of imports asks for `__path__` and the like.
        if name.startswith("__") or sys.modules.get(self.__name__) is self:
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def not_importable(name: str) -> Iterator[None]:
    """Let imports of a module fail, unless it has been imported already. Does nothing where imports are not lean."""
    if not _lean or name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def stand_ins(modules: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """Let imports of these modules find empty ones, which have only these names, unless they have been imported. Does
    nothing where imports are not lean.

    An empty one that is kept has the other names of the real one, afterwards.
    """
    if not _lean:
        yield
        return
    added = {name: names for name, names in modules.items() if name not in sys.modules}
    for name, names in added.items():
        module = sys.modules[name] = _StandIn(name)
        vars(module).update(dict.fromkeys(names, object))
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def begin_twisted() -> None:
    """Import what everything of Twisted imports. Does nothing where imports are not lean.

    Its compatibility module imports ``http.cookiejar``, and with it an HTTP client and all of ``email``: a tenth of the
    CPU that a start costs. It uses none of it.
    """
    if _lean:
        with stand_ins({"http.cookiejar": []}):
            import twisted.python.compat  # noqa: F401
