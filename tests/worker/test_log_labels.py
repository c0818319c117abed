"""How a stream is named in the log: by its channel, and by its request's id."""

from __future__ import annotations

from typing import Any

import pytest

from tests.process.test_children import run
from tests.worker.stage import STREAM, Play, http_request


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
