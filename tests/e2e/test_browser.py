"""A real browser, Chromium, in front of the examples."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.chromium import LIMIT_MS, Chromium
from tests.e2e.running import EXAMPLES, Running, eventually


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The Django site, in a copy whose files may be changed."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("data", "__pycache__"))
    arguments = ("run", "demo.asgi:application", "-p", "0", "--workers", "1", "--reload")
    environment = {"DJANGO_SITE_DATA": str(folder / "data"), "PYTHONDONTWRITEBYTECODE": "1"}
    with Running(*arguments, app_dir=folder / "examples/django_site", environment=environment) as server:
        yield server.ready()


def test_login_and_admin(chromium: Chromium, site: Running) -> None:
    def story(context: BrowserContext) -> None:
        page, problems = context.new_page(), []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(f"{request.url}: {request.failure}"))
        page.on("response", lambda response: problems.append(response.url) if response.status >= 400 else None)
        page.goto(site.url)
        page.click("#login")
        page.fill("#id_username", "admin")
        page.fill("#id_password", "admin")
        page.click("#submit")
        expect(page.locator("#user")).to_have_text("admin", timeout=LIMIT_MS)
        page.goto(f"{site.url}/admin/")
        expect(page.locator("#site-name")).to_be_visible(timeout=LIMIT_MS)
        # Its style sheets have arrived.
        assert page.evaluate("[...document.styleSheets].every((sheet) => sheet.cssRules.length > 0)")
        page.click("text=Entries")
        expect(page.locator("#content h1")).to_have_text("Select entry to change", timeout=LIMIT_MS)
        assert problems == []

    chromium.visit(story)


def test_upload(chromium: Chromium, site: Running, tmp_path: Path) -> None:
    file = tmp_path / "large.bin"
    file.write_bytes(os.urandom(3_000_000))

    def story(context: BrowserContext) -> None:
        page = context.new_page()
        page.goto(f"{site.url}/upload/")
        page.set_input_files("#id_file", str(file))
        page.click("#send")
        expect(page.locator("#result-name")).to_have_text("large.bin", timeout=LIMIT_MS)
        expect(page.locator("#result-size")).to_have_text("3000000", timeout=LIMIT_MS)

    chromium.visit(story)


def test_the_clock_ticks(chromium: Chromium, site: Running) -> None:
    def story(context: BrowserContext) -> None:
        page = context.new_page()
        page.goto(f"{site.url}/clock/")
        expect(page.locator("#clock-state")).to_have_text("running, in UTC", timeout=LIMIT_MS)
        expect(page.locator("#clock")).not_to_have_text("--:--:--", timeout=LIMIT_MS)

    chromium.visit(story)


def test_chat_in_two_tabs_over_a_killed_worker_and_a_restart(chromium: Chromium, site: Running) -> None:
    def story(context: BrowserContext) -> None:
        one, two = context.new_page(), context.new_page()
        for page in (one, two):
            page.goto(f"{site.url}/chat/")
            connected(page)
        say(one, "Ada", "Hello, Grace")
        shows(two, "Hello, Grace")
        for number, harm in enumerate((kill_the_worker, change_a_file), 1):
            assert fetch(one) == 200
            before = site.workers()
            harm(site)
            # An ordinary request meanwhile is not refused: it waits for the new worker.
            assert fetch(one) == 200
            eventually(lambda before=before: len(site.workers()) == 1 and site.workers() != before, "another worker")
            for page in (one, two):
                connected(page)
            say(two, "Grace", f"Still here {number}")
            shows(one, f"Still here {number}")
        # What was said before the chat connected again is shown once.
        assert one.locator("#messages li").count() == 3

    chromium.visit(story)


def connected(page: Page) -> None:
    """Wait until the chat on `page` is connected to a worker that lives, which answers what it says."""
    page.wait_for_selector("#status[data-state=connected]")


def say(page: Page, name: str, text: str) -> None:
    page.fill("#name", name)
    page.fill("#text", text)
    page.click("#send")


def shows(page: Page, text: str) -> None:
    expect(page.locator("#messages")).to_contain_text(text, timeout=LIMIT_MS)


def fetch(page: Page) -> int:
    """The status of an ordinary request of the page's."""
    status: int = page.evaluate("fetch('/clock/').then((response) => response.status)")
    return status


def kill_the_worker(site: Running) -> None:
    [worker] = site.workers()
    os.kill(worker, signal.SIGKILL)
    site.said(f"worker {worker} has ended: SIGKILL")
    site.said("closing the WebSocket with 1012", times=2)


def change_a_file(site: Running) -> None:
    [worker] = site.workers()
    views = Path(site.process.args[-1]) / "pages/views.py"  # type: ignore[index]
    views.write_text(views.read_text() + "\n")
    site.said("restarting the workers")
    site.said(f"worker {worker} has ended: exit code 0")
