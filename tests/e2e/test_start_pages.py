"""What the pages for beginners show does what they say."""

from __future__ import annotations

import os
import re
import signal
import textwrap
from pathlib import Path

import httpx
from websockets.sync.client import connect

from tests.command_lines import command_lines
from tests.e2e.running import EXAMPLES, LIMIT_S, ROOT, Running

README = ROOT / "README.rst"
FIRST_SITE = ROOT / "docs/start/first_site.rst"


def programs(page: Path) -> list[str]:
    """The literal blocks of a page that are programs."""
    blocks = re.findall(r"::\n\n((?:    .*\n|\n)+)", page.read_text("utf-8"))
    return [text for text in map(textwrap.dedent, blocks) if text.startswith("import ")]


def commands(page: Path) -> list[list[str]]:
    """Its commands that start a site, for a free port."""
    return [[*words, "-p", "0"] for words in command_lines(page.read_text("utf-8")) if words[0] == "run"]


def test_hello_world(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(programs(FIRST_SITE)[0])
    with Running(*commands(FIRST_SITE)[0], cwd=tmp_path) as server:
        url = server.ready().url
        said = httpx.get(url, timeout=LIMIT_S).text
        assert said.startswith("Hello from worker ")
        pid = int(said.split()[-1])
        os.kill(pid, signal.SIGKILL)
        server.said(rf"worker {pid} was killed \(SIGKILL\)")
        assert httpx.get(url, timeout=LIMIT_S).text.startswith("Hello from worker ")


def test_what_the_readme_kills_are_the_workers() -> None:
    """``pkill -f`` compares the whole command line."""
    [pattern] = re.findall(r"pkill -9 -f '(.+)'", README.read_text("utf-8"))
    with Running("run", "hello:app", "--workers", "2", "-p", "0", app_dir=EXAMPLES) as server:
        server.ready()

        def is_killed(pid: int) -> bool:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            return re.search(pattern, b" ".join(words).decode()) is not None

        workers = server.workers()
        assert len(workers) == 2
        assert all(map(is_killed, workers))
        assert not any(map(is_killed, [server.pid, *server.fork_servers()]))


def test_a_websocket_whose_worker_is_killed(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(programs(FIRST_SITE)[1])
    with Running(*commands(FIRST_SITE)[1], cwd=tmp_path) as server:
        url = server.ready().url
        assert "new WebSocket" in httpx.get(url, timeout=LIMIT_S).text
        address = url.replace("http", "ws") + "/ws"
        with connect(address) as one, connect(address) as other:
            one.send("a")
            said = other.recv(LIMIT_S)
            assert one.recv(LIMIT_S) == said
            pid, _, text = str(said).partition(": ")
            assert text == "a"
            os.kill(int(pid), signal.SIGKILL)
            server.said("the open WebSocket gets another worker")
            one.send("b")
            # Both may have had the same worker, and others' messages come to both.
            for client in (one, other):
                new, _, text = str(client.recv(LIMIT_S)).partition(": ")
                assert text == "b"
                assert new != pid
