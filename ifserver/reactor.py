"""The reactor that everything runs on: Twisted's asyncio reactor over uvloop, whose time is the monotonic clock.

A reactor of Twisted's takes its time from the wall clock, which administrators and NTP set: a clock that is set back
holds up every timer for as long, and one that is set forward lets all waits end at once. Nothing here may wait, or take
a process for dead, by a clock that is set.

Whoever runs a process installs it, before anything imports ``twisted.internet.reactor``, which would install another:
the command, and the tests. Everybody else is given the reactor as an argument.
"""

from __future__ import annotations

import asyncio
import time

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.main import installReactor

__all__ = ["MonotonicReactor", "install"]


class MonotonicReactor(AsyncioSelectorReactor):
    """Twisted's asyncio reactor, but `seconds` goes by CLOCK_MONOTONIC, as the loop's own timers do.

    Not the loop's ``time()``: uvloop tells milliseconds, as they were when the present turn began.
    """

    #: Seconds since some time in the past, which nobody sets. Everything that Twisted computes with time asks this.
    seconds = staticmethod(time.monotonic)


def install(loop: asyncio.AbstractEventLoop) -> MonotonicReactor:
    """Make a reactor on `loop` that of this process.

    Raises:
        twisted.internet.error.ReactorAlreadyInstalledError: there is one.
    """
    reactor = MonotonicReactor(loop)
    installReactor(reactor)
    return reactor
