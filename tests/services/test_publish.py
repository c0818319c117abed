"""Publishing once over nodes, and what is said of it. These nodes are fakes: `tests.e2e.test_publishing` has others."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from ifserver.config.node_urls import parse_cluster
from ifserver.config.settings import LayerSettings
from ifserver.errors import NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.observe.publication import Publication
from ifserver.services import publish, service
from ifserver.services.publish import PublishService
from ifserver.services.service import Runtime
from tests.fresh_loop import run

LAYER = LayerSettings(clusters=(parse_cluster("main=redis://a,redis://b", {}),))


class Node:
    def __init__(self, name: str, connected: bool) -> None:
        self.name = name
        self.connected = connected

    def ready(self) -> Deferred[None]:
        return succeed(None) if self.connected else Deferred()


class Clusters:
    """Two nodes."""

    def __init__(self, answer: Deferred[int], *connected: bool) -> None:
        self.nodes = {name: Node(name, there) for name, there in zip(("main-1", "main-2"), connected, strict=True)}
        self.groups = self
        self.calls: list[Any] = []
        self._answer = answer

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> Deferred[None]:
        self.calls.append("stop")
        return succeed(None)

    def publish(self, group: str, **what: Any) -> Deferred[int]:
        self.calls.append((group, what))
        return self._answer


def published(clusters: Clusters, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """The exit status, and what was printed."""
    monkeypatch.setattr(publish, "clusters_of", lambda runtime, layer, process: clusters)
    monkeypatch.setattr(service, "_CONNECT_S", 0.01)
    monkeypatch.setattr(publish, "_PUBLISH_S", 0.01)
    out = io.StringIO()

    async def main() -> int:
        runtime = Runtime(None, asyncio.get_running_loop())
        service = PublishService(runtime, LAYER, "news", Publication(text="x", exclude="a.1"), out)
        await service.start()
        await service.stop()
        return service.ended.result()

    return run(main), out.getvalue()


def test_it_is_published_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clusters = Clusters(succeed(2), True, True)
    assert published(clusters, monkeypatch) == (0, "published to 2 processes\n")
    what = {"text": "x", "data": None, "close": None, "exclude": "a.1"}
    assert clusters.calls == ["start", ("news", what), "stop"]
    assert capsys.readouterr().err == ""


def test_a_node_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert published(Clusters(succeed(0), True, False), monkeypatch) == (0, "nobody is there\n")
    assert capsys.readouterr().err.startswith("ifserver: warning: node main-2: there is no connection")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: fail(NodeUnreachable("node main-1: gone")), "not published: node main-1: gone"),
        (lambda: fail(NodeRefused("node main-1: NOPERM")), "not published: node main-1: NOPERM"),
        (lambda: fail(PushInDoubt("node main-1: lost")), "it may have been published, or not: node main-1: lost"),
        (Deferred, "it may have been published, or not: no answer within 0.01 s"),
    ],
)
def test_what_fails(
    answer: Any, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clusters = Clusters(answer(), True, True)
    assert published(clusters, monkeypatch) == (1, "")
    assert capsys.readouterr().err == f"ifserver: error: {said}\n"
    assert clusters.calls[-1] == "stop"
