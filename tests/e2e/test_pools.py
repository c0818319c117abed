"""Pools: one site's requests for several kinds of workers, from one command and from several."""

from __future__ import annotations

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.e2e.running import APPS, EXAMPLES, LIMIT_S, Gate, Running, eventually
from tests.e2e.wire import Wire
from tests.redis_server import RedisServer

#: Of the bulkheads: more requests than the workers of their pool have threads for, by far.
HELD = 200


def site(tmp_path: Path, pools: str) -> list[str]:
    """The arguments that name a file with these pools, beside the application ``zoo`` in one process."""
    path = tmp_path / "ifserver.toml"
    path.write_text(f'[worker]\napplication = "zoo:app"\nprocesses = 1\n{pools}')
    return ["--config", str(path)]


def test_requests_of_one_pool_that_hold_its_workers_keep_no_others_waiting(tmp_path: Path, gate: Gate) -> None:
    reports = '[pools.reports]\napplication = "zoo:app"\npaths = ["/wait"]\nconcurrency = 2\n'
    with Running("run", "-p", "0", *site(tmp_path, reports), app_dir=APPS) as server, ExitStack() as stack:
        address = ("127.0.0.1", server.ready().port)
        held = [stack.enter_context(Wire(address)) for _ in range(HELD)]
        request = f"GET /wait?gate={gate} HTTP/1.1\r\nhost: test\r\n\r\n".encode()
        for each in held:
            each.send(request)
        gate.reached(2)
        other = stack.enter_context(Wire(address))
        [reporter] = set(gate.arrivals())
        for _ in range(HELD):
            reply = other.get("/")
            assert reply.status == 200
            assert int(reply.body) != reporter
        assert len(gate.arrivals()) == 2, "the others have waited for those two all the time"
        gate.open()
        assert [each.receive().status for each in held] == [200] * HELD


def test_a_pool_s_worker_that_is_killed_is_no_affair_of_the_others(
    tmp_path: Path, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    arguments = site(tmp_path, '[pools.reports]\napplication = "zoo:app"\npaths = ["/reports/*"]\n')
    with Running("run", "-p", "0", "--admin", "127.0.0.1:0", *arguments, app_dir=APPS) as server:
        url = server.ready().url
        waiting = pool.submit(httpx.get, f"{url}/wait", params={"gate": str(gate)})
        [other] = gate.reached()
        [reporter] = [pid for pid in server.workers() if pid != other]
        os.kill(reporter, signal.SIGKILL)
        server.said(rf"worker {reporter} of pool reports was killed \(SIGKILL\); a new worker starts")
        server.said(r"worker \d+ of pool reports is ready", times=2)
        assert other in server.workers()
        admin = server.said(r"admin endpoint at (\S+)/")[1]
        metrics = httpx.get(f"{admin}/metrics").text
        assert 'ifserver_worker_slots_free{pool="reports"} ' in metrics
        assert 'channel="http.request.reports"' in metrics

        def seen() -> set[str]:
            processes = httpx.get(f"{admin}/status.json").json()["processes"]
            return {child["pool"] for each in processes for child in each.get("children", ())}

        eventually(lambda: seen() == {"reports", "default"}, "the status tells of both pools")
        gate.open()
        assert waiting.result().status_code == 200


def test_rules_are_read_again_and_pools_need_a_restart(tmp_path: Path) -> None:
    def pools(path: str, more: str = "") -> list[str]:
        found = f'[pools.other]\napplication = "wsgi_zoo:app"\npaths = ["{path}"]\nprocesses = 1\n{more}'
        return site(tmp_path, found)

    with Running("run", "-p", "0", *pools("/old"), app_dir=APPS) as server:
        url = server.ready().url
        [old, new] = [httpx.get(f"{url}/{path}") for path in ("old", "new")]
        assert (old.status_code, new.status_code) == (200, 404)
        pools("/new")
        server.process.send_signal(signal.SIGHUP)
        server.said("changed, for what begins now: pools.other.paths")
        [old, new] = [httpx.get(f"{url}/{path}") for path in ("old", "new")]
        assert (old.status_code, new.status_code) == (404, 200)
        server.said(r"worker \d+ of pool other has stopped")
        pools("/old", '[pools.third]\napplication = "zoo:app"\n')
        server.process.send_signal(signal.SIGHUP)
        server.said("changed, but a restart is needed for: pools.third")
        assert httpx.get(f"{url}/new").status_code == 200


def test_sync_django_in_threads_and_its_websockets_on_the_loop_from_one_command(tmp_path: Path) -> None:
    applications = ("demo.asgi:application", "--http", "demo.wsgi:application")
    environment = {"DJANGO_SITE_DATA": str(tmp_path)}
    workers = ("--workers", "1", "--access-log", "-", "--access-log-format", "json")
    with Running(
        "run", *applications, "-p", "0", *workers, app_dir=EXAMPLES / "django_site", environment=environment
    ) as server:
        server.said(r"pool http: 1 worker runs demo.wsgi:application \(WSGI, 8 threads\)")
        server.said(r"pool default: 1 worker runs demo.asgi:application \(ASGI")
        url = server.ready().url
        with connect(f"{url.replace('http', 'ws', 1)}/chat/ws", origin=Origin(url)) as member:
            assert json.loads(member.recv(LIMIT_S)) == []
            with httpx.Client(base_url=url, follow_redirects=True, timeout=LIMIT_S) as browser:
                page = browser.get("/guestbook/")
                token = re.search('name="csrfmiddlewaretoken" value="(.+?)"', page.text)
                assert token is not None
                form = {"csrfmiddlewaretoken": token[1], "text": "Fine weather"}
                signed = browser.post("/guestbook/", data=form, headers={"referer": url})
                assert "Fine weather" in signed.text
            # A view in a thread of one pool, a consumer on the loop of another.
            assert json.loads(member.recv(LIMIT_S))["text"] == "A guest has signed the guestbook."
            member.send(json.dumps({"name": "Ada", "text": "Hello"}))
            assert json.loads(member.recv(LIMIT_S))["text"] == "Hello"
        server.said('"target":"/guestbook/".*"pool":"http"')
        server.said('"target":"/chat/ws".*"status":101.*"pool":"default"')


def test_servers_have_the_rules_and_each_supervisor_its_pools(tmp_path: Path) -> None:
    pools = '[pools.other]\napplication = "wsgi_zoo:app"\npaths = ["/other"]\nprocesses = 1\n'
    arguments = site(tmp_path, pools)
    with RedisServer() as redis, ExitStack() as stack:
        arguments += ["--cluster", f"main=redis://127.0.0.1:{redis.port}"]
        server = stack.enter_context(Running("serve", "-p", "0", *arguments))
        server.said(r"pools \(a request goes to the first that matches\): other \(/other\); default")
        first = stack.enter_context(Running("worker", *arguments, "--pool", "default", app_dir=APPS)).ready()
        assert int(httpx.get(server.url).text) in first.workers()
        with Wire(("127.0.0.1", server.port)) as waiting:
            # Nobody reads its channel yet, and that is no trouble for the rest.
            waiting.send(b"GET /other HTTP/1.1\r\nhost: test\r\n\r\n")
            assert int(httpx.get(server.url).text) in first.workers()
            second = stack.enter_context(Running("worker", *arguments, "--pool", "other", app_dir=APPS))
            second.said(r"pool other: 1 worker runs wsgi_zoo:app \(WSGI")
            reply = waiting.receive()
            assert int(reply.body) in second.workers()
        for each in (server, first, second):
            each.process.send_signal(signal.SIGTERM)
