"""What new streams get a moment for: their claims, and the bodies of responses whose heads are held.

A whole answer shows as well as a claim who has the request. Whatever waits for a database, or for a thread, needs a
moment for it. Nobody misses a claim that comes a tenth of a second late: servers ask for requests that are unclaimed
after a second (docs/explanation/architecture.rst, "Lost offers"), and a supervisor claims for a worker that is blocked.
Each claim costs both sides a message, and the worker a turn of its loop, which has to wait for the threads that run.

A response whose body is there in the same step of its application is one message. Many others have it a moment later,
when another task, or a thread, has had its turn: of Starlette's ``BaseHTTPMiddleware`` one or two turns of the loop, of
files and of generators that are not asynchronous one to ten milliseconds. For them it is worth waiting. An event source
may have nothing to send for minutes, and its client must learn at once that it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from ifserver.clock import Clock, Timer
from ifserver.messages import HttpRequest
from ifserver.worker.stream import ANSWERING, DONE, HELD, LOST, OFFERED, OVER, Phase, Stream

__all__ = ["CLAIM_GRACE_S", "HEAD_GRACE_S", "Claims"]

#: How long a claim waits for the answer, and a head for its body, at least, in seconds; at most it is twice as long.
CLAIM_GRACE_S: Final = 0.05
HEAD_GRACE_S: Final = 0.01

#: A stream, and the server that it was pulled of: it may have moved meanwhile.
_Entry: TypeAlias = tuple[Stream, str]


class _Later:
    """Acts on streams between one and two graces after they were added, unless they are in a phase of `settled` then.

    One timer is enough for all.

    Args:
        act: is called with what is due, and with what is settled.
    """

    def __init__(
        self, clock: Clock, grace_s: float, settled: tuple[Phase, ...], act: Callable[[list[_Entry]], None]
    ) -> None:
        self._clock = clock
        self._grace_s = grace_s
        self._settled = settled
        self._act = act
        #: Those that were added since the timer was set, and those before them.
        self._young: list[_Entry] = []
        self._old: list[_Entry] = []
        self._timer: Timer | None = None

    def add(self, stream: Stream, server: str) -> None:
        self._young.append((stream, server))
        if self._timer is None:
            self._timer = self._clock.callLater(self._grace_s, self._due)

    def stop(self) -> list[_Entry]:
        """Act no more. Returns what was not due yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left, self._old, self._young = [*self._old, *self._young], [], []
        return left

    def _due(self) -> None:
        # What is settled need not be looked at a second time. Where all is, the loop need not turn once more.
        due, self._old = self._old, []
        for each in self._young:
            (due if each[0].phase in self._settled else self._old).append(each)
        self._young = []
        self._timer = self._clock.callLater(self._grace_s, self._due) if self._old else None
        if due:
            self._act(due)


class Claims:
    """Looks what has become of new streams.

    Args:
        claimed: is called with the servers of streams which have been claimed, or answered, and how many were claimed.
    """

    def __init__(self, clock: Clock, claimed: Callable[[list[str], int], None]) -> None:
        self._claimed = claimed
        self._claims = _Later(clock, CLAIM_GRACE_S, OVER, self._claim)
        self._heads = _Later(clock, HEAD_GRACE_S, (OFFERED, ANSWERING, DONE, LOST), _send_heads)

    def look(self, fresh: list[Stream], servers: list[str]) -> None:
        """Claim those of the new streams that were not answered in whole by their first step, now or soon."""
        known, claims = [], 0
        for stream, server in zip(fresh, servers, strict=True):
            if stream.phase not in OVER:
                stream.begun = True
                if stream.phase is HELD:
                    self.hold_head(stream)
                # The rest of a body is sent when the server knows to whom. So are the messages of a WebSocket.
                if isinstance(stream.request, HttpRequest) and not stream.request.more_body:
                    self._claims.add(stream, server)
                    continue
                stream.link.claim()
                claims += 1
            known.append(server)
        if known:
            self._claimed(known, claims)

    def hold_head(self, stream: Stream) -> None:
        """Send the head of a response soon, unless the first of its body has been sent by then."""
        self._heads.add(stream, "")

    def stop(self) -> None:
        """Claim at once what is not answered, and nothing later. Send no more heads."""
        self._heads.stop()
        if left := self._claims.stop():
            self._claim(left)

    def _claim(self, due: list[_Entry]) -> None:
        count = 0
        for stream, _ in due:
            # Also one that has begun to answer: a claim alone shows who watches over this worker.
            if stream.phase not in OVER:
                stream.link.claim()
                count += 1
        self._claimed([server for _, server in due], count)


def _send_heads(due: list[_Entry]) -> None:
    for stream, _ in due:
        if stream.phase is HELD:
            stream.send_head()
