"""Imports of libraries without those parts of them that we do not use, and that would cost each process much.

Twisted's TLS alone, with pyOpenSSL and cryptography, is 70 ms of CPU and 14 MB. We speak TLS with Python's ``ssl``.

Only the command ``ifserver`` does this, before there are threads of an application. In other programs (a shell, a
Celery worker) another thread may import the same modules meanwhile, so there they are imported whole.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

__all__ = ["be_lean", "is_lean", "not_importable", "stand_ins"]

_lean = False


def be_lean() -> None:
    """From now on, leave out what is not used. For processes of our own, before they import anything else of ours."""
    global _lean
    _lean = True


def is_lean() -> bool:
    """Whether imports leave anything out."""
    return _lean


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
    nothing where imports are not lean."""
    if not _lean:
        yield
        return
    added = {name: names for name, names in modules.items() if name not in sys.modules}
    for name, names in added.items():
        module = sys.modules[name] = ModuleType(name)
        vars(module).update(dict.fromkeys(names, object))
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
