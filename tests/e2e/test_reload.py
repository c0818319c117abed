"""``ifserver run --reload``: the workers change, connections and requests do not notice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.e2e.running import EXAMPLES, Running, eventually
from tests.e2e.wire import LIMIT_S, Wire

APPLICATION = """
import asyncio, os
from pathlib import Path
from part import VERSION
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if VERSION < 0:
            await send({"type": "lifespan.startup.failed", "message": "no database\\nat all"})
            return
        Path(os.environ["STARTED"], f"{VERSION}").touch()
        while VERSION != 1 and not Path(os.environ["STARTED"], "go").exists():
            await asyncio.sleep(0.01)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": str(VERSION).encode()})
    else:
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": f"{VERSION} {event['text']}"})
"""
#: Python takes what was compiled in the same second, and has the same length, for the same.
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1"}


class Site:
    """An application in a folder of its own; from its second version on, it starts only once there is a file ``go``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder / "site", folder / "started"
        self.folder.mkdir()
        self.started.mkdir()
        (self.folder / "main.py").write_text(APPLICATION)
        self.write("VERSION = 1")
        self.server: Running

    @contextmanager
    def running(self, *arguments: str) -> Iterator[Running]:
        environment = {"STARTED": str(self.started), **ENVIRONMENT}
        command = ("run", "main:app", "-p", "0", "--reload", *arguments)
        with Running(*command, app_dir=self.folder, environment=environment) as self.server:
            yield self.server.ready()

    def write(self, text: str) -> None:
        (self.folder / "part.py").write_text(f"{text}\n")

    def let_start(self) -> None:
        (self.started / "go").touch()

    def change(self, text: str) -> None:
        """Write it, and wait until the workers have ended that ran what was there before."""
        old = self.server.workers()
        self.write(text)
        for pid in old:
            self.server.said(rf"worker {pid} has stopped")

    def get(self, accept: str = "*/*") -> httpx.Response:
        return httpx.get(self.server.url, headers={"accept": accept}, timeout=LIMIT_S)

    def connect(self) -> ClientConnection:
        return connect(self.server.url.replace("http", "ws", 1))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_request_made_meanwhile_waits_for_the_new_version(site: Site) -> None:
    with site.running() as server:
        with Wire(("127.0.0.1", server.port)) as kept, Wire(("127.0.0.1", server.port)) as waiting:
            assert kept.get("/").body == waiting.get("/").body == b"1"
            old = server.workers()
            assert len(old) == 1, "one is the default"
            (site.folder / "notes.txt").write_text("no code")
            site.change("VERSION = 2")
            eventually((site.started / "2").exists, "the new version starts")
            waiting.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            site.let_start()
            assert waiting.receive().body == b"2"
            assert kept.get("/").body == b"2"
            assert not set(old) & set(server.workers())
        assert server.output.count("part.py changed: restarting the workers") == 1
        assert server.output.count("restarting the workers") == 1


def test_an_open_websocket_goes_on_with_the_new_version_at_once(site: Site) -> None:
    with site.running("--worker-drain-timeout", "1h") as server, site.connect() as client:
        client.send("a")
        assert client.recv(LIMIT_S) == "1 a"
        # The old worker ends though the WebSocket is open and its drain would last for an hour.
        site.change("VERSION = 2")
        client.send("b")
        server.said("INFO .* requests have waited for more than 1 s")
        site.let_start()
        assert client.recv(LIMIT_S) == "2 b"
        client.send("c")
        assert client.recv(LIMIT_S) == "2 c"
        assert "WARNING" not in server.output, "to save a file is nothing unusual"


def test_a_syntax_error_is_answered_until_it_is_mended(site: Site) -> None:
    site.let_start()
    # Of two workers, which find the same.
    with site.running("--workers", "2") as server, site.connect() as client:
        client.send("a")
        assert client.recv(LIMIT_S) == "1 a"
        site.change("VERSION = = '<2>'")
        client.send("b")
        page = site.get(accept="text/html,*/*;q=0.8")
        assert (page.status_code, page.headers["content-type"]) == (500, "text/html; charset=utf-8")
        assert "VERSION = = &#x27;&lt;2&gt;&#x27;" in page.text
        assert f"File &quot;{site.folder}/part.py&quot;, line 1" in page.text
        text = site.get()
        assert (text.status_code, text.headers["content-type"]) == (500, "text/plain; charset=utf-8")
        assert f"  File \"{site.folder}/part.py\", line 1\n    VERSION = = '<2>'\n" in text.text
        with pytest.raises(InvalidStatus) as denied:
            site.connect()
        assert denied.value.response.status_code == 500
        assert len(server.workers()) == 2
        site.change("VERSION = 3")
        assert site.get().text == "3"
        assert client.recv(LIMIT_S) == "3 b", "it has waited"
        assert server.output.count("SyntaxError: invalid syntax\n") == 1
        assert server.output.count("Requests are answered with this error until a watched file changes.") == 1
        server.tracebacks = 1


@pytest.mark.parametrize("text", ["raise RuntimeError('no such luck')", "VERSION = -1", "VERSION = 0 / 0"])
def test_what_cannot_start_at_first_starts_when_it_is_mended(site: Site, text: str) -> None:
    site.let_start()
    site.write(text)
    with site.running() as server:
        response = site.get()
        assert response.status_code == 500
        assert any(said in response.text for said in ("no such luck", "no database\nat all", "ZeroDivisionError"))
        assert "1 worker runs" not in server.output
        site.change("VERSION = 2")
        assert site.get().text == "2"
        server.tracebacks = int("VERSION = -1" not in text)


def test_a_startup_that_fails_is_answered_until_it_is_mended(site: Site) -> None:
    site.let_start()
    with site.running() as server:
        site.change("VERSION = -1")
        response = site.get()
        assert response.status_code == 500
        assert "The application's startup failed\n\nno database\nat all\n" in response.text
        site.change("VERSION = 2")
        assert site.get().text == "2"
        assert server.output.count("no database") == 1


def test_an_error_in_the_views_of_django_is_answered_until_it_is_mended(tmp_path: Path) -> None:
    """Django imports them with the first request, and has no page for an error in them."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("data", "__pycache__"))
    folder = tmp_path / "examples/django_site"
    environment = {"DJANGO_SITE_DATA": str(folder / "data"), **ENVIRONMENT}
    views = folder / "pages/views.py"
    good = views.read_text()
    views.write_text(f"{good}\ndef broken(:\n")
    command = ("run", "demo.asgi:application", "-p", "0", "--reload")
    with Running(*command, app_dir=folder, environment=environment, tracebacks=1) as server:
        server.ready()
        for _ in range(3):
            response = httpx.get(server.url, headers={"accept": "text/html"}, timeout=LIMIT_S)
            assert response.status_code == 500
            assert "<h1>The application cannot be loaded</h1>" in response.text
            assert "def broken(:" in response.text
        assert server.output.count("def broken(:") == 1
        (old,) = server.workers()
        views.write_text(good)
        server.said(rf"worker {old} has stopped")
        assert httpx.get(server.url, timeout=LIMIT_S).status_code == 200


def test_an_edit_of_a_template_is_seen_by_every_worker_of_django(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("data", "__pycache__"))
    folder = tmp_path / "examples/django_site"
    environment = {"DJANGO_SITE_DATA": str(folder / "data"), **ENVIRONMENT}
    command = ("run", "demo.asgi:application", "-p", "0", "--reload", "--workers", "2")
    template = folder / "pages/templates/pages/home.html"
    with Running(*command, app_dir=folder, environment=environment) as server:
        server.ready()
        old = server.workers()
        for title in ("One of everything", "One of each"):
            seen: set[str] = set()
            while len(seen) < 2:
                text = httpx.get(server.url, timeout=LIMIT_S).text
                assert f"<h1>{title}</h1>" in text
                seen.add(text.partition('<strong id="pid">')[2].partition("<")[0])
            if title == "One of everything":
                # What the site itself writes below the folder restarts nothing.
                (folder / "data/uploads").mkdir(exist_ok=True)
                (folder / "data/uploads/page.html").write_text("uploaded")
                template.write_text(template.read_text().replace("One of everything", "One of each"))
                server.said(r"pages/templates/pages/home\.html changed: restarting the workers")
                for pid in old:
                    server.said(rf"worker {pid} has stopped")
        assert server.output.count("restarting the workers") == 1
