"""WebSockets, to the letter of asgiref's ``specs/www.rst``. The test plays the application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ifserver.errors import ApplicationError, ClientDisconnected
from ifserver.flow_control import WINDOW, ReceiveWindow, SendWindow, message_bytes
from ifserver.messages import (
    Release,
    RequestBody,
    ResponseBody,
    ResponseStart,
    WebSocketAccept,
    WebSocketClose,
    WebSocketReceive,
    WebSocketSend,
    Window,
)
from tests.kept_bytes import LETTERS, kept_at_most, wide
from tests.process.test_children import run
from tests.worker.stage import MAX_MESSAGE_BYTES, SLOT, STREAM, WORKER, Play, turns, units, websocket_connect

ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close"}
DENIAL = {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-a", b"1")]}
TEXT = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21")]
ERROR = ResponseStart(STREAM, 0, WORKER, 0, 500, TEXT, b"Internal Server Error", False)


class SafeString(str):
    """As Django's: a str that `str` leaves as it is."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


def text(value: str) -> dict[str, Any]:
    return {"type": "websocket.send", "text": value}


def denial_body(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "websocket.http.response.body", "body": data, "more_body": more}


def closed(code: int, reason: str = "", seq: int = 1) -> WebSocketClose:
    return WebSocketClose(STREAM, 0, WORKER, seq, code, reason)


def disconnected(code: int, reason: str = "") -> dict[str, Any]:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def play(act: Callable[[Play], Awaitable[None]], **request: Any) -> Play:
    """Run `act` with a WebSocket, and let the application return behind it if it has not ended."""

    async def main() -> Play:
        one = await Play.begin(websocket_connect(**request))
        await act(one)
        if not one.host.has_ended:
            await one.returns()
        return one

    return run(main)


def play_open(act: Callable[[Play], Awaitable[None]]) -> Play:
    """The same, with one that is accepted."""

    async def opened(one: Play) -> None:
        await one.receive()
        await one.send(ACCEPT)
        one.take_sent()
        await act(one)

    return play(opened)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# The scope and the handshake.


def test_the_scope() -> None:
    async def act(one: Play) -> None:
        assert one.scope == {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/chat",
            "raw_path": b"/chat",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"here")],
            "client": ("127.0.0.1", 4000),
            "server": ("/run/x.sock", None),
            "subprotocols": ["chat.v2", "chat.v1"],
            "state": {},
            "extensions": {
                "ifserver.groups": {"stream": STREAM},
                "websocket.http.response": {},
                "websocket.resume": {"resumed": False, "unconfirmed": 0},
            },
        }
        assert one.scope["state"] is not one.host.state
        one.leave()

    play(act)


def test_connect_comes_first_and_then_receive_waits() -> None:
    async def act(one: Play) -> None:
        assert await one.receive() == {"type": "websocket.connect"}
        waiting = asyncio.ensure_future(one.receive())
        await turns()
        assert not waiting.done()
        one.leave(1001, "")
        assert await waiting == disconnected(1001)

    assert play(act).sent == []


def test_connect_comes_first_also_when_the_client_has_left_meanwhile() -> None:
    async def act(one: Play) -> None:
        one.leave(1006)
        assert await one.receive() == {"type": "websocket.connect"}
        assert await one.receive() == disconnected(1006)
        with pytest.raises(ClientDisconnected):
            await one.send(ACCEPT)

    assert play(act).sent == []


def test_accept() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        await one.send({**ACCEPT, "subprotocol": SafeString("chat.v1"), "headers": [[b"X-A", b"1"], (b"x-a", b"2")]})
        assert one.host.begun == 1
        one.leave(1000)

    assert play(act).sent == [
        WebSocketAccept(STREAM, 0, WORKER, 0, WORKER, "chat.v1", [(b"x-a", b"1"), (b"x-a", b"2")])
    ]


def test_accept_without_a_subprotocol_and_before_connect_was_taken() -> None:
    async def act(one: Play) -> None:
        await one.send({**ACCEPT, "subprotocol": None})
        one.leave(1000)

    assert play(act).sent == [WebSocketAccept(STREAM, 0, WORKER, 0, WORKER, None, [])]


def test_close_before_accept_is_403(caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        await one.receive()
        await one.send({**CLOSE, "code": 4001, "reason": "no"})
        assert await one.receive() == disconnected(1006)

    one = play(act)
    assert one.sent == [ResponseStart(STREAM, 0, WORKER, 0, 403, [], b"", False)]
    assert len(one.host.untaken) == 1
    assert errors(caplog) == []


def test_a_denial_with_a_response_of_the_application(caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        await one.receive()
        await one.send(DENIAL)
        assert one.sent == []
        await one.send(denial_body(b"who", more=True))
        await one.send(denial_body(b" are you"))
        for _ in range(2):
            assert await one.receive() == disconnected(1006)
        with pytest.raises(ApplicationError):
            await one.send(ACCEPT)

    assert play(act).sent == [
        ResponseStart(STREAM, 0, WORKER, 0, 401, [(b"x-a", b"1")], b"who", True),
        ResponseBody(STREAM, 0, WORKER, 1, b" are you", False),
    ]
    assert errors(caplog) == []


def test_a_small_denial_is_one_message() -> None:
    async def act(one: Play) -> None:
        await one.send(DENIAL)
        await one.send(denial_body(b"no"))

    assert play(act).sent == [ResponseStart(STREAM, 0, WORKER, 0, 401, [(b"x-a", b"1")], b"no", False)]


def test_a_denial_keeps_the_header_to_itself_that_names_files() -> None:
    async def act(one: Play) -> None:
        one.host.file_header = b"x-sendfile"  # type: ignore[misc]
        named = [(b"X-Sendfile", b"/srv/secret"), (b"content-length", b"0"), (b"x-a", b"1")]
        await one.send({**DENIAL, "headers": named})
        await one.send(denial_body(b"no"))

    assert play(act).sent == [ResponseStart(STREAM, 0, WORKER, 0, 401, [(b"x-a", b"1")], b"no", False)]


def test_a_denial_whose_body_keeps_the_client_waiting_begins_without_it() -> None:
    async def act(one: Play) -> None:
        await one.send(DENIAL)
        one.stream.send_head()
        await one.send(denial_body(b"no"))

    assert play(act).sent == [
        ResponseStart(STREAM, 0, WORKER, 0, 401, [(b"x-a", b"1")], b"", True),
        ResponseBody(STREAM, 0, WORKER, 1, b"no", False),
    ]


def test_of_a_websocket_that_is_not_denied_no_head_is_sent() -> None:
    async def act(one: Play) -> None:
        one.stream.send_head()
        await one.send(ACCEPT)
        one.stream.send_head()
        one.leave(1000)

    assert [type(message) for message in play(act).sent] == [WebSocketAccept]


def test_a_large_denial_waits_for_credit() -> None:
    async def act(one: Play) -> None:
        await one.send(DENIAL)
        waiting = asyncio.ensure_future(one.send(denial_body(b"x" * 300_000)))
        await turns()
        assert not waiting.done()
        one.let_everything_through()
        await waiting

    assert sum(len(message.body) for message in play(act).sent) == 300_000


@pytest.mark.parametrize(
    ("before", "refused"),
    [
        ([], text("x")),
        ([], denial_body(b"x")),
        ([], {**ACCEPT, "subprotocol": "chat.v3"}),
        ([], {**ACCEPT, "subprotocol": b"chat.v1"}),
        ([], {**ACCEPT, "headers": [(b"Sec-WebSocket-Protocol", b"chat.v1")]}),
        ([], {**ACCEPT, "headers": [(b"Connection", b"close")]}),
        ([], {**ACCEPT, "headers": [(b"x-a", b""), (b"content-length", b"0")]}),
        ([], {**ACCEPT, "headers": [(b"upgrade", b"websocket")]}),
        ([], {**ACCEPT, "headers": [(b"sec-websocket-accept", b"x")]}),
        ([], {**ACCEPT, "headers": [(b"sec-websocket-extensions", b"x")]}),
        ([], {**ACCEPT, "headers": [(b"x-a", b"\r\n")]}),
        ([], {**ACCEPT, "headers": 1}),
        ([], {**CLOSE, "code": 1005}),
        ([], {**CLOSE, "reason": "x" * 124}),
        ([], {**DENIAL, "status": 101}),
        ([], {**DENIAL, "headers": [(b"x-a", 1)]}),
        ([], {"type": "http.response.start", "status": 200}),
        ([DENIAL], ACCEPT),
        ([DENIAL], CLOSE),
        ([DENIAL], DENIAL),
        ([DENIAL], text("x")),
        ([DENIAL], denial_body("text")),  # type: ignore[arg-type]
        ([{**DENIAL, "headers": [(b"content-length", b"1")]}], denial_body(b"xx")),
    ],
    ids=str,
)
def test_what_is_refused_before_the_handshake_is_answered_with_500(
    before: list[dict[str, Any]], refused: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def act(one: Play) -> None:
        for event in before:
            await one.send(event)
        with pytest.raises(ApplicationError, match=refused["type"]) as error:
            await one.send(refused)
        assert one.sent == []
        await one.raises(error.value)

    assert play(act).sent == [ERROR]
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("refused", [ACCEPT, CLOSE, DENIAL, text("x"), denial_body("text")], ids=str)  # type: ignore[arg-type]
def test_what_is_refused_in_the_middle_of_a_denial_aborts_it(refused: dict[str, Any]) -> None:
    async def act(one: Play) -> None:
        await one.send(DENIAL)
        await one.send(denial_body(b"x", more=True))
        with pytest.raises(ApplicationError) as error:
            await one.send(refused)
        await one.raises(error.value)

    assert play(act).sent[1:] == [Release(STREAM, 0, WORKER, "failed", 0)]


# What the client sends.


def test_messages_come_in_order_each_with_the_one_key_that_has_a_value() -> None:
    async def act(one: Play) -> None:
        one.message("ä")
        one.message(data=b"\xff")
        one.message("")
        one.message(data=b"")
        assert [await one.receive() for _ in range(4)] == [
            {"type": "websocket.receive", "text": "ä"},
            {"type": "websocket.receive", "bytes": b"\xff"},
            {"type": "websocket.receive", "text": ""},
            {"type": "websocket.receive", "bytes": b""},
        ]
        one.leave(1000)

    play_open(act)


def test_messages_that_wait_need_no_more_memory_than_the_client_sent() -> None:
    async def act(one: Play) -> None:
        with kept_at_most(int(2.5 * LETTERS)):
            one.message(wide("a"))
            one.message(wide("b"))
        assert [(await one.receive())["text"] for _ in range(2)] == [wide("a"), wide("b")]
        one.leave(1000)

    play_open(act)


def test_receive_waits_for_a_message() -> None:
    async def act(one: Play) -> None:
        waiting = asyncio.ensure_future(one.receive())
        await turns()
        assert not waiting.done()
        one.message("x")
        assert (await waiting)["text"] == "x"
        one.leave(1000)

    play_open(act)


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (1000, "bye", disconnected(1000, "bye")),
        (1005, "", disconnected(1005)),
        (4000, "ü", disconnected(4000, "ü")),
        (0, "", disconnected(1006)),
    ],
)
def test_how_the_client_has_left_is_told_each_time_behind_what_it_has_said(
    code: int, reason: str, expected: dict[str, Any]
) -> None:
    async def act(one: Play) -> None:
        one.message("last words")
        one.leave(code, reason)
        assert (await one.receive())["text"] == "last words"
        for _ in range(3):
            assert await one.receive() == expected

    one = play_open(act)
    assert one.sent == []
    assert one.host.slots_cleared == [SLOT]


def test_a_client_that_has_broken_the_protocol_is_answered_until_the_application_knows() -> None:
    async def act(one: Play) -> None:
        one.message("a")
        one.message("b")
        one.leave(1002, "RSV", answerable=True)
        for letter in "ab":
            event = await one.receive()
            assert event["text"] == letter
            await one.send(text(letter.upper()))
        assert [message.text for message in one.take_sent()] == ["A", "B"]
        assert await one.receive() == disconnected(1002, "RSV")
        assert one.take_sent() == [Release(STREAM, 0, WORKER, "the application knows", units(1, 1))]
        one.host.untaken.pop()()
        assert one.host.slots_cleared == [SLOT]
        with pytest.raises(ClientDisconnected):
            await one.send(text("too late"))
        assert await one.receive() == disconnected(1002, "RSV")

    assert play_open(act).take_sent() == []


def test_a_receive_that_waits_learns_of_a_broken_protocol_at_once() -> None:
    async def act(one: Play) -> None:
        receiving = asyncio.ensure_future(one.receive())
        await turns()
        one.leave(1007, "", answerable=True)
        assert await receiving == disconnected(1007)
        [release] = one.take_sent()
        assert isinstance(release, Release)

    play_open(act)


@pytest.mark.parametrize("end", ["returns", "closes", "is lost", "is drained"])
def test_other_ends_of_one_whose_client_has_broken_the_protocol(end: str) -> None:
    async def act(one: Play) -> None:
        one.message("a")
        one.leave(1002, "", answerable=True)
        if end == "closes":
            await one.send({**CLOSE, "code": 4000})
            assert one.take_sent() == [closed(4000)]
            assert await one.receive() == disconnected(4000)
        elif end == "is lost":
            # Its last words have taken too long.
            one.stream.lose()
            with pytest.raises(ClientDisconnected):
                await one.send(text("a"))
            assert (await one.receive())["text"] == "a"
            assert await one.receive() == disconnected(1002)
            assert one.take_sent() == []
        elif end == "is drained":
            one.stream.drain()
            assert one.stream.drained()
            assert [type(message) for message in one.take_sent()] == [Release]
            assert (await one.receive())["text"] == "a"
            assert await one.receive() == disconnected(1002)

    assert play_open(act).take_sent() == ([closed(1011)] if end == "returns" else [])


def test_a_server_that_is_lost_is_1006() -> None:
    async def act(one: Play) -> None:
        one.stream.lose()
        assert await one.receive() == disconnected(1006)

    play_open(act)


# What the application sends.


def test_texts_and_bytes_of_every_kind() -> None:
    async def act(one: Play) -> None:
        await one.send(text("ä"))
        await one.send({"type": "websocket.send", "bytes": b"\xff", "text": None})
        await one.send({"type": "websocket.send", "bytes": None, "text": SafeString("<b>ü</b>")})
        await one.send({"type": "websocket.send", "bytes": memoryview(b"abc")[1:]})
        await one.send(text(""))
        one.leave(1000)

    assert play_open(act).sent == [
        WebSocketSend(STREAM, 0, WORKER, seq, value, data)
        for seq, value, data in [
            (1, "ä", None),
            (2, None, b"\xff"),
            (3, "<b>ü</b>", None),
            (4, None, b"bc"),
            (5, "", None),
        ]
    ]


@pytest.mark.parametrize(
    "refused",
    [
        {"type": "websocket.send"},
        {"type": "websocket.send", "text": None, "bytes": None},
        {"type": "websocket.send", "text": "x", "bytes": b"x"},
        {"type": "websocket.send", "text": b"x"},
        {"type": "websocket.send", "bytes": "x"},
        text("\ud800"),
        text("x" * (MAX_MESSAGE_BYTES + 1)),
        text("€" * (MAX_MESSAGE_BYTES // 3 + 1)),
        {"type": "websocket.send", "bytes": bytes(MAX_MESSAGE_BYTES + 1)},
        ACCEPT,
        DENIAL,
        denial_body(),
        {"type": "websocket.receive", "text": "x"},
        {"type": "http.response.start", "status": 200},
        *[{**CLOSE, "code": code} for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, "1000", True)],
        {**CLOSE, "reason": "x" * 124},
        {**CLOSE, "reason": "ü" * 62},
        {**CLOSE, "reason": "\ud800"},
        {**CLOSE, "reason": b"bye"},
    ],
    ids=lambda event: ascii(event)[:70],
)
def test_what_is_refused_when_it_is_open_closes_with_1011_and_before_that_harms_nothing(
    refused: dict[str, Any],
) -> None:
    async def act(one: Play) -> None:
        with pytest.raises(ApplicationError, match=refused["type"]) as error:
            await one.send(refused)
        assert one.sent == []
        await one.send(text("x"))
        await one.raises(error.value)

    assert play_open(act).sent == [WebSocketSend(STREAM, 0, WORKER, 1, "x", None), closed(1011, seq=2)]


def test_the_largest_message_counts_bytes() -> None:
    largest = "€" * (MAX_MESSAGE_BYTES // 3)

    async def act(one: Play) -> None:
        await one.send(text(largest))
        one.leave(1000)

    assert play_open(act).sent[0].text == largest


# The windows.


@pytest.mark.parametrize("letter", ["x", "ü", "😀"])
def test_send_waits_for_credit_that_is_counted_as_the_server_counts_it(letter: str) -> None:
    server = ReceiveWindow()

    async def act(one: Play) -> None:
        message = letter * 10_000
        for _ in range(WINDOW // units(10_000) + 1):
            await one.send(text(message))
        waiting = asyncio.ensure_future(one.send(text(message)))
        await turns()
        assert not waiting.done()
        for sent in one.sent:
            total = server.consume(message_bytes(sent.text, sent.data))
            if total is not None:
                one.stream.consumed(total)
        await waiting
        one.leave(1000)

    play_open(act)


@pytest.mark.parametrize("letter", ["x", "ü", "😀"])
def test_an_application_that_takes_messages_opens_the_window_of_the_server(letter: str) -> None:
    server = SendWindow()

    async def act(one: Play) -> None:
        message = letter * 10_000
        for _ in range(5):
            count = 0
            while server.open:
                one.message(message)
                server.spend(message_bytes(message, None))
                count += 1
            assert count > 5
            for _ in range(count):
                await one.receive()
            for window in one.take_sent():
                assert type(window) is Window
                server.update(window.consumed)
            assert server.sent - server.consumed < WINDOW // 4
        one.leave(1000)

    play_open(act)


def test_empty_messages_have_a_cost_too() -> None:
    async def act(one: Play) -> None:
        for _ in range(WINDOW // units(0)):
            await one.send(text(""))
        waiting = asyncio.ensure_future(one.send(text("")))
        await turns()
        assert not waiting.done()
        one.stream.consumed(units(0))
        await waiting
        one.leave(1000)

    play_open(act)


def test_what_the_client_said_before_it_left_opens_no_window() -> None:
    async def act(one: Play) -> None:
        one.message("x" * WINDOW)
        one.leave(1000)
        await one.receive()

    assert play_open(act).sent == []


def test_a_send_that_waits_for_credit_raises_when_the_client_leaves(caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        await one.send(text("x" * WINDOW))
        waiting = asyncio.ensure_future(one.send(text("y")))
        await turns()
        one.leave(1001)
        with pytest.raises(ClientDisconnected) as error:
            await waiting
        assert isinstance(error.value, OSError)
        await one.raises(error.value)

    assert len(play_open(act).sent) == 1
    assert errors(caplog) == []


def test_sends_that_wait_keep_their_order() -> None:
    async def act(one: Play) -> None:
        await one.send(text("x" * WINDOW))
        waiting = [asyncio.ensure_future(one.send(text(str(number)))) for number in range(5)]
        await turns()
        one.let_everything_through()
        await asyncio.gather(*waiting)
        one.leave(1000)

    assert [message.text for message in play_open(act).sent[1:]] == ["0", "1", "2", "3", "4"]


def test_a_send_that_is_cancelled_while_it_waits_has_sent_nothing() -> None:
    async def act(one: Play) -> None:
        await one.send(text("x" * WINDOW))
        waiting = asyncio.ensure_future(one.send(text("y")))
        await turns()
        waiting.cancel()
        await turns()
        one.let_everything_through()
        await one.send(text("z"))
        one.leave(1000)

    assert [(message.text, message.seq) for message in play_open(act).sent[1:]] == [("z", 2)]


# Closing.


@pytest.mark.parametrize(
    ("event", "code", "reason"),
    [
        (CLOSE, 1000, ""),
        ({**CLOSE, "code": None, "reason": None}, 1000, ""),
        ({**CLOSE, "code": 1001, "reason": "x" * 123}, 1001, "x" * 123),
        ({**CLOSE, "code": 1014}, 1014, ""),
        ({**CLOSE, "code": 3000, "reason": SafeString("bye")}, 3000, "bye"),
        ({**CLOSE, "code": 4999, "reason": "ü" * 61}, 4999, "ü" * 61),
    ],
)
def test_close_with_its_code_and_reason(event: dict[str, Any], code: int, reason: str) -> None:
    async def act(one: Play) -> None:
        one.message("the application no longer listens")
        await one.send(event)
        for _ in range(2):
            assert await one.receive() == disconnected(code, reason)
        for after in (text("x"), ACCEPT, CLOSE, DENIAL):
            with pytest.raises(ApplicationError):
                await one.send(after)
        assert one.message("too late") is None
        assert one.leave(code) is None

    one = play_open(act)
    assert one.sent == [closed(code, reason)]
    assert one.host.slots_cleared == []
    one.host.untaken.pop()()
    assert one.host.slots_cleared == [SLOT]


def test_a_receive_that_waits_ends_with_the_close_of_another_task() -> None:
    async def act(one: Play) -> None:
        waiting = asyncio.ensure_future(one.receive())
        await turns()
        await one.send({**CLOSE, "code": 4000})
        assert await waiting == disconnected(4000)

    play_open(act)


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_an_application_that_ends_while_it_is_open_closes_with_1011(how: str, caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        if how == "raises":
            await one.raises(ValueError("a defect"))

    assert play_open(act).sent == [closed(1011)]
    (record,) = caplog.records
    assert record.getMessage().startswith("WebSocket '/chat' (!east.0123456789.1f): the application has ")


def test_an_application_that_ends_before_it_answers_is_500(caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        await one.receive()

    assert play(act).sent == [ERROR]
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("event", [text("x"), {**CLOSE, "code": 1000}, ACCEPT])
def test_every_send_raises_an_oserror_once_the_client_has_left(
    event: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def act(one: Play) -> None:
        one.leave(1001)
        with pytest.raises(OSError, match="the client has left") as error:
            await one.send(event)
        await one.raises(error.value)

    assert play_open(act).sent == []
    assert errors(caplog) == []


# The server.


def test_a_message_that_is_repeated_is_dropped_and_a_gap_breaks_the_stream() -> None:
    async def act(one: Play) -> None:
        one.message("a")
        assert one.receive_message(WebSocketReceive(STREAM, 0, 0, "a", None)) == "repeated"
        assert one.receive_message(WebSocketReceive(STREAM, 0, 2, "c", None)) == "gap"
        assert (await one.receive())["text"] == "a"
        assert await one.receive() == disconnected(1006)

    assert play_open(act).sent == [Release(STREAM, 0, WORKER, "gap", 0)]


def test_a_message_of_the_wrong_kind_breaks_the_stream() -> None:
    async def act(one: Play) -> None:
        one.receive_message(RequestBody(STREAM, 0, 0, b"", False))

    assert play_open(act).sent == [Release(STREAM, 0, WORKER, "wrong kind", 0)]


# The worker has to stop.


class WebSocketDisconnect(Exception):
    """What Starlette raises for a disconnect that it is told of."""


@pytest.mark.parametrize("leaves", [True, False])
def test_an_endpoint_that_lets_its_frameworks_disconnect_pass_is_not_logged(
    leaves: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """FastAPI's tutorial is written so, and an edit with --reload would log a traceback for each open WebSocket."""

    async def act(one: Play) -> None:
        await one.receive()
        await one.send(ACCEPT)
        waiting = asyncio.ensure_future(one.receive())
        await turns()
        if leaves:
            one.leave()
        else:
            one.stream.drain()
        assert (await waiting)["type"] == "websocket.disconnect"
        await one.raises(WebSocketDisconnect(1012))

    play(act, resumable=True)
    assert errors(caplog) == []


def test_when_the_drain_is_over_an_open_one_is_closed_with_1012(caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        one.message("taken before the end")
        waiting = asyncio.ensure_future(one.send(text("x" * WINDOW)))
        await waiting
        waiting = asyncio.ensure_future(one.send(text("y")))
        await turns()
        one.take_sent()
        one.stream.drain()
        await turns()
        assert one.sent == [], "it may go on until then"
        assert one.stream.drained()
        assert not one.stream.drained()
        assert one.sent == [closed(1012, seq=2)]
        with pytest.raises(ClientDisconnected, match="about to stop"):
            await waiting
        assert (await one.receive())["text"] == "taken before the end"
        for _ in range(2):
            assert await one.receive() == disconnected(1012)

    one = play_open(act)
    assert len(one.sent) == 1
    assert len(one.host.untaken) == 1
    assert errors(caplog) == []


RESUMABLE = {**ACCEPT, "resumable": True}


def given_back(consumed: int, sent: int, reason: str = "drained") -> Release:
    return Release(STREAM, 0, WORKER, reason, consumed, sent)


@pytest.mark.parametrize("by_path", [True, False])
def test_a_resumable_one_is_given_back_when_its_application_waits(by_path: bool) -> None:
    async def act(one: Play) -> None:
        await one.receive()
        await one.send(ACCEPT if by_path else RESUMABLE)
        assert one.take_sent()[0].resumable
        one.message("taken")
        await one.receive()
        await one.send(text("answer"))
        waiting = asyncio.ensure_future(one.receive())
        await turns()
        one.take_sent()
        one.stream.drain()
        assert await waiting == disconnected(1012)
        assert one.sent == [given_back(units(len("taken")), sent=2)]
        with pytest.raises(ClientDisconnected, match="about to stop"):
            await one.send(text("late"))
        assert await one.receive() == disconnected(1012)

    one = play(act, resumable=by_path)
    assert len(one.host.untaken) == 1, "its place in the ledger is free when the server knows"


@pytest.mark.parametrize(
    ("subprotocol", "said", "resumable"),
    [
        (None, None, True),
        ("chat.v1", None, True),
        ("graphql-transport-ws", None, False),
        ("graphql-ws", None, False),
        ("graphql-ws", True, True),
        ("chat.v1", False, False),
    ],
)
def test_a_path_makes_it_resumable_but_for_protocols_with_a_session_and_where_its_application_says_otherwise(
    subprotocol: str | None, said: bool | None, resumable: bool
) -> None:
    async def act(one: Play) -> None:
        await one.receive()
        await one.send({**ACCEPT, "subprotocol": subprotocol, **({} if said is None else {"resumable": said})})
        assert one.take_sent()[0].resumable is resumable
        one.stream.drain()
        one.stream.drained()
        ends = Release if resumable else WebSocketClose
        assert isinstance(one.take_sent()[-1], ends)

    play(act, resumable=True, subprotocols=[subprotocol] if subprotocol else [])


def test_what_its_application_has_not_taken_is_for_the_next_worker() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        await one.send(RESUMABLE)
        one.message("a")
        one.message("b")
        await one.receive()
        one.take_sent()
        one.stream.drain()
        await one.send(text("it is not waiting, so it goes on"))
        assert await one.receive() == disconnected(1012)
        assert one.take_sent()[1:] == [given_back(units(1), sent=2)]

    play(act)


@pytest.mark.parametrize("how", ["drained", "cancel"])
def test_it_is_given_back_at_the_end_of_the_drain_at_the_latest(how: str) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(RESUMABLE)
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        one = await Play.begin(websocket_connect(), application)
        one.take_sent()
        one.stream.drain()
        await turns()
        assert one.sent == []
        if how == "drained":
            assert one.stream.drained()
        one.stream.cancel()
        await one.ended()
        assert one.sent == [given_back(0, 1, "drained" if how == "drained" else "stopped")]

    run(main)


@pytest.mark.parametrize("unconfirmed", [0, 3])
def test_the_next_worker_is_told_that_it_resumes_and_what_may_be_lost(unconfirmed: int) -> None:
    async def act(one: Play) -> None:
        assert one.scope["extensions"]["websocket.resume"] == {"resumed": True, "unconfirmed": unconfirmed}
        one.leave()

    play(act, resumable=True, unconfirmed=unconfirmed)


def test_a_drain_hands_a_handshake_to_another_worker() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        one.stream.drain()
        assert await one.receive() == disconnected(1012)
        with pytest.raises(ClientDisconnected):
            await one.send(ACCEPT)

    assert play(act).sent == [Release(STREAM, 0, WORKER, "stopped", 0)]


def test_a_drain_lets_a_denial_run_to_its_end() -> None:
    async def act(one: Play) -> None:
        await one.send(DENIAL)
        one.stream.drain()
        await one.send(denial_body(b"no"))

    assert [message.status for message in play(act).sent] == [401]


def test_a_drain_of_one_that_has_ended_changes_nothing() -> None:
    async def act(one: Play) -> None:
        await one.send({**CLOSE, "code": 4000})
        one.stream.drain()
        assert await one.receive() == disconnected(4000)

    assert play_open(act).sent == [closed(4000)]
