"""Waiting for events in tests, on the real reactor and never longer than a limit."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ifserver.layers.node import Limits, Node

__all__ = [
    "INBOX",
    "LIMIT_S",
    "LOOP",
    "OTHER_INBOX",
    "ROOMY",
    "Ear",
    "async_test",
    "error_of",
    "eventually",
    "listen",
    "turn",
    "within",
]

#: How long any one test may take, in seconds; far more than it needs, well below pytest's own limit.
LIMIT_S = 120.0
#: Limits that no test reaches by accident.
ROOMY = Limits(10_000, 60.0)
INBOX = "!east-1.0123456789"
OTHER_INBOX = "!east-1.abcdefghjk"

#: The event loop of the reactor.
LOOP = reactor._asyncioEventloop

T = TypeVar("T")


class Ear:
    """Hears what is published (`Subscriber`)."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.interruptions: list[str] = []

    def published(self, group: str, payload: bytes) -> None:
        self.heard.append((group, payload))

    def interrupted(self, groups: Collection[str]) -> None:
        assert groups
        self.interruptions += groups

    def of(self, group: str) -> list[bytes]:
        """What was published in `group`."""
        return [payload for name, payload in self.heard if name == group]


def listen(node: Node) -> Ear:
    """Who hears on `node`, one for each."""
    if node.subscriber is None:
        node.subscriber = Ear()
    assert isinstance(node.subscriber, Ear)
    return node.subscriber


def within(awaitable: Awaitable[T], seconds: float = LIMIT_S) -> Deferred[T]:
    """Fires as `awaitable` does, or fails when that takes longer; also where it cannot be cancelled."""

    async def result() -> T:
        return await awaitable

    def late() -> None:
        over.errback(TimeoutError(f"still waiting after {seconds:g} s"))

    def done(value: T | Failure) -> None:
        if not over.called:
            timer.cancel()
            over.callback(value)

    over: Deferred[Any] = Deferred()
    timer = reactor.callLater(seconds, late)
    Deferred.fromCoroutine(result()).addBoth(done)
    return over


def async_test(function: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """A test that is a coroutine function, and ends within `LIMIT_S`."""
    # Only here: the programs beside this file import it too, and have no use for pytest.
    import pytest_twisted

    @pytest_twisted.ensureDeferred
    @functools.wraps(function)
    async def limited(*args: Any, **kwargs: Any) -> None:
        await within(function(*args, **kwargs))

    return limited


def turn(seconds: float = 0.0) -> Deferred[None]:
    """Fires when the event loop has gone round once."""
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    return done


async def eventually(condition: Callable[[], Any], what: str = "it", seconds: float = LIMIT_S) -> None:
    """Wait until `condition` holds; for what nobody tells."""
    deadline = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < deadline, f"{what} has not come about within {seconds:g} s"
        await turn(0.002)


async def error_of(deferred: Deferred[Any]) -> BaseException:
    """The exception that `deferred` fails with."""
    try:
        result = await within(deferred)
    except Exception as error:
        return error
    raise AssertionError(f"it has not failed, but fired with {result!r}")
