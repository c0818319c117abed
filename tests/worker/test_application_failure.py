"""What becomes of a response whose application fails. What is logged of that is in `test_http`."""

from __future__ import annotations

from ifserver.messages import ResponseBody, ResponseStart
from ifserver.worker.response import Response
from ifserver.worker.stream_phases import ANSWERING, DONE, HELD
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
