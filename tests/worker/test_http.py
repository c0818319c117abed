"""HTTP exchanges, to the letter of asgiref's ``specs/www.rst``. The test plays the application, or has a small one."""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ifserver.errors import ApplicationError, ClientDisconnected
from ifserver.flow_control import PIECE_BYTES, WINDOW, SendWindow
from ifserver.messages import Claim, Release, RequestBody, ResponseBody, ResponseStart, WebSocketReceive, Window
from tests.process.test_children import run
from tests.worker.stage import (
    SLOT,
    STREAM,
    SUPERVISOR,
    WORKER,
    Play,
    http_request,
    turns,
    units,
)

START = {"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]}
TEXT = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21")]
ERROR = ResponseStart(STREAM, 0, WORKER, 0, 500, TEXT, b"Internal Server Error", False)


def body(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def length(size: int) -> dict[str, Any]:
    return {**START, "headers": [(b"content-length", b"%d" % size)]}


def failed(reason: str = "failed", consumed: int = 0) -> Release:
    return Release(STREAM, 0, WORKER, reason, consumed)


def play(act: Callable[[Play], Awaitable[None]], **request: Any) -> Play:
    """Run `act` with an exchange, and let the application return behind it if it has not ended."""

    async def main() -> Play:
        one = await Play.begin(http_request(**request))
        await act(one)
        if not one.host.has_ended:
            await one.returns()
        return one

    return run(main)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# The scope.


def test_the_scope() -> None:
    async def act(one: Play) -> None:
        assert one.scope == {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/ä b",
            "raw_path": b"/%C3%A4%20b",
            "query_string": b"x=%20",
            "root_path": "",
            "headers": [(b"host", b"here"), (b"accept", b"a"), (b"accept", b"b")],
            "client": ("127.0.0.1", 4000),
            "server": ("127.0.0.1", 8000),
            "state": {},
            "extensions": {"ifserver.groups": {"stream": STREAM}},
        }
        one.leave()

    play(act)


@pytest.mark.parametrize(
    ("path", "offered"),
    [
        ("/static/photo.jpg", True),
        ("/FILM.MP4", True),
        ("/static/app.js", False),
        ("/download/17", False),
        ("/mp4", False),
        ("/a.mp4/b", False),
        ("/mp4.", False),
        ("/a.tar.gz", True),
        ("/image.svg", False),
    ],
)
def test_sending_by_path_is_offered_where_compressing_gains_nothing(path: str, offered: bool) -> None:
    async def act(one: Play) -> None:
        assert ("http.response.pathsend" in one.scope["extensions"]) is offered
        one.leave()

    play(act, path=path)


def test_the_state_is_a_shallow_copy() -> None:
    pool: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["pool"].append("used")
        scope["state"]["mine"] = True
        await send(START)
        await send(body())

    async def main() -> None:
        one = Play(http_request(), application)
        one.host.state = {"pool": pool}
        one.stream.start()
        await one.ended()
        assert one.host.state == {"pool": ["used"]}

    run(main)


# The request's body.


def test_a_whole_request_is_one_event_and_then_receive_waits_for_the_end() -> None:
    async def act(one: Play) -> None:
        assert await one.receive() == {"type": "http.request", "body": b"hello", "more_body": False}
        waiting = asyncio.ensure_future(one.receive())
        await turns()
        assert not waiting.done()
        one.leave()
        assert await waiting == {"type": "http.disconnect"}

    play(act, body=b"hello")


def test_a_body_in_pieces_comes_as_it_arrives() -> None:
    async def act(one: Play) -> None:
        assert await one.receive() == {"type": "http.request", "body": b"a", "more_body": True}
        waiting = asyncio.ensure_future(one.receive())
        await turns()
        assert not waiting.done()
        one.body(b"b", more=True)
        assert await waiting == {"type": "http.request", "body": b"b", "more_body": True}
        one.body(b"c", more=True)
        one.body(b"d", more=False)
        assert await one.receive() == {"type": "http.request", "body": b"cd", "more_body": False}
        one.leave()

    play(act, body=b"a", more_body=True)


def test_a_receive_that_is_cancelled_loses_nothing() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        for _ in range(3):
            waiting = asyncio.ensure_future(one.receive())
            await turns()
            waiting.cancel()
            await turns()
            assert waiting.cancelled()
        assert len(one.stream.waiters) == 1, "or who asks again and again with a timeout fills the memory"
        one.body(b"b", more=False)
        assert (await one.receive())["body"] == b"b"
        one.leave()

    play(act, more_body=True)


def test_two_tasks_may_wait_in_receive() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        first, second = asyncio.ensure_future(one.receive()), asyncio.ensure_future(one.receive())
        await turns()
        one.leave()
        assert [await first, await second] == [{"type": "http.disconnect"}] * 2

    play(act)


def test_after_the_complete_response_there_is_only_the_disconnect_each_time() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body(b"x"))
        one.body(b"more", more=False)
        for _ in range(3):
            assert await one.receive() == {"type": "http.disconnect"}

    play(act, body=b"never read", more_body=True)


def test_a_receive_that_waits_ends_with_the_response() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        waiting = asyncio.ensure_future(one.receive())
        await turns()
        await one.send(START)
        await one.send(body(b"x", more=True))
        await turns()
        assert not waiting.done()
        await one.send(body())
        assert await waiting == {"type": "http.disconnect"}

    play(act)


def test_after_the_client_has_left_there_is_only_the_disconnect_each_time() -> None:
    async def act(one: Play) -> None:
        one.leave()
        for _ in range(3):
            assert await one.receive() == {"type": "http.disconnect"}

    assert play(act, body=b"x").sent == []


# Waiting for the client holds no slot.


def test_a_receive_that_waits_for_the_body_lends_the_slot_until_some_has_come() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        assert one.host.awaiting == 0, "what is there was taken at once"
        for piece, more in ((b"b", True), (b"c", False)):
            waiting = asyncio.ensure_future(one.receive())
            await turns()
            assert one.host.awaiting == 1
            one.body(piece, more)
            await waiting
            assert one.host.awaiting == 0, "the application works"
        waiting = asyncio.ensure_future(one.receive())
        await turns()
        assert one.host.awaiting == 0, "nothing more is due of this client"
        one.leave()
        await waiting

    play(act, more_body=True)


def test_one_that_works_and_does_not_ask_for_the_body_keeps_its_slot() -> None:
    async def act(one: Play) -> None:
        await turns()
        assert one.host.awaiting == 0
        one.leave()

    play(act, more_body=True)


def test_a_receive_that_is_cancelled_takes_the_slot_back() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        for _ in range(2):
            waiting = asyncio.ensure_future(one.receive())
            await turns()
            assert one.host.awaiting == 1
            waiting.cancel()
            await turns()
            assert one.host.awaiting == 0
        one.leave()

    play(act, more_body=True)


def test_several_tasks_that_wait_lend_one_slot_until_the_last_is_cancelled() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        first, second = asyncio.ensure_future(one.receive()), asyncio.ensure_future(one.receive())
        await turns()
        assert one.host.awaiting == 1
        first.cancel()
        await turns()
        assert one.host.awaiting == 1, "another task waits"
        second.cancel()
        await turns()
        assert one.host.awaiting == 0
        one.leave()

    play(act, more_body=True)


def test_several_tasks_that_wait_are_served_one_after_the_other() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        first, second = asyncio.ensure_future(one.receive()), asyncio.ensure_future(one.receive())
        await turns()
        one.body(b"b", more=True)
        await turns()
        assert (first.done(), second.done(), one.host.awaiting) == (True, False, 1)
        one.body(b"c", more=False)
        await turns()
        assert (second.done(), one.host.awaiting) == (True, 0)
        one.leave()

    play(act, more_body=True)


def test_one_that_has_begun_to_answer_has_no_slot_to_lend() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        early = asyncio.ensure_future(one.receive())
        await turns()
        assert (one.host.awaiting, one.host.begun) == (1, 0)
        await one.send(START)
        await one.send(body(b"x", more=True))
        assert (one.host.awaiting, one.host.begun) == (0, 1), "it is given back once"
        one.body(b"b", more=True)
        await early
        waiting = asyncio.ensure_future(one.receive())
        await turns()
        assert (one.host.awaiting, one.host.begun) == (0, 1)
        await one.send(body())
        await waiting

    play(act, more_body=True)


@pytest.mark.parametrize("end", ["leaves", "returns", "raises", "is let go"])
def test_however_a_stream_ends_it_lends_no_slot_behind_its_end(end: str, caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        await one.receive()
        waiting = asyncio.ensure_future(one.receive())
        await turns()
        assert one.host.awaiting == 1
        if end == "leaves":
            one.leave()
        elif end == "returns":
            await one.returns()
        elif end == "raises":
            await one.raises(ValueError("a defect"))
        else:
            one.stream.lose()
        assert one.host.awaiting == 0
        assert await waiting == {"type": "http.disconnect"}
        assert one.host.awaiting == 0

    play(act, more_body=True)


# The response.


def test_a_small_response_is_one_message() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        assert (one.sent, one.host.begun) == ([], 0)
        await one.send(body(b"hello"))
        assert one.sent == [ResponseStart(STREAM, 0, WORKER, 0, 200, [(b"x-a", b"1")], b"hello", False)]
        assert one.host.begun == 1

    assert len(play(act).sent) == 1


def test_a_response_of_the_second_attempt_says_so() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body())

    assert play(act, attempt=1).sent[0].attempt == 1


def test_missing_keys_have_the_defaults_of_the_specification() -> None:
    async def act(one: Play) -> None:
        await one.send({"type": "http.response.start", "status": 204})
        await one.send({"type": "http.response.body"})

    assert play(act).sent == [ResponseStart(STREAM, 0, WORKER, 0, 204, [], b"", False)]


def test_a_streamed_response_is_counted() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body(b"a", more=True))
        await one.send(body(b"b", more=True))
        await one.send(body(b"", more=True))
        await one.send(body(b""))

    assert play(act).sent == [
        ResponseStart(STREAM, 0, WORKER, 0, 200, [(b"x-a", b"1")], b"a", True),
        ResponseBody(STREAM, 0, WORKER, 1, b"b", True),
        ResponseBody(STREAM, 0, WORKER, 2, b"", False),
    ]


def test_the_start_of_a_stream_leaves_with_its_first_body_though_that_is_empty() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body(b"", more=True))
        assert [type(message) for message in one.sent] == [ResponseStart]
        await one.send(body())

    play(act)


def test_a_start_in_the_first_step_is_looked_after_by_the_worker_and_a_later_one_tells_it() -> None:
    async def early(one: Play) -> None:
        await one.send(START)
        assert one.host.holding == []
        one.leave()

    async def late(one: Play) -> None:
        one.stream.begun = True
        await one.send(START)
        assert one.host.holding == [one.stream]
        one.leave()

    play(early)
    play(late)


def test_a_head_whose_body_keeps_the_client_waiting_leaves_without_it() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        one.stream.send_head()
        assert one.take_sent() == [ResponseStart(STREAM, 0, WORKER, 0, 200, [(b"x-a", b"1")], b"", True)]
        assert one.host.begun == 1, "an event source that has nothing to tell holds no slot"
        one.stream.send_head()
        assert one.sent == []
        await one.send(body(b"a", more=True))
        await one.send(body())
        assert one.sent == [
            ResponseBody(STREAM, 0, WORKER, 1, b"a", True),
            ResponseBody(STREAM, 0, WORKER, 2, b"", False),
        ]

    play(act)


@pytest.mark.parametrize("begun", [[], [START, body(b"x", more=True)], [START, body(b"x")]], ids=len)
def test_a_head_that_is_not_held_is_not_sent(begun: list[Any]) -> None:
    async def act(one: Play) -> None:
        for event in begun:
            await one.send(event)
        one.take_sent()
        one.stream.send_head()
        assert one.sent == []
        one.leave()
        one.stream.send_head()
        assert one.sent == []

    play(act)


def test_behind_a_head_that_has_left_the_content_length_still_holds() -> None:
    async def act(one: Play) -> None:
        await one.send(length(3))
        one.stream.send_head()
        with pytest.raises(ApplicationError, match="longer than its Content-Length by 1 bytes"):
            await one.send(body(b"four"))
        await one.send(body(b"abc"))

    start, end = play(act).sent
    assert (start.headers, start.body, start.more_body) == ([(b"content-length", b"3")], b"", True)
    assert (end.body, end.more_body) == (b"abc", False)


@pytest.mark.parametrize(("request_fields", "status"), [({"method": "HEAD"}, 200), ({}, 204)], ids=["HEAD", "204"])
def test_a_head_without_a_body_to_come_leaves_early_as_well(request_fields: dict[str, Any], status: int) -> None:
    async def act(one: Play) -> None:
        await one.send({**START, "status": status})
        one.stream.send_head()
        await one.send(body(b"dropped"))

    start, end = play(act, **request_fields).sent
    assert (start.status, start.body, start.more_body) == (status, b"", True)
    assert (end.body, end.more_body) == (b"", False)


def test_a_failure_behind_a_head_that_has_left_aborts(caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        one.stream.send_head()
        await one.raises(ValueError("a defect"))

    assert play(act).sent[1:] == [failed()]


def test_headers_keep_order_and_doubles_are_lower_case_and_transfer_encoding_is_ignored() -> None:
    headers = (
        pair
        for pair in [
            [b"Set-Cookie", b"b"],
            (b"X-A", memoryview(b"\xff")),
            (bytearray(b"set-cookie"), b"a"),
            (b"Transfer-Encoding", b"chunked"),
        ]
    )

    async def act(one: Play) -> None:
        await one.send({**START, "status": http.HTTPStatus.CREATED, "headers": headers})
        await one.send(body(bytearray(b"x")))  # type: ignore[arg-type]

    (start,) = play(act).sent
    assert (start.status, start.body) == (201, b"x")
    assert start.headers == [(b"set-cookie", b"b"), (b"x-a", b"\xff"), (b"set-cookie", b"a")]


@pytest.mark.parametrize(
    ("request_fields", "status"),
    [({"method": "HEAD"}, 200), ({}, 204), ({}, 205), ({}, 304)],
    ids=["HEAD", "204", "205", "304"],
)
def test_a_body_that_may_not_be_is_dropped(
    request_fields: dict[str, Any], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(one: Play) -> None:
        await one.send({**length(5), "status": status})
        await one.send(body(b"x" * 300_000, more=True))
        await one.send(body(b"hello"))

    start, end = play(act, **request_fields).sent
    assert (start.body, end.body, end.more_body) == (b"", b"", False)
    assert start.headers == [(b"content-length", b"5")]
    assert errors(caplog) == []


# Large bodies.


def test_a_large_body_is_cut_into_pieces_of_64_kib() -> None:
    data = bytes(range(256)) * 700

    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body(data))

    sent = play(act).sent
    assert [len(message.body) for message in sent] == [PIECE_BYTES, PIECE_BYTES, 179_200 - 2 * PIECE_BYTES]
    assert b"".join(message.body for message in sent) == data
    assert [message.more_body for message in sent] == [True, True, False]
    assert [message.seq for message in sent] == [0, 1, 2]


def test_a_body_of_whole_pieces_ends_with_the_last_of_them() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body(b"x" * 2 * PIECE_BYTES))

    sent = play(act).sent
    assert [(len(message.body), message.more_body) for message in sent] == [(PIECE_BYTES, True), (PIECE_BYTES, False)]


def test_without_any_credit_left_nothing_is_sent() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        for _ in range(4):
            await one.send(body(b"x" * (WINDOW // 4 - units(0)), more=True))
        waiting = asyncio.ensure_future(one.send(body(b"")))
        await turns()
        assert not waiting.done()
        one.stream.consumed(1)
        await waiting

    play(act)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 200_000), min_size=1, max_size=6),
    st.lists(st.integers(0, WINDOW), max_size=4),
)
def test_whatever_the_sizes_all_arrives_in_order_and_the_window_is_kept(sizes: list[int], grants: list[int]) -> None:
    data = [bytes([65 + index]) * size for index, size in enumerate(sizes)]

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for each in data[:-1]:
            await send(body(each, more=True))
        await send(body(data[-1]))

    async def main() -> None:
        one = await Play.begin(http_request(), application)
        consumed = 0
        while not one.host.has_ended:
            await turns()
            under_way = sum(units(len(message.body)) for message in one.sent) - consumed
            assert under_way < WINDOW + units(PIECE_BYTES)
            consumed += grants.pop() if grants else WINDOW
            one.stream.consumed(consumed)
        sent = one.sent
        assert b"".join(message.body for message in sent) == b"".join(data)
        assert all(len(message.body) <= PIECE_BYTES for message in sent)
        assert [message.seq for message in sent] == list(range(len(sent)))
        assert [message.more_body for message in sent] == [True] * (len(sent) - 1) + [False]

    run(main)


def test_send_waits_for_credit_and_a_window_wakes_it() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        for _ in range(4):
            await one.send(body(b"x" * PIECE_BYTES, more=True))
        waiting = asyncio.ensure_future(one.send(body(b"end")))
        await turns()
        assert not waiting.done()
        assert len(one.sent) == 4
        one.stream.consumed(units(PIECE_BYTES))
        await waiting
        assert one.sent[-1].body == b"end"

    play(act)


def test_a_window_that_was_overtaken_changes_nothing() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body(b"x" * 4 * PIECE_BYTES, more=True))
        one.stream.consumed(2**40)
        one.stream.consumed(5)
        await one.send(body(b"x" * 4 * PIECE_BYTES, more=True))
        waiting = asyncio.ensure_future(one.send(body()))
        await turns()
        assert not waiting.done(), "what was never sent counts as consumed"
        one.leave()
        with pytest.raises(ClientDisconnected):
            await waiting

    play(act)


def test_bodies_of_two_tasks_do_not_mix() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        first = asyncio.ensure_future(one.send(body(b"a" * 10 * PIECE_BYTES, more=True)))
        await turns()
        second = asyncio.ensure_future(one.send(body(b"b" * 10)))
        await turns()
        one.let_everything_through()
        await turns()
        one.let_everything_through()
        await first
        one.let_everything_through()
        await second

    assert b"".join(message.body for message in play(act).sent) == b"a" * 10 * PIECE_BYTES + b"b" * 10


def test_two_tasks_together_cannot_send_more_than_the_content_length() -> None:
    async def act(one: Play) -> None:
        await one.send(length(10 * PIECE_BYTES))
        first = asyncio.ensure_future(one.send(body(b"a" * 10 * PIECE_BYTES, more=True)))
        await turns()
        second = asyncio.ensure_future(one.send(body(b"b")))
        for _ in range(3):
            one.let_everything_through()
            await turns()
        await first
        with pytest.raises(ApplicationError, match="longer than its Content-Length by 1 bytes"):
            await second
        await one.send(body())

    play(act)


def test_what_waits_behind_the_body_of_another_task_is_refused_when_the_client_leaves() -> None:
    async def act(one: Play) -> None:
        await one.send(length(10 * PIECE_BYTES))
        first = asyncio.ensure_future(one.send(body(b"a" * 9 * PIECE_BYTES, more=True)))
        await turns()
        second = asyncio.ensure_future(one.send(body(b"b")))
        await turns()
        one.take_sent()
        one.leave()
        for waiting in (first, second):
            with pytest.raises(ClientDisconnected):
                await waiting
        assert one.sent == []

    play(act)


def test_a_send_that_is_cancelled_between_two_pieces_cannot_be_mended() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        waiting = asyncio.ensure_future(one.send(body(b"x" * 10 * PIECE_BYTES)))
        await turns()
        waiting.cancel()
        await turns()
        assert waiting.cancelled()
        assert one.sent[-1] == failed()
        with pytest.raises(ClientDisconnected):
            await one.send(body(b"y"))

    play(act)


def test_a_send_that_is_cancelled_before_its_first_piece_has_sent_nothing() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body(b"x" * 4 * PIECE_BYTES, more=True))
        waiting = asyncio.ensure_future(one.send(body(b"y")))
        await turns()
        waiting.cancel()
        await turns()
        one.let_everything_through()
        await one.send(body(b"z"))

    sent = play(act).sent
    assert (sent[-1].body, sent[-1].seq) == (b"z", 4)


def test_an_application_that_takes_the_body_opens_the_windows_of_the_server() -> None:
    server = SendWindow()

    async def act(one: Play) -> None:
        server.spend(1000)
        pieces = 0
        for _ in range(3):
            while server.open:
                one.body(b"x" * 40_000, more=True)
                server.spend(40_000)
                pieces += 1
            event = await one.receive()
            assert event["more_body"]
            (window,) = one.take_sent()
            assert server.update(window.consumed)
            assert server.sent - server.consumed < WINDOW // 4
        assert pieces > 14
        one.leave()

    play(act, body=b"x" * 1000, more_body=True)


def test_a_quarter_of_the_window_is_told_and_less_is_not() -> None:
    async def act(one: Play) -> None:
        for _ in range(3):
            one.body(b"x" * 20_000, more=True)
            await one.receive()
        assert one.sent == []
        one.body(b"x" * 20_000, more=True)
        await one.receive()
        one.leave()

    assert play(act, more_body=True).sent == [Window(STREAM, 0, WORKER, units(0, 20_000, 20_000, 20_000, 20_000))]


def test_of_a_body_that_came_whole_nothing_is_told() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        one.leave()

    assert play(act, body=b"x" * PIECE_BYTES).sent == []


# What is refused.

BAD_STARTS: list[dict[str, Any]] = [
    {"type": "http.response.start"},
    {**START, "status": "200"},
    {**START, "status": 100},
    {**START, "status": 101},
    {**START, "status": 600},
    {**START, "status": True},
    {**START, "trailers": True},
    {**START, "headers": 5},
    {**START, "headers": [b"x-a"]},
    {**START, "headers": {b"ab": b"c"}},
    {**START, "headers": [("x-a", b"1")]},
    {**START, "headers": [(b"x-a", "1")]},
    {**START, "headers": [(b"x a", b"1")]},
    {**START, "headers": [(b"", b"1")]},
    {**START, "headers": [(b":status", b"1")]},
    {**START, "headers": [(b"x-a", b"1\r\nx-b: 2")]},
    {**START, "headers": [(b"x-a", b"1\0")]},
    {**START, "headers": [(b"content-length", b"-1")]},
    {**START, "headers": [(b"content-length", b"5, 5")]},
    {**START, "headers": [(b"content-length", b"1" * 19)]},
    {**START, "headers": [(b"content-length", b"5"), (b"Content-Length", b"6")]},
]


@pytest.mark.parametrize(
    ("before", "refused"),
    [
        *[([], event) for event in BAD_STARTS],
        ([], body(b"x")),
        ([], {"type": "http.response.trailers", "headers": []}),
        ([], {"type": "http.disconnect"}),
        ([], {"type": "websocket.accept"}),
        ([START], START),
        ([START], body("text")),  # type: ignore[arg-type]
        ([START], body([b"x"])),  # type: ignore[arg-type]
        ([START], {"type": "http.response.pathsend", "path": "/"}),
        ([length(3)], body(b"four")),
        ([length(3)], body(b"four", more=True)),
    ],
    ids=str,
)
def test_what_is_refused_before_anything_has_left_is_answered_with_500(
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


@pytest.mark.parametrize("refused", [START, {"type": "websocket.send", "text": ""}, body("x")], ids=str)  # type: ignore[arg-type]
def test_what_is_refused_in_the_middle_aborts_the_response(refused: dict[str, Any]) -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body(b"x", more=True))
        with pytest.raises(ApplicationError) as error:
            await one.send(refused)
        await one.raises(error.value)

    assert play(act).sent[1:] == [failed()]


@pytest.mark.parametrize("refused", [START, body(b"x"), body()], ids=str)
def test_a_second_response_is_refused_and_harms_the_first_one_not(refused: dict[str, Any]) -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body(b"x"))
        with pytest.raises(ApplicationError, match="the response is complete"):
            await one.send(refused)

    assert len(play(act).sent) == 1


def test_after_a_refusal_the_application_may_answer_itself() -> None:
    async def act(one: Play) -> None:
        with pytest.raises(ApplicationError):
            await one.send({**START, "headers": [(b"x-a", b"\n")]})
        await one.send({**START, "status": 500, "headers": []})
        await one.send(body(b"sorry"))

    assert play(act).sent == [ResponseStart(STREAM, 0, WORKER, 0, 500, [], b"sorry", False)]


def test_unknown_events_are_told_what_there_is() -> None:
    async def act(one: Play) -> None:
        with pytest.raises(ApplicationError, match=r"there are: http\.response\.start, http\.response\.body"):
            await one.send({"type": "http.response.trailers"})
        one.leave()
        with pytest.raises(ApplicationError):
            await one.send({"type": "http.response.trailers"})

    play(act)


# Content-Length.


def test_a_body_of_the_length_that_was_told_in_several_events() -> None:
    async def act(one: Play) -> None:
        await one.send(length(100_010))
        await one.send(body(b"x" * 100_000, more=True))
        await one.send(body(b"y" * 10, more=True))
        await one.send(body())

    assert sum(len(message.body) for message in play(act).sent) == 100_010


def test_a_length_that_was_given_twice_is_sent_once() -> None:
    async def act(one: Play) -> None:
        await one.send({**START, "headers": [(b"content-length", b"1"), (b"x-a", b""), (b"Content-Length", b"1")]})
        await one.send(body(b"x"))

    assert play(act).sent[0].headers == [(b"content-length", b"1"), (b"x-a", b"")]


def test_too_short_a_body_that_is_the_first_is_answered_with_500_at_once() -> None:
    async def act(one: Play) -> None:
        await one.send(length(10))
        with pytest.raises(ApplicationError, match="shorter than its Content-Length by 1 bytes"):
            await one.send(body(b"x" * 9))
        assert one.sent == [ERROR]

    play(act)


def test_too_short_a_body_that_has_begun_is_aborted_at_once() -> None:
    async def act(one: Play) -> None:
        await one.send(length(10))
        await one.send(body(b"x" * 5, more=True))
        with pytest.raises(ApplicationError, match="shorter"):
            await one.send(body(b"x" * 4))
        assert one.sent[1:] == [failed()]

    play(act)


def test_too_long_a_body_that_has_begun_leaves_what_was_sent_whole() -> None:
    async def act(one: Play) -> None:
        await one.send(length(10))
        await one.send(body(b"x" * 10, more=True))
        with pytest.raises(ApplicationError, match="longer"):
            await one.send(body(b"x", more=True))
        await one.send(body())

    assert [message.body for message in play(act).sent] == [b"x" * 10, b""]


# The application ends.


@pytest.mark.parametrize(
    "error", [ValueError("a defect"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]
)
@pytest.mark.parametrize("held", [False, True])
def test_an_exception_before_anything_has_left_is_500(
    error: BaseException, held: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(one: Play) -> None:
        if held:
            await one.send({**length(3), "status": 304})
        await one.raises(error)

    assert play(act).sent == [ERROR]
    (record,) = caplog.records
    assert record.getMessage() == "GET '/ä b' (!east.0123456789.1f): the application has raised"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_the_500_for_a_head_has_no_body() -> None:
    async def act(one: Play) -> None:
        await one.raises(ValueError())

    (start,) = play(act, method="HEAD").sent
    assert (start.status, start.headers, start.body) == (500, TEXT, b"")


def test_an_exception_in_the_middle_aborts(caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body(b"x", more=True))
        await one.raises(ValueError("a defect"))

    assert play(act).sent[1:] == [failed()]
    assert "ValueError: a defect" in caplog.text


def test_an_exception_after_the_response_is_logged_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body())
        await one.raises(ValueError("a defect"))

    assert len(play(act).sent) == 1
    assert "ValueError: a defect" in caplog.text


@pytest.mark.parametrize(
    ("events", "expected", "why"),
    [
        ([], [ERROR], "no response has been started"),
        ([START], [ERROR], "the response's body is due"),
        ([START, body(b"x", more=True)], [failed()], "the response's body is not complete"),
    ],
)
def test_an_application_that_returns_too_early(
    events: list[Any], expected: list[Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(one: Play) -> None:
        for event in events:
            await one.send(event)

    assert play(act).sent[-1:] == expected
    assert errors(caplog) == [f"GET '/ä b' (!east.0123456789.1f): the application has returned, but {why}"]


def test_an_application_that_is_none_is_500(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        one = await Play.begin(http_request(), lambda scope, receive, send: None)  # type: ignore[arg-type, return-value]
        await one.ended()
        assert one.sent == [ERROR]

    run(main)
    assert "TypeError" in caplog.text


def test_work_after_the_last_byte_goes_on_and_does_not_mind_the_client() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body())
        one.leave()
        one.stream.lose()
        await turns()
        assert not one.host.has_ended, "its slot is kept until the coroutine returns"
        await one.returns()

    assert len(play(act).sent) == 1


# The client leaves.


@pytest.mark.parametrize("before", [[], [START], [START, body(b"x", more=True)]], ids=len)
def test_send_raises_an_oserror_once_the_client_has_left(before: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        for event in before:
            await one.send(event)
        one.take_sent()
        one.leave()
        for event in (START, body(b"x"), body()):
            with pytest.raises(OSError, match="the client has left") as error:
                await one.send(event)
            assert type(error.value) is ClientDisconnected
        await one.raises(error.value)

    assert play(act).sent == []
    assert errors(caplog) == []


@pytest.mark.parametrize(
    ("method", "start", "first"),
    [("GET", length(3), body(b"abc", more=True)), ("HEAD", START, body(more=True))],
)
def test_the_end_of_a_response_of_which_the_client_had_everything_is_no_failure(
    method: str, start: dict[str, Any], first: dict[str, Any]
) -> None:
    async def act(one: Play) -> None:
        await one.send(start)
        await one.send(first)
        one.leave()
        assert await one.receive() == {"type": "http.disconnect"}
        for _ in range(2):
            await one.send(body())
        for more in (body(b"x"), START):
            with pytest.raises(ClientDisconnected):
                await one.send(more)

    assert len(play(act, method=method).sent) == 1


def test_it_is_one_where_something_is_missing() -> None:
    async def act(one: Play) -> None:
        await one.send(length(3))
        await one.send(body(b"ab", more=True))
        one.leave()
        with pytest.raises(ClientDisconnected):
            await one.send(body())

    play(act)


def test_a_send_that_waits_for_credit_raises_when_the_client_leaves() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        waiting = asyncio.ensure_future(one.send(body(b"x" * 300_000)))
        await turns()
        one.take_sent()
        one.leave()
        with pytest.raises(ClientDisconnected):
            await waiting
        assert one.sent == []

    play(act)


class FrameworkError(Exception):
    """What a framework raises instead of ours (Starlette's ClientDisconnect)."""


@pytest.mark.parametrize("kind", ["cause", "context", "group"])
def test_what_has_come_of_the_disconnection_is_not_logged(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        try:
            await send(START)
        except OSError as error:
            if kind == "cause":
                raise FrameworkError from error
            if kind == "group":
                raise ExceptionGroup("tasks", [FrameworkError(), error]) from None
            raise FrameworkError  # noqa: B904 - as Starlette does it

    async def main() -> None:
        one = await Play.begin(http_request(), application)
        one.leave()
        await one.ended()

    run(main)
    assert errors(caplog) == []


def test_a_defect_is_logged_though_the_client_has_left(caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        one.leave()
        await one.raises(ValueError("a defect"))

    assert play(act).sent == []
    assert "ValueError: a defect" in caplog.text


def test_a_disconnection_that_is_none_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        await one.raises(ClientDisconnected("of another stream, the application's own client"))

    assert play(act).sent == [ERROR]
    assert len(errors(caplog)) == 1


def test_returning_after_the_client_has_left_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        one.leave()

    assert play(act).sent == []
    assert errors(caplog) == []


# The server.


def test_a_claim_names_who_has_it_and_who_watches() -> None:
    async def act(one: Play) -> None:
        one.stream.link.claim()
        one.leave()

    assert play(act).sent == [Claim(STREAM, 0, WORKER, SUPERVISOR)]


def test_a_message_that_is_repeated_is_dropped() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        assert one.body(b"a", more=True) is None
        assert one.receive_message(RequestBody(STREAM, 0, 0, b"a", True)) == "repeated"
        assert one.body(b"b", more=False) is None
        assert (await one.receive())["body"] == b"ab"
        one.leave()

    play(act, more_body=True)


def test_a_gap_breaks_the_stream() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        assert one.receive_message(RequestBody(STREAM, 0, 1, b"b", False)) == "gap"
        assert one.sent == [failed("gap", units(0))]
        assert await one.receive() == {"type": "http.disconnect"}
        with pytest.raises(ClientDisconnected):
            await one.send(START)
        assert one.receive_message(RequestBody(STREAM, 0, 2, b"c", False)) is None

    assert len(play(act, more_body=True).sent) == 1


@pytest.mark.parametrize("message", [WebSocketReceive(STREAM, 0, 0, "x", None), RequestBody(STREAM, 0, 0, b"", False)])
def test_a_message_of_the_wrong_kind_breaks_the_stream(message: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def act(one: Play) -> None:
        one.receive_message(message)
        assert one.sent == [failed("wrong kind")]

    play(act, more_body=False)
    assert "a message of the wrong kind" in caplog.text


def test_a_server_that_lets_go_is_as_a_client_that_leaves() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        waiting = asyncio.ensure_future(one.receive())
        await turns()
        one.stream.lose()
        assert await waiting == {"type": "http.disconnect"}
        with pytest.raises(ClientDisconnected):
            await one.send(START)

    one = play(act)
    assert one.sent == []
    assert one.host.slots_cleared == [SLOT]


def test_the_slot_of_the_ledger_is_free_when_the_node_has_the_last_message() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body(b"x", more=True))
        assert one.host.untaken == []
        await one.send(body())
        (taken,) = one.host.untaken
        assert one.host.slots_cleared == []
        one.leave()
        one.stream.lose()
        assert one.host.slots_cleared == [], "the node may still lose it"
        taken()
        assert one.host.slots_cleared == [SLOT]

    play(act)


def test_the_slot_of_the_ledger_is_free_at_once_when_the_server_knows_already() -> None:
    async def act(one: Play) -> None:
        one.leave()
        assert one.host.slots_cleared == [SLOT]
        one.stream.lose()

    one = play(act)
    assert one.host.slots_cleared == [SLOT]


# The worker has to stop.


def test_a_drain_lets_an_exchange_run_to_its_end() -> None:
    async def act(one: Play) -> None:
        one.stream.drain()
        await one.send(START)
        await one.send(body(b"x"))

    assert len(play(act).sent) == 1


@pytest.mark.parametrize("kind", [b"text/event-stream", b"Text/Event-Stream; charset=utf-8"])
def test_when_the_drain_is_over_an_event_stream_ends_as_if_its_client_had_left(
    kind: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(one: Play) -> None:
        await one.send({**START, "headers": [(b"Content-Type", kind)]})
        assert not one.stream.drained(), "nothing has been answered yet"
        await one.send(body(b"data: 1\n\n", more=True))
        one.take_sent()
        assert one.stream.drained()
        assert await one.receive() == {"type": "http.disconnect"}
        with pytest.raises(ClientDisconnected):
            await one.send(body(b"data: 2\n\n", more=True))

    assert play(act).sent == [replace(failed("events stopped"), sent=1)]
    assert errors(caplog) == []


def test_another_response_may_still_come_to_its_end_when_the_drain_is_over() -> None:
    async def act(one: Play) -> None:
        await one.send(START)
        await one.send(body(b"a", more=True))
        assert not one.stream.drained()
        await one.send(body(b"b"))

    assert [message.body for message in play(act).sent] == [b"a", b"b"]


@pytest.mark.parametrize("events", [[], [START], [START, body(b"x", more=True)]], ids=len)
def test_an_application_that_is_cancelled_is_told_as_stopped(
    events: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def act(one: Play) -> None:
        for event in events:
            await one.send(event)
        one.take_sent()
        one.stream.cancel()
        await one.ended()
        (taken,) = one.host.untaken
        taken()
        assert one.host.slots_cleared == [SLOT]

    assert play(act).sent == [replace(failed("stopped"), sent=int(len(events) == 2))]
    assert errors(caplog) == []


@pytest.mark.parametrize("ending", ["returns", "raises"])
def test_so_is_one_that_makes_something_else_of_the_cancellation(ending: str, caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
            await receive()
        except asyncio.CancelledError:
            if ending == "raises":
                raise ValueError("in the cleanup") from None

    async def main() -> None:
        one = await Play.begin(http_request(), application)
        one.stream.cancel()
        await one.ended()
        assert one.sent == [failed("stopped", units(0))]

    run(main)
    assert len(errors(caplog)) == (ending == "raises")


def test_one_that_answers_when_it_is_cancelled_has_answered() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
            await receive()
        except asyncio.CancelledError:
            await send({**START, "status": 503})
            await send(body())

    async def main() -> None:
        one = await Play.begin(http_request(), application)
        one.stream.cancel()
        await one.ended()
        assert [message.status for message in one.sent] == [503]

    run(main)


def test_a_send_that_is_cancelled_with_the_worker_is_told_as_stopped() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(body(b"x" * 1_000_000))

    async def main() -> None:
        one = await Play.begin(http_request(), application)
        one.stream.cancel()
        await one.ended()
        assert one.sent[-1] == replace(failed("stopped"), sent=len(one.sent) - 1)

    run(main)
