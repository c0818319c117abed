"""Beats for one process on the nodes where others look for it, and asks there for those that it shares streams with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from twisted.python.failure import Failure

from ifserver.clock import Clock, Timer
from ifserver.errors import NodeError, NodeRefused
from ifserver.layers.heartbeat_value import names_of
from ifserver.layers.liveness import BEAT_S, BEATS_BETWEEN_QUESTIONS, LivenessWatch
from ifserver.layers.node import Node
from ifserver.logs import events
from ifserver.metrics import LAG_BOUNDS_S, Histogram

if TYPE_CHECKING:
    from ifserver.layers.clusters import Clusters

__all__ = ["Heartbeat", "Watched"]

#: On each node: who is asked for, and the process that beats for them (their supervisor, or they themselves).
Watched: TypeAlias = Mapping[str, Mapping[str, str]]

_log = logging.getLogger(__name__)


class Heartbeat:
    """The beat of one process, from `start` to `stop`.

    Args:
        nodes: where it beats; where it asks, it beats as well.
        life_s: how long each beat lives there.
        value: what a beat tells (`ifserver.layers.heartbeat_value`).
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
        #: Which of our two commands each node refused last, so that it is said once.
        self._refused: dict[str, str] = {}
        #: How long each node took to answer a beat.
        self.round_trips = {name: Histogram(LAG_BOUNDS_S) for name in clusters.nodes}
        self._ticks = 0
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._tick()

    def beat_now(self) -> None:
        """Tell at once that something has changed."""
        if self._timer is not None:
            for node in self._nodes():
                # Whatever it has not answered yet, it takes this after that.
                beating = node.beat(self._clusters.process, self._value(), self._life_s, self._reads())
                beating.addErrback(_not_told)

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
        # A connection may have been lost and made again between two beats: whoever else lost theirs needs longer.
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
        watch = self._watches[node.name]
        if watch.late(began_at, now) or not watched:
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


def _not_told(failure: Failure) -> None:
    failure.trap(NodeError)  # the next beat says it
