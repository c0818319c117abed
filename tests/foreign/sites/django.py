"""Django's own starter with its admin, and what many sites have installed: WhiteNoise, debug toolbar, htmx, Sentry."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.running import LIMIT_S, eventually
from tests.foreign.clients import UPLOAD, Browser, Cut, events
from tests.foreign.site import Needs, Site
from tests.foreign.ways import Served

__all__ = ["SITE"]

SITE = Site("django", apps=("pages",))
#: What one response may hold up, in seconds: far less than what a buffered stream would take.
_PROMPT_S = 0.7


@SITE.scenario("admin: login, static files")
def admin(served: Served) -> None:
    with Browser(served.url) as browser:
        page = browser.login("/admin/")
        assert "Site administration" in page.text
        sheet = re.search(r'href="(/static/admin/css/base[^"]*\.css)"', page.text)
        assert sheet is not None
        style = browser.get(sheet[1])
        assert (style.status_code, style.headers["content-type"]) == (200, 'text/css; charset="utf-8"')
        assert "navy" in browser.get("/static/pages/style.css").text


@SITE.scenario("admin: upload of 20 MB, download, range")
def upload(served: Served) -> None:
    name = f"upload-{time.monotonic_ns()}"
    with Browser(served.url) as browser:
        browser.login("/admin/")
        page = browser.fill_in("/admin/pages/attachment/add/", {"name": name}, {"file": (f"{name}.bin", UPLOAD)})
        assert "was added successfully" in page.text
        answer = browser.get(f"/download/{name}/")
        assert answer.content == UPLOAD
        assert answer.headers["content-length"] == str(len(UPLOAD))
        if Needs.RUNSERVER in served.way.offers:
            # Django serves media while it is developed, and knows no ranges.
            media = browser.get(f"/media/attachments/{name}.bin", headers={"range": "bytes=0-3"})
            assert (media.status_code, len(media.content)) == (200, len(UPLOAD))
        # WhiteNoise does.
        part = browser.get("/static/pages/style.css", headers={"range": "bytes=0-1"})
        if Needs.RUNSERVER not in served.way.offers:
            assert (part.status_code, part.text) == (206, "h1")


@SITE.scenario("async views, 40 at once")
def pauses(served: Served) -> None:
    with httpx.Client(base_url=served.url, timeout=LIMIT_S) as client, ThreadPoolExecutor(40) as pool:
        assert {answer.status_code for answer in pool.map(client.get, ["/pause/"] * 200)} == {200}


@SITE.scenario("htmx; another host is refused")
def htmx(served: Served) -> None:
    with Browser(served.url) as browser:
        assert "<h1>Version 1</h1>" in browser.get("/").text
        part = browser.get("/", headers={"hx-request": "true"})
        assert re.fullmatch(r"<p>\d+ attachments</p>", part.text)
        assert browser.get("/", headers={"host": "elsewhere.example"}).status_code == 400


@SITE.scenario("debug toolbar", Needs.RUNSERVER)
def toolbar(served: Served) -> None:
    with Browser(served.url) as browser:
        page = browser.get("/")
        found = re.search(r'data-request-id="(\w+)"', page.text)
        assert found is not None, page.text
        panel = browser.get("/__debug__/render_panel/", params={"request_id": found[1], "panel_id": "SQLPanel"}).json()
        assert "pages_attachment" in panel["content"]


@SITE.scenario("Sentry: errors of sync and async views")
def sentry(served: Served) -> None:
    reports = served.project.folder / "reports.jsonl"
    reports.unlink(missing_ok=True)
    for path in ("/fails/", "/fails-async/"):
        assert httpx.get(served.url + path, timeout=LIMIT_S).status_code == 500

    def reported() -> set[tuple[str, ...]]:
        lines = reports.read_text().splitlines() if reports.exists() else []
        return {(report["url"], *report["errors"]) for report in map(json.loads, lines)}

    wanted = {(f"{served.url}/{name}/", "LookupError") for name in ("fails", "fails-async")}
    eventually(lambda: wanted <= reported(), f"{wanted} in {reports}", 20)


@SITE.scenario("a sync view that streams comes in pieces", Needs.WSGI)
def lines(served: Served) -> None:
    with httpx.stream("GET", f"{served.url}/lines/", timeout=LIMIT_S) as response:
        for line in response.iter_lines():
            assert time.monotonic() - float(line.split()[1]) < _PROMPT_S


@SITE.scenario("events of an async view", Needs.ASGI)
def ticks(served: Served) -> None:
    with events(f"{served.url}/events/") as stream:
        began = time.monotonic()
        assert [next(stream).id for _ in range(5)] == ["0", "1", "2", "3", "4"]
        assert time.monotonic() - began < 10


@SITE.scenario("a worker is killed: events are cut, others go on", Needs.ASGI | Needs.WORKERS)
def killed(served: Served) -> None:
    with events(f"{served.url}/events/") as stream:
        next(stream)
        served.kill_workers()
        with pytest.raises(Cut):
            list(stream)
    with events(f"{served.url}/events/") as stream:
        assert next(stream).type == "tick"


@SITE.scenario("an edit while events are open", Needs.ASGI | Needs.RUNSERVER)
def edited(served: Served) -> None:
    with events(f"{served.url}/events/") as stream:
        assert next(stream).data == "1"
        with served.edited("pages/views.py", "VERSION = 1", "VERSION = 2"):
            served.processes[0].said(r"views\.py changed")
            assert "<h1>Version 2</h1>" in httpx.get(served.url, timeout=LIMIT_S).text
            # The stream ends with the worker that has it; EventSource connects again, and gets the new code.
            with pytest.raises(Cut):
                list(stream)
            with events(f"{served.url}/events/") as again:
                assert next(again).data == "2"
    eventually(lambda: "Version 1" in httpx.get(served.url, timeout=LIMIT_S).text, "the first version is back")


@SITE.scenario("its tests with LiveServerTestCase", Needs.RUNSERVER | Needs.ASGI)
def tests(served: Served) -> None:
    assert "OK" in served.manage("test")
