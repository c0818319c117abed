"""``ifserver check`` of the pools: whether their applications can be loaded, as their workers would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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


def check(tmp_path: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "checked.py").write_text(APPLICATION)
    path = tmp_path / "ifserver.toml"
    path.write_text(f'worker.app_dir = "{tmp_path}"\n{text}')
    command = [sys.executable, "-m", "ifserver", "check", "--config", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def test_every_pool_is_loaded_and_what_is_odd_is_said(tmp_path: Path) -> None:
    done = check(
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
    done = check(
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
    done = check(tmp_path, 'worker.application = "checked:asgi"\n')
    assert (done.stdout, done.returncode) == (
        "POOL  APPLICATION   INTERFACE  TAKES\n"
        "-     checked:asgi  asgi       everything\n"
        "\n"
        f"note:  nodes:  {NO_CLUSTER}\n"
        "everything would work\n",
        0,
    )
    done = check(tmp_path, 'worker.application = "checked:missing"\n')
    assert done.returncode == 1
    assert "problem:  the application:  application 'checked:missing': " in done.stdout
    assert done.stdout.endswith("not fit for use: the application\n")
    done = check(tmp_path, "")
    assert (done.returncode, done.stdout) == (2, "")
    assert "a cluster is missing: give --cluster NAME=URL" in done.stderr


def test_where_there_are_clusters_the_application_may_be_on_other_machines(tmp_path: Path) -> None:
    done = check(tmp_path, 'worker.application = "missing:app"\n', "--cluster", "a=local:@nobody-listens-here")
    assert (done.returncode, "missing:app" in done.stdout) == (1, False)


def test_one_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    text = "".join(
        f'[pools.{name}]\napplication = "checked:asgi"\nenvironment = {{ BROKEN = "{broken}" }}\n'
        for name, broken in (("good", ""), ("bad", "database"), ("worse", "exit"))
    )
    done = check(tmp_path, text, "--json")
    found = json.loads(done.stdout)
    assert (found["fit"], found["nodes"], done.returncode) == (False, [], 1)
    good, bad, worse = (each["findings"][:1] for each in found["pools"])
    assert good == []
    assert bad[0]["level"] == worse[0]["level"] == "problem"
    assert bad[0]["text"].startswith("application 'checked:asgi': RuntimeError: no database (")
    assert worse[0]["text"] == "application 'checked:asgi': the process that imported it has ended (3)"
