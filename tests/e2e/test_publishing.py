"""Publishing from outside, and who is in a group: with real processes, sockets and a real Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, expect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.e2e.chromium import LIMIT_MS, Chromium
from tests.e2e.operators import ADMIN, admin_of, scrape
from tests.e2e.running import LIMIT_S, ROOT, Running, command_line, eventually
from tests.redis_server import RedisServer

TOKEN = "geheim-3f/+=~"
SERVER_TOKEN = {"IFSERVER_FRONT_ADMIN_TOKEN": TOKEN}
WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}

#: WebSockets of ``/GROUP/TAG`` are in that group; ``GET /GROUP`` says who is, as the worker finds out.
APPLICATION = """
import asyncio
import json

from ifserver import groups

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        _, group, tag = scope["path"].split("/")
        await receive()
        await send({"type": "ifserver.group.add", "group": group, "tag": tag})
        await send({"type": "websocket.accept"})
        stream = scope["extensions"]["ifserver.groups"]["stream"]
        await send({"type": "websocket.send", "text": stream})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    else:
        group = scope["path"][1:]
        found = await groups.members(group, tags=True)
        counted = await asyncio.to_thread(groups.get_members, group)
        body = json.dumps([found.count, sorted(each.tag for each in found.streams), counted.count]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "members.py").write_text(APPLICATION)
    return tmp_path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Client:
    """A WebSocket in a group."""

    def __init__(self, stack: ExitStack, server: Running, group: str, tag: str) -> None:
        url = f"{server.url.replace('http', 'ws', 1)}/{group}/{tag}"
        self.socket: ClientConnection = stack.enter_context(connect(url, open_timeout=LIMIT_S))
        self.stream = self.hears()

    def hears(self) -> Any:
        return self.socket.recv(timeout=LIMIT_S)


def command(folder: Path, *words: str, stdin: bytes = b"", **environ: str) -> tuple[int, str, str]:
    """Exit code and output of ``ifserver publish``."""
    done = subprocess.run(
        command_line("publish", *words),
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        env={**os.environ, **environ},
        timeout=LIMIT_S,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_without_redis(stack: ExitStack, folder: Path) -> None:
    command_words = ("run", "members:app", "-p", "0", "--workers", "2", *ADMIN)
    server = stack.enter_context(Running(*command_words, app_dir=folder, environment=SERVER_TOKEN)).ready()
    admin = admin_of(server)
    ann, bob = (Client(stack, server, "news", tag) for tag in ("ann", "bob"))

    # From any language.
    answer = httpx.post(f"{admin}/groups/news", headers=WITH_TOKEN, json={"json": {"a": 1}}, timeout=LIMIT_S)
    assert (answer.status_code, answer.json()) == (202, {"processes": 1})
    assert ann.hears() == bob.hears() == '{"a":1}'
    assert httpx.post(f"{admin}/groups/news", content="x", timeout=LIMIT_S).status_code == 401
    long = httpx.post(f"{admin}/groups/news", headers=WITH_TOKEN, content=bytes(3 * 2**20), timeout=LIMIT_S)
    assert long.status_code == 413
    curl = [
        "curl",
        "-sS",
        f"{admin}/groups/news",
        "-H",
        f"Authorization: Bearer {TOKEN}",
        "-H",
        "Content-Type: text/plain",
    ]
    said = subprocess.run([*curl, "--data-binary", "@-"], input=b"hi", capture_output=True, timeout=LIMIT_S, check=True)
    assert json.loads(said.stdout) == {"processes": 1}
    assert ann.hears() == bob.hears() == "hi"
    # It asks first whether it may send so much, and does not then.
    said = subprocess.run(
        [*curl, "--data-binary", "@-", "-w", " %{http_code} %{size_upload}"],
        input=bytes(50 * 2**20),
        capture_output=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert said.stdout == b"the body is longer than 1 MiB\n 413 0"

    # From the command line.
    where = ("--admin", admin.removeprefix("http://"))
    assert command(folder, "news", "hello", *where, **SERVER_TOKEN) == (0, "published to 1 process\n", "")
    assert ann.hears() == bob.hears() == "hello"
    assert command(folder, "news", "--bytes", *where, stdin=b"\xff", **SERVER_TOKEN)[0] == 0
    assert ann.hears() == bob.hears() == b"\xff"
    assert command(folder, "chess", "x", *where, **SERVER_TOKEN) == (0, "nobody is there\n", "")
    code, _, error = command(folder, "news", "x", *where, IFSERVER_FRONT_ADMIN_TOKEN="other")
    assert (code, "401: the token is missing or wrong" in error) == (2, True)
    environ = {**SERVER_TOKEN, "IFSERVER_FRONT_ADMIN": where[1]}
    assert command(folder, "news", "to ann", "--exclude", str(bob.stream), **environ)[0] == 0
    assert ann.hears() == "to ann"

    # Who is there.
    members = httpx.get(f"{admin}/groups/news", headers=WITH_TOKEN, timeout=LIMIT_S).json()
    streams = [{"stream": ann.stream, "tag": "ann"}, {"stream": bob.stream, "tag": "bob"}]
    assert members == {"members": 2, "streams": streams}
    assert httpx.get(f"{server.url}/news", timeout=LIMIT_S).json() == [2, ["ann", "bob"], 2]
    assert httpx.get(f"{server.url}/chess", timeout=LIMIT_S).json() == [0, [], 0]
    counted = scrape(server)
    assert (counted["ifserver_groups"], counted["ifserver_group_members"]) == (1, 2)
    assert counted["ifserver_group_deliveries_total"] == 9
    status = subprocess.run(command_line("status", *where), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    assert "\nnews         2\n" in status.stdout

    # And they are sent away.
    assert command(folder, "news", "--close", "4001:bye", *where, **SERVER_TOKEN)[0] == 0
    for client in (ann, bob):
        with pytest.raises(ConnectionClosed) as closed:
            client.hears()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "bye")
    eventually(lambda: scrape(server)["ifserver_groups"] == 0, "nobody is in a group")
    assert TOKEN not in server.output


def test_the_page_shows_groups(stack: ExitStack, folder: Path) -> None:
    words = ("run", "members:app", "-p", "0", "--workers", "1", *ADMIN)
    server = stack.enter_context(Running(*words, app_dir=folder)).ready()
    for group in ("chess", "news", "news"):
        Client(stack, server, group, "")

    def story(context: BrowserContext) -> None:
        page, problems = context.new_page(), []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(admin_of(server))
        rows = page.locator("#groups tbody tr")
        expect(rows).to_have_text(["news2", "chess1"], timeout=LIMIT_MS)
        expect(page.locator("#group-count")).to_have_text("2 of 2, 3 members in all")
        assert problems == []

    with Chromium() as chromium:
        chromium.visit(story)


def test_over_redis(stack: ExitStack, folder: Path) -> None:
    redis = stack.enter_context(RedisServer())
    cluster = ("--cluster", f"main=redis://127.0.0.1:{redis.port}")
    environ = {"IFSERVER_WORKER_ADMIN_TOKEN": TOKEN}
    servers = [
        stack.enter_context(Running("serve", "-p", "0", *cluster, *ADMIN, environment=environ)) for _ in range(2)
    ]
    words = ("worker", "members:app", *cluster, "--workers", "1", *ADMIN)
    supervisor = stack.enter_context(Running(*words, app_dir=folder, environment=environ)).ready()
    ann, bob = (Client(stack, server, "news", tag) for server, tag in zip(servers, ("ann", "bob"), strict=True))

    assert command(folder, "news", "hello", *cluster) == (0, "published to 2 processes\n", "")
    assert ann.hears() == bob.hears() == "hello"
    assert command(folder, "chess", "hello", *cluster) == (0, "nobody is there\n", "")

    # A supervisor publishes with a token of its own; these servers have none.
    answer = httpx.post(f"{admin_of(supervisor)}/groups/news", headers=WITH_TOKEN, json={"text": "x"}, timeout=LIMIT_S)
    assert (answer.status_code, answer.json()) == (202, {"processes": 2})
    assert ann.hears() == bob.hears() == "x"
    answer = httpx.post(f"{admin_of(servers[0])}/groups/news", headers=WITH_TOKEN, json={"text": "x"}, timeout=LIMIT_S)
    assert answer.status_code == 403
    assert "front.admin_token" in answer.text

    # Who is there, on both servers: as a worker finds out, and a program that is none of ours.
    assert httpx.get(f"{servers[0].url}/news", timeout=LIMIT_S).json() == [2, ["ann", "bob"], 2]
    code = "from ifserver import groups; print(sorted(m.tag for m in groups.get_members('news', tags=True).streams))"
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "IFSERVER_LAYER_CLUSTERS": cluster[1]},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert said.stdout == "['ann', 'bob']\n"
    assert TOKEN not in supervisor.output


def test_nodes_that_cannot_be_reached(stack: ExitStack, folder: Path) -> None:
    redis = stack.enter_context(RedisServer())
    code, out, error = command(folder, "news", "x", "--cluster", "main=redis://127.0.0.1:1")
    assert (code, out) == (1, "")
    assert "ifserver: error: not published: node main: there is no connection\n" in error
    both = f"main=redis://127.0.0.1:{redis.port},redis://127.0.0.1:1"
    code, out, error = command(folder, "news", "x", "--cluster", both)
    assert (code, out) == (0, "nobody is there\n")
    assert "ifserver: warning: node main-2: there is no connection, so processes that listen there did not get" in error
