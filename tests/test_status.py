"""Facts and statuses, on their way to those who read them."""

from __future__ import annotations

import msgspec
import pytest

from ifserver.status import (
    Child,
    ClusterStatus,
    Facts,
    NodeStatus,
    QueueStatus,
    Status,
    StreamStatus,
    decode_facts,
    decode_status,
    encode,
    encode_status,
    facts_of,
    names_of,
    value_of,
    with_facts,
)

FACTS = Facts(
    process="0000000000",
    kind="supervisor",
    host="h",
    pid=1,
    version="1",
    node="east",
    started_at=5.0,
    children=(Child(pid=2, process="1111111111", ready=True, streams=3, unanswered=2, free=98), Child(pid=3)),
    counts={"claims": 3},
)
QUEUE = QueueStatus(channel="http.request", length=1, age_s=0.5)
NODE = NodeStatus(name="east", answers=True, round_trip_s=0.001, unreachable_s=0.0, why="", queues=(QUEUE,))
STATUS = Status(
    now=10.0,
    me=FACTS,
    unready=("why",),
    clusters=(ClusterStatus(name="east", home=True, nodes=(NODE,)),),
    processes=(FACTS,),
    streams=(StreamStatus(channel="!east.0000000000.1", kind="http", age_s=1.0),),
    streams_total=1,
    counts={"workers": {"claims": 3}},
)


def test_facts_are_read_as_they_were_written() -> None:
    assert decode_facts(encode(FACTS)) == FACTS


def test_the_facts_of_many_children_are_few_bytes() -> None:
    children = tuple(Child(pid=i, process="1111111111", ready=True, streams=9, free=91) for i in range(64))
    facts = Facts(process="0" * 10, kind="supervisor", host="h", pid=1, version="1", node="n", started_at=0.0)
    assert len(encode(facts)) < 128
    assert len(encode(msgspec.structs.replace(facts, children=children))) < 64 * 64


@pytest.mark.parametrize("text", [b"", b"\xc1", encode([1, 2]), encode({"kind": "nonsense"})])
def test_what_are_no_facts_is_no_error(text: bytes) -> None:
    assert decode_facts(text) is None


def test_a_later_release_may_tell_more() -> None:
    more = msgspec.msgpack.decode(encode(FACTS)) | {"new": [1]}
    assert decode_facts(encode(more)) == FACTS


def test_a_status_is_read_as_it_was_written() -> None:
    assert decode_status(encode_status(STATUS)) == STATUS
    with pytest.raises(ValueError, match="JSON"):
        decode_status(b"<html>")
    with pytest.raises(ValueError, match="missing"):
        decode_status(b"{}")


# The value of a beat.


def test_names_and_facts_are_read_apart() -> None:
    value = with_facts(value_of(["a", "b"]), b"facts,\nof any kind")
    assert names_of(value) == {"a", "b"}
    assert facts_of(value) == b"facts,\nof any kind"


def test_a_beat_may_say_nothing() -> None:
    assert with_facts(value_of([]), b"") == b""
    assert names_of(b"") == set()
    assert facts_of(b"a,b") == b""


def test_what_is_no_name_harms_nobody() -> None:
    assert names_of(b"\xff,,a") == {"\ufffd", "a"}
