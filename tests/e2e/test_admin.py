"""The admin endpoint of real processes: health, metrics that add up, and what an operator sees and closes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, expect
from websockets.sync.client import connect

from tests.e2e.chromium import LIMIT_MS, Chromium
from tests.e2e.operators import ADMIN, admin_of, balance, scrape, settled
from tests.e2e.running import APPS, LIMIT_S, Gate, Running, command_line, eventually
from tests.e2e.wire import Wire, close_of
from tests.redis_server import RedisServer


def ready(running: Running) -> tuple[int, str]:
    response = httpx.get(f"{admin_of(running)}/readyz", timeout=LIMIT_S)
    return response.status_code, response.text


def status(running: Running) -> Any:
    return httpx.get(f"{admin_of(running)}/status.json", timeout=LIMIT_S).json()


class Site:
    """Processes with admin endpoints: a server and, unless it is their parent, a supervisor of two workers."""

    def __init__(self, stack: ExitStack, kind: str) -> None:
        self.redis = None
        if kind == "run":
            command = ("run", "zoo:app", "-p", "0", "--workers", "2", *ADMIN)
            self.server = stack.enter_context(Running(*command, app_dir=APPS)).ready()
            self.all = [self.server]
            return
        self.redis = stack.enter_context(RedisServer())
        cluster = ("--cluster", f"main=redis://127.0.0.1:{self.redis.port}")
        self.server = stack.enter_context(Running("serve", "-p", "0", *cluster, *ADMIN))
        command = ("worker", "zoo:app", *cluster, "--workers", "2", *ADMIN)
        self.all = [self.server, stack.enter_context(Running(*command, app_dir=APPS)).ready()]

    @property
    def supervisor(self) -> Running:
        return self.all[-1]


@pytest.fixture(params=["run", "redis"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack, request.param)


@pytest.fixture
def over_redis() -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack, "redis")


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One for tests that leave no trace."""
    with Running("run", "zoo:app", "-p", "0", "--workers", "1", *ADMIN, app_dir=APPS) as running:
        yield running.ready()


def ws(server: Running, path: str = "/ws") -> str:
    return server.url.replace("http", "ws", 1) + path


def traffic(server: Running) -> None:
    """Some of everything; all of it is over at the end."""
    url = server.url
    for _ in range(20):
        assert httpx.get(url, timeout=LIMIT_S).status_code == 200
    assert httpx.get(f"{url}/nothing", timeout=LIMIT_S).status_code == 404
    assert httpx.post(f"{url}/echo", content=b"x", timeout=LIMIT_S).content == b"x"
    body = os.urandom(1_000_000)
    assert httpx.post(f"{url}/echo", content=body, timeout=LIMIT_S).content == body
    with connect(ws(server), max_size=None) as client:
        for message in ("text", b"bytes" * 10_000):
            client.send(message)
            assert client.recv(LIMIT_S) == message


def test_the_balance_of_an_idle_system_is_0(site: Site) -> None:
    traffic(site.server)
    counted = settled(
        lambda: scrape(*site.all),
        # Workers are seen by their last beat: what the server counts is newer. A slot is free when its application has
        # returned, a moment after its stream has ended.
        # A worker that a busy machine has kept from a request may begin it as well as the next.
        lambda found: (
            found["ifserver_streams_closed_total"] == found["ifserver_streams_opened_total"] >= 48
            and balance(found) == 0
            and found["ifserver_worker_slots_free"] == 200
        ),
    )
    assert counted["ifserver_messages_sent_total"] > 60
    assert counted["ifserver_messages_in_doubt_total"] == 0
    assert counted["ifserver_requests_total"] == counted["ifserver_request_duration_seconds_count"] == 24
    assert counted["ifserver_queue_wait_seconds_count"] >= counted["ifserver_first_byte_seconds_count"] == 24
    assert counted["ifserver_sent_bytes_total"] > 1_000_000
    assert counted["ifserver_received_bytes_total"] > 1_000_000
    assert counted["ifserver_streams"] == counted["ifserver_unsent_bytes"] == 0


def test_the_balance_after_a_worker_was_killed(site: Site, gate: Gate, pool: ThreadPoolExecutor) -> None:
    got = [pool.submit(httpx.get, f"{site.server.url}/wait?gate={gate}", timeout=LIMIT_S) for _ in range(4)]
    with connect(ws(site.server)) as client:
        assert client.response is not None
        victim = int(client.response.headers["x-pid"])
        gate.reached(4)
        # What a killed process has taken or sent and not counted yet nobody knows of: here, no more than one of the
        # messages by which both ends tell each other how far they are.
        settled(lambda: scrape(*site.all), lambda found: found["ifserver_claims_total"] >= 4 and balance(found) == 0)
        os.kill(victim, signal.SIGKILL)
        assert close_of(client)[0] == 1012
    site.supervisor.said(f"worker {victim} was killed")
    gate.open()
    assert {each.result().status_code for each in got} <= {200}
    traffic(site.server)
    settled(lambda: scrape(*site.all), lambda found: abs(balance(found)) <= 1 and found["ifserver_streams"] == 0)


def test_a_server_is_not_ready_while_redis_is_frozen_or_no_worker_lives(over_redis: Site) -> None:
    site = over_redis
    assert site.redis is not None
    eventually(lambda: [ready(each) for each in site.all] == [(200, "ready\n")] * 2, "both are ready")
    site.redis.freeze()
    try:
        for each in site.all:
            code, text = ready(each)
            assert code == 503
            # The answer to this question is late; or already that to an earlier one, which cost the connection.
            assert re.search("node main, where this process receives: (no answer|there is no connection)", text)
            assert httpx.get(f"{admin_of(each)}/livez", timeout=LIMIT_S).status_code == 200
            assert scrape(each)["ifserver_node_up"] == 0
    finally:
        site.redis.thaw()
    eventually(lambda: [ready(each) for each in site.all] == [(200, "ready\n")] * 2, "both are ready again")
    site.supervisor.end()
    eventually(lambda: ready(site.server) == (503, "no live worker is seen on any node\n"), "no worker is seen")
    assert scrape(site.server)["ifserver_node_up"] == 1


def test_a_server_that_ends_is_not_ready(running: Running, gate: Gate, pool: ThreadPoolExecutor) -> None:
    arguments = ("run", "zoo:app", "-p", "0", "--workers", "1", *ADMIN)
    with Running(*arguments, app_dir=APPS) as server:
        server.ready()
        got = pool.submit(httpx.get, f"{server.url}/wait?gate={gate}", timeout=LIMIT_S)
        gate.reached()
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: ready(server) == (503, "shutting down\n"), "it is not ready")
        gate.open()
        assert got.result().status_code == 200
        server.ended()


def test_what_waits_and_who_holds_what(over_redis: Site, gate: Gate, pool: ThreadPoolExecutor) -> None:
    site = over_redis
    got = pool.submit(httpx.post, f"{site.server.url}/wait?gate={gate}&secret=1", timeout=LIMIT_S)
    [worker] = gate.reached()
    eventually(lambda: any(s["owner"] for s in status(site.server)["streams"]), "the worker is known")
    seen = status(site.server)
    [stream] = seen["streams"]
    assert (stream["kind"], stream["state"], stream["method"], stream["path"]) == ("http", "claimed", "POST", "/wait")
    assert "secret" not in json.dumps(seen)
    [held] = eventually(lambda: status(site.supervisor)["streams"], "the supervisor knows of it")
    assert (held["channel"], held["owner"]) == (stream["channel"], stream["owner"])

    def child() -> Any:
        """What the server knows of the worker; nothing before its supervisor has told."""
        supervisors = [each for each in status(site.server)["processes"] if each["kind"] == "supervisor"]
        children = [each for supervisor in supervisors for each in supervisor["children"]]
        return next((each for each in children if each["pid"] == worker), {})

    eventually(lambda: child().get("unanswered") == 1, "the worker says what it holds")
    assert child()["process"] == stream["owner"]
    assert (child()["streams"], child()["free"]) == (1, 99)
    # Frozen workers take nothing: what comes now waits.
    pids = site.supervisor.workers()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    late = [pool.submit(httpx.get, site.server.url, timeout=LIMIT_S) for _ in range(25)]
    try:
        eventually(lambda: scrape(site.server)["ifserver_queue_length"] > 0, "requests wait")
        eventually(lambda: scrape(site.server)["ifserver_queue_age_seconds"] > 0.1, "and grow older")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    gate.open()
    assert got.result().status_code == 200
    assert {each.result().status_code for each in late} <= {200}


def close(running: Running, channel: str, **headers: str) -> int:
    url = f"{admin_of(running)}/close"
    return httpx.post(url, params={"stream": channel}, headers=headers, timeout=LIMIT_S).status_code


def test_closing_streams(running: Running, gate: Gate, pool: ThreadPoolExecutor, tmp_path: Path) -> None:
    mine = {"X-Ifserver-Close": "test"}
    report = tmp_path / "report"
    got = pool.submit(httpx.get, f"{running.url}/wait?gate={gate}", timeout=LIMIT_S)
    gate.reached()
    with connect(ws(running, f"/report?report={report}")) as client:
        eventually(lambda: len(status(running)["streams"]) == 2, "both are seen")
        channels = {each["kind"]: each["channel"] for each in status(running)["streams"]}
        assert close(running, channels["http"]) == 403
        assert close(running, channels["http"] + "0", **mine) == 404
        assert close(running, channels["http"], **mine) == 200
        with pytest.raises(httpx.HTTPError):
            got.result()
        assert close(running, channels["websocket"], **mine) == 200
        assert close_of(client) == (1012, "closed by an operator")
    eventually(report.exists, "the application knows")
    gate.open()
    eventually(lambda: status(running)["streams_total"] == 0, "nothing is left")
    assert close(running, channels["http"], **mine) == 404


def test_an_address_that_is_taken() -> None:
    with RedisServer() as redis:
        arguments = ("serve", "-p", "0", "--cluster", "main=redis://127.0.0.1:1", "--admin", f"127.0.0.1:{redis.port}")
        done = subprocess.run(command_line(*arguments), capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{redis.port}: Address already in use" in done.stderr
    assert done.stderr.count("\n") == 1


# Sight.


def viewer(*arguments: str) -> str:
    done = subprocess.run(command_line(*arguments), capture_output=True, text=True, timeout=LIMIT_S, check=True)
    return done.stdout


def test_status_on_a_terminal(running: Running) -> None:
    with connect(ws(running)):
        eventually(lambda: status(running)["streams"], "a stream")
        text = viewer("status", "--admin", admin_of(running).removeprefix("http://"))
        for word in ("ready", "http.request", "supervisor", "worker", "websocket", "open"):
            assert word in text
        found = json.loads(viewer("status", "--admin", admin_of(running), "--json"))
        assert found["me"]["pid"] == running.pid


def test_top(running: Running) -> None:
    main, child = pty.openpty()
    process = subprocess.Popen(
        command_line("top", "--admin", admin_of(running)),
        stdin=child,
        stdout=child,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "LINES": "40", "COLUMNS": "160"},
    )
    os.close(child)
    shown = b""
    try:
        with connect(ws(running)) as client:
            # The view comes anew each second; what is read in between is thrown away.
            while b"websocket" not in shown:
                shown = os.read(main, 65536)
            os.write(main, b"\x1b[Bcy")
            assert close_of(client)[0] == 1012
        os.write(main, b"q")
        try:
            while os.read(main, 65536):
                pass
        except OSError:
            pass  # Linux says so when the other end is closed
        assert process.wait(LIMIT_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.communicate()
        os.close(main)


#: Answers nothing to any request until its client leaves.
PATIENT = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        while (await receive())["type"] != "http.disconnect":
            pass
"""


def test_the_page(tmp_path: Path) -> None:
    (tmp_path / "patient.py").write_text(PATIENT)
    with Running("run", "patient:app", "-p", "0", "--workers", "1", *ADMIN, app_dir=tmp_path) as running:
        running.ready()
        look_at_the_page(running)


def look_at_the_page(running: Running) -> None:
    def story(context: BrowserContext) -> None:
        page, problems = context.new_page(), []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: asked.add(request.url))
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(admin_of(running))
        expect(page.locator("#state")).to_have_text("ready", timeout=LIMIT_MS)
        expect(page.locator("#nodes tbody")).to_contain_text("http.request")
        expect(page.locator("#processes tbody")).to_contain_text("worker")
        expect(page.locator("#grouped")).to_be_hidden()
        rows = page.locator("#streams tbody tr")
        expect(rows).to_have_count(2, timeout=LIMIT_MS)
        # What a client sends is shown as it is.
        expect(page.locator("#streams tbody")).to_contain_text("GET /a<b>")
        page.click("#streams th button[data-key=path]")
        expect(rows.first).to_contain_text("<b>")
        page.click("#streams th button[data-key=path]")
        expect(rows.first).not_to_contain_text("<b>")
        page.fill("#filter", "A<B")
        expect(rows).to_have_count(1)
        page.click("#streams tbody button")
        expect(rows).to_have_count(0, timeout=LIMIT_MS)
        page.fill("#filter", "")
        expect(rows).to_have_count(1, timeout=LIMIT_MS)
        assert problems == []

    asked: set[str] = set()
    with Chromium() as chromium, Wire(("127.0.0.1", running.port)) as kept, ThreadPoolExecutor(1) as pool:
        kept.send(b"GET /b HTTP/1.1\r\nhost: a\r\n\r\n")
        other = pool.submit(httpx.get, f"{running.url}/a%3Cb%3E", timeout=LIMIT_S)
        chromium.visit(story)
        assert isinstance(other.exception(), httpx.HTTPError)
    assert {url.split("?")[0].rpartition("/")[2] for url in asked} == {"", "status.json", "close"}
