"""What comes from a node and is no good costs itself alone: what follows it in the same read is delivered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ifserver import channels
from ifserver import messages as m
from ifserver.metrics import Counters
from tests.front.fakes import GET, WORKER, World
from tests.spoiled import mangled, spoiled
from tests.test_messages import CONNECT, REQUEST, TO_BOTH, TO_SERVER, TO_WORKER
from tests.worker import stage as worker_stage
from tests.worker.stage import turns
from tests.worker.test_worker import Stage, get, played

#: Nobody has its stream: it is counted as ``gone`` wherever it comes.
MARK = m.encode(m.Window("0123456789.zzz", 0, WORKER, 0))
_COMES_TO = ("messages_delivered", "messages_repeated", "messages_dropped{")


def _named(message: m.Message) -> str:
    return type(message).__name__


def _about(message: Any, stream: str, peer: str) -> Any:
    """The same of this stream, as if this process had sent it."""
    fields = {name: peer for name in ("worker", "sender") if name in message.__struct_fields__}
    if isinstance(message, m.Sync):
        return replace(message, entries=[m.SyncEntry(stream, 0, 0, 0)], **fields)
    return replace(message, stream=stream, **fields) if hasattr(message, "stream") else replace(message, **fields)


def _came(counters: Counters) -> int:
    """Messages that have come, whatever became of them. A receipt is none, and says how many did not come."""
    counted = counters.statistics()
    lost = counted.pop("messages_dropped{broker}", 0)
    assert lost >= 0
    return sum(count for name, count in counted.items() if name.startswith(_COMES_TO))


def _to_server(payloads: Iterable[bytes], world: World) -> None:
    for payload in payloads:
        came, gone = _came(world.counters), world.counters.value("messages_dropped", "gone")
        world.node.push(world.clusters.home.inbox, [payload, MARK])
        world.settle()
        assert world.counters.value("messages_dropped", "gone") > gone, payload
        assert _came(world.counters) - came in (1, 2), payload
        world.worker.heard()


def _answers(world: World) -> bool:
    client = world.client(GET)
    world.worker.jobs()[-1].respond(body=b"heard")
    return client.received().endswith(b"heard")


@pytest.mark.parametrize("message", [*TO_SERVER, *TO_BOTH], ids=_named)
def test_to_a_server(message: m.Message, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    client = world.client(GET)
    _to_server(spoiled(_about(message, world.worker.job().stream, WORKER)), world)
    assert _answers(world)
    world.advance(5.0)
    assert _answers(world)
    client.leave()
    assert "could not be handled" not in caplog.text
    assert "\n.b" not in caplog.text, "a line of the log is forged"


@given(st.data(), st.sampled_from([*TO_SERVER, *TO_BOTH]))
def test_mangled_to_a_server(data: st.DataObject, message: m.Message) -> None:
    world = World()
    world.client(GET)
    _to_server([data.draw(mangled(_about(message, world.worker.job().stream, WORKER)))], world)
    assert _answers(world)


def _to_worker(payloads: list[bytes]) -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/wait"))
        await stage.claim_time()
        counters = stage.clusters.counters
        for payload in payloads:
            came, gone = _came(counters), counters.value("messages_dropped", "gone")
            stage.node.push(stage.clusters.home.inbox, [payload, MARK])
            await turns(3)
            assert counters.value("messages_dropped", "gone") > gone, payload
            assert _came(counters) - came in (1, 2), payload
        await stage.advance(3.0)
        stage.application.go()

    played(act)


@pytest.mark.parametrize("message", [*TO_WORKER, *TO_BOTH], ids=_named)
def test_to_a_worker(message: m.Message, caplog: pytest.LogCaptureFixture) -> None:
    _to_worker(list(spoiled(_about(message, worker_stage.STREAM, worker_stage.SERVER))))
    assert "could not be handled" not in caplog.text
    assert "a\n" not in caplog.text, "a line of the log is forged"


@given(st.data(), st.sampled_from([*TO_WORKER, *TO_BOTH]))
def test_mangled_to_a_worker(data: st.DataObject, message: m.Message) -> None:
    _to_worker([data.draw(mangled(_about(message, worker_stage.STREAM, worker_stage.SERVER)))])


def _pulled(payloads: list[bytes], late: bool = False) -> None:
    """Each is followed by a request that is good, in one read.

    Args:
        late: it is too late to begin any of the former, where that can be said of them at all.
    """

    async def act(stage: Stage) -> None:
        if late:
            stage.clock.advance(1e6)
        for number, payload in enumerate(payloads):
            came = _came(stage.clusters.counters)
            stage.node.push(channels.HTTP_REQUEST, [payload, m.encode(get("/fast", f"{number:x}x", deadline=1e12))])
            await turns(20)
            answered = {message.stream.partition(".")[2] for message in stage.heard()}
            assert f"{number:x}x" in answered, payload
            assert _came(stage.clusters.counters) - came == 2, payload

    played(act)


REQUESTS = [replace(each, reply_channel=worker_stage.CHANNEL) for each in (REQUEST, CONNECT)]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("message", REQUESTS, ids=_named)
def test_requests(message: m.Message, late: bool, caplog: pytest.LogCaptureFixture) -> None:
    _pulled(list(spoiled(message)), late)
    assert "could not be" not in caplog.text


@given(st.data(), st.sampled_from(REQUESTS), st.booleans())
def test_mangled_requests(data: st.DataObject, message: m.Message, late: bool) -> None:
    _pulled([data.draw(mangled(message))], late)
