"""``ifserver check``: its table, its JSON, its exit codes, and that it tells nobody a password."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ifserver.layers.redis.check import Finding, Report, SentinelReport
from ifserver.services.check import as_json, as_table, compare
from tests.certificates import Certificates
from tests.redis_server import RedisServer

LIMIT_S = 120.0


def report(node: str = "east", **found: Any) -> Report:
    good: dict[str, Any] = {
        "where": "10.0.0.1:6379",
        "version": "Redis 7.0.15",
        "role": "primary",
        "latency_ms": 0.25,
        "skew_ms": -1.0,
        "memory_bytes": 1_572_864,
        "max_memory_bytes": 0,
        "eviction": "noeviction",
        "persistence": "none",
        "clients": 2,
        "max_clients": 100,
        "missing_rights": [],
    }
    return Report(node=node, **good | found)


def test_a_table_has_a_line_for_each_node_and_says_problems_first() -> None:
    bad = Report(node="west-1", where="10.0.0.2:6379")
    bad.add("note", "a note")
    bad.add("problem", "a problem")
    good = report(max_memory_bytes=100 * 1024 * 1024, missing_rights=["PUBLISH"])
    good.add("warning", "a warning")
    assert as_table([good, bad]) == (
        "NODE    WHERE          VERSION       ROLE     LATENCY  CLOCK    MEMORY          EVICTION    PERSISTENCE"
        "  CLIENTS   RIGHTS\n"
        "east    10.0.0.1:6379  Redis 7.0.15  primary  0.25 ms  -1.0 ms  1.5 of 100 MiB  noeviction  none       "
        "  2 of 100  1 missing\n"
        "west-1  10.0.0.2:6379  -             -        -        -        -               -           -          "
        "  -         -\n"
        "\n"
        "problem:  west-1:  a problem\n"
        "warning:  east:    a warning\n"
        "note:     west-1:  a note\n"
        "not fit for use: west-1\n"
    )


def test_sentinels_have_a_table_of_their_own() -> None:
    asked = SentinelReport(where="s1:26379", primary="10.0.0.1:6379", config_epoch=3, quorum=2, sentinels=3, replicas=1)
    shown = as_table([report(sentinels=[asked, SentinelReport(where="s2:26379")])])
    assert shown.split("\n\n", 1)[1] == (
        "NODE  SENTINEL  PRIMARY        FAILOVERS  QUORUM  SENTINELS  REPLICAS\n"
        "east  s1:26379  10.0.0.1:6379  3          2       3          1\n"
        "east  s2:26379  -              -          -       -          -\n"
        "\n"
        "everything would work\n"
    )


def test_json_has_everything() -> None:
    bad = report("west")
    bad.add("problem", "it is a replica, not a primary")
    found = json.loads(as_json([report(), bad]))
    assert found["fit"] is False
    assert [node["node"] for node in found["nodes"]] == ["east", "west"]
    assert found["nodes"][0]["latency_ms"] == 0.25
    assert found["nodes"][1]["findings"] == [{"level": "problem", "text": "it is a replica, not a primary"}]
    assert json.loads(as_json([report()]))["fit"] is True


def test_two_nodes_are_two_places() -> None:
    reports = [report("east-1", run_id="a"), report("east-2", run_id="a", database=1), report("west", run_id="a")]
    compare(reports)
    assert [each.findings for each in reports[:2]] == [[], []]
    text = "it is the same database of the same Redis as node east-1: they take each other's messages; "
    assert reports[2].findings == [Finding("warning", f"{text}give each node a database of its own")]
    unknown = [report("east-1"), report("east-2")]
    compare(unknown)
    assert [each.findings for each in unknown] == [[], []]


def test_clocks_are_compared() -> None:
    reports = [report("a", skew_ms=400.0), report("b", skew_ms=-700.0), report("c", skew_ms=None), report("d")]
    compare(reports)
    assert [(each.node, each.findings) for each in reports if each.findings] == [("a", reports[0].findings)]
    assert reports[0].findings[0].text == "its clock is 1.1 s ahead of that of node b"
    for few in ([], [report()], [report("a", skew_ms=None), report("b")]):
        compare(few)
        assert not any(each.findings for each in few)


class Command:
    """The command, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, *arguments: str, **environ: str) -> tuple[int, str]:
        """Exit code, and all that it has written."""
        ended = subprocess.run(
            [sys.executable, "-m", "ifserver", "check", *arguments],
            cwd=self._folder,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )
        return ended.returncode, ended.stdout


@pytest.fixture
def check(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with (
        Certificates("localhost") as files,
        RedisServer(password="geheim", certificates=files, tls_auth_clients="no") as server,
    ):
        yield server


def test_passwords_come_from_the_environment_and_are_told_nobody(check: Command, server: RedisServer) -> None:
    cluster = f"east=redis://127.0.0.1:{server.port},redis+unix://{server.path}"
    status, said = check("--cluster", cluster, IFSERVER_REDIS_PASSWORD="geheim")
    assert status == 0
    assert said.endswith("everything would work\n")
    assert [line.split()[0] for line in said.splitlines()[:3]] == ["NODE", "east-1", "east-2"]
    assert "geheim" not in said
    status, said = check("--cluster", cluster, "--json", IFSERVER_REDIS_PASSWORD_EAST_1="geheim")
    found = json.loads(said)
    assert (status, found["fit"]) == (1, False)
    assert found["nodes"][0]["missing_rights"] == []
    assert found["nodes"][1]["findings"][0]["text"].startswith("NOAUTH ")
    assert "geheim" not in said
    status, said = check("--cluster", cluster, "-v", "3", IFSERVER_REDIS_PASSWORD="falsch")
    assert status == 1
    assert said.count("WRONGPASS") == 2
    assert "falsch" not in said


def test_tls_in_one_command(check: Command, server: RedisServer) -> None:
    assert server._certificates is not None
    url = f"rediss://:geheim@localhost:{server.tls_port}?ca={server._certificates.path('ca.pem')}"
    status, said = check("--cluster", f"east={url}")
    assert (status, "geheim" in said) == (0, False)
    status, said = check("--cluster", f"east={url}x")
    assert (status, "geheim" in said) == (1, False)
    assert "No such file or directory" in said


def test_what_is_not_there_and_what_cannot_be(check: Command) -> None:
    status, said = check("--cluster", "east=local:@nobody-listens-here", "--cluster", "west=redis+unix:///nowhere")
    assert status == 1
    assert said.endswith("not fit for use: east, west\n")
    status, said = check("--cluster", "east=redis://me:geheim@h/x")
    assert (status, said.count("\n")) == (2, 1)
    assert "geheim" not in said
    status, said = check()
    assert status == 2


def test_help_says_where_passwords_belong(check: Command) -> None:
    status, said = check("--help")
    assert status == 0
    assert "IFSERVER_REDIS_PASSWORD" in said


# The applications.


LIMIT_S = 120.0
NO_CLUSTER = "no cluster is configured, so that no node was checked; ifserver run needs none"
APPLICATION = """
import os
def wsgi(environ, start_response): pass
async def asgi(scope, receive, send): pass
if os.environ.get("BROKEN") == "exit":
    os._exit(3)
if os.environ.get("BROKEN"):
    raise RuntimeError("no " + os.environ["BROKEN"])
print("is imported")
"""


def check_pools(tmp_path: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "checked.py").write_text(APPLICATION)
    path = tmp_path / "ifserver.toml"
    path.write_text(f'worker.app_dir = "{tmp_path}"\n{text}')
    command = [sys.executable, "-m", "ifserver", "check", "--config", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def test_every_pool_is_loaded_and_what_is_odd_is_said(tmp_path: Path) -> None:
    done = check_pools(
        tmp_path,
        """worker.application = "checked:asgi"
[pools.reports]
application = "checked:wsgi"
paths = ["/reports/*"]
[pools.all]
application = "checked:asgi"
""",
    )
    assert (done.stdout, done.returncode) == (
        "POOL     APPLICATION   INTERFACE  TAKES\n"
        "reports  checked:wsgi  wsgi       /reports/*\n"
        "all      checked:asgi  asgi       everything\n"
        "default  checked:asgi  asgi       everything\n"
        "\n"
        "warning:  pool default:  it gets nothing: pool all is before it, and takes all\n"
        "note:     pool reports:  it is WSGI: the handshake of a WebSocket gets there as a GET request, and any answer "
        'denies it; protocols = ["http"] leaves WebSockets to other pools\n'
        f"note:     nodes:         {NO_CLUSTER}\n"
        "everything would work\n",
        0,
    )


def test_a_canary_takes_what_its_pool_takes(tmp_path: Path) -> None:
    done = check_pools(
        tmp_path,
        """[pools.web]
application = "checked:wsgi"
protocols = ["http"]
[pools.next]
application = "checked:wsgi"
canary_of = "web"
""",
    )
    assert (done.stdout, done.returncode) == (
        "POOL  APPLICATION   INTERFACE  TAKES\n"
        "web   checked:wsgi  wsgi       http\n"
        "next  checked:wsgi  wsgi       canary of web\n"
        "\n"
        f"note:  nodes:  {NO_CLUSTER}\n"
        "everything would work\n",
        0,
    )


def test_a_site_without_pools_and_clusters(tmp_path: Path) -> None:
    """As ``ifserver run`` has it."""
    done = check_pools(tmp_path, 'worker.application = "checked:asgi"\n')
    assert (done.stdout, done.returncode) == (
        "POOL  APPLICATION   INTERFACE  TAKES\n"
        "-     checked:asgi  asgi       everything\n"
        "\n"
        f"note:  nodes:  {NO_CLUSTER}\n"
        "everything would work\n",
        0,
    )
    done = check_pools(tmp_path, 'worker.application = "checked:missing"\n')
    assert done.returncode == 1
    assert "problem:  the application:  application 'checked:missing': " in done.stdout
    assert done.stdout.endswith("not fit for use: the application\n")
    done = check_pools(tmp_path, "")
    assert (done.returncode, done.stdout) == (2, "")
    assert "a cluster is missing: give --cluster NAME=URL" in done.stderr


def test_where_there_are_clusters_the_application_may_be_on_other_machines(tmp_path: Path) -> None:
    done = check_pools(tmp_path, 'worker.application = "missing:app"\n', "--cluster", "a=local:@nobody-listens-here")
    assert (done.returncode, "missing:app" in done.stdout) == (1, False)


def test_one_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    text = "".join(
        f'[pools.{name}]\napplication = "checked:asgi"\nenvironment = {{ BROKEN = "{broken}" }}\n'
        for name, broken in (("good", ""), ("bad", "database"), ("worse", "exit"))
    )
    done = check_pools(tmp_path, text, "--json")
    found = json.loads(done.stdout)
    assert (found["fit"], found["nodes"], done.returncode) == (False, [], 1)
    good, bad, worse = (each["findings"][:1] for each in found["pools"])
    assert good == []
    assert bad[0]["level"] == worse[0]["level"] == "problem"
    assert bad[0]["text"].startswith("application 'checked:asgi': RuntimeError: no database (")
    assert worse[0]["text"] == "application 'checked:asgi': the process that imported it has ended (3)"
