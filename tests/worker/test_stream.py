"""What becomes of a response whose application fails, and how a stream is named in the log."""

from __future__ import annotations

from typing import Any

import pytest

from ifserver.messages import ResponseBody, ResponseStart
from ifserver.worker.response import Response
from ifserver.worker.stream import ANSWERING, DONE, HELD
from tests.process.test_children import run
from tests.worker.stage import STREAM, WORKER, Play, http_request


def started(method: str = "GET") -> tuple[Play, Response]:
    """A stream whose application has started a response."""
    play = Play(http_request(method=method))
    response = Response(play.stream, {"type": "k", "status": 200}, None, method == "HEAD")
    play.stream.phase = HELD
    return play, response


def test_who_breaks_off_before_anything_has_left_answers_with_an_error() -> None:
    async def main() -> None:
        play, _ = started()
        play.stream.break_off()
        [start] = play.sent
        assert (start.status, start.body, start.more_body) == (500, b"Internal Server Error", False)
        assert play.stream.phase is DONE
        play, _ = started("HEAD")
        play.stream.break_off()
        assert [(start.status, start.body) for start in play.sent] == [(500, b"")]

    run(main)


def test_who_breaks_off_later_lets_go() -> None:
    async def main() -> None:
        play, response = started()
        response.send_piece(b"a", more=True)
        response.send_piece(b"b", more=True)
        assert play.stream.phase is ANSWERING
        play.stream.break_off()
        start, body, release = play.sent
        assert start == ResponseStart(STREAM, 0, WORKER, 0, 200, [], b"a", True)
        assert body == ResponseBody(STREAM, 0, WORKER, 1, b"b", True)
        assert release.reason == "failed"

    run(main)


def raised(request_id: Any, caplog: pytest.LogCaptureFixture) -> Any:
    """What is logged when the application has raised."""
    fields = [] if request_id is None else [(b"x-request-id", request_id)]

    async def main() -> None:
        one = await Play.begin(http_request(headers=[(b"host", b"here"), *fields]))
        await one.raises(RuntimeError("oops"))

    run(main)
    [record] = caplog.records
    return record


@pytest.mark.parametrize(
    ("request_id", "told", "field"),
    [
        (b"theirs-1", ", request theirs-1", "theirs-1"),
        (STREAM.encode(), "", STREAM),  # made by us: it is in the channel's name
        (b"a\r\n\xe4", r", request a\r\n\xe4", r"a\r\n\xe4"),
        (b"x" * 200, f", request {'x' * 128}", "x" * 128),
    ],
)
def test_a_line_about_a_stream(request_id: bytes, told: str, field: str, caplog: pytest.LogCaptureFixture) -> None:
    record = raised(request_id, caplog)
    assert record.getMessage() == f"GET '/ä b' (!east.0123456789.1f{told}): the application has raised"
    assert (record.stream, record.request_id) == ("!east.0123456789.1f", field)


@pytest.mark.parametrize("request_id", [None, b""])
def test_one_without_an_id(request_id: Any, caplog: pytest.LogCaptureFixture) -> None:
    record = raised(request_id, caplog)
    assert record.getMessage() == "GET '/ä b' (!east.0123456789.1f): the application has raised"
    assert not hasattr(record, "request_id")


def test_what_the_application_has_made_of_the_headers_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        one = await Play.begin(http_request())
        one.scope["headers"].append((b"x-request-id", "no bytes"))
        await one.raises(RuntimeError("oops"))

    run(main)
    [record] = caplog.records
    assert record.getMessage() == "GET '/ä b' (!east.0123456789.1f): the application has raised"
