"""Which nodes have workers: who reads which request channels, and who is free, by the heartbeats of supervisors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, TypeAlias

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ifserver.channels import DEFAULT_POOL
from ifserver.clock import Clock, Timer
from ifserver.errors import NodeError, NodeRefused
from ifserver.layers.node import Node, Reading
from ifserver.logs import events
from ifserver.status import decode_facts, facts_of

__all__ = ["ASK_S", "FRESH_S", "FreeWorkers", "Readers", "ReadersLog", "WorkerPresence"]

_log = logging.getLogger(__name__)


#: How often each node is asked, in seconds.
ASK_S: Final = 0.2
#: How old the last word of a reader may be, in seconds. Supervisors beat every 0.5 s: one that was killed together with
#: its workers is noticed within a second of its last beat.
FRESH_S: Final = 0.8
#: A word from the future, by more than clocks differ: the node's clock was set back since.
_AHEAD_S: Final = 1.0
#: An answer that took longer than this, in seconds, says more about the node than about who is missing.
_LATE_S: Final = 0.25
#: How long no answer counts that misses somebody, after such a one: the others' beats had to wait as well.
_ANEW_S: Final = 1.0
#: How long a node may not answer before nothing is known of its readers, in seconds.
_SILENCE_S: Final = 1.0

#: The request channels that are read on a node, by its name; None: they are not known.
Readers: TypeAlias = Mapping[str, frozenset[str] | None]


class _Asked:
    """One node, and what is known of its readers."""

    __slots__ = ("asked_at", "counts_from", "losses", "node", "read", "refused", "told")

    def __init__(self, node: Node) -> None:
        self.node = node
        #: When it was asked, while it has not answered.
        self.asked_at: float | None = None
        #: From when on an answer counts that misses somebody.
        self.counts_from = 0.0
        #: How many connections to it were lost when it was asked last.
        self.losses = node.losses
        #: What is read there; None: that is not known.
        self.read: frozenset[str] | None = None
        #: The same as it was told last.
        self.told: frozenset[str] | None = None
        #: Whether it has refused to answer, which is logged once.
        self.refused = False

    def ask(self, now: float) -> Deferred[list[Reading]]:
        """Ask who reads there."""
        self.asked_at = now
        if self.node.losses != self.losses:
            # Others may have lost theirs as well, and need longer than we to have it again.
            self.losses = self.node.losses
            self.counts_from = now + _ANEW_S
        return self.node.readers()

    def answered(self, readings: list[Reading], now: float) -> frozenset[str] | None:
        """What is read there, by an answer that has come `now`; None: that is not known."""
        asked_at, self.asked_at = self.asked_at, None
        living = [reading.channels for reading in readings if -_AHEAD_S < reading.age_s < FRESH_S]
        found: frozenset[str] = frozenset().union(*living)
        if asked_at is not None and now - asked_at > _LATE_S:
            self.counts_from = now + _ANEW_S
        if now < self.counts_from:
            return found | self.read if self.read is not None else found or None
        return found


class WorkerPresence:
    """Asks `nodes` who reads there, from `start` to `stop`.

    Args:
        told: is called with what is read on each node that has other readers than before; None: that is not known.
    """

    def __init__(self, nodes: Collection[Node], clock: Clock, told: Callable[[Readers], None]) -> None:
        self._nodes = [_Asked(node) for node in nodes]
        self._clock = clock
        self._told = told
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin to ask, if there are several nodes."""
        if len(self._nodes) > 1:
            self._ask_all()

    def stop(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ask_all(self) -> None:
        self._timer = self._clock.callLater(ASK_S, self._ask_all)
        now = self._clock.seconds()
        for each in self._nodes:
            silent = each.asked_at is not None and now - each.asked_at >= _SILENCE_S
            if silent or not each.node.connected:
                each.read = None
        # Without those that have not answered.
        self._tell()
        for each in self._nodes:
            if each.asked_at is None and each.node.connected:
                each.ask(now).addCallbacks(self._answered, self._failed, (each,), errbackArgs=(each,))

    def _answered(self, readings: list[Reading], each: _Asked) -> None:
        each.refused = False
        each.read = each.answered(readings, self._clock.seconds())
        self._tell_if_all_have_answered()

    def _failed(self, failure: Failure, each: _Asked) -> None:
        failure.trap(NodeError)
        each.asked_at = each.read = None
        if failure.check(NodeRefused) and not each.refused:
            each.refused = True
            _log.warning(
                "node %s does not say who reads there: %s; see `ifserver check` for the rights it asks",
                each.node.name,
                failure.value,
            )
        self._tell_if_all_have_answered()

    def _tell_if_all_have_answered(self) -> None:
        # Workers come and go on all nodes of their cluster at once. Whoever is silent is not waited for for long.
        if all(each.asked_at is None for each in self._nodes):
            self._tell()

    def _tell(self) -> None:
        new: dict[str, frozenset[str] | None] = {}
        for each in self._nodes:
            if each.read != each.told:
                new[each.node.name] = each.told = each.read
        if new and self._timer is not None:
            self._told(new)


class ReadersLog:
    """Says in the log where requests go, and why."""

    def __init__(self) -> None:
        #: Nodes that somebody has read.
        self._were_read: set[str] = set()
        #: Channels that nobody reads, which is told once.
        self._told: set[str] = set()

    def changed(self, readers: Readers, before: frozenset[str], after: frozenset[str]) -> None:
        """These readers are new. Nobody read the nodes `before`, and nobody reads those in `after` (`idle_nodes`)."""
        for name in sorted(after - before):
            text = "no worker reads node %s: requests are offered elsewhere"
            if name in self._were_read:
                events.report(_log, logging.WARNING, events.Mark.NO_READER, text, name)
            else:
                _log.info(text, name)
        for name, read in readers.items():
            if read:
                self._told -= read
                self._were_read.add(name)
                if name in before - after:
                    text = "workers read node %s: requests are offered there"
                    events.report(_log, logging.INFO, events.Mark.READER, text, name)

    def nobody(self, channel: str, had_workers: bool) -> None:
        """A request waits on `channel`, which nobody reads on any node."""
        if channel in self._told:
            return
        self._told.add(channel)
        if had_workers:
            text = "no worker reads %s on any node: requests wait until one does"
            events.report(_log, logging.WARNING, events.Mark.NO_READER, text, channel)
        else:
            _log.info("waiting for the first worker: requests wait until it is ready")


#: How often is asked, and how long an answer holds, in seconds.
_ASK_S: Final = 1.0
_HOLDS_S: Final = 2.0


class FreeWorkers:
    """Asks nodes for workers that would take a request now.

    Args:
        found: is told of each node that has some, and of which pool.
    """

    def __init__(self, clock: Clock, found: Callable[[Node, str], None]) -> None:
        self._clock = clock
        self._found = found
        #: When may be asked again, for each pool.
        self._ask_at: dict[str, float] = {}
        #: When free workers were last seen, by the name of the node and the pool.
        self._seen: dict[tuple[str, str], float] = {}
        #: Nodes that have refused to answer, which is logged once.
        self._refused: set[str] = set()

    def seek(self, nodes: Iterable[Node], pool: str) -> None:
        """Ask `nodes` for workers of a pool, unless they were asked less than a second ago."""
        now = self._clock.seconds()
        if now < self._ask_at.get(pool, 0.0):
            return
        self._ask_at[pool] = now + _ASK_S
        for node in nodes:
            if node.connected:
                Deferred.fromCoroutine(self._ask(node, pool)).addErrback(_defect)

    def are_on(self, name: str, pool: str) -> bool:
        """Whether the node `name` had free workers of that pool just now."""
        seen = self._seen.get((name, pool))
        return seen is not None and self._clock.seconds() - seen < _HOLDS_S

    async def _ask(self, node: Node, pool: str) -> None:
        try:
            values = await node.census()
        except NodeError as error:
            if isinstance(error, NodeRefused) and node.name not in self._refused:
                self._refused.add(node.name)
                _log.warning(
                    "node %s does not say whether it has free workers: %s; see `ifserver check` for the rights it asks",
                    node.name,
                    error,
                )
            return
        if any(_has_free_workers(value, pool) for value in values.values()):
            self._seen[node.name, pool] = self._clock.seconds()
            self._found(node, pool)


def _has_free_workers(beat: bytes, pool: str) -> bool:
    facts = decode_facts(facts_of(beat))
    return facts is not None and any(
        child.ready and child.free > 0 and (child.pool or DEFAULT_POOL) == pool for child in facts.children
    )


def _defect(failure: Failure) -> None:
    _log.error("looking for free workers failed:\n%s", failure.getTraceback())
