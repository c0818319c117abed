"""What may happen to workers, supervisors and servers."""

from __future__ import annotations

import os
import signal
from random import Random

from tests.chaos.fleet import PROCESSES, stop_process
from tests.chaos.misfortune import Misfortune
from tests.chaos.records import Trait

__all__ = [
    "FreezeHost",
    "FreezeServer",
    "FreezeSupervisor",
    "FreezeWorker",
    "KillServer",
    "KillSupervisor",
    "KillWorker",
]

#: A supervisor of a host that is gone, or that is frozen for longer than its beat lives.
_HOST_GONE_S = 5.0


class _OfWorker(Misfortune):
    pid = 0
    supervisor = 0

    def choose(self, random: Random) -> None:
        workers = self.fleet.workers()
        self.pid = random.choice(sorted(workers))
        self.supervisor = workers[self.pid]
        self.workers = frozenset({self.pid})
        self.victim = f"worker {self.pid}"


class KillWorker(_OfWorker):
    """``kill -9`` of a worker; its supervisor starts another."""

    trait = Trait(kills_workers=True, told_s=0.1, recovery_s=0.5)

    def inject(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def heal(self) -> None:
        self.fleet.worker_again(self.supervisor, PROCESSES)


class FreezeWorker(_OfWorker):
    """SIGSTOP of a worker: it is slow, not dead."""

    trait = Trait(told_s=0.0, recovery_s=2.0)

    def duration(self, random: Random) -> float:
        return random.uniform(0.2, 4.0)

    def inject(self) -> None:
        stop_process(self.pid)

    def heal(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class _OfSupervisor(Misfortune):
    number = 0

    def choose(self, random: Random) -> None:
        self.number = random.randrange(len(self.fleet.supervisors))
        running = self.fleet.supervisors[self.number]
        self.workers = frozenset(running.workers())
        self.victim = f"supervisor {running.pid} with workers {sorted(self.workers)}"


class KillSupervisor(_OfSupervisor):
    """``kill -9`` of a supervisor: its workers end with it."""

    trait = Trait(kills_workers=True, told_s=_HOST_GONE_S, recovery_s=1.0)

    def inject(self) -> None:
        self.fleet.supervisors[self.number].killed()

    def heal(self) -> None:
        self.fleet.restart_supervisor(self.number)


class FreezeSupervisor(_OfSupervisor):
    """SIGSTOP of a supervisor alone, too short to be taken for dead: its workers only stop to pull."""

    trait = Trait(told_s=0.0, recovery_s=2.0)

    def duration(self, random: Random) -> float:
        return random.uniform(0.2, 2.0)

    def inject(self) -> None:
        stop_process(self.fleet.supervisors[self.number].pid)

    def heal(self) -> None:
        os.kill(self.fleet.supervisors[self.number].pid, signal.SIGCONT)


class FreezeHost(_OfSupervisor):
    """SIGSTOP of a supervisor and of all its workers, for so long that they are taken for dead."""

    trait = Trait(kills_workers=True, told_s=_HOST_GONE_S, recovery_s=2.0)

    def duration(self, random: Random) -> float:
        return random.uniform(6.0, 8.0)

    def inject(self) -> None:
        for pid in (self.fleet.supervisors[self.number].pid, *sorted(self.workers)):
            stop_process(pid)

    def heal(self) -> None:
        for pid in (self.fleet.supervisors[self.number].pid, *sorted(self.workers)):
            os.kill(pid, signal.SIGCONT)


class _OfServer(Misfortune):
    number = 0

    def choose(self, random: Random) -> None:
        self.number = random.randrange(len(self.fleet.servers))
        self.servers = frozenset({self.number})
        self.victim = f"server {self.number}, {self.fleet.servers[self.number].pid}"


class KillServer(_OfServer):
    """``kill -9`` of an interface server, and with it of its clients' connections."""

    trait = Trait(kills_servers=True, told_s=0.5, recovery_s=0.5)

    def inject(self) -> None:
        self.fleet.servers[self.number].killed()

    def heal(self) -> None:
        self.fleet.restart_server(self.number)


class FreezeServer(_OfServer):
    """SIGSTOP of an interface server, too short to be taken for dead."""

    trait = Trait(told_s=0.0, recovery_s=2.0)

    def duration(self, random: Random) -> float:
        return random.uniform(0.2, 4.0)

    def inject(self) -> None:
        stop_process(self.fleet.servers[self.number].pid)

    def heal(self) -> None:
        os.kill(self.fleet.servers[self.number].pid, signal.SIGCONT)
