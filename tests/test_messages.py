"""The codec: what is sent comes back, and nothing else does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifserver import messages as m
from ifserver.errors import UndecodableError

DECODERS = (m.decode_request, m.decode_for_server, m.decode_for_worker, m.decode_broadcast)

REQUEST = m.HttpRequest(
    "!n.0123456789.1", 0, 12.5, "1.1", "GET", "http", "/ä", b"/%C3%A4", b"a=1", "", [(b"host", b"x")],
    ("::1", 80), ("/run/x", None), b"body\0\xff", True,
)  # fmt: skip
CONNECT = m.WebSocketConnect(
    "!n.0123456789.1", 1, 0.0, "1.1", "ws", "/", b"/", b"", "/app", [], None, None, ["chat", "v2"]
)
WORKER = "!w.0123456789"
TO_SERVER = [
    m.Claim("p.1", 0, WORKER, "!w.9876543210"),
    m.ResponseStart("p.1", 0, WORKER, 0, 200, [(b"a", b""), (b"a", b"\xff")], b"x", False),
    m.ResponseBody("p.1", 0, WORKER, 1, b"", True),
    m.WebSocketAccept("p.1", 0, WORKER, 0, "!w.0123456789.1", None, []),
    m.WebSocketSend("p.1", 0, WORKER, 0, "😀", None),
    m.WebSocketSend("p.1", 0, WORKER, 0, None, b""),
    m.WebSocketClose("p.1", 0, WORKER, 0, 1000, "bye"),
    m.GroupJoin("p.1", 0, WORKER, 0, "news"),
    m.GroupJoin("p.1", 0, WORKER, 0, "news", True, "user 7"),
    m.GroupLeave("p.1", 0, WORKER, 0, "news"),
    m.ResponseFile("p.1", 0, WORKER, 0, 206, [(b"a", b"b")], b"/srv/\xff", 2**40, 1, 2**33, 2**63, 2**41, -1),
]
TO_WORKER = [
    m.GroupJoined("p.1", 0, 0, "news"),
    m.GroupJoined("p.1", 0, 0, "news", "no"),
    m.GroupGap("p.1", 0, 0, "news", None),
    m.GroupGap("p.1", 0, 0, "news", 3),
    m.RequestBody("p.1", 0, 0, b"x" * 70_000, False),
    m.WebSocketReceive("p.1", 0, 0, "", None),
    m.Disconnect("p.1", 0, 0, 1006, ""),
    m.FileTaken("p.1", 0, 0),
    m.FileDeclined("p.1", 0, 0),
]
TO_BOTH = [
    m.Window("p.1", 0, WORKER, 2**62),
    m.Sync(WORKER, "!w.9876543210", [m.SyncEntry("p.1", 0, 3, 4), m.SyncEntry("p.2", 1, 0, 0)]),
    m.Sync(WORKER, "", []),
    m.Release("p.1", 0, WORKER, "died", 17),
    m.Receipt("!n.0123456789", WORKER, (3, 0), (2**40, 7), None, True),
    m.Receipt("!n.0123456789", WORKER, (3, 0), (3, 0), (1, 2), False),
]
IN_GROUPS = [
    m.Broadcast("0123456789", 0, "", text=""),
    m.Broadcast("0123456789", 2**62, "p.1", data=b"\xff"),
    m.Broadcast("0123456789", 1, "", close=(4000, "bye")),
    m.Broadcast("0123456789", 1, "", message=b"\x80"),
    m.Broadcast("0123456789", 1, "", ask=("!members.k3v9x2aq7m.0", True)),
]
CASES = [
    *((message, {m.decode_request}) for message in (REQUEST, CONNECT)),
    *((message, {m.decode_for_server}) for message in TO_SERVER),
    *((message, {m.decode_for_worker}) for message in TO_WORKER),
    *((message, {m.decode_broadcast}) for message in IN_GROUPS),
    *((message, {m.decode_for_server, m.decode_for_worker}) for message in TO_BOTH),
]


@pytest.mark.parametrize(("message", "readers"), CASES, ids=lambda case: type(case).__name__)
def test_a_message_comes_back_where_it_belongs_and_is_refused_elsewhere(message: m.Message, readers: set[Any]) -> None:
    payload = m.encode(message)
    assert payload[0] == m.FORMAT
    for decode in DECODERS:
        if decode in readers:
            assert decode(payload) == message
        else:
            with pytest.raises(UndecodableError):
                decode(payload)


def test_every_message_is_tried_above() -> None:
    kinds = {each for each in vars(m).values() if isinstance(each, type) and issubclass(each, m.Message)}
    assert {type(message) for message, _ in CASES} == kinds - {m.Message, m.SyncEntry}


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(("payload", "version"), [(b"", "missing"), (b"\x02\x90", "02"), (b"\x00", "00")])
def test_another_format_version_is_named(decode: Any, payload: bytes, version: str) -> None:
    with pytest.raises(UndecodableError, match=f"format version {version}, expected 01"):
        decode(payload)


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(
    "payload", [b"\x01", b"\x01\x90", b"\x01\xc0", b"\x01\x91\xcc\xff", b"\x01\xdd\xff\xff\xff\xff", b"\x01\x91\x1e"]
)
def test_what_is_no_message_is_refused(decode: Any, payload: bytes) -> None:
    with pytest.raises(UndecodableError):
        decode(payload)


def packed(*fields: object) -> bytes:
    return bytes([m.FORMAT]) + msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    "payload",
    [
        packed(10, "p.1", 0, WORKER),
        packed(10, "p.1", "0", WORKER, ""),
        packed(10, "p.1", 0.5, WORKER, ""),
        packed(11, "p.1", 0, WORKER, 0, 200, [[b"a"]], b"", False),
        packed(11, "p.1", 0, WORKER, 0, 200, [["a", "b"]], b"", False),
        packed(11, "p.1", 0, WORKER, 0, 200, [], b"", 1),
        packed(12, "p.1", 0, WORKER, 0, "text", False),
        packed(10, "p.1", 0, WORKER, "") + b"\0",
        b"\x01\x95\x0a\xa1\xff\x00\xa1b\xa1c",
        # Fields of a later release are skipped, but not down to the end of the stack.
        b"\x01\x96\x0a\xa1a\x00\xa1b\xa1c" + b"\x91" * 200_000 + b"\xc0",
    ],
    ids=["short", "text for int", "float for int", "half a header", "text headers", "int for bool", "text for bytes",
         "more behind it", "bad UTF-8", "deep"],
)  # fmt: skip
def test_a_message_with_a_wrong_field_is_refused(payload: bytes) -> None:
    with pytest.raises(UndecodableError):
        m.decode_for_server(payload)


@pytest.mark.parametrize("what", [{}, {"text": "a", "data": b"a"}, {"close": (1000, ""), "ask": ("!a", True)}])
def test_a_broadcast_says_one_thing(what: Any) -> None:
    with pytest.raises(UndecodableError, match="one of text, data, close, message and ask"):
        m.decode_broadcast(m.encode(m.Broadcast("0123456789", 0, "", **what)))


@given(st.binary(max_size=200))
def test_no_bytes_at_all_raise_anything_else(noise: bytes) -> None:
    for decode in DECODERS:
        for payload in (noise, b"\x01" + noise):
            try:
                message = decode(payload)
            except UndecodableError:
                continue
            assert isinstance(message, m.Message)


@given(st.sampled_from(CASES), st.data())
def test_a_payload_that_is_cut_short_is_refused(case: Any, data: st.DataObject) -> None:
    message, readers = case
    payload = m.encode(message)
    cut = payload[: data.draw(st.integers(0, len(payload) - 1))]
    for decode in readers:
        with pytest.raises(UndecodableError):
            decode(cut)


def test_a_release_can_read_what_its_predecessor_sent() -> None:
    assert m.decode_for_server(packed(32, "p.1", 0, WORKER, "died")) == m.Release("p.1", 0, WORKER, "died", 0)


def test_a_release_can_read_what_its_successor_sent() -> None:
    payload = packed(10, "p.1", 0, WORKER, "s", "t", "new", 5)
    assert m.decode_for_server(payload) == m.Claim("p.1", 0, WORKER, "s", "t")


@pytest.mark.parametrize("message", [message for message, _ in CASES], ids=lambda message: type(message).__name__)
def test_only_receipts_are_not_counted(message: m.Message) -> None:
    assert m.is_counted(m.encode(message)) is not isinstance(message, m.Receipt)


def test_messages_are_frozen() -> None:
    with pytest.raises(AttributeError):
        REQUEST.path = "/other"  # type: ignore[misc]


def test_a_lone_surrogate_cannot_be_sent() -> None:
    with pytest.raises(UnicodeEncodeError):
        m.encode(m.WebSocketSend("p.1", 0, WORKER, 0, "\ud800", None))


def test_tags_are_part_of_the_format() -> None:
    """A release that numbers them otherwise must have another format version."""
    assert {type(message).__name__: msgspec.msgpack.decode(m.encode(message)[1:])[0] for message, _ in CASES} == {
        "HttpRequest": 1, "WebSocketConnect": 2, "Claim": 10, "ResponseStart": 11, "ResponseBody": 12,
        "WebSocketAccept": 13, "WebSocketSend": 14, "WebSocketClose": 15,
        "GroupJoin": 16, "GroupLeave": 17, "ResponseFile": 18, "RequestBody": 20, "WebSocketReceive": 21,
        "Disconnect": 22, "GroupJoined": 23, "GroupGap": 24, "FileTaken": 25, "FileDeclined": 26,
        "Window": 30, "Sync": 31, "Release": 32, "Receipt": 33, "Broadcast": 40,
    }  # fmt: skip
