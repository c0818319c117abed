"""Who is alive: who beats on the nodes, and who is missing there; and who is on nodes that cannot be reached.

A process *beats* by renewing a key of its own. Processes that share streams with it ask the node, once a second,
whether the key is there. A process is dead when it was missing in two answers in a row that lie at least 1 s apart,
each given by a node that had just taken a beat of the asker: a node that takes nothing, or has lost everything, proves
nothing. Whatever is odd about an answer, or about the node, makes the count begin anew, 3 s later (see
docs/explanation/architecture.rst, Liveness).

A child is there when the beat of its supervisor names it. One that was never named may be younger than that beat, and
gets the time that the beat lives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from twisted.python.failure import Failure

from ifserver import channels
from ifserver.clock import Clock, Timer
from ifserver.errors import NodeError, NodeRefused
from ifserver.layers.node import Node
from ifserver.logs import events
from ifserver.metrics import LAG_BOUNDS_S, Histogram
from ifserver.status import names_of

if TYPE_CHECKING:
    from ifserver.layers.clusters import Clusters

__all__ = [
    "BEATS_BETWEEN_QUESTIONS",
    "BEAT_S",
    "SERVER_LIFE_S",
    "SUPERVISOR_LIFE_S",
    "Heartbeat",
    "LivenessWatch",
    "NodeOutages",
    "Watched",
]

_log = logging.getLogger(__name__)


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


#: How long a process whose node is gone may take, beyond `NodeOutages.grace_s`, to say where it receives.
_MISSING_S: Final = 5.0

#: On each node: who is asked for, and the process that beats for them (their supervisor, or they themselves).
Watched: TypeAlias = Mapping[str, Mapping[str, str]]


class LivenessWatch:
    """Decides who is dead, from the answers of one node. Pure: times are seconds of any clock that never goes back."""

    __slots__ = ("_counts_from", "_epoch", "_missing", "_young_until")

    def __init__(self) -> None:
        self._missing: dict[str, float] = {}
        #: Until when it means nothing that a supervisor does not name a child; long ago for one that it has named.
        self._young_until: dict[str, float] = {}
        self._counts_from = 0.0
        self._epoch: str | None = None

    def odd(self, now: float) -> None:
        """A beat or a question failed, was refused, or the connection is a new one."""
        self._missing.clear()
        self._counts_from = now + _ANEW_S

    def late(self, asked_at: float, now: float) -> bool:
        """Whether an answer came so late that it is odd."""
        if late := now - asked_at > _LATE_S:
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
        if self.late(asked_at, now) or asked_at < self._counts_from:
            return []
        # Those who are not asked for any more are forgotten.
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


class Heartbeat:
    """The beat of one process, from `start` to `stop`.

    Args:
        nodes: where it beats; where it asks, it beats as well.
        life_s: how long each beat lives there.
        value: what a beat reports (`ifserver.status.with_facts`).
        watched: whom to ask for, at each time of asking.
        lost: is called for everyone who is dead.
        reads: which request channels are read on the nodes where it beats.
    """

    def __init__(
        self,
        clusters: Clusters,
        nodes: Callable[[], Iterable[Node]],
        clock: Clock,
        life_s: float,
        value: Callable[[], bytes],
        watched: Callable[[], Watched],
        lost: Callable[[str], None],
        reads: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._clusters = clusters
        self._nodes = nodes
        self._clock = clock
        self._life_s = life_s
        self._value = value
        self._watched = watched
        self._lost = lost
        self._reads = reads
        self._watches = {name: LivenessWatch() for name in clusters.nodes}
        #: Nodes that have not answered the last beat or question.
        self._busy: set[str] = set()
        #: How many connections to each node were lost when we last looked.
        self._losses: dict[str, int] = {}
        #: Which of our two commands each node refused last, so that it is logged once.
        self._refused: dict[str, str] = {}
        #: How long each node took to answer a beat.
        self.round_trips = {name: Histogram(LAG_BOUNDS_S) for name in clusters.nodes}
        self._ticks = 0
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._tick()

    def beat_now(self) -> None:
        """Report at once that something has changed."""
        if self._timer is not None:
            for node in self._nodes():
                # Whatever it has not answered yet, it takes this after that.
                beating = node.beat(self._clusters.process, self._value(), self._life_s, self._reads())
                beating.addErrback(lambda failure: failure.trap(NodeError))  # the next beat reports it

    def stop(self) -> None:
        """Beat no more; others take this process for dead when its last beat is over."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _tick(self) -> None:
        self._timer = self._clock.callLater(BEAT_S, self._tick)
        self._ticks += 1
        watched: Watched = self._watched() if self._ticks % BEATS_BETWEEN_QUESTIONS == 0 else {}
        for name in {node.name for node in self._nodes()} | watched.keys():
            node = self._clusters.nodes.get(name)
            if node is not None and name not in self._busy:
                self._beat(node, watched.get(name))

    def _beat(self, node: Node, watched: Mapping[str, str] | None) -> None:
        now = self._clock.seconds()
        # A connection may have been lost and made again between two beats: others who lost theirs need longer.
        if node.losses != self._losses.get(node.name, 0):
            self._losses[node.name] = node.losses
            self._watches[node.name].odd(now)
        beating = node.beat(self._clusters.process, self._value(), self._life_s, self._reads())
        self._busy.add(node.name)
        beating.addCallbacks(self._beaten, self._failed, (node, watched, now), errbackArgs=(node, "beat"))

    def _beaten(self, _: None, node: Node, watched: Mapping[str, str] | None, began_at: float) -> None:
        now = self._clock.seconds()
        self.round_trips[node.name].observe(now - began_at)
        if self._refused.get(node.name) == "beat":
            del self._refused[node.name]
        if self._watches[node.name].late(began_at, now) or not watched:
            self._busy.discard(node.name)
            return
        keys = sorted(set(watched.values()))
        asking = node.beats(keys)
        asking.addCallbacks(
            self._answered, self._failed, (node, watched, keys, now), errbackArgs=(node, "question for others' beats")
        )

    def _answered(
        self, values: list[bytes | None], node: Node, watched: Mapping[str, str], keys: list[str], asked_at: float
    ) -> None:
        self._busy.discard(node.name)
        self._refused.pop(node.name, None)
        living = {key: names_of(value) for key, value in zip(keys, values, strict=True) if value is not None}
        beats = {
            name: (name == by or name in living[by] or None) if by in living else False for name, by in watched.items()
        }
        for name in self._watches[node.name].answered(asked_at, self._clock.seconds(), node.epoch, beats):
            text = "process %s gives no sign of life on node %s: presuming it dead"
            events.report(_log, logging.WARNING, events.Mark.PROCESS_LOST, text, name, node.name)
            try:
                self._lost(name)
            except Exception:
                # A bug of ours must not keep the others who are dead from being noticed.
                _log.exception("what process %s leaves behind could not be handled", name)

    def _failed(self, failure: Failure, node: Node, what: str) -> None:
        failure.trap(NodeError)
        self._busy.discard(node.name)
        self._watches[node.name].odd(self._clock.seconds())
        if failure.check(NodeRefused) and self._refused.get(node.name) != what:
            self._refused[node.name] = what
            _log.warning("node %s refuses our %s: %s", node.name, what, failure.value)


class NodeOutages:
    """Where those who receive on nodes that are unreachable for long are looked for, and when they are taken for dead.

    Nobody is asked: a process whose node is gone names another one of its cluster (`ifserver.layers.inbox`), if any is
    left. Where none is, nobody can have moved, and nothing is known of anybody.

    Args:
        nodes: all of them, by name.
        clusters: those of each cluster.
        grace_s: ``broker_grace_s``.
    """

    def __init__(
        self, nodes: Mapping[str, Node], clusters: Mapping[str, list[Node]], clock: Clock, grace_s: float
    ) -> None:
        self._nodes = nodes
        self._clusters = clusters
        self._clock = clock
        #: How long a node may be gone before the processes that receive there are looked for elsewhere.
        self.grace_s = grace_s
        #: Since when a node has been gone while another one of its cluster was there, and when that was seen last.
        self._alone_gone: dict[str, tuple[float, float]] = {}

    def is_there(self, inbox: str) -> bool:
        """Whether the node of `inbox` can be reached, and gives signs of life."""
        node = self._nodes.get(channels.node_of(inbox))
        return node is not None and node.is_reachable()

    def is_gone(self, inbox: str) -> bool:
        """Whether the node of `inbox` has been gone for `grace_s`."""
        node = self._nodes.get(channels.node_of(inbox))
        return node is not None and node.unreachable_s() >= self.grace_s

    def elsewhere(self, inbox: str) -> list[str]:
        """Where a process may be found that has named `inbox`, whose node has been gone for `grace_s`: on the other
        nodes of that cluster. Empty while it is not to be looked for."""
        if not self.is_gone(inbox):
            return []
        node, process = self._nodes[channels.node_of(inbox)], channels.process_of(inbox)
        return [channels.make_inbox(each.name, process) for each in self._others(node) if each.connected]

    def is_missing(self, inbox: str) -> bool:
        """Whether the process that has named `inbox` must be dead: its node has been gone, and another one of that
        cluster was there, for so long that it would have named that one. To be asked every second or so."""
        node, now = self._nodes.get(channels.node_of(inbox)), self._clock.seconds()
        if node is None:
            return False
        if node.is_reachable() or not any(each.is_reachable() for each in self._others(node)):
            self._alone_gone.pop(node.name, None)
            return False
        since, seen = self._alone_gone.get(node.name, (now, now))
        since = now if now - seen > _MISSING_S else since
        self._alone_gone[node.name] = since, now
        return min(node.unreachable_s(), now - since) >= self.grace_s + _MISSING_S

    def _others(self, node: Node) -> list[Node]:
        cluster = next(nodes for nodes in self._clusters.values() if node in nodes)
        return [each for each in cluster if each is not node]
