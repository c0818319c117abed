"""What applications say of groups, and what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ifserver.errors import ApplicationError, ClientDisconnected, NodeUnreachable
from ifserver.messages import (
    GroupJoin,
    GroupLeave,
    Release,
    ResponseBody,
    ResponseStart,
    WebSocketAccept,
    WebSocketClose,
)
from tests.process.test_children import run
from tests.worker.stage import STREAM, WORKER, Play, http_request, turns, websocket_connect

ACCEPT = {"type": "websocket.accept"}
START = {"type": "http.response.start", "status": 200, "headers": []}


def group(what: str, name: Any = "news", **more: Any) -> dict[str, Any]:
    return {"type": f"ifserver.group.{what}", "group": name, **more}


def play(act: Callable[[Play], Awaitable[None]], http: bool = False, accepted: bool = True) -> Play:
    async def whole() -> Play:
        one = await Play.begin(http_request() if http else websocket_connect())
        if accepted:
            await one.send(START if http else ACCEPT)
            if not http:
                one.take_sent()
        await act(one)
        return one

    return run(whole)


def asking(one: Play, event: dict[str, Any]) -> asyncio.Task[None]:
    return one.host.loop.create_task(one.send(event))


@pytest.mark.parametrize("accepted", [True, False])
def test_add_returns_once_the_stream_hears_the_group(accepted: bool) -> None:
    async def act(one: Play) -> None:
        adding = asking(one, group("add", gaps=True, tag="user 7"))
        await turns()
        assert one.sent == [GroupJoin(STREAM, 0, WORKER, int(accepted), "news", True, "user 7")]
        one.joined("other")
        await turns()
        assert not adding.done()
        one.joined("news")
        await adding

    play(act, accepted=accepted)


def test_several_tasks_may_join_at_a_time() -> None:
    async def act(one: Play) -> None:
        adding = [asking(one, group("add", name)) for name in ("a", "b", "a")]
        await turns()
        for name in ("a", "a", "b"):
            one.joined(name)
        await asyncio.gather(*adding)
        assert one.stream.joins is None

    play(act)


def test_what_cannot_be_joined() -> None:
    async def act(one: Play) -> None:
        adding = asking(one, group("add"))
        await turns()
        one.joined("news", "no rights")
        with pytest.raises(ApplicationError, match=r"ifserver.group.add: group 'news': no rights"):
            await adding

    play(act)


def test_a_client_that_leaves_ends_the_wait() -> None:
    async def act(one: Play) -> None:
        adding = asking(one, group("add"))
        await turns()
        one.leave(1001)
        with pytest.raises(ClientDisconnected):
            await adding
        with pytest.raises(ClientDisconnected):
            await one.send(group("add"))

    play(act)


def test_a_leave_is_in_order_with_the_stream_s_own_messages() -> None:
    async def act(one: Play) -> None:
        await one.send(group("discard"))
        await one.send({"type": "websocket.close"})
        assert one.sent == [GroupLeave(STREAM, 0, WORKER, 1, "news"), WebSocketClose(STREAM, 0, WORKER, 2, 1000, "")]

    play(act)


def test_a_stream_that_is_over_is_in_no_group_and_may_still_send() -> None:
    async def act(one: Play) -> None:
        one.leave(1001)
        await one.send(group("discard"))
        await one.send(group("send", text="somebody has left"))
        assert one.sent == []
        assert one.host.groups.published == [
            ("news", {"text": "somebody has left", "data": None, "close": None, "exclude": ""})
        ]

    play(act)


@pytest.mark.parametrize(
    ("given", "published"),
    [
        ({"text": "ä"}, ("ä", None, None, "")),
        ({"bytes": bytearray(b"\xff"), "exclude": True}, (None, b"\xff", None, STREAM)),
        ({"text": "", "exclude": "9876543210.2"}, ("", None, None, "9876543210.2")),
        ({"close": 4000}, (None, None, (4000, ""), "")),
        ({"close": (4000, "out")}, (None, None, (4000, "out"), "")),
    ],
)
def test_what_is_sent(given: dict[str, Any], published: tuple[Any, ...]) -> None:
    async def act(one: Play) -> None:
        await one.send(group("send", **given))
        [(name, what)] = one.host.groups.published
        assert (name, tuple(what.values())) == ("news", published)

    play(act)


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (group("add", "no group"), "not a group name: 'no group'"),
        (group("add", None), "group must be a str, got NoneType"),
        (group("add", "x" * 100), "at most 99 are allowed"),
        (group("discard", "!x"), "not a group name"),
        (group("add", tag="x" * 201), "a tag may have 200 characters, got 201"),
        (group("add", tag=7), "tag must be a str"),
        (group("send"), "exactly one of 'text', 'bytes' and 'close'"),
        (group("send", text="a", bytes=b"b"), "exactly one of 'text', 'bytes' and 'close'"),
        (group("send", text=b"a"), "text must be a str"),
        (group("send", text="\ud800"), "text cannot be encoded"),
        (group("send", bytes="a"), "bytes must be bytes"),
        (group("send", close=1005), "code must be one of"),
        (group("send", close=(4000, "x" * 124)), "at most 123 bytes"),
        (group("send", text="a", exclude=7), "exclude must be True, or the 'stream' of a scope"),
        (group("rename"), "not an event of this scope"),
    ],
)
def test_what_is_wrong_is_named(event: dict[str, Any], why: str) -> None:
    async def act(one: Play) -> None:
        with pytest.raises(ApplicationError, match=why):
            await one.send(event)
        assert one.sent == []
        assert one.host.groups.published == []

    play(act)


def test_a_broadcast_that_no_node_takes_is_an_error() -> None:
    async def act(one: Play) -> None:
        one.host.groups.failure = NodeUnreachable("node east: no connection")
        with pytest.raises(NodeUnreachable, match="east"):
            await one.send(group("send", text="x"))

    play(act)


def test_gaps_are_received_behind_what_has_come_before() -> None:
    async def act(one: Play) -> None:
        await one.receive()
        one.message("hello")
        one.gap("news", 3)
        one.gap("sport", None)
        assert (await one.receive())["text"] == "hello"
        assert await one.receive() == {"type": "ifserver.group.gap", "group": "news", "count": 3}
        assert await one.receive() == {"type": "ifserver.group.gap", "group": "sport", "count": None}
        waiting = one.host.loop.create_task(one.receive())
        await turns()
        one.gap("news", 1)
        assert (await waiting)["count"] == 1

    play(act)


def test_who_denies_a_handshake_joins_nothing() -> None:
    async def act(one: Play) -> None:
        await one.send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        with pytest.raises(ApplicationError, match="not expected now"):
            await one.send(group("add"))

    play(act, accepted=False)


# HTTP.


def test_a_response_joins_once_it_has_begun() -> None:
    async def act(one: Play) -> None:
        adding = asking(one, group("add"))
        await turns()
        start, join = one.sent
        assert start == ResponseStart(STREAM, 0, WORKER, 0, 200, [], b"", True)
        assert join == GroupJoin(STREAM, 0, WORKER, 1, "news")
        one.joined("news")
        await adding
        await one.send({"type": "http.response.body", "body": b"x", "more_body": True})
        assert one.sent[-1] == ResponseBody(STREAM, 0, WORKER, 2, b"x", True)
        await one.receive()
        one.gap("news", 2)
        assert await one.receive() == {"type": "ifserver.group.gap", "group": "news", "count": 2}

    play(act, http=True)


def test_a_response_that_has_not_begun_joins_nothing() -> None:
    async def act(one: Play) -> None:
        with pytest.raises(ApplicationError, match=r"ifserver.group.add: start the response first"):
            await one.send(group("add"))
        await one.send(group("send", text="that needs no response"))
        assert len(one.host.groups.published) == 1

    play(act, http=True, accepted=False)


@pytest.mark.parametrize("begun", [False, True])
def test_a_response_whose_head_has_not_left_is_in_no_group_that_it_could_leave(begun: bool) -> None:
    async def act(one: Play) -> None:
        await one.send(group("discard"))
        assert one.sent == [], "the head is still held"

    play(act, http=True, accepted=begun)


@pytest.mark.parametrize(
    ("status", "headers"), [(200, [(b"content-length", b"5")]), (204, []), (304, [])], ids=["length", "204", "304"]
)
def test_a_response_whose_end_is_known_joins_nothing(status: int, headers: list[tuple[bytes, bytes]]) -> None:
    async def act(one: Play) -> None:
        await one.send({"type": "http.response.start", "status": status, "headers": headers})
        with pytest.raises(ApplicationError, match="has no room"):
            await one.send(group("add"))
        assert one.sent == []

    play(act, http=True, accepted=False)


def test_an_application_that_is_cancelled_while_it_joins() -> None:
    async def act(one: Play) -> None:
        adding = asking(one, group("add"))
        await turns()
        adding.cancel()
        await turns()
        assert one.joined("news") is None
        one.stream.release("stopped")
        assert one.sent[-1] == Release(STREAM, 0, WORKER, "stopped", 0, 2)

    play(act)


def test_the_answer_to_a_join_that_was_cancelled_is_not_the_next_one_s() -> None:
    async def act(one: Play) -> None:
        cancelled = asking(one, group("add"))
        await turns()
        cancelled.cancel()
        await turns()
        await one.send(group("discard"))
        adding = asking(one, group("add"))
        await turns()
        one.joined("news")
        await turns()
        assert not adding.done()
        one.joined("news", "no rights")
        with pytest.raises(ApplicationError, match="no rights"):
            await adding
        assert one.stream.joins is None

    play(act)


def test_the_accept_may_follow_a_join() -> None:
    async def act(one: Play) -> None:
        adding = asking(one, group("add"))
        await turns()
        one.joined("news")
        await adding
        await one.send(ACCEPT)
        assert one.sent[-1] == WebSocketAccept(STREAM, 0, WORKER, 1, WORKER, None, [])

    play(act, accepted=False)
