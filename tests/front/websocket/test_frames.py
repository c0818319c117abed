"""The frames of one WebSocket, without its connection: what ``test_connection.py`` sees in a whole front."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from ifserver.config.settings import FrontSettings
from ifserver.front.websocket import deflate
from ifserver.front.websocket import frames as module
from ifserver.front.websocket.frames import BINARY, TEXT, Frames, configured
from tests.front.fakes import CLOSE, CONTINUATION, PING, PONG, Frame, frame, frames

#: Lengths on both sides of where a frame's head changes (RFC 6455 5.2).
SIZES = [0, 1, 125, 126, 127, 65_535, 65_536]
DEFLATE = [(b"sec-websocket-extensions", b"permessage-deflate")]


class Recorder(Frames):
    """Remembers the messages that came."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str | bytes | None] = []

    def message_received(self, text: str | None, data: bytes | None) -> None:
        self.messages.append(data if text is None else text)


class Stage:
    def __init__(self, headers: list[tuple[bytes, bytes]] | None = None, **limits: Any) -> None:
        self.clock = Clock()
        settings = FrontSettings(**limits)
        self.frames = configured(Recorder, settings, self.clock)()
        self._transport = self.frames.transport = StringTransport()
        self._transport.registerProducer(self.frames, True)
        self.agreement = deflate.agree(headers or [], settings.websocket_compression_window_bits)
        self.frames.begin(self.agreement)

    def send(self, *pieces: bytes) -> list[str | bytes | None]:
        for piece in pieces:
            self.frames.dataReceived(piece)
        messages, self.frames.messages = self.frames.messages, []
        return messages

    def sent(self) -> bytes:
        data = self._transport.value()
        self._transport.clear()
        return data


@given(st.one_of(st.text(max_size=140), st.binary(max_size=140)), st.integers(1, 200))
def test_the_short_way_finds_what_the_parser_finds(message: str | bytes, cut: int) -> None:
    stage = Stage()
    data = frame(TEXT, message.encode()) if isinstance(message, str) else frame(BINARY, message)
    assert stage.send(data) == [message]
    assert stage.send(data[:cut], data[cut:]) == [message]
    assert stage.send(data + data) == [message, message]


def test_the_short_way_is_closed_within_a_message() -> None:
    stage = Stage()
    assert stage.send(frame(TEXT, b"a", fin=False)) == []
    assert stage.send(frame(CONTINUATION, b"b")) == ["ab"]
    assert stage.send(frame(TEXT, b"c")) == ["c"]


@pytest.mark.parametrize(
    ("pieces", "code", "reason"),
    [
        ([frame(BINARY, b"12345")], 1009, "a message may have 4 bytes"),
        ([frame(BINARY, b"123", fin=False), frame(CONTINUATION, b"45")], 1009, "a message may have 4 bytes"),
        ([frame(BINARY, b"", fin=False)] + [frame(CONTINUATION, b"", fin=False)] * 3, 1009, "too many frames"),
        ([frame(TEXT, b"\xff")], 1007, "a text that is not UTF-8"),
        ([frame(TEXT, b"\xc3")], 1007, "a text that ends within a character"),
    ],
)
def test_what_is_refused(pieces: list[bytes], code: int, reason: str) -> None:
    stage = Stage(max_websocket_message_bytes=4, max_websocket_fragments=3)
    assert stage.send(*pieces) == []
    assert [each.payload for each in frames(stage.sent())] == [code.to_bytes(2, "big") + reason.encode()]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_is_sent_in_one_frame(opcode: int, size: int) -> None:
    stage = Stage()
    assert stage.agreement is None
    stage.frames.send_whole(opcode, b"x" * size)
    assert frames(stage.sent()) == [Frame(opcode, b"x" * size)]


def test_only_the_last_ping_is_answered_when_the_client_takes_something_again() -> None:
    stage = Stage()
    stage.send(frame(PING, b"1"))
    assert frames(stage.sent()) == [Frame(PONG, b"1")]
    stage.frames.write_paused = True
    stage.send(frame(PING, b"2"), frame(PING, b"3"))
    assert stage.sent() == b""
    stage.frames.write_paused = False
    stage.frames.send_late_pong()
    stage.frames.send_late_pong()
    assert frames(stage.sent()) == [Frame(PONG, b"3")]


def test_frames_are_written_directly_only_while_nothing_is_in_the_way() -> None:
    stage = Stage()
    write_frame = stage.frames.write_frame
    assert write_frame is not None
    write_frame(b"hello")
    assert stage.sent() == b"hello"
    stage.frames.write_paused = True
    stage.frames.choose_write()
    assert stage.frames.write_frame is None
    stage.frames.write_paused = False
    stage.frames.choose_write()
    assert stage.frames.write_frame is not None
    stage.frames.sendCloseFrame(1000)
    assert stage.frames.write_frame is None
    stage.frames.choose_write()
    assert stage.frames.write_frame is None


def test_frames_are_not_written_directly_where_they_are_compressed() -> None:
    assert Stage(DEFLATE).frames.write_frame is None


@pytest.mark.parametrize("sent", [frame(CLOSE, b""), frame(TEXT, b"\xff")])
def test_nothing_is_written_directly_behind_an_answer_that_closes(sent: bytes) -> None:
    stage = Stage()
    stage.send(sent)
    assert stage.frames.write_frame is None


def test_a_compressor_that_is_idle_for_two_looks_is_dropped_and_its_timer_with_the_connection() -> None:
    stage = Stage(DEFLATE, ping_interval_s=0)
    assert stage.agreement is not None
    stage.frames.send_whole(TEXT, b"hello")
    compressor = stage.frames._perMessageCompress.compressor
    stage.clock.advance(module._IDLE_S)
    assert compressor.holds_context
    stage.clock.advance(module._IDLE_S)
    assert not compressor.holds_context
    assert stage.clock.getDelayedCalls() == []
    stage.frames.send_whole(TEXT, b"hello")
    stage.frames.forget_timers()
    assert stage.clock.getDelayedCalls() == []
