"""What starts a response. How its body is sent is in `test_http`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest

from ifserver.errors import ApplicationError
from ifserver.messages import ResponseBody, ResponseStart
from ifserver.worker.response import Response, break_off
from ifserver.worker.stream_phases import ANSWERING, DONE, HELD
from tests.process.test_children import run
from tests.worker.stage import STREAM, WORKER, Play, http_request


def started(status: Any) -> tuple[Play, Response]:
    """A stream whose application has started a response."""
    play = Play(http_request())
    response = Response(play.stream, {"type": "k", "status": status})
    play.stream.phase = HELD
    return play, response


def test_statuses() -> None:
    async def main() -> None:
        for status in (200, 299, 599, HTTPStatus.CREATED):
            play, response = started(status)
            response.send_piece(b"", more=False)
            [start] = play.sent
            assert (type(start.status), start.status) == (int, status)
        for wrong in (199, 600, -200, "200", 200.0, None, True):
            with pytest.raises(ApplicationError, match=r"k: status must be an int from 200 to 599, got"):
                started(wrong)

    run(main)


@pytest.mark.parametrize("status", [200, 204, 304])
def test_a_response_without_content(status: int) -> None:
    async def main() -> None:
        play, response = started(status)
        assert response.has_everything == (status != 200)
        await response.send({"type": "k", "body": b"some"})
        assert [start.body for start in play.sent] == [b"some" if status == 200 else b""]

    run(main)


def test_who_breaks_off_before_anything_has_left_answers_with_an_error() -> None:
    async def main() -> None:
        play, _ = started(200)
        break_off(play.stream)
        [start] = play.sent
        assert (start.status, start.body, start.more_body) == (500, b"Internal Server Error", False)
        assert play.stream.phase is DONE
        play, _ = started(200)
        break_off(play.stream, head=True)
        assert [(start.status, start.body) for start in play.sent] == [(500, b"")]

    run(main)


def test_who_breaks_off_later_lets_go() -> None:
    async def main() -> None:
        play, response = started(200)
        response.send_piece(b"a", more=True)
        response.send_piece(b"b", more=True)
        assert play.stream.phase is ANSWERING
        break_off(play.stream)
        start, body, release = play.sent
        assert start == ResponseStart(STREAM, 0, WORKER, 0, 200, [], b"a", True)
        assert body == ResponseBody(STREAM, 0, WORKER, 1, b"b", True)
        assert release.reason == "failed"

    run(main)
