"""A real browser, Chromium, in front of the examples."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, WebSocket, expect

from tests.e2e.chromium import LIMIT_MS, Chromium
from tests.e2e.running import APPS, EXAMPLES, Running, eventually
from tests.redis_server import RedisServer


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The Django site, in a copy whose files may be changed."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("data", "__pycache__"))
    arguments = ("run", "demo.asgi:application", "-p", "0", "--workers", "1", "--reload", "--resumable", "/chat/*")
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


VERSION_BY_WEBSOCKET = """() => new Promise((resolve, reject) => {
  const socket = new WebSocket(location.origin.replace("http", "ws"));
  socket.onopen = () => socket.send("which?");
  socket.onmessage = (event) => resolve(event.data);
  socket.onclose = (event) => reject(event.code);
})"""


def test_a_browser_stays_with_its_version_in_pages_requests_and_websockets(chromium: Chromium, tmp_path: Path) -> None:
    path = tmp_path / "ifserver.toml"
    version = 'application = "versions:app"\nprocesses = 1\n'
    path.write_text(
        f"[pools.web]\n{version}[pools.next]\n{version}canary_of = 'web'\nweight = 50\nenvironment.VERSION = 'next'\n"
    )
    seen: set[str] = set()

    def story(context: BrowserContext) -> None:
        page = context.new_page()
        for _ in range(2):
            page.goto(server.url)
            first = page.inner_text("body")
            seen.add(first)
            assert page.evaluate(VERSION_BY_WEBSOCKET) == first
            asked = "Promise.all([1, 2, 3, 4].map((n) => fetch('/' + n).then((reply) => reply.text())))"
            assert page.evaluate(asked) == [first] * 4
            assert page.evaluate("document.cookie") == "", "scripts have nothing of it"
            assert [cookie["name"] for cookie in context.cookies()] == ["ifserver_canary"]
            page = context.new_page()

    with Running("run", "-p", "0", "--config", str(path), app_dir=APPS) as server:
        server.ready()
        while len(seen) < 2:
            chromium.visit(story)


def test_chat_in_two_tabs_over_a_killed_worker_and_a_restart(chromium: Chromium, site: Running) -> None:
    def story(context: BrowserContext) -> None:
        tabs = one, two = [Tab(context, f"{site.url}/chat/", name) for name in ("Ada", "Grace")]
        one.say("Hello, Grace")
        two.shows(1)
        for number, harm in enumerate((kill_the_workers, change_a_file), 1):
            assert fetch(one.page) == 200
            before = site.workers()
            harm(site)
            # An ordinary request meanwhile is not refused: it waits for the new worker.
            assert fetch(one.page) == 200
            eventually(lambda before=before: len(site.workers()) == 1 and site.workers() != before, "another worker")
            two.say(f"Still here {number}")
            for tab in tabs:
                tab.shows(number + 1)
        for tab in tabs:
            assert tab.texts() == ["Hello, Grace", "Still here 1", "Still here 2"]
            tab.noticed_nothing()

    chromium.visit(story)


def test_chat_while_workers_are_killed_in_the_middle_of_a_conversation(chromium: Chromium, tmp_path: Path) -> None:
    def story(context: BrowserContext) -> None:
        tabs = [Tab(context, f"{server.url}/", name) for name in ("Ada", "Grace")]

        def lose_what_is_said() -> None:
            """What has been handed to a process that stands still is lost with it."""
            workers = server.workers()
            for worker in workers:
                os.kill(worker, signal.SIGSTOP)
            for tab in tabs:
                tab.says_more(3)
            kill(server, workers)

        one_worker, all_workers = lambda: kill(server, server.workers()[:1]), lambda: kill_the_workers(server)
        with_a_conversation(tabs, [one_worker, all_workers, lose_what_is_said, one_worker])

    arguments = ("run", "chat.app:app", "-p", "0", "--workers", "2")
    with Running(*arguments, app_dir=EXAMPLES, environment={"CHAT_DB": str(tmp_path / "chat.sqlite3")}) as server:
        server.ready()
        chromium.visit(story)


def test_chat_while_one_supervisor_takes_over_from_another(chromium: Chromium, tmp_path: Path) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        cluster = ("--cluster", f"main=redis://127.0.0.1:{redis.port}")
        environment = {"CHAT_DB": str(tmp_path / "chat.sqlite3")}

        def supervisor() -> Running:
            arguments = ("worker", "chat.app:app", *cluster, "--processes", "1")
            return stack.enter_context(Running(*arguments, app_dir=EXAMPLES, environment=environment))

        server = stack.enter_context(Running("serve", "-p", "0", *cluster))
        supervisors = [supervisor().ready()]

        def take_over() -> None:
            """As a deploy does it: the next one is there before the last one is told to end."""
            supervisors.append(supervisor().ready())
            supervisors[-2].end()

        def leave_a_gap() -> None:
            """Here nobody is there in between."""
            supervisors[-1].end()
            supervisors.append(supervisor())

        def story(context: BrowserContext) -> None:
            tabs = [Tab(context, f"{server.url}/", name) for name in ("Ada", "Grace")]
            with_a_conversation(tabs, [take_over, leave_a_gap, take_over])

        chromium.visit(story)
        supervisors[-1].ready()


#: Puts down whatever becomes of the chat's status, in `changes`.
WATCH = """
() => {
  window.changes = [];
  const status = document.getElementById("status");
  new MutationObserver(() => changes.push(status.dataset.state + ": " + status.textContent))
    .observe(status, { attributes: true, characterData: true, childList: true, subtree: true });
}
"""
#: Says something five times a second, as a hand at the form would, and puts it down in `said`. Two of these keep within
#: what the page shows.
TALK = """
(name) => {
  window.said = [];
  window.talking = setInterval(() => {
    if (said.length === 240) return;
    const text = name + " " + said.length;
    document.getElementById("name").value = name;
    document.getElementById("text").value = text;
    document.getElementById("form").requestSubmit();
    said.push(text);
  }, 200);
}
"""


class Tab:
    """The chat in a tab, whose status is watched from when it is connected."""

    def __init__(self, context: BrowserContext, url: str, name: str) -> None:
        self.name = name
        self._sockets = 0
        self.page = context.new_page()
        self.page.on("websocket", self._count)
        self.page.goto(url)
        self.page.wait_for_selector("#status[data-state=connected]")
        self.page.evaluate(WATCH)

    def _count(self, _: WebSocket) -> None:
        self._sockets += 1

    def say(self, text: str) -> None:
        """Say it as a user does."""
        self.page.fill("#name", self.name)
        self.page.fill("#text", text)
        self.page.click("#send")

    def talk(self) -> None:
        """Go on saying something until `fall_silent`."""
        self.page.evaluate(TALK, self.name)

    def fall_silent(self) -> list[str]:
        """All that was said since `talk`."""
        said: list[str] = self.page.evaluate("clearInterval(talking), said")
        return said

    def texts(self) -> list[str]:
        """What it shows."""
        return self.page.locator("#messages p").all_text_contents()

    def shows(self, count: int) -> None:
        """Wait until it shows that many messages."""
        self.page.wait_for_function("(count) => document.querySelectorAll('#messages li').length >= count", arg=count)

    def says_more(self, count: int) -> int:
        """Wait until it has said so many things more; how many it has said in all."""
        before: int = self.page.evaluate("said.length")
        self.page.wait_for_function("(count) => said.length >= count", arg=before + count)
        return before + count

    def shows_of(self, name: str, count: int) -> None:
        """Wait until it shows so many messages of somebody who talks."""
        script = """
            ([name, count]) =>
              [...document.querySelectorAll("#messages .name")].filter((it) => it.textContent === name).length >= count
        """
        self.page.wait_for_function(script, arg=[name, count])

    def noticed_nothing(self) -> None:
        """Check that it was connected all the time, by one WebSocket."""
        assert self.page.evaluate("changes") == []
        assert self._sockets == 1


def with_a_conversation(tabs: list[Tab], harms: list[Callable[[], None]]) -> None:
    """Do this while all tabs talk; none notices, and each shows what each has said, in order and once."""
    for tab in tabs:
        tab.talk()
    all_hear(tabs)
    for harm in harms:
        harm()
        all_hear(tabs)
    said = [tab.fall_silent() for tab in tabs]
    for tab in tabs:
        tab.shows(sum(map(len, said)))
    shown = [tab.texts() for tab in tabs]
    for each, tab in zip(said, tabs, strict=True):
        assert [text for text in shown[0] if text in each] == each
        tab.noticed_nothing()
    assert shown == [shown[0]] * len(tabs)
    assert len(shown[0]) == sum(map(len, said))


def all_hear(tabs: list[Tab]) -> None:
    """Wait until all hear what each of them says from now on."""
    for speaker in tabs:
        count = speaker.says_more(1)
        for tab in tabs:
            tab.shows_of(speaker.name, count)


def fetch(page: Page) -> int:
    """The status of an ordinary request of the page's."""
    status: int = page.evaluate("fetch('/clock/').then((response) => response.status)")
    return status


def kill_the_workers(server: Running) -> None:
    kill(server, server.workers())


def kill(server: Running, workers: list[int]) -> None:
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    for worker in workers:
        server.said(f"worker {worker} was killed")


def change_a_file(site: Running) -> None:
    [worker] = site.workers()
    views = Path(site.process.args[-1]) / "pages/views.py"  # type: ignore[index]
    views.write_text(views.read_text() + "\n")
    site.said("restarting the workers")
    site.said(f"worker {worker} has stopped")
