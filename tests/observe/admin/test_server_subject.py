"""What a server tells of itself."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ifserver import channels
from ifserver.status import MAX_GROUPS, MAX_STREAMS, Child, GroupStatus, StreamStatus, decode_facts
from tests.front.exchanges.test_groups import join, member
from tests.front.fakes import EPOCH_S, GET, HANDSHAKE, SERVER, WORKER
from tests.observe.admin.stage import Stage, supervisor_facts
from tests.observe.admin.test_subject import survey


def test_the_facts_of_a_server() -> None:
    stage = Stage(queue_timeout_s=12.0)
    stage.world.client(GET)
    stage.world.client()
    facts = decode_facts(stage.subject.encoded_facts())
    assert facts is not None
    assert (facts.process, facts.kind, facts.node) == (SERVER, "server", "east")
    assert (facts.listening, facts.connections, facts.streams, facts.queue_timeout_s) == (True, 2, 1, 12.0)
    stage.listening = False
    assert not stage.subject.facts().listening


def test_when_it_was_started_is_told_by_the_clock_as_it_is_set_now() -> None:
    stage = Stage()
    stage.world.advance(10)
    assert stage.subject.facts().started_at == EPOCH_S
    stage.world.stepped_s = 3600.0
    status = stage.subject.status(survey(stage))
    assert (status.now, status.me.started_at) == (EPOCH_S + 3610, EPOCH_S + 3600)


def test_a_server_that_drains_does_not_listen() -> None:
    stage = Stage()
    stage.world.client(GET)
    stage.world.drain()
    assert not stage.subject.facts().listening


def test_what_is_wrong_with_the_facts_does_not_end_the_beats(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()
    monkeypatch.setattr(stage.subject, "facts", lambda: 1 / 0)
    with caplog.at_level(logging.ERROR):
        assert stage.subject.encoded_facts() == stage.subject.encoded_facts() == b""
    assert caplog.text.count("cannot tell of itself") == 1


def test_groups_largest_first() -> None:
    stage = Stage()
    assert stage.subject.status(survey(stage)).groups == ()
    _, job = member(stage.world, group="small", tag="ann")
    _, other = member(stage.world, group="large")
    join(job, "large")
    for i in range(MAX_GROUPS):
        join(other, f"g{i}")
    status = stage.subject.status(survey(stage))
    assert status.groups[0] == GroupStatus(name="large", members=2)
    assert [each.members for each in status.groups[1:]] == [1] * (MAX_GROUPS - 1)
    assert (status.groups_total, status.group_members) == (MAX_GROUPS + 2, MAX_GROUPS + 3)
    assert stage.subject.members("small") == [(job.stream, "ann")]
    assert stage.subject.members("nobody") == []


def test_streams_oldest_first() -> None:
    stage = Stage()
    stage.world.client(GET.replace(b" / ", b" /old?secret=1 "))
    stage.world.advance(1.0)
    stage.world.client(HANDSHAKE)
    job = stage.world.worker.job()
    job.claim()
    stage.world.advance(0.5)
    old, new = stage.subject.streams()
    assert old == StreamStatus(
        channel=job.request.reply_channel,
        kind="http",
        state="claimed",
        age_s=1.5,
        owner=channels.process_of(WORKER),
        method="GET",
        path="/old",
    )
    assert (new.kind, new.state, new.age_s, new.owner, new.path) == ("websocket", "queued", 0.5, "", "/chat")
    job.respond(body=b"x", more_body=True)
    stage.world.worker.job(channels.WEBSOCKET_CONNECT).accept()
    stage.world.settle()
    assert [each.state for each in stage.subject.streams()] == ["responding", "open"]


def test_what_a_client_has_not_taken() -> None:
    stage = Stage()
    client: Any = stage.world.client(GET)
    client.buffered = lambda: 1234
    assert [each.unsent_bytes for each in stage.subject.streams()] == [1234]


def test_of_many_streams_some_are_shown() -> None:
    stage = Stage()
    for _ in range(3):
        stage.world.client(*[GET])
    stage.world.server.exchanges.registry |= {
        str(i): exchange for i, exchange in enumerate([*stage.world.server.exchanges.registry.values()] * 1000)
    }
    status = stage.subject.status(survey(stage))
    assert (len(status.streams), status.streams_total) == (MAX_STREAMS, 3003)


def test_the_status_of_a_server() -> None:
    stage = Stage()
    status = stage.subject.status(survey(stage))
    assert status.me.process == SERVER
    assert {facts.process for facts in status.processes} == {SERVER, "supervisor"}
    assert set(status.counts) == {"server"}
    assert status.unready == ()


def test_a_parent_speaks_for_the_workers_too() -> None:
    stage = Stage(parent=True)
    for process, claims in (("1111111111", 3), ("2222222222", 4)):
        stage.beat(supervisor_facts(Child(pid=3, ready=True), process=process, counts={"claims": claims}))
    found = survey(stage)
    assert stage.subject.counts(found)["workers"] == {"claims": 7}
    assert len(stage.subject.supervisors(found)) == 3
    assert Stage().subject.supervisors(found) == []
