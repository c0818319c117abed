"""Servers under test, as a test has them: real processes, which are told what to do by methods."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from ifserver.testing import Server, ServerError, server
from tests.e2e.running import GONE_S, ROOT, eventually
from tests.redis_server import RedisServer
from tests.testing import apps

LIMIT_S = 120


def get(of: Server, path: str = "/") -> str:
    answer = httpx.get(of.url + path, timeout=LIMIT_S)
    assert answer.status_code == 200, of.output
    return answer.text


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(*pids: int) -> None:
    eventually(lambda: not any(map(is_alive, pids)), f"{pids} have ended", GONE_S)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(params=["run", "redis"])
def started(request: pytest.FixtureRequest) -> Iterator[Server]:
    options = {}
    if request.param == "redis":
        options["redis"] = f"redis://127.0.0.1:{request.getfixturevalue('redis').port}"
    with Server(apps.asgi, workers=2, resumable=["*"], timeout=LIMIT_S, **options) as running:
        yield running


def test_it_answers_loses_workers_and_replaces_them(started: Server) -> None:
    with connect(started.ws_url, open_timeout=LIMIT_S) as client:
        assert int(get(started).split()[0]) in started.workers
        killed = started.kill_worker()
        client.send("first")
        assert client.recv(LIMIT_S) == "first"
        other = started.kill_worker(started.workers[-1])
        client.send("second")
        assert client.recv(LIMIT_S) == "second"
        before = started.workers
        started.restart_workers()
        assert not {killed, other, *before}.intersection(started.workers)
        client.send("third")
        assert client.recv(LIMIT_S) == "third"
    assert f"worker {killed} was killed (SIGKILL)" in started.output
    pids = [started.pid, *started.workers]
    started.stop()
    gone(*pids)
    with pytest.raises(httpx.ConnectError):
        httpx.get(started.url)
    with pytest.raises(ServerError, match="does not run"):
        started.kill_worker()


def test_servers_on_one_redis_do_not_disturb_each_other(redis: RedisServer) -> None:
    url = f"redis://127.0.0.1:{redis.port}"
    with (
        Server(apps.asgi, redis=url, environment={"GREETING": "first"}) as first,
        Server(apps.asgi, redis=url, environment={"GREETING": "second"}) as second,
    ):
        for _ in range(5):
            assert get(first).endswith("first")
            assert get(second).endswith("second")


def test_a_redis_that_cannot_be_reached_is_told() -> None:
    with pytest.raises(ServerError, match=r"not fit for use\n(.|\n)*cannot connect: Connection was refused"):
        Server(apps.asgi, redis="redis://127.0.0.1:1").start()


def test_wsgi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IFSERVER_WORKER_INTERFACE", "asgi")  # of this machine, and of no interest
    with Server(apps.wsgi) as running:
        assert get(running, "/path") == "/path"
    file = tmp_path / "settings.toml"
    file.write_text('[front]\nserver_header = "another"\nroot_path = "/root"\n')
    with Server("tests.testing.apps:wsgi", config=file, root_path="", host="::1") as running:
        assert running.url.startswith("http://[::1]:")
        assert httpx.get(running.url).headers["server"] == "another"


def test_the_environment_is_ours_but_for_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREETING", "inherited")
    for environment, said in (({}, "inherited"), ({"GREETING": "given"}, "given"), ({"GREETING": None}, "None")):
        with Server(apps.asgi, environment=environment) as running:
            assert get(running).split()[1] == said


@pytest.mark.parametrize(
    ("application", "options", "said"),
    [
        ("tests.testing.apps:failing", {}, r"ZeroDivisionError: what the factory raises \(.*apps.py:\d+\)"),
        ("tests.testing.missing:app", {}, r"No module named 'tests.testing.missing'"),
        (apps.asgi, {"queue_timeout": "soon"}, r"front.queue_timeout_s: expected a duration .* got 'soon'"),
        (apps.asgi, {"interface": "wsgi"}, r"its parameters are not those of WSGI"),
    ],
)
def test_what_cannot_start_says_why(application: object, options: dict[str, str], said: str) -> None:
    with pytest.raises(ServerError, match=rf"^ifserver cannot start: .*{said}.*\n\nWhat it has written:\n"):
        Server(application, **options).start()


def test_an_address_that_is_taken_and_a_folder_that_is_missing_are_errors() -> None:
    with Server(apps.wsgi) as running, pytest.raises(OSError, match="Address already in use"):
        Server(apps.wsgi, port=running.port).start()
    with pytest.raises(FileNotFoundError):
        Server(apps.wsgi, cwd="/nowhere").start()


def test_one_that_has_ended_by_itself_is_no_success() -> None:
    running = Server(apps.asgi).start()
    workers = running.workers
    os.kill(running.pid, signal.SIGKILL)
    gone(*workers)
    with pytest.raises(ServerError, match=r"has ended by itself \(SIGKILL\)"):
        running.stop()
    # It can be started again, at the same address.
    url = running.url
    with running:
        assert running.url == url
        assert get(running)
        running.kill()


def test_workers_that_cannot_be_replaced_are_told(tmp_path: Path) -> None:
    module = tmp_path / "edited.py"
    module.write_text("from tests.testing.apps import asgi\n")
    with Server("edited:asgi", app_dir=tmp_path) as running:
        module.write_text("a syntax error\n")
        with pytest.raises(ServerError, match=r"^the workers were not replaced:(.|\n)*SyntaxError"):
            running.restart_workers()
        assert get(running)


def test_one_that_is_frozen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_PATIENCE_S", 0.2)
    running = Server(apps.asgi).start()
    pids = [running.pid, *running.workers]
    os.kill(running.pid, signal.SIGSTOP)
    running.stop()
    gone(*pids)


def test_it_outlives_the_thread_that_has_started_it() -> None:
    running = Server(apps.asgi)
    thread = threading.Thread(target=running.start)
    thread.start()
    thread.join()
    with running:
        assert get(running)


def test_nothing_outlives_the_process_that_has_started_it() -> None:
    program = """
from ifserver.testing import Server
from tests.testing import apps
running = Server(apps.asgi).start()
print(running.pid, *running.workers, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 2
        process.kill()
    gone(*pids)


def test_what_is_written_can_be_waited_for() -> None:
    with Server(apps.asgi, timeout=LIMIT_S) as running:
        before = running.written
        assert httpx.get(f"{running.url}/raise").status_code == 500
        assert running.wait_for_output(r"(\w+): what the application raises", before)[1] == "LookupError"
        assert "listening" in running.output
        assert "listening" not in running.output_since(before)
        running._timeout_s = 0.1
        with pytest.raises(ServerError, match=r"not written within 0.1 s: 'nothing of this'"):
            running.wait_for_output("nothing of this")
