"""The exchanges that are open, and the reply channels that they were given."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["Registry"]

_T = TypeVar("_T")


class Registry(dict[str, _T]):
    """The exchanges that are open, by the identity of their streams."""

    def __init__(self, inbox: str) -> None:
        super().__init__()
        self._prefix = inbox + "."
        self._count = 0

    def new_channel(self) -> str:
        """A reply channel that no stream has had."""
        self._count += 1
        return f"{self._prefix}{self._count:x}"

    def move(self, inbox: str) -> None:
        """New reply channels belong to `inbox` from now on."""
        self._prefix = inbox + "."

    def all(self) -> list[_T]:
        """Every exchange that is open; they may end meanwhile."""
        return list(self.values())
