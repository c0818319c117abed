"""What is answered in place of an application that cannot be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ifserver.errors import ConfigurationError
from ifserver.messages import ResponseStart
from ifserver.worker.application import load
from ifserver.worker.lifespan import StartupFailed
from ifserver.worker.load_error_page import LoadErrorPage
from tests.process.test_children import run
from tests.worker.stage import Play, http_request, websocket_connect
from tests.worker.test_application import site

__all__ = ["site"]


def answer(broken: LoadErrorPage, request: Any) -> ResponseStart:
    """The whole answer to a request."""
    answers: list[ResponseStart] = []

    async def main() -> None:
        play = await Play.begin(request, broken)
        answers.extend(play.host.sent)

    run(main)
    [start] = answers
    assert start.status == 500
    assert not start.more_body
    assert (b"cache-control", b"no-store") in start.headers
    return start


def text_of(broken: LoadErrorPage, *accept: bytes) -> tuple[str, str]:
    """Content type and body of the answer to a client that accepts this."""
    start = answer(broken, http_request(headers=[(b"accept", each) for each in accept]))
    [kind] = [value for name, value in start.headers if name == b"content-type"]
    return kind.decode(), start.body.decode()


def loaded(application: str, folder: Path) -> LoadErrorPage:
    with pytest.raises(ConfigurationError) as caught:
        load(application, str(folder))
    return LoadErrorPage.not_loaded(caught.value)


def test_a_browser_gets_a_page_and_whatever_else_plain_text() -> None:
    broken = LoadErrorPage("It failed", "</pre><script>alert('x')</script> & more")
    kind, page = text_of(broken, b"application/xml", b"text/html, */*;q=0.8")
    assert kind == "text/html; charset=utf-8"
    assert page.startswith("<!DOCTYPE html>")
    assert "<h1>It failed</h1>" in page
    assert "<script" not in page
    assert "&lt;/pre&gt;&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; more" in page
    for accept in ([], [b"*/*"], [b"application/json"]):
        kind, text = text_of(broken, *accept)
        assert kind == "text/plain; charset=utf-8"
        assert text.startswith("It failed\n\n</pre><script>alert('x')</script> & more\n")


def test_a_new_websocket_is_denied_with_the_error() -> None:
    start = answer(LoadErrorPage("It failed", "because"), websocket_connect())
    assert b"because" in start.body


def test_the_traceback_begins_where_the_application_does(site: Path) -> None:
    text = loaded("raises_deep_site:application", site).text
    first, _, traceback = text.partition("\n\n")
    assert first == (
        f"application 'raises_deep_site:application': ValueError: first line second line ({site}/raises_site.py:3)"
    )
    assert traceback.splitlines() == [
        "Traceback (most recent call last):",
        f'  File "{site}/raises_deep_site.py", line 1, in <module>',
        "    import raises_site",
        f'  File "{site}/raises_site.py", line 3, in <module>',
        "    raise ValueError('first line\\nsecond line')",
        "ValueError: first line",
        "second line",
    ]


def test_a_syntax_error_is_shown_with_its_line(site: Path) -> None:
    text = loaded("syntax_site:application", site).text
    assert f'  File "{site}/syntax_site.py", line 2\n    def broken(:' in text
    assert "importlib" not in text


@pytest.mark.parametrize(
    ("application", "said"),
    [
        ("nowhere_site:application", "ModuleNotFoundError: No module named 'nowhere_site'"),
        ("good_site.asgi:nothing", "has no attribute 'nothing'"),
        ("good_site.asgi:value", "not callable, but of type int"),
    ],
)
def test_what_is_wrong_with_the_name_of_the_application(application: str, said: str, site: Path) -> None:
    text = loaded(application, site).text
    assert said in text
    assert "Traceback" not in text


def test_a_startup_that_failed() -> None:
    broken = LoadErrorPage.not_started(
        StartupFailed("Traceback (most recent call last):\n  ...\nOSError: no database\n")
    )
    assert str(broken).startswith("The application's startup failed:\nTraceback")
    assert str(broken).endswith("OSError: no database")
    assert str(LoadErrorPage.not_started(StartupFailed("why"))) == "The application's startup failed: why"
    _, text = text_of(broken)
    assert "startup failed" in text
    assert "OSError: no database" in text


def test_of_a_long_error_the_end_is_shown_and_any_text_can_be() -> None:
    _, text = text_of(LoadErrorPage("It failed", "first" + "x" * 100_000 + "last \udcff"))
    assert len(text) < 20_000
    assert "first" not in text
    assert "last \\udcff" in text
