"""What the value of a beat says."""

from __future__ import annotations

from ifserver.layers.heartbeat_value import facts_of, names_of, value_of, with_facts


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
