"""Keeps what we import from changing Python's standard library, which the application shares with us.

Import this module before anything of Twisted: that is what keeps the classes as they are.

**Classes.** Twisted's classes declare what they implement with zope.interface, which stores that on the class and on
every base of it: ``abc.ABC``, ``typing.Generic``, ``asyncio.Protocol`` and others get the attributes
``__implemented__``, ``__providedBy__`` and ``__provides__``. The last one is a descriptor that raises AttributeError
for subclasses. So in a process that has imported Twisted, ``[getattr(x, name) for name in dir(x)]`` fails for every
instance of an abstract, generic or protocol class, also for those of an application that does not use Twisted.
(Gradio does this when it starts.)

For classes that cannot be written to, such as ``int``, zope.interface has a registry, and it looks there before it
writes on a class. `keep_classes` has that registry take the classes of the standard library as well, when they are
first asked for. Declarations and queries give the same results as before; those that an application makes explicitly
for such a class (``classImplements``) work too.

**Pickling.** ``twisted.persisted.styles`` registers functions for pickling modules, functions and methods. Then pickled
methods name Twisted, and a process without Twisted cannot read them. See `pickling_kept`.
"""

from __future__ import annotations

import contextlib
import copyreg
import sys
from collections import UserDict
from collections.abc import Iterator
from typing import Any

from zope.interface import declarations

__all__ = ["keep_classes", "pickling_kept"]

#: The name of the registry, which is not part of zope.interface's documented interface.
_REGISTRY = "BuiltinImplementationSpecifications"


class _Registry(UserDict[type, Any]):
    """zope.interface's registry; also has an entry for each class of the standard library.

    Args:
        original: keeps all entries, for zope.interface's C code reads it directly.
    """

    def __init__(self, original: dict[type, Any]) -> None:
        super().__init__()
        self.data = original

    def get(self, cls: type, default: Any = None) -> Any:
        """The entry of `cls`. zope.interface asks before it writes on a class, and does not write if there is one."""
        if cls not in self.data and _is_standard(cls):
            self.data[cls] = _specification(cls)
        return self.data.get(cls, default)


def _is_standard(cls: Any) -> bool:
    """Whether a module of the standard library has that class under its name.

    Others may only claim to be from there, such as the result of ``dataclasses.make_dataclass``: these are
    written to, because the registry would keep them alive.
    """
    module, name = getattr(cls, "__module__", None), getattr(cls, "__qualname__", None)
    if not isinstance(cls, type) or not isinstance(module, str) or not isinstance(name, str):
        return False
    if module.partition(".")[0] not in sys.stdlib_module_names or module not in sys.modules:
        return False
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found is cls


def _specification(cls: type) -> Any:
    """What zope.interface would write on `cls`."""
    name = f"{cls.__module__}.{cls.__name__}"
    made = declarations.Implements.named(name, *map(declarations.implementedBy, cls.__bases__))
    made.inherit = cls
    return made


def keep_classes() -> None:
    """Replace the registry. Does nothing if that was done, or if this zope.interface has none."""
    original = getattr(declarations, _REGISTRY, None)
    if type(original) is dict:
        setattr(declarations, _REGISTRY, _Registry(original))


@contextlib.contextmanager
def pickling_kept() -> Iterator[None]:
    """For an import: what it registers for pickling is taken back."""
    before = dict(copyreg.dispatch_table)
    yield
    # One by one: other threads may pickle meanwhile, and register functions of their own.
    for cls, function in dict(copyreg.dispatch_table).items():
        if function is not before.get(cls) and function.__module__ == "twisted.persisted.styles":
            if cls in before:
                copyreg.dispatch_table[cls] = before[cls]
            else:
                del copyreg.dispatch_table[cls]


keep_classes()
