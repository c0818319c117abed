"""What starts a response. How its body is sent is in `test_http`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest

from ifserver.errors import ApplicationError
from ifserver.worker.response import Response, send_body
from ifserver.worker.stream import HELD
from tests.process.test_children import run
from tests.worker.stage import Play, http_request


def started(status: Any) -> tuple[Play, Response]:
    """A stream whose application has started a response."""
    play = Play(http_request())
    response = play.stream.response = Response(play.stream, {"type": "k", "status": status}, None)
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


@pytest.mark.parametrize("status", [200, 204, 205, 304])
def test_a_response_without_content(status: int) -> None:
    async def main() -> None:
        play, response = started(status)
        assert response.has_everything == (status != 200)
        await send_body(play.stream, {"type": "k", "body": b"some"})
        assert [start.body for start in play.sent] == [b"some" if status == 200 else b""]

    run(main)
