"""The judge. Pure: a history goes in, and a line for each thing comes out that docs/explanation/failures.rst does not
allow.

Whatever is not a right answer in its time needs a fault that explains it: one that lasted then, was done to the very
server, worker or node, and may do just that (`Trait`). So what a fault does not explain is found in the middle of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from tests.chaos.records import Echo, Fault, History, Member, Request, Run, Socket

__all__ = ["violations"]

#: What a machine may add to everything, in seconds, beside the clients' own lags: for each process that is ready to run
#: on each of its CPUs, from the second on, it adds as much again.
NOISE_S = 3.0
#: With so many for each CPU, a process may find all nodes silent, since it does not get to read their answers; and a
#: worker that has taken a request may not come to claim it within ``queue_timeout`` (504).
STARVED_LOAD = 4.0
#: How exactly the moment of a fault is known, and how long connections take to notice each other's end, in seconds.
AROUND_S = 0.5
#: A request that is popped by a process that is lost is offered once more after this, or else ...
REOFFER_S = 3.0
#: ... answered with 504 at ``queue_timeout``, and the second that its withdrawal may take.
WITHDRAWAL_S = 1.0
#: The application is told of the end of a stream in this time: 10 s if its server has died.
TOLD_S = 10.0
#: A member of a group is told of what it has missed in this time.
GAP_S = 5.0
#: All nodes are reached through proxies on the clients' loop. When that stands still for so long within the other time,
#: in seconds, servers see silent nodes: they leave them after 1 s, half of which a slow network may take (`SlowNode`).
STILL_S = 0.5
STILL_WITHIN_S = 2.0


def violations(history: History) -> list[str]:
    """Everything that must not have been, in the order of time."""
    judge = _Judge(history)
    found: list[tuple[float, str]] = []
    for request in history.requests:
        found += ((request.ended_at, f"{_of(request)}: {why}") for why in judge.request(request))
    for socket in history.sockets:
        found += ((socket.ended_at, f"{_of(socket)}: {why}") for why in judge.socket(socket))
    for member in history.members:
        found += ((member.socket.ended_at, f"{_of(member.socket)}: {why}") for why in judge.member(member))
    for at, server in history.idle_closed:
        if not judge.server_lost(server, at - judge.noise_s, at):
            found.append((at, f"an idle connection to server {server} was closed"))
    found += judge.runs()
    return [f"{at:.2f} {why}" for at, why in sorted(found)]


def _of(what: Request | Socket) -> str:
    kind = f"{what.method} {what.kind}" if isinstance(what, Request) else "WebSocket"
    return f"{kind} {what.name} (server {what.server}, {what.began_at:.2f}-{what.ended_at:.2f})"


class _Judge:
    def __init__(self, history: History) -> None:
        self._history = history
        self._faults = history.faults
        self.noise_s = NOISE_S * max(1.0, history.load)
        self._queue_s = history.queue_timeout_s + WITHDRAWAL_S
        self._runs: dict[str, list[Run]] = defaultdict(list)
        for run in history.runs:
            self._runs[run.name].append(run)

    # HTTP.

    def request(self, request: Request) -> Iterator[str]:
        """What is wrong with an exchange."""
        outcome, began_at, ended_at = request.outcome, request.began_at, request.ended_at
        took_s = ended_at - began_at - self._lag(began_at, ended_at)
        if outcome == "ok":
            if took_s > request.takes_s + self.noise_s and not self._may_be_late(request, took_s):
                yield f"took {took_s:.1f} s instead of {request.takes_s:.1f}"
        elif outcome in ("hung", "") or outcome.startswith("wrong"):
            yield outcome or "never ended"
        elif outcome in ("reset", "refused"):
            if not self.server_lost(request.server, began_at, ended_at):
                yield f"{outcome}, and nobody has killed its server"
        elif outcome in ("502", "503", "504", "cut"):
            yield from self._error(request, took_s)
        else:
            yield f"answered {outcome}"

    def _error(self, request: Request, took_s: float) -> Iterator[str]:
        waited_s = request.ended_at - request.began_at
        is_due = request.outcome == "503" or (request.outcome == "504" and waited_s >= self._history.queue_timeout_s)
        if is_due and self._history.load >= STARVED_LOAD:
            return
        why = list(self._explanations(request))
        if not why:
            yield f"{request.outcome} after {took_s:.1f} s, and no fault that explains it"
        elif not any(request.ended_at <= due for due in why):
            late = request.ended_at - max(why)
            yield f"{request.outcome} after {took_s:.1f} s, {late:.1f} s later than it had to be told"

    def _explanations(self, request: Request) -> Iterator[float]:
        """For each fault that explains the outcome: by when it had to be told."""
        outcome, server, node = request.outcome, request.server, request.node
        slack_s = self.noise_s + self._lag(request.began_at, request.ended_at)
        if outcome == "503" and self._nodes_were_silent(request.began_at, request.ended_at):
            yield request.ended_at
        for fault in self._around(request.began_at, request.ended_at):
            trait = fault.trait
            if outcome == "cut" and server in fault.servers and trait.kills_servers:
                yield fault.begun_at + self.noise_s
            if trait.kills_workers and self._had(fault, request) and outcome != "503":
                told_at = max(fault.begun_at, request.began_at) + trait.told_s
                # Nobody's: it was popped by one who died before anybody knew.
                yield (request.began_at + self._queue_s if outcome == "504" else told_at) + slack_s
            if trait.refuses and outcome == "503" and fault.node == node:
                yield max(fault.begun_at + trait.told_s, request.began_at) + slack_s
            if trait.loses and outcome != "503":
                told_at = max(fault.healed_at, request.began_at) + trait.told_s
                yield (request.began_at + self._queue_s if outcome == "504" else told_at) + slack_s

    def _had(self, fault: Fault, request: Request) -> bool:
        """Whether a worker of `fault` had it, or nobody has begun it."""
        runs = self._runs[request.name]
        return not runs or any(run.worker in fault.workers for run in runs)

    def _may_be_late(self, request: Request, took_s: float) -> bool:
        """Whether a right answer could come no sooner: as long as a fault lasts, and until everybody is back."""
        for fault in self._around(request.began_at, request.ended_at):
            due = max(fault.healed_at, request.began_at) if fault.healed_at < float("inf") else float("inf")
            wait_s = max(fault.trait.told_s, REOFFER_S) + fault.trait.recovery_s
            if request.began_at + took_s <= due + wait_s + request.takes_s + self.noise_s:
                return True
        return False

    # WebSocket.

    def socket(self, socket: Socket) -> Iterator[str]:
        """What is wrong with a WebSocket."""
        if socket.opened_at is None:
            # A handshake counts as a GET.
            request = Request(
                socket.name, "GET", "handshake", socket.server, socket.node, socket.began_at, 0.0, socket.ended_at,
                socket.outcome,
            )  # fmt: skip
            yield from self.request(request)
            return
        yield from self._late_echoes(socket)
        outcome = socket.outcome
        if outcome in ("hung", "") or outcome.startswith("wrong"):
            yield outcome or "never ended"
        elif outcome == "left":
            missing = [echo.number for echo in socket.echoes if echo.came_at is None]
            if missing:
                yield f"messages {missing} were lost, and nobody was told"
        elif not any(socket.ended_at <= due for due in self._endings(socket)):
            yield f"{outcome}, and no fault that explains it (worker {socket.worker})"
        yield from self._outlived(socket)

    def _endings(self, socket: Socket) -> Iterator[float]:
        """For each fault that explains how it ended: by when it had to be told."""
        assert socket.opened_at is not None
        slack_s = self.noise_s + self._lag(socket.ended_at - self.noise_s, socket.ended_at)
        for fault in self._around(socket.began_at, socket.ended_at):
            trait = fault.trait
            if trait.kills_servers and socket.server in fault.servers and socket.outcome == "cut":
                yield fault.begun_at + slack_s
            if (
                trait.kills_workers
                and socket.worker in fault.workers
                and socket.outcome == "closed 1012"
                and not socket.resumable
            ):
                yield max(fault.begun_at, socket.opened_at) + trait.told_s + slack_s
            if trait.kills_servers and not fault.servers and socket.outcome == "closed 1011":
                yield fault.healed_at + trait.told_s + slack_s
            if trait.loses and socket.outcome in ("closed 1011", "closed 1012") and self._under_way(socket, fault):
                yield fault.healed_at + trait.told_s + slack_s

    def _under_way(self, socket: Socket, fault: Fault) -> bool:
        """Whether any of its messages could have been lost; its acceptance is one."""
        since, until = fault.begun_at - AROUND_S, fault.healed_at + fault.trait.recovery_s
        first = Echo(-1, socket.began_at, socket.opened_at)
        return any(
            echo.sent_at <= until and (echo.came_at is None or echo.came_at >= since)
            for echo in (first, *socket.echoes)
        )

    def _late_echoes(self, socket: Socket) -> Iterator[str]:
        for echo in socket.echoes:
            came_at = socket.ended_at if echo.came_at is None else echo.came_at
            took_s = came_at - echo.sent_at - self._lag(echo.sent_at, came_at)
            if took_s <= self.noise_s:
                continue
            due = max(
                (
                    fault.healed_at + fault.trait.told_s + fault.trait.recovery_s
                    for fault in self._around(echo.sent_at, came_at)
                ),
                default=echo.sent_at,
            )
            if came_at > due + self.noise_s:
                yield f"message {echo.number} took {took_s:.1f} s"
                return

    def _outlived(self, socket: Socket) -> Iterator[str]:
        """Whoever has lost the other end must have been told so in time, also one who said nothing."""
        for fault in self._faults:
            trait = fault.trait
            if fault.kind.startswith("freeze") or socket.opened_at is None or fault.begun_at < socket.opened_at:
                continue
            lost = (trait.kills_workers and socket.worker in fault.workers and not socket.resumable) or (
                trait.kills_servers and socket.server in fault.servers
            )
            due = fault.begun_at + trait.told_s + self.noise_s + self._lag(fault.begun_at, socket.ended_at)
            if lost and socket.ended_at > due:
                yield f"open for {socket.ended_at - fault.begun_at:.1f} s after {fault.what}"

    # Groups.

    def member(self, member: Member) -> Iterator[str]:
        """What a member of the group has missed without being told, or was told without a reason."""
        socket = member.socket
        assert socket.opened_at is not None
        for publication in self._history.publications:
            request, heard = publication.request, member.heard.get(publication.request.name, [])
            if socket.opened_at > request.began_at or request.outcome != "ok" or len(heard) == publication.count:
                continue
            due = request.ended_at + GAP_S + self.noise_s + self._lag(request.began_at, socket.ended_at)
            for fault in self._around(request.began_at, due):
                due = max(due, fault.healed_at + fault.trait.told_s + fault.trait.recovery_s + self.noise_s)
            if socket.ended_at > due and not any(at >= request.began_at for at in member.gaps):
                yield f"heard {len(heard)} of {publication.count} messages of {request.name}, and was not told"
        for at in member.gaps:
            # A server leaves a node that does not answer, and what is published meanwhile may be lost to it.
            left = any(fault.node is not None or fault.servers for fault in self._around(at - GAP_S, at))
            if not left and not self._nodes_were_silent(at - GAP_S, at):
                yield f"was told at {at:.2f} that messages were lost, and no fault explains it"

    # The application.

    def runs(self) -> Iterator[tuple[float, str]]:
        """What must not have been run, and what was never told that its client had left."""
        methods = {request.name: request.method for request in self._history.requests}
        everything: list[Request | Socket] = [*self._history.requests, *self._history.sockets]
        resumable = {socket.name for socket in self._history.sockets if socket.resumable}
        clients = {each.name: each.ended_at for each in everything}
        for name, count in Counter(run.name for run in self._history.runs).items():
            method = methods.get(name, "GET")
            if count > (1 if method == "POST" else 2) and name not in resumable:
                yield self._runs[name][-1].began_at, f"{method} {name}: was run {count} times"
        for run in self._history.runs:
            left_at = max(clients.get(run.name, run.began_at), run.began_at)
            due = left_at + TOLD_S + self.noise_s
            for fault in self._around(left_at, due):
                due = max(due, fault.healed_at + TOLD_S + self.noise_s)
            if due < min(self._history.ended_at, run.ended_at) and not self._is_dead(run, due):
                yield due, f"{run.name}: worker {run.worker} was not told that its client has left"

    def _is_dead(self, run: Run, at: float) -> bool:
        return any(
            run.worker in fault.workers and fault.trait.kills_workers and fault.begun_at <= at for fault in self._faults
        )

    # Faults.

    def server_lost(self, server: int, since: float, until: float) -> bool:
        """Whether somebody has killed the server, and it was not back."""
        return any(fault.trait.kills_servers and server in fault.servers for fault in self._around(since, until))

    def _around(self, since: float, until: float) -> Iterable[Fault]:
        """The faults of that time."""
        return [
            fault
            for fault in self._faults
            if fault.begun_at - AROUND_S <= until and fault.healed_at + fault.trait.recovery_s >= since
        ]

    def _nodes_were_silent(self, since: float, until: float) -> bool:
        """Whether servers may have seen that of all nodes, since their proxies stood still."""
        return self._lag(since - STILL_WITHIN_S, until) >= STILL_S

    def _lag(self, since: float, until: float) -> float:
        """How long the clients themselves stood still meanwhile."""
        return sum(
            min(lag.seconds, max(0.0, min(lag.at, until) - max(lag.at - lag.seconds, since)))
            for lag in self._history.lags
        )
