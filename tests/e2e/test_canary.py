"""``ifserver pool``: a canary gets its share, and nothing again, while clients come; on all servers, and on those that
start later."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.e2e.operators import ADMIN, admin_of
from tests.e2e.running import APPS, LIMIT_S, ROOT, Running, command_line, eventually
from tests.e2e.test_pausing import ifserver
from tests.e2e.test_restarting import Lineage
from tests.redis_server import RedisServer

POOLS = """
[pools.web]
application = "versions:app"
processes = 1

[pools.web-next]
application = "versions:app"
processes = 1
canary_of = "web"
environment = { VERSION = "next" }
"""
HEADER = {"X-Ifserver-Pools": "test"}
#: The position that a canary gets first, and the one that it gets last.
FIRST, LAST = ({"Cookie": f"ifserver_canary={position}"} for position in (0, 9999))


@pytest.fixture
def config(tmp_path: Path) -> tuple[str, str]:
    """The flag for the file that has the pools."""
    path = tmp_path / "ifserver.toml"
    path.write_text(POOLS)
    return "--config", str(path)


def version(url: str, headers: dict[str, str], path: str = "/") -> str:
    return httpx.get(f"{url}{path}", headers=headers, timeout=LIMIT_S).text


class Browsers:
    """Clients that keep cookies, and ask all the time, each on its own connections."""

    def __init__(self, urls: list[str], count: int = 12) -> None:
        self._urls = urls
        self._count = count
        self._over = threading.Event()
        #: When each answer came, by whom it was got, its status, and what it says.
        self.answers: list[tuple[float, int, int, str]] = []

    def _browse(self, number: int) -> None:
        with httpx.Client(timeout=LIMIT_S) as client:
            while not self._over.wait(0.05):
                for url in self._urls:
                    began_at = time.monotonic()
                    reply = client.get(url)
                    self.answers.append((began_at, number, reply.status_code, reply.text))

    @contextmanager
    def browsing(self, pool: ThreadPoolExecutor) -> Iterator[None]:
        clients = [pool.submit(self._browse, number) for number in range(self._count)]
        try:
            yield
        finally:
            self._over.set()
            for each in clients:
                each.result()

    def goes_on(self) -> None:
        """Wait until each has asked some more."""
        seen = len(self.answers)
        everybody = set(range(self._count))
        eventually(lambda: {each[1] for each in self.answers[seen:]} == everybody, "everybody goes on")
        seen = len(self.answers)
        eventually(lambda: len(self.answers) > seen + 4 * self._count, "everybody goes on")


@pytest.fixture
def browsers_pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(12) as pool:
        yield pool


def between(browsers: Browsers, begin: float, end: float = float("inf")) -> dict[int, list[str]]:
    """The versions that each got who asked then, in their order."""
    found: dict[int, list[str]] = {}
    for at, number, _, text in list(browsers.answers):
        if begin <= at < end:
            found.setdefault(number, []).append(text)
    return found


def test_a_canary_comes_grows_and_goes_under_load(config: tuple[str, str], browsers_pool: ThreadPoolExecutor) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        cluster = ("--cluster", f"main=redis://127.0.0.1:{redis.port}")
        one, two = (stack.enter_context(Running("serve", "-p", "0", *ADMIN, *cluster, *config)) for _ in range(2))
        stack.enter_context(Running("worker", *cluster, *config, app_dir=APPS)).ready()
        browsers = Browsers([one.url, two.url])
        with browsers.browsing(browsers_pool):
            browsers.goes_on()
            assert {text for each in between(browsers, 0).values() for text in each} == {"now"}
            # Half of them, and who has it has it on both servers; the others are not told to be elsewhere.
            assert "on 2 servers" in ifserver(admin_of(one), "pool", "web=50", "web-next=50")
            half_at = time.monotonic()
            browsers.goes_on()
            more_at = time.monotonic()
            assert "on 2 servers" in ifserver(admin_of(two), "pool", "web=10", "web-next=90")
            most_at = time.monotonic()
            browsers.goes_on()
            zero_at = time.monotonic()
            httpx.post(f"{admin_of(one)}/pools?web-next=0", headers=HEADER, timeout=LIMIT_S).raise_for_status()
            over_at = time.monotonic()
            browsers.goes_on()
        assert {status for _, _, status, _ in browsers.answers} == {200}
        # With the first answer after the weights have changed a client learns its position.
        half = {number: set(texts[1:]) for number, texts in between(browsers, half_at, more_at).items()}
        assert len(half) == 12
        assert all(len(versions) == 1 for versions in half.values())
        for number, texts in between(browsers, most_at, zero_at).items():
            assert half[number] == {"now"} or set(texts) == {"next"}
        assert any("next" in texts for texts in between(browsers, most_at, zero_at).values())
        assert {text for texts in between(browsers, over_at).values() for text in texts} == {"now"}
        for server in (one, two):
            assert "WARNING" not in server.output


def test_errors_of_a_canary_are_seen_beside_the_others(config: tuple[str, str]) -> None:
    with Running("run", "-p", "0", *ADMIN, *config, app_dir=APPS) as server:
        url, admin = server.ready().url, admin_of(server)
        assert "settings" in ifserver(admin, "pool")
        ifserver(admin, "pool", "web=95", "web-next=5")
        for headers, count in ((FIRST, 4), (LAST, 9)):
            for path in ("/", "/bad"):
                for _ in range(count):
                    version(url, headers, path)
        rows = [line.split() for line in ifserver(admin, "pool").splitlines()]
        web, canary = rows[1], rows[2]
        assert web[:6] == ["web", "95", "95", "%", "18", "0"]
        assert canary[:11] == ["web-next,", "canary", "of", "web", "5", "5", "%", "8", "4", "50", "%"]
        assert "web-next, canary of web" in ifserver(admin, "status")
        # One that has no share can still be looked at; what is wrong is said.
        for words, said in (
            (("web-nxt=5",), "there is no pool 'web-nxt'; there is: web, web-next"),
            (("web-next=-5",), "web-next: expected a weight, from 0 to 1000000, got '-5'"),
            (("web=0", "web-next=0"), "one of web, web-next must be more than 0"),
            (("web-next",), "pool: 'web-next': expected NAME=WEIGHT, for example web-next=5"),
        ):
            assert said in ifserver(admin, "pool", *words, status=2)
        assert version(url, FIRST) == "next"
        ifserver(admin, "pool", "--reset")
        assert version(url, FIRST) == "now"


def test_weights_in_the_file_are_read_again_and_those_that_were_ordered_win(config: tuple[str, str]) -> None:
    with Running("run", "-p", "0", *ADMIN, *config, app_dir=APPS) as server:
        url, admin = server.ready().url, admin_of(server)
        path = Path(config[1])
        path.write_text(POOLS + "weight = 100\n")
        server.process.send_signal(signal.SIGHUP)
        server.said("changed, for what begins now: pools.web-next.weight")
        assert version(url, LAST) == "next"
        ifserver(admin, "pool", "web-next=0")
        assert version(url, FIRST) == "now"
        path.write_text(POOLS + "weight = 50\n")
        server.process.send_signal(signal.SIGHUP)
        server.said("pool web: the weights that were ordered go on")
        server.said("changed, for what begins now: pools.web-next.weight", times=2)
        assert version(url, FIRST) == "now"
        ifserver(admin, "pool", "--reset")
        assert (version(url, FIRST), version(url, LAST)) == ("next", "now")


def test_a_page_and_its_websocket_have_the_same_version(config: tuple[str, str]) -> None:
    with Running("run", "-p", "0", *ADMIN, *config, app_dir=APPS) as server:
        url, admin = server.ready().url, admin_of(server)
        ifserver(admin, "pool", "web=50", "web-next=50")
        seen: Counter[str] = Counter()
        while len(seen) < 2:
            with httpx.Client(timeout=LIMIT_S) as browser:
                page = browser.get(url).text
                cookie = {"Cookie": f"ifserver_canary={browser.cookies['ifserver_canary']}"}
                with connect(url.replace("http", "ws", 1), additional_headers=cookie) as websocket:
                    websocket.send("which?")
                    assert websocket.recv(LIMIT_S) == page
                    ifserver(admin, "pool", "web-next=0")
                    websocket.send("which?")
                    assert websocket.recv(LIMIT_S) == page, "it stays where it is"
                    assert browser.get(url).text == "now"
                    ifserver(admin, "pool", "web=50", "web-next=50")
            seen[page] += 1


def test_servers_that_start_later_know_the_weights(config: tuple[str, str]) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        cluster = ("--cluster", f"main=redis://127.0.0.1:{redis.port}")
        one = stack.enter_context(Running("serve", "-p", "0", *ADMIN, *cluster, *config))
        # The endpoint of the workers does as well.
        worker = stack.enter_context(Running("worker", "--admin", "127.0.0.1:0", *cluster, *config, app_dir=APPS))
        worker.ready()
        assert "on 1 server" in ifserver(admin_of(worker), "pool", "web-next=100")
        redis.command("FLUSHALL")
        redis.kill()
        redis.start()
        one.said("node main: connected")
        two = stack.enter_context(Running("serve", "-p", "0", *ADMIN, *cluster, *config))
        eventually(lambda: httpx.get(two.url, timeout=LIMIT_S).text == "next", "the workers are back")
        assert version(two.url, LAST) == "next"
        lineage = Lineage(two)
        lineage.succeed()
        assert version(two.url, LAST) == "next"
        # Whoever is started last may be told to change them.
        successor = two.said(r"admin endpoint at (http://\S+)/", times=2)[1]
        eventually(lambda: two.process.poll() is not None, "the predecessor has ended")
        assert "on 2 servers" in ifserver(successor, "pool", "web-next=0")
        assert version(one.url, LAST) == version(two.url, FIRST) == "now"
        lineage.end()


def test_a_successor_of_run_knows_the_weights(config: tuple[str, str]) -> None:
    with Running("run", "-p", "0", *ADMIN, *config, app_dir=APPS) as server:
        url, admin = server.ready().url, admin_of(server)
        ifserver(admin, "pool", "web-next=100")
        lineage = Lineage(server)
        lineage.succeed()
        eventually(lambda: server.process.poll() is not None, "the predecessor has ended")
        assert version(url, LAST) == "next"
        successor = server.said(r"admin endpoint at (http://\S+)/", times=2)[1]
        assert "settings" not in ifserver(successor, "pool")
        lineage.end()


def test_a_server_that_has_not_read_the_new_settings_yet_orders_weights_all_the_same(config: tuple[str, str]) -> None:
    with ExitStack() as stack:
        cluster = ("--cluster", f"main=redis://127.0.0.1:{stack.enter_context(RedisServer()).port}")
        old = Path(config[1]).with_name("old.toml")
        old.write_text(POOLS.partition("[pools.web-next]")[0])
        one = stack.enter_context(Running("serve", "-p", "0", *ADMIN, *cluster, "--config", str(old)))
        two = stack.enter_context(Running("serve", "-p", "0", *ADMIN, *cluster, *config))
        stack.enter_context(Running("worker", *cluster, *config, app_dir=APPS)).ready()
        command = command_line("pool", "web-next=100", "--admin", admin_of(one))
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert (done.returncode, "on 2 servers" in done.stdout) == (0, True)
        assert "the servers do not share requests in the same way" in done.stderr
        assert (version(one.url, FIRST), version(two.url, LAST)) == ("now", "next")
        assert "there is no pool 'web-nxt'; there is: web, web-next" in ifserver(
            admin_of(one), "pool", "web-nxt=1", status=2
        )
        # It reads them now.
        old.write_text(POOLS)
        one.process.send_signal(signal.SIGHUP)
        eventually(lambda: version(one.url, LAST) == "next", "it shares as the other does")


def test_a_server_that_was_cut_off_learns_of_the_weights(config: tuple[str, str]) -> None:
    """It is of another cluster, whose Redis was away when they were ordered."""
    with ExitStack() as stack:
        here, there = (stack.enter_context(RedisServer()) for _ in range(2))
        clusters = (
            "--cluster",
            f"east=redis://127.0.0.1:{here.port}",
            "--cluster",
            f"west=redis://127.0.0.1:{there.port}",
        )
        one = stack.enter_context(Running("serve", "-p", "0", *ADMIN, *clusters, *config))
        two = stack.enter_context(Running("serve", "-p", "0", *ADMIN, *clusters, *config, "--home", "west"))
        for home in ("east", "west"):
            stack.enter_context(Running("worker", *clusters, *config, "--home", home, app_dir=APPS)).ready()
        assert "on 2 servers" in ifserver(admin_of(one), "pool", "web-next=100")
        assert version(one.url, LAST) == version(two.url, LAST) == "next"
        there.kill()
        assert "on 1 server" in ifserver(admin_of(one), "pool", "web-next=0")
        assert version(one.url, FIRST) == "now"
        there.start()

        def knows() -> bool:
            reply = httpx.get(two.url, headers=FIRST, timeout=LIMIT_S)
            return reply.status_code == 200 and reply.text == "now"

        eventually(knows, "it has learned of it")
        assert "on 2 servers" in ifserver(admin_of(two), "pool")
