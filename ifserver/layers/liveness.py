"""Who is taken for dead: decided from the answers of one node to questions about beats. Pure.

A process *beats* by renewing a key of its own. Whoever shares streams with it asks the node, once a second, whether the
key is there. A process is dead when it was missing in two answers in a row that lie at least 1 s apart, each given by a
node that had just taken a beat of the asker: a node that takes nothing, or has lost everything, proves nothing.
Whatever is odd about an answer, or about the node, makes the count begin anew, 3 s later (see
docs/explanation/architecture.rst, Liveness).

A child is there when the beat of its supervisor names it. One that was never named may be younger than that beat, and
gets the time that the beat lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["BEATS_BETWEEN_QUESTIONS", "BEAT_S", "SERVER_LIFE_S", "SUPERVISOR_LIFE_S", "LivenessWatch"]

#: How often a process beats, in seconds; and at which of its beats it asks for others.
BEAT_S: Final = 0.5
BEATS_BETWEEN_QUESTIONS: Final = 2
#: How long a beat lives on the node: six beats of a supervisor may be lost; a server, whose death costs more, has more.
SUPERVISOR_LIFE_S: Final = 3.0
SERVER_LIFE_S: Final = 7.0

#: An answer that took longer than this says more about the node than about who is missing.
_LATE_S: Final = 0.5
#: How far the two answers must lie apart: a second, give or take what timers and answers are late by.
_APART_S: Final = 0.9
#: How long no answer counts after something was odd: others need as long to find the node and to beat there again.
_ANEW_S: Final = 3.0


class LivenessWatch:
    """What one node has said about others. Times are seconds of any clock that never goes back."""

    __slots__ = ("_counts_from", "_epoch", "_missing", "_young_until")

    def __init__(self) -> None:
        self._missing: dict[str, float] = {}
        #: Until when it says nothing that a supervisor does not name a child; long ago for one that it has named.
        self._young_until: dict[str, float] = {}
        self._counts_from = 0.0
        self._epoch: str | None = None

    def odd(self, now: float) -> None:
        """A beat or a question failed, was refused, or the connection is a new one."""
        self._missing.clear()
        self._counts_from = now + _ANEW_S

    def late(self, asked_at: float, now: float) -> bool:
        """Whether an answer came so late that it is odd."""
        late = now - asked_at > _LATE_S
        if late:
            self.odd(now)
        return late

    def answered(self, asked_at: float, now: float, epoch: str | None, beats: Mapping[str, bool | None]) -> list[str]:
        """The node has answered who is there; who is dead by that.

        Args:
            asked_at: when it was asked, right after it had taken a beat of the asker.
            epoch: the node's, when it answered.
            beats: whether each of those that it was asked for is there; None: its supervisor is, and does not name it.
        """
        if epoch != self._epoch:
            first, self._epoch = self._epoch is None, epoch
            if not first:
                self.odd(now)
                return []
        if self.late(asked_at, now):
            return []
        if asked_at < self._counts_from:
            return []
        # Whoever is not asked for any more is forgotten.
        before, self._missing = self._missing, {}
        young, self._young_until = self._young_until, {}
        dead = []
        for name, there in beats.items():
            young_until = young.get(name, asked_at + SUPERVISOR_LIFE_S) if not there else 0.0
            self._young_until[name] = young_until
            if there or (there is None and asked_at < young_until):
                continue
            since = before.get(name, asked_at)
            if asked_at - since >= _APART_S:
                dead.append(name)
            else:
                self._missing[name] = since
        return dead
