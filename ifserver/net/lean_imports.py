"""Imports of libraries without those parts of them that we do not use, and that would cost each process much.

Twisted's TLS alone, with pyOpenSSL and cryptography, is 70 ms of CPU and 14 MB. We speak TLS with Python's ``ssl``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

__all__ = ["not_importable", "stand_ins"]


@contextlib.contextmanager
def not_importable(name: str) -> Iterator[None]:
    """Let imports of a module fail, unless it has been imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def stand_ins(modules: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """Let imports of these modules find empty ones, which have only these names, unless they have been imported.

    For processes in which nobody else imports anything meanwhile.
    """
    added = {name: names for name, names in modules.items() if name not in sys.modules}
    for name, names in added.items():
        module = sys.modules[name] = ModuleType(name)
        vars(module).update(dict.fromkeys(names, object))
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
