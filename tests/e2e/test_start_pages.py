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
from tests.e2e.running import LIMIT_S, ROOT, Running

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
