"""``ifserver run --reload``: the workers change, connections and requests do not notice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.e2e.running import Running, eventually
from tests.e2e.wire import Wire, close_of

APPLICATION = """
import asyncio, os
from pathlib import Path
from part import VERSION
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
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
        await receive()
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Running, Path]]:
    """An application with one worker; from its second version on, it starts only once there is a file ``go``."""
    folder, started = tmp_path / "site", tmp_path / "started"
    folder.mkdir()
    started.mkdir()
    (folder / "main.py").write_text(APPLICATION)
    (folder / "part.py").write_text("VERSION = 1\n")
    arguments = ("run", "main:app", "-p", "0", "--workers", "1", "--reload")
    # Python takes what was compiled in the same second, and has the same length, for the same.
    environment = {"STARTED": str(started), "PYTHONDONTWRITEBYTECODE": "1"}
    with Running(*arguments, app_dir=folder, environment=environment) as server:
        yield server.ready(), tmp_path


def test_a_request_made_meanwhile_waits_for_the_new_version(site: tuple[Running, Path]) -> None:
    server, folder = site
    with Wire(("127.0.0.1", server.port)) as kept, Wire(("127.0.0.1", server.port)) as waiting:
        assert kept.get("/").body == waiting.get("/").body == b"1"
        old = server.workers()
        (folder / "site/notes.txt").write_text("no Python")
        with connect(server.url.replace("http", "ws", 1)) as client:
            (folder / "site/part.py").write_text("VERSION = 2\n")
            server.said(r"part\.py changed: restarting the workers")
            assert close_of(client)[0] == 1012
        eventually((folder / "started/2").exists, "the new version starts")
        server.said(rf"worker {old[0]} has stopped")
        waiting.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        (folder / "started/go").touch()
        assert waiting.receive().body == b"2"
        assert kept.get("/").body == b"2"
        assert not set(old) & set(server.workers())
    assert server.output.count("restarting the workers") == 1


def test_a_syntax_error_and_its_repair(site: tuple[Running, Path]) -> None:
    server, folder = site
    with Wire(("127.0.0.1", server.port)) as kept:
        assert kept.get("/").body == b"1"
        (folder / "started/go").touch()
        (folder / "site/part.py").write_text("VERSION = = 2\n")
        server.said(r"part\.py:1")
        kept.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        (folder / "site/part.py").write_text("VERSION = 3\n")
        assert kept.receive().body == b"3"
    # Once for each attempt to start.
    server.tracebacks = server.output.count("Traceback (most recent call last)")
