"""A status, as an endpoint would tell it."""

from __future__ import annotations

from typing import Any

from ifserver.status import Child, ClusterStatus, Facts, NodeStatus, QueueStatus, Status, StreamStatus

__all__ = ["facts", "node", "status", "stream"]


def facts(**more: Any) -> Facts:
    """Of a server."""
    values = {"process": "front00000", "kind": "server", "host": "h", "pid": 1, "version": "1", "node": "east"}
    return Facts(**values | {"started_at": 0.0, "listening": True} | more)


def node(name: str = "east", **more: Any) -> NodeStatus:
    """One that answers."""
    queue = QueueStatus(channel="http.request", length=5, age_s=2.5)
    values = {"answers": True, "round_trip_s": 0.0012, "unreachable_s": 0.0, "why": "", "queues": (queue,)}
    return NodeStatus(name=name, **values | more)


def stream(number: int, **more: Any) -> StreamStatus:
    """A request that is so old in seconds."""
    values = {"kind": "http", "state": "claimed", "age_s": float(number), "owner": "worker0000", "method": "GET"}
    return StreamStatus(channel=f"!east.front00000.{number}", **values | {"path": f"/{number}"} | more)


def status(*streams: StreamStatus, **more: Any) -> Status:
    """A whole status, with these streams."""
    child = Child(pid=8, process="worker0000", ready=True, streams=3, unanswered=2, free=98)
    supervisor = facts(process="sup0000000", kind="supervisor", pid=7, children=(child, Child(pid=9)))
    values = {
        "now": 100.0,
        "me": facts(),
        "unready": (),
        "clusters": (ClusterStatus(name="east", home=True, nodes=(node(),)),),
        "processes": (facts(connections=12, streams=4), supervisor),
        "streams": streams,
        "streams_total": len(streams),
        "counts": {},
    }
    return Status(**values | more)
