"""The reactor that everything runs on: Twisted's asyncio reactor over uvloop, whose time is the monotonic clock.

A reactor of Twisted's takes its time from the wall clock, which administrators and NTP set: a clock that is set back
holds up every timer for as long, and one that is set forward lets all waits end at once. Nothing here may wait, or
presume a process dead, by a clock that is set.

In our own processes (`ifserver.net.lean_imports`), TLS of Twisted's own is imported when it is first used. Twisted's
modules for TCP import pyOpenSSL and cryptography wherever these are installed, which costs each process 70 ms of CPU
and 14 MB, and nothing here needs them but an ``ssl:`` endpoint. What is lost by that is ``startTLS()`` of Twisted's TCP
transports.

What runs a process installs it, before anything imports ``twisted.internet.reactor``, which would install another:
the command, and the tests. Everybody else is given the reactor as an argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from twisted.internet.base import DelayedCall, ReactorBase
from twisted.internet.interfaces import IReactorSSL
from twisted.internet.main import installReactor
from zope.interface import implementer

from ifserver.net.lean_imports import not_importable

with not_importable("OpenSSL"):
    from twisted.internet.asyncioreactor import AsyncioSelectorReactor

__all__ = ["MonotonicReactor", "install", "standing_in"]


@implementer(IReactorSSL)
class MonotonicReactor(AsyncioSelectorReactor):
    """Twisted's asyncio reactor, but `seconds` goes by CLOCK_MONOTONIC, as the loop's own timers do.

    Not the loop's ``time()``: uvloop counts milliseconds, as they were when the present turn began.
    """

    #: Seconds since some time in the past, which nobody sets. Everything that Twisted computes with time asks this.
    seconds = staticmethod(time.monotonic)

    # Of `AsyncioSelectorReactor`, which has None where it means this.
    _scheduledAt: float | None  # type: ignore[assignment]
    _timerHandle: asyncio.TimerHandle | None  # type: ignore[assignment]

    def callLater(self, delay: float, callable: Any, *args: Any, **kwargs: Any) -> DelayedCall:
        call = ReactorBase.callLater(self, delay, callable, *args, **kwargs)
        if self._scheduledAt is None or call.time < self._scheduledAt:
            self._reschedule()
        return call

    def _reschedule(self) -> None:
        """Have the loop call `_onTimer` when the next call is due, and not before.

        uvloop counts whole milliseconds. A timer of Twisted's own `_reschedule` is early by a part of one, as a rule,
        and then the loop turns without rest until that has passed.
        """
        timeout_s = self.timeout()
        if timeout_s is None:
            return
        now = self.seconds()
        due_ms = math.ceil((now + timeout_s) * 1000) if timeout_s else math.floor(now * 1000)
        # When the loop will call, and not when it should: a call that is due before needs a timer of the loop.
        self._scheduledAt = due_ms / 1000
        if self._timerHandle is not None:
            self._timerHandle.cancel()
        wait_s = (due_ms - math.floor(now * 1000)) / 1000
        self._timerHandle = self._asyncioEventloop.call_later(wait_s, self._onTimer)

    # The arguments are those of `IReactorSSL`.

    def listenSSL(self, port: Any, factory: Any, contextFactory: Any, *where: Any, **named: Any) -> Any:
        from twisted.protocols.tls import TLSMemoryBIOFactory

        tls = TLSMemoryBIOFactory(contextFactory, False, factory)
        return self.listenTCP(port, tls, *where, **named)  # type: ignore[no-untyped-call]

    def connectSSL(self, host: Any, port: Any, factory: Any, contextFactory: Any, *how: Any, **named: Any) -> Any:
        from twisted.protocols.tls import TLSMemoryBIOFactory

        return self.connectTCP(host, port, TLSMemoryBIOFactory(contextFactory, True, factory), *how, **named)


def install(loop: asyncio.AbstractEventLoop) -> MonotonicReactor:
    """Make a reactor on `loop` that of this process.

    Raises:
        twisted.internet.error.ReactorAlreadyInstalledError: there is one.
    """
    reactor = MonotonicReactor(loop)
    installReactor(reactor)
    return reactor


@contextlib.contextmanager
def standing_in(reactor: MonotonicReactor) -> Iterator[None]:
    """What is imported meanwhile finds `reactor` as that of this process, if there is none.

    For programs that are not ours: they may install one of their own, now or later, or have no use for any.
    """
    name = "twisted.internet.reactor"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = reactor  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        import twisted.internet

        # A statement ``from twisted.internet import reactor`` has left it there as well.
        vars(twisted.internet).pop("reactor", None)
