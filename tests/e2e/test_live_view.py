"""The live view in a real browser: figures, deploys and faults, the flow, keys, colours, narrow screens, old data."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect
from websockets.sync.client import connect

from ifserver.observe.admin.orders import POOLS_HEADER
from tests.e2e.chromium import LIMIT_MS, Chromium
from tests.e2e.operators import ADMIN, admin_of
from tests.e2e.running import LIMIT_S, Running, eventually
from tests.e2e.test_listening import free_port
from tests.e2e.test_restarting import Lineage
from tests.redis_server import RedisServer

#: Answers 500 where it is asked to, and holds WebSockets.
SITE = """
async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    elif scope["type"] == "http":
        status = 500 if scope["path"] == "/fails" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})
"""

#: The smallest contrast of all texts that are seen, and the text that has it (WCAG 2.2, 1.4.3).
CONTRAST: Final = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  let worst = [99, ""];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), node = walker.currentNode.parentElement;
    const style = getComputedStyle(node);
    if (!text || !node.checkVisibility() || ["SCRIPT", "STYLE"].includes(node.tagName)) continue;
    const [a, b] = [light(parse(node instanceof SVGElement ? style.fill : style.color)), light(behind(node))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < worst[0]) worst = [contrast, text];
  }
  return worst;
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "site_app.py").write_text(SITE)
    return folder


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Running]:
    """One for all tests that leave it as it was, but for what has happened to its workers."""
    with Running("run", "site_app:app", "-p", "0", "--workers", "2", *ADMIN, app_dir=folder) as site:
        yield site.ready()


@contextmanager
def traffic(site: Running) -> Iterator[None]:
    """Requests, one of four of which fails, until the block is left; and three WebSockets."""
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=site.url, timeout=LIMIT_S) as client:
            while not over.wait(0.02):
                for path in ("/", "/", "/", "/fails"):
                    client.get(path)

    thread = threading.Thread(target=ask, daemon=True)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(site.url.replace("http", "ws", 1)))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(LIMIT_S)


class View:
    """The page, open; `problems` is whatever a browser complains about, and `asked` all that it has asked for."""

    def __init__(self, context: BrowserContext, running: Running) -> None:
        self.problems: list[str] = []
        self.asked: set[str] = set()
        self.page: Page = context.new_page()
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on(
            "console", lambda line: self.problems.append(line.text) if line.type in ("error", "warning") else None
        )
        self.page.on("request", lambda request: self.asked.add(request.url))
        self.page.goto(f"{admin_of(running)}/")
        expect(self.page.locator("#freshness")).to_have_text("live", timeout=LIMIT_MS)

    def chart(self, key: str) -> Any:
        return self.page.locator(f".chart[data-key={key}]")

    def until(self, script: str, argument: Any = None) -> Any:
        """The result of `script`, as soon as that is true. (What Playwright has for that would need `eval`.)"""
        return eventually(lambda: self.page.evaluate(script, argument), script)

    def value(self, key: str, fits: str) -> None:
        """Wait until a chart shows a number that fits, such as ``> 0``."""
        self.until(
            f"(key) => Number(document.querySelector(`.chart[data-key=${{key}}] .value span`).textContent) {fits}", key
        )

    def shows(self, *labels: str) -> None:
        """Wait until these events are in the list, and marked in the charts and on the line of time."""
        self.page.locator("#range input[value='900']").check(force=True)
        for label in labels:
            row = self.page.locator("#events li", has=self.page.locator(".label", has_text=label)).first
            expect(row).to_be_visible(timeout=LIMIT_MS)
            kind = row.locator(".glyph").get_attribute("class").split()[-1]
            expect(self.page.locator(f"#timeline path.glyph.{kind}").first).to_be_attached(timeout=LIMIT_MS)
            expect(self.page.locator(f".chart.requests line.mark.{kind}").first).to_be_attached(timeout=LIMIT_MS)


Visit = Callable[..., None]


@pytest.fixture
def visit(chromium: Chromium) -> Visit:
    """Open the page of a process, and do something there; a browser must have nothing to complain about."""

    def visit(running: Running, story: Callable[[View], None], faultless: bool = True, **options: Any) -> None:
        def whole(context: BrowserContext) -> None:
            view = View(context, running)
            story(view)
            if faultless:
                assert view.problems == []
            host = admin_of(running)
            assert {url for url in view.asked if not url.startswith((f"{host}/", "data:"))} == set()

        chromium.visit(whole, **options)

    return visit


def test_figures_move_with_the_traffic(site: Running, visit: Visit) -> None:
    def story(view: View) -> None:
        expect(view.page.locator("#no-streams")).to_be_visible()
        expect(view.page.locator(".chart")).to_have_count(6)
        expect(view.chart("requests").locator("svg text").nth(1)).to_contain_text("peak 0")
        with traffic(site):
            view.value("requests", "> 1")
            view.value("errors", "> 0.2")
            view.value("websockets", "== 3")
            drawn = "document.querySelector('.requests path.curve').getAttribute('d')"
            before = view.page.evaluate(drawn)
            view.until(f"(before) => {drawn} !== before", before)
            # The picture of the flow: along each line goes what is counted at its end.
            for line in (0, 1):
                view.until(
                    "(line) => parseFloat(document.querySelectorAll('#flow > svg text')[line].textContent) > 1", line
                )
            expect(view.page.locator("#flow-servers .me")).to_contain_text("errors/s")
            expect(view.page.locator("#flow-clients")).to_contain_text("3 WebSockets")
            expect(view.page.locator("#flow-workers")).to_contain_text("2 workers")
        view.value("requests", "== 0")
        assert {url.split("?")[0].rpartition("/")[2] for url in view.asked} == {"", "status.json"}

    visit(site, story)


def test_a_killed_worker_and_a_deploy_leave_marks_that_a_later_page_shows(site: Running, visit: Visit) -> None:
    [victim, *_] = site.workers()

    def fault(view: View) -> None:
        os.kill(victim, signal.SIGKILL)
        view.shows("worker killed", "worker back")
        expect(view.page.locator("#events")).to_contain_text(f"worker {victim} was killed (SIGKILL)")
        expect(view.page.locator("#timeline text.label.fault")).to_have_text("worker killed")
        site.process.send_signal(signal.SIGHUP)
        view.shows("rolling restart", "restart done")

    visit(site, fault)

    def later(view: View) -> None:
        view.shows("worker killed", "rolling restart", "started")
        # Figures of the time before this page was opened.
        assert view.page.evaluate("store.known.times.length") > 5
        # Each kind has a shape and a kind of line of its own: colours are not needed.
        glyphs = "[...document.querySelectorAll('#events .glyph')].map((each) => [each.classList[1], each.outerHTML])"
        shapes = {kind: re.findall(' d="(.*?)"', text)[0] for kind, text in view.page.evaluate(glyphs)}
        assert {"deploy", "fault", "mended"} <= shapes.keys()
        assert len(set(shapes.values())) == len(shapes)
        expect(view.page.locator("#events li .what.fault").first).to_have_text(re.compile("fault: worker killed"))

    visit(site, later, forced_colors="active")


def test_keys(site: Running, visit: Visit) -> None:
    def story(view: View) -> None:
        page, slider = view.page, view.page.locator("#cursor")
        view.shows("started")
        with traffic(site):
            view.value("requests", "> 1")
        slider.focus()
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        expect(slider).to_have_attribute(
            "aria-valuetext", re.compile(r"s ago: Requests [\d.]+ /s; Errors, 5xx .*Queue wait")
        )
        expect(page.locator("#readout")).to_have_text(re.compile(r"\d\d:\d\d:\d\d, \d+ s ago"))
        # One hair in each chart, at the same time.
        expect(page.locator(".chart line.hair")).to_have_count(6)
        page.keyboard.press("Home")
        assert int(slider.get_attribute("aria-valuenow") or "") <= 2
        page.keyboard.press("End")
        expect(page.locator(".chart line.hair")).to_have_count(0)
        page.keyboard.press("[")
        expect(slider).to_have_attribute("aria-valuetext", re.compile(r"(deploy|fault|mended): \w+"))
        page.keyboard.press("Escape")
        expect(page.locator(".chart line.hair")).to_have_count(0)
        page.keyboard.press("1")
        expect(page.locator("#range input[value='120']")).to_be_checked()
        page.keyboard.press("p")
        expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#freshness")).to_contain_text("paused at")
        frozen = page.locator("#readout").inner_text()
        view.until("(many) => store.known.times.length > many", page.evaluate("store.known.times.length") + 1)
        assert page.locator("#readout").inner_text() == frozen
        page.keyboard.press("p")
        expect(page.locator("#freshness")).to_have_text("live")
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#help")).to_be_hidden()
        page.keyboard.press("/")
        page.keyboard.type("p?1")
        expect(page.locator("#filter")).to_have_value("p?1")
        expect(page.locator("#pause")).to_have_attribute("aria-pressed", "false")

    visit(site, story)


def test_the_pointer_reads_all_charts_at_once(site: Running, visit: Visit) -> None:
    def story(view: View) -> None:
        box = view.chart("requests").locator("svg").bounding_box()
        view.page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] / 2)
        expect(view.page.locator(".chart line.hair")).to_have_count(6)
        expect(view.page.locator("#readout")).to_contain_text("ago")
        view.page.mouse.move(5, 5)
        expect(view.page.locator(".chart line.hair")).to_have_count(0)
        # An event leads to its time.
        view.page.locator("#events button.when").last.click()
        expect(view.page.locator("#cursor")).to_have_attribute("aria-valuetext", re.compile("ago"))
        view.page.locator("#minutes summary").click()
        expect(view.page.locator("#minutes-table thead")).to_contain_text("Requests")
        assert view.page.locator("#minutes-table tbody tr").count() >= 15

    visit(site, story)


@pytest.mark.parametrize("width", [320, 390, 820])
def test_narrow_screens(site: Running, visit: Visit, width: int) -> None:
    def story(view: View) -> None:
        with connect(site.url.replace("http", "ws", 1)):
            expect(view.page.locator("#streams tbody tr")).to_have_count(1, timeout=LIMIT_MS)
            widest = "Math.max(...[...document.querySelectorAll('body *')].filter((e) => e.checkVisibility()"
            widest += " && !e.closest('svg, .unseen, .skip')).map((e) => e.getBoundingClientRect().right))"
            assert view.page.evaluate("document.documentElement.scrollWidth") <= width
            assert view.page.evaluate(widest) <= width + 0.5
        # All that can be pressed is large enough (WCAG 2.2, 2.5.8).
        view.page.keyboard.press("?")
        expect(view.page.locator("#help")).to_be_visible()
        assert view.page.evaluate("document.documentElement.scrollWidth") <= width

    visit(site, story, viewport={"width": width, "height": 700})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(site: Running, visit: Visit, scheme: str) -> None:
    def story(view: View) -> None:
        view.shows("started")
        pages = view.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (pages == "rgb(16, 19, 23)") is (scheme == "dark")
        contrast, text = view.page.evaluate(CONTRAST)
        assert contrast >= 4.5, text
        view.page.evaluate("document.documentElement.toggleAttribute('data-stale', true)")
        contrast, text = view.page.evaluate(CONTRAST)
        assert contrast >= 4.5, text

    visit(site, story, color_scheme=scheme)


def test_what_is_old_is_grey_and_says_since_when(folder: Path, visit: Visit) -> None:
    with Running("run", "site_app:app", "-p", "0", "--workers", "1", *ADMIN, app_dir=folder) as running:
        running.ready()

        def story(view: View) -> None:
            expect(view.page.locator("#state")).to_have_text("ready", timeout=LIMIT_MS)
            running.killed()
            banner = view.page.locator("#stale")
            expect(banner).to_contain_text(re.compile(r"No answer since \d\d:\d\d:\d\d"), timeout=LIMIT_MS)
            expect(view.page.locator("html[data-stale]")).to_have_count(1)
            expect(view.page.locator("#state")).to_have_text("no answer")
            # What was known stays, and the time without figures is hatched.
            expect(view.page.locator("#flow-workers")).to_contain_text("1 worker")
            expect(view.page.locator(".chart path.hatching")).to_have_count(6, timeout=LIMIT_MS)

        # A browser complains about requests that cannot be made.
        visit(running, story, faultless=False)


#: A site of which a new version is tried.
CANARY = """
[worker]
application = "site_app:app"
processes = 1
[pools.next]
application = "site_app:app"
canary_of = "default"
weight = 5
"""


def test_pools_and_a_successor(folder: Path, tmp_path: Path, visit: Visit) -> None:
    (tmp_path / "ifserver.toml").write_text(CANARY)
    words = ("run", "--config", str(tmp_path / "ifserver.toml"), "-p", "0", "--admin", f"127.0.0.1:{free_port()}")
    with Running(*words, app_dir=folder) as running:
        running.ready()
        lineage = Lineage(running)

        def story(view: View) -> None:
            rows = view.page.locator("#pools tbody tr")
            expect(rows).to_have_count(2, timeout=LIMIT_MS)
            expect(rows.first).to_contain_text("a share of default5 %")
            expect(view.page.locator("#flow-channels")).to_contain_text("pool next, 5 %")
            expect(view.page.locator("#flow-workers")).to_contain_text("pool default: 1 worker")
            httpx.post(f"{admin_of(running)}/pools?next=20", headers={POOLS_HEADER: "test"}).raise_for_status()
            expect(rows.first).to_contain_text("20 %, ordered", timeout=LIMIT_MS)
            view.shows("weights")
            pid = lineage.succeed()
            # The same page, of another process: what it knew stays.
            expect(view.page.locator("#who")).to_contain_text(f"process id {pid}", timeout=LIMIT_MS)
            view.shows("takeover", "weights", "started")
            many = view.page.evaluate("store.known.times.length")
            view.until("(many) => store.known.times.length > many + 1", many)
            times = view.page.evaluate("store.known.times")
            assert times == sorted(times)

        # In between, it may find nobody there.
        visit(running, story, faultless=False)
        lineage.end()


def test_a_fleet_and_its_node(folder: Path, visit: Visit) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        cluster = ("--cluster", f"main=redis://127.0.0.1:{redis.port}")
        servers = [stack.enter_context(Running("serve", "-p", "0", *cluster, *ADMIN)) for _ in range(2)]
        arguments = ("worker", "site_app:app", *cluster, "--workers", "2", *ADMIN)
        worker = stack.enter_context(Running(*arguments, app_dir=folder)).ready()

        def supervisor(view: View) -> None:
            expect(view.chart("taken")).to_be_visible()
            expect(view.chart("ready").locator(".value")).to_have_text("2", timeout=LIMIT_MS)
            expect(view.page.locator("#flow-servers .box")).to_have_count(2, timeout=LIMIT_MS)
            expect(view.page.locator("#figures-of")).to_have_text("of this supervisor")

        visit(worker, supervisor)

        def server(view: View) -> None:
            with traffic(servers[1]):
                # The other server's requests, which only its beats tell of here.
                view.until(
                    "[...document.querySelectorAll('#flow > svg text')].some((t) => parseFloat(t.textContent) > 1)"
                )
            redis.kill()
            expect(view.page.locator("#flow-channels .box.broken")).to_contain_text("node main", timeout=LIMIT_MS)
            view.shows("node lost")
            redis.start()
            view.shows("node back")
            expect(view.page.locator("#flow-channels .box.broken")).to_have_count(0, timeout=LIMIT_MS)
            worker.end()
            expect(view.page.locator("#flow-workers .missing")).to_contain_text("No worker is seen", timeout=LIMIT_MS)
            expect(view.page.locator("#events")).to_contain_text("SIGTERM: stopping", timeout=LIMIT_MS)
            expect(view.page.locator("#state")).to_contain_text("no live worker is seen on any node")
            # However much is wrong, the head stays small.
            assert view.page.evaluate("document.querySelector('header').offsetHeight") < 140

        visit(servers[0], server)
