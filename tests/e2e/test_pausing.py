"""``ifserver pause``: around a migration of the Django example, and through worker deaths and restarts with Redis."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.e2e.operators import ADMIN, admin_of
from tests.e2e.running import APPS, EXAMPLES, LIMIT_S, ROOT, Gate, Running, command_line, eventually
from tests.e2e.test_restarting import Lineage
from tests.redis_server import RedisServer

#: SQLite makes the tables anew for that: who asks meanwhile would find none, or a locked database.
MIGRATION = """
import time

from django.db import migrations, models

def wait(apps, schema_editor):
    time.sleep(1)

class Migration(migrations.Migration):
    dependencies = [("pages", "0002_chat_message")]
    operations = [
        migrations.RenameField("entry", "author", "was_author"),
        migrations.RenameField("chatmessage", "name", "was_name"),
        migrations.RunPython(wait),
        migrations.RenameField("entry", "was_author", "author"),
        migrations.RenameField("chatmessage", "was_name", "name"),
        migrations.AddField("entry", "mood", models.CharField(max_length=20, default="", db_default="")),
        migrations.AlterField("chatmessage", "name", models.CharField(max_length=60)),
    ]
    atomic = False
"""


def ifserver(admin: str, *words: str, status: int = 0) -> str:
    """What the command says to standard output, or if it fails, to standard error."""
    command = command_line(*words, "--admin", admin)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout


class Load:
    """Clients that ask one request after the other, each in a thread; what they got and when."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        #: When each response came, and its status.
        self.answers: list[tuple[float, int]] = []

    def _read(self, path: str) -> None:
        with httpx.Client(base_url=self._url, timeout=LIMIT_S) as client:
            while not self._over.wait(0.02):
                self._note(client.get(path))

    def _write(self) -> None:
        with httpx.Client(base_url=self._url, timeout=LIMIT_S) as client:
            client.get("/guestbook/").raise_for_status()
            while not self._over.wait(0.02):
                form = {"text": "Fine weather", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
                self._note(client.post("/guestbook/", data=form))

    def _note(self, response: httpx.Response) -> None:
        self.answers.append((time.monotonic(), response.status_code))

    @contextmanager
    def running(self, pool: ThreadPoolExecutor) -> Iterator[None]:
        readers = [pool.submit(self._read, "/guestbook/") for _ in range(2)]
        clients = [*readers, pool.submit(self._write), pool.submit(self._write)]
        try:
            yield
        finally:
            self._over.set()
            for each in clients:
                each.result()

    def goes_on(self) -> None:
        """Wait until some more were answered."""
        before = len(self.answers)
        eventually(lambda: len(self.answers) > before + 8, "requests are answered")


def said(client: ClientConnection, text: str) -> None:
    """Wait for a message of that text in the chat."""
    while json.loads(client.recv(LIMIT_S))["text"] != text:
        pass


def test_a_migration_under_load_is_seen_by_nobody(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    site = tmp_path / "django_site"
    shutil.copytree(EXAMPLES / "django_site", site)
    environment = {"DJANGO_SITE_DATA": str(tmp_path), "PYTHONPATH": str(EXAMPLES)}
    arguments = ("run", "demo.asgi:application", "-p", "0", "--workers", "2", "--pause-timeout", "10m", *ADMIN)
    with Running(*arguments, app_dir=site, environment=environment) as server:
        url, admin = server.ready().url, admin_of(server)
        socket = connect(f"{url.replace('http', 'ws', 1)}/chat/ws", origin=Origin(url), ping_interval=0.5)
        load = Load(url)
        with socket as chat, load.running(pool):
            assert json.loads(chat.recv(LIMIT_S)) == []
            load.goes_on()
            assert "paused on 1 server: all pools for 600 s" in ifserver(admin, "pause", "--for", "10m", "--wait")
            before = len(load.answers)
            for number in range(20):
                chat.send(json.dumps({"name": "Ada", "text": f"Paused {number}"}))
            (site / "pages" / "migrations" / "0003_mood.py").write_text(MIGRATION)
            subprocess.run(
                [sys.executable, "manage.py", "migrate", "-v", "0"],
                cwd=site,
                env={**os.environ, **environment},
                check=True,
                timeout=LIMIT_S,
            )
            assert "; paused: all pools for" in ifserver(admin, "status")
            status = httpx.get(f"{admin}/status.json", timeout=LIMIT_S).json()
            assert status["me"]["waiting"] == 4
            assert len(load.answers) == before, "somebody was answered during the pause"
            assert ifserver(admin, "resume") == "resumed on 1 server: all pools\n"
            for number in range(20):
                said(chat, f"Paused {number}")
            load.goes_on()
        assert {code for _, code in load.answers} <= {200, 302}
        assert "database is locked" not in server.output
        for level in ("WARNING", "ERROR"):
            assert level not in server.output


def test_a_pause_holds_on_all_servers_whatever_happens_to_the_workers(pool: ThreadPoolExecutor, gate: Gate) -> None:
    with ExitStack() as stack:
        cluster = ("--cluster", f"main=redis://127.0.0.1:{stack.enter_context(RedisServer()).port}")
        one, two = (stack.enter_context(Running("serve", "-p", "0", *ADMIN, *cluster)) for _ in range(2))
        worker = stack.enter_context(Running("worker", "zoo:app", "--workers", "2", *cluster, app_dir=APPS))
        worker.ready()
        admin = admin_of(one)
        for each in (one, two):
            assert httpx.get(each.url, timeout=LIMIT_S).status_code == 200
        open_one = pool.submit(httpx.get, f"{two.url}/wait", params={"gate": str(gate)}, timeout=LIMIT_S)
        gate.reached()
        text = ifserver(admin, "pause", "--for", "100s")
        assert re.match(r"paused on 2 servers: all pools for 100 s; 1 request is under way, 0 wait", text)
        waiting = [pool.submit(httpx.get, each.url, timeout=LIMIT_S) for each in (one, two, one, two)]

        def held() -> int:
            return sum(httpx.get(f"{admin_of(each)}/status.json").json()["me"].get("waiting", 0) for each in (one, two))

        eventually(lambda: held() == 4, "all wait")
        gate.open()
        assert open_one.result().status_code == 200
        assert "no request is under way" in ifserver(admin, "pause", "--for", "100s", "--wait")
        before = worker.workers()
        os.kill(before[0], signal.SIGKILL)
        worker.said("a new worker starts")
        eventually(lambda: len(worker.workers()) == 2 and before[0] not in worker.workers(), "another worker")
        worker.process.send_signal(signal.SIGHUP)
        eventually(lambda: not set(before) & set(worker.workers()), "the workers are replaced")
        assert not any(each.done() for each in waiting)
        assert ifserver(admin_of(two), "resume") == "resumed on 2 servers: all pools\n"
        assert [each.result().status_code for each in waiting] == [200] * 4
        assert not {int(each.result().text) for each in waiting} & set(before)


def test_a_pause_ends_by_itself_and_bad_orders_are_refused(pool: ThreadPoolExecutor) -> None:
    secret = {"IFSERVER_FRONT_ADMIN_TOKEN": "geheim"}
    arguments = ("run", "zoo:app", "-p", "0", "--pause-timeout", "1", *ADMIN)
    with Running(*arguments, app_dir=APPS, environment=secret) as server:
        url, admin = server.ready().url, admin_of(server)
        with_token = {"Authorization": "Bearer geheim"}
        assert httpx.post(f"{admin}/pause").status_code == 401
        assert "401" in ifserver(admin, "pause", status=2)
        for query, status in (("for=0", 400), ("for=nan", 400), ("for=x", 400), ("for=90000", 400), ("pool=x", 404)):
            assert httpx.post(f"{admin}/pause?{query}", headers=with_token).status_code == status, query
        assert httpx.delete(f"{admin}/pause", headers=with_token).status_code == 405
        said = httpx.post(f"{admin}/pause?for=30", headers=with_token).json()
        assert (said["servers"], said["asked"], list(said["pools"])) == (1, 1, [""])
        reply = httpx.get(url, timeout=LIMIT_S)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        # It begins anew, and is as long as pause_timeout where nobody says how long.
        httpx.post(f"{admin}/pause", headers=with_token).raise_for_status()
        server.said("the time of the pause is over: all pools")
        assert httpx.get(url, timeout=LIMIT_S).status_code == 200


def test_a_server_that_starts_during_a_pause_knows_of_it(pool: ThreadPoolExecutor) -> None:
    """Also where the Redis has been emptied, and started anew, since it began."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        cluster = ("--cluster", f"main=redis://127.0.0.1:{redis.port}")
        one = stack.enter_context(Running("serve", "-p", "0", *ADMIN, *cluster))
        worker = stack.enter_context(Running("worker", "zoo:app", *cluster, app_dir=APPS))
        worker.ready()
        admin = admin_of(one)
        ifserver(admin, "pause", "--for", "600s")
        redis.command("FLUSHALL")
        redis.kill()
        redis.start()
        one.said("node main: connected")
        two = stack.enter_context(Running("serve", "-p", "0", *ADMIN, *cluster))
        waiting = pool.submit(httpx.get, two.url, timeout=LIMIT_S)
        eventually(lambda: "waiting" in httpx.get(f"{admin_of(two)}/status.json").json()["me"], "it waits")
        # An order from there is the latest one.
        assert ifserver(admin_of(two), "resume") == "resumed on 2 servers: all pools\n"
        assert waiting.result().status_code == 200
        three = stack.enter_context(Running("serve", "-p", "0", *ADMIN, *cluster))
        assert httpx.get(three.url, timeout=LIMIT_S).status_code == 200


def test_a_successor_knows_of_the_pause(pool: ThreadPoolExecutor) -> None:
    """Also of ``ifserver run``, whose broker ends with it; and as long as both are there, both hear the same."""
    with Running("run", "zoo:app", "-p", "0", "--workers", "1", *ADMIN, app_dir=APPS) as server:
        url, admin = server.ready().url, admin_of(server)
        ifserver(admin, "pause", "--for", "600s")
        waiting = pool.submit(httpx.get, url, timeout=LIMIT_S)
        eventually(lambda: httpx.get(f"{admin}/status.json").json()["me"].get("waiting") == 1, "it waits")
        lineage = Lineage(server)
        lineage.succeed()
        url_of_successor = server.said(r"admin endpoint at (http://\S+)/", times=2)[1]
        # Until then the predecessor may still accept what comes.
        server.said("waiting up to 30 s for 1 connection")
        late = pool.submit(httpx.get, url, timeout=LIMIT_S)

        def held() -> bool:
            return "waiting" in httpx.get(f"{url_of_successor}/status.json").json()["me"]

        eventually(held, "the successor lets it wait")
        assert not waiting.done()
        assert ifserver(url_of_successor, "resume") == "resumed on 1 server: all pools\n"
        assert ifserver(url_of_successor, "resume") == "nothing was paused on 1 server\n"
        assert waiting.result().status_code == late.result().status_code == 200
        assert "WARNING" not in server.output
        lineage.end()
