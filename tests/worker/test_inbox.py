"""What comes to a worker's inbox is handed to its streams, which are played by the test."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.layers.accounting import Accounting
from ifserver.messages import Disconnect, Message, Release, RequestBody, Sync, SyncEntry, Window, encode
from ifserver.metrics import Counters
from ifserver.worker.inbox import Inbox
from tests.worker.stage import STREAM, WORKER


class FakeStream:
    """Notes what it hears."""

    def __init__(self, attempt: int = 0) -> None:
        self.attempt = attempt
        self.heard: list[Any] = []
        self.answer: str | None = None
        self.whole = True

    def arrived(self, message: Any) -> str | None:
        if self.answer == "raise":
            raise ValueError("a defect")
        self.heard.append(message)
        return self.answer

    def consumed(self, total: int) -> None:
        self.heard.append(("consumed", total))

    def let_go(self) -> None:
        self.heard.append("let go")

    def compare(self, sent: int) -> bool:
        self.heard.append(("compare", sent))
        return self.whole


class Stage:
    """An inbox, and a stream that it knows."""

    def __init__(self) -> None:
        self.stream = FakeStream()
        self.streams: dict[str, Any] = {STREAM: self.stream}
        self.counters = Counters()
        self.syncs: list[Sync] = []
        self.accounting = Accounting(self, lambda: WORKER, lambda: True, Clock(), self.counters)
        self.inbox = Inbox(self.streams, self.syncs.append, self.accounting, self.counters)

    def send_uncounted(self, inbox: str, message: Message, taken: Any) -> None:
        """Nobody hears it here."""

    def ahead(self, inbox: str) -> int:
        return 0

    def push(self, *messages: Any) -> None:
        self.inbox.deliver(WORKER, [m if isinstance(m, bytes) else encode(m) for m in messages])

    def counted(self) -> dict[str, int]:
        return self.counters.statistics()


def body(seq: int = 0, attempt: int = 0, stream: str = STREAM) -> RequestBody:
    return RequestBody(stream, attempt, seq, b"x", True)


def test_messages_go_to_their_stream_in_order() -> None:
    stage = Stage()
    leaving = Disconnect(STREAM, 0, 2, 1000, "")
    stage.push(body(0))
    stage.push(body(1), leaving)
    assert stage.stream.heard == [body(0), body(1), leaving]
    assert stage.counted() == {"messages_delivered": 3}


def test_windows_and_releases() -> None:
    stage = Stage()
    stage.push(Window(STREAM, 0, WORKER, 700), Release(STREAM, 0, WORKER, "gone"))
    assert stage.stream.heard == [("consumed", 700), "let go"]


def test_what_is_for_no_stream_or_for_another_attempt_is_gone() -> None:
    stage = Stage()
    stage.push(
        body(stream="0123456789.2"),
        body(attempt=1),
        Window(STREAM, 1, WORKER, 1),
        Release(STREAM, 2, WORKER, ""),
        Window("0123456789.2", 0, WORKER, 1),
    )
    assert stage.stream.heard == []
    assert stage.counted() == {"messages_dropped{gone}": 5}


def test_a_second_copy_is_counted_apart() -> None:
    stage = Stage()
    stage.stream.answer = "repeated"
    stage.push(body(), body())
    assert stage.counted() == {"messages_repeated": 2}


def test_why_a_stream_drops_a_message_is_counted() -> None:
    stage = Stage()
    stage.stream.answer = "gap"
    stage.push(body(), body())
    assert stage.counted() == {"messages_dropped{gap}": 2}


def test_what_servers_say_of_all_streams_is_handed_on() -> None:
    stage = Stage()
    sync = Sync("!east.0123456789", "", [SyncEntry(STREAM, 0, 4, 900)])
    stage.push(sync)
    assert stage.syncs == [sync]
    assert stage.counted() == {"messages_delivered": 1}


def test_what_does_not_decode_is_dropped_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.push(b"nonsense", b"", body())
    stage.push(b"\x01\xc0")
    assert stage.stream.heard == [body()]
    assert stage.counted() == {"messages_delivered": 1, "messages_dropped{undecodable}": 3}
    assert [record.getMessage() for record in caplog.records] == [
        "dropped a message to !east.k3v9x2aq7m that cannot be decoded; further ones are only counted: "
        "format version 6e, expected 01"
    ]


def test_a_defect_of_ours_concerns_its_own_stream(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    other = FakeStream()
    stage.streams["0123456789.2"] = other
    stage.stream.answer = "raise"
    stage.push(body(), body(stream="0123456789.2"))
    assert len(other.heard) == 1
    assert "ValueError: a defect" in caplog.text
