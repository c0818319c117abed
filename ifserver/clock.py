"""Time as an argument: the part of Twisted's ``IReactorTime`` that is used here, as types.

The reactor is a `Clock`, and so is ``twisted.internet.task.Clock``, which tests use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

__all__ = ["Clock", "Soon", "Timer"]


class Timer(Protocol):
    """A call that will be made later (``IDelayedCall``)."""

    def cancel(self) -> None:
        """Do not make it. Raises if it was made or cancelled."""

    def active(self) -> bool:
        """Whether it is still to be made."""


class Clock(Protocol):
    """Tells the time and calls later (``IReactorTime``)."""

    def seconds(self) -> float:
        """The time, in seconds since the epoch."""

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> Timer:
        """Call `callable` in `delay` seconds."""


#: Runs a function at the end of this turn of the event loop.
Soon: TypeAlias = Callable[[Callable[[], None]], object]
