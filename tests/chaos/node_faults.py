"""What may happen to nodes, and to the network before them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.chaos.fleet import Node, stop_process
from tests.chaos.misfortune import Misfortune
from tests.chaos.proxy import Proxy
from tests.chaos.records import Trait

__all__ = [
    "CutOffNode",
    "CutOffNodeForLong",
    "CutOffNodeShortly",
    "FlushNode",
    "ForgetConnections",
    "FreezeNode",
    "FreezeNodeForLong",
    "FreezeNodeShortly",
    "KillNode",
    "LetNodeRunOutOfMemory",
    "MakeNodeReadOnly",
    "ResetConnections",
    "RestartNode",
    "RestoreNode",
    "SlowNode",
]

_NODE = Trait(loses=True, refuses=True)
#: Too short for anybody to notice more than that it is slow.
_NODE_WAITS = Trait(told_s=1.0)
#: A server that has not reached its inbox for 1 s offers nothing; but nothing is lost.
_NODE_REFUSES = Trait(refuses=True)


class _OfNode(Misfortune):
    node: Node

    def choose(self, random: Random) -> None:
        self.node = random.choice([self.fleet.nodes[name] for name in sorted(self.fleet.nodes)])
        self.victim = f"node {self.node.name}"


class _OfFullNode(_OfNode):
    """Its lists are never full for long enough, unless those who read them stand still for a moment."""

    def choose(self, random: Random) -> None:
        super().choose(random)
        workers, servers = sorted(self.fleet.workers()), [each.pid for each in self.fleet.servers]
        who, self._readers = random.choice([("workers", workers), ("servers", servers), ("all", workers + servers)])
        self._stand_s = random.uniform(0.2, 0.8)
        self.victim += f", while {who} stand still"

    @contextmanager
    def full(self) -> Iterator[None]:
        """In the block things wait on the node."""
        for pid in self._readers:
            stop_process(pid)
        try:
            threading.Event().wait(self._stand_s)
            yield
        finally:
            for pid in self._readers:
                os.kill(pid, signal.SIGCONT)


class RestartNode(_OfFullNode):
    """``kill -9`` of a Redis that is started again at once."""

    trait = _NODE

    def inject(self) -> None:
        with self.full():
            self.node.redis.kill()

    def heal(self) -> None:
        self.node.redis.start()


class KillNode(_OfNode):
    """``kill -9`` of a Redis that is started again later."""

    trait = _NODE

    def duration(self, random: Random) -> float:
        return random.choice([random.uniform(0.5, 4.0), 10.0])

    def inject(self) -> None:
        self.node.redis.kill()

    def heal(self) -> None:
        self.node.redis.start()


class RestoreNode(_OfFullNode):
    """A Redis saves a snapshot, goes on, is killed, and gives back what had been popped."""

    trait = _NODE

    def duration(self, random: Random) -> float:
        return random.uniform(0.1, 1.0)

    def inject(self) -> None:
        with self.full():
            self.node.redis.command("SAVE")

    def heal(self) -> None:
        self.node.redis.kill()
        self.node.redis.start()


class FlushNode(_OfFullNode):
    """``FLUSHALL``."""

    trait = Trait(loses=True)

    def inject(self) -> None:
        with self.full():
            self.node.redis.command("FLUSHALL")

    def heal(self) -> None:
        pass


class FreezeNodeShortly(_OfNode):
    """SIGSTOP of a Redis, so short that everybody waits for it."""

    trait = _NODE_WAITS

    def duration(self, random: Random) -> float:
        return random.uniform(0.2, 0.7)

    def inject(self) -> None:
        self.node.redis.freeze()

    def heal(self) -> None:
        self.node.redis.thaw()


class FreezeNode(FreezeNodeShortly):
    """SIGSTOP of a Redis, so short that connections to it are kept."""

    trait = _NODE_REFUSES

    def duration(self, random: Random) -> float:
        return random.uniform(1.0, 3.5)


class FreezeNodeForLong(FreezeNode):
    """SIGSTOP of a Redis, so long that connections to it are given up."""

    trait = _NODE

    def duration(self, random: Random) -> float:
        return random.uniform(6.0, 10.0)


class MakeNodeReadOnly(_OfNode):
    """A Redis is made a replica, and a primary again."""

    trait = _NODE

    def duration(self, random: Random) -> float:
        return random.uniform(0.2, 4.0)

    def inject(self) -> None:
        self.node.redis.command("REPLICAOF", "127.0.0.1", "1")

    def heal(self) -> None:
        self.node.redis.command("REPLICAOF", "NO", "ONE")


class LetNodeRunOutOfMemory(_OfNode):
    """A Redis has no memory for anything new."""

    trait = _NODE_REFUSES

    def duration(self, random: Random) -> float:
        return random.uniform(0.2, 4.0)

    def inject(self) -> None:
        self.node.redis.command("CONFIG", "SET", "maxmemory", "1")

    def heal(self) -> None:
        self.node.redis.command("CONFIG", "SET", "maxmemory", "0")


class SlowNode(_OfNode):
    """A network where every command and every answer takes a quarter of a second."""

    trait = Trait(told_s=1.0)

    def duration(self, random: Random) -> float:
        return random.uniform(1.0, 4.0)

    def inject(self) -> None:
        self.node.proxy.delay_s = 0.25

    def heal(self) -> None:
        self.node.proxy.delay_s = 0.0


class CutOffNodeShortly(_OfNode):
    """A firewall drops all packets, so short that everybody waits."""

    trait = _NODE_WAITS

    def duration(self, random: Random) -> float:
        return random.uniform(0.2, 0.7)

    def inject(self) -> None:
        self.node.proxy.do(Proxy.hold)

    def heal(self) -> None:
        self.node.proxy.do(Proxy.release)


class CutOffNode(CutOffNodeShortly):
    """The same, so short that connections are kept."""

    trait = _NODE_REFUSES

    def duration(self, random: Random) -> float:
        return random.uniform(1.0, 3.5)


class CutOffNodeForLong(CutOffNode):
    """The same, so long that connections are given up."""

    trait = _NODE

    def duration(self, random: Random) -> float:
        return random.uniform(6.0, 10.0)


class ForgetConnections(_OfNode):
    """All connections to a node are dead, and nobody is told: a router was restarted. New ones are well."""

    # Nobody can know before there was no answer for 5 s.
    trait = _NODE._replace(told_s=9.0, recovery_s=9.0)

    def inject(self) -> None:
        self.node.proxy.do(Proxy.lose)

    def heal(self) -> None:
        pass


class ResetConnections(_OfNode):
    """All connections to a node are reset, and what was on its way is lost: of commands that were carried out, too."""

    trait = _NODE

    def duration(self, random: Random) -> float:
        return random.uniform(0.3, 1.0)

    def inject(self) -> None:
        # So that something is on its way.
        self.node.proxy.delay_s = 0.1

    def heal(self) -> None:
        self.node.proxy.do(Proxy.reset)
        self.node.proxy.delay_s = 0.0
