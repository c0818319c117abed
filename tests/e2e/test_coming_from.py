"""Sites that come from uvicorn and gunicorn, with the command lines that they have there."""

from __future__ import annotations

import stat
from pathlib import Path

import httpx
import pytest

from tests.e2e.running import Running, eventually
from tests.e2e.test_listening import free_port

SITE = """
import os
NAME = os.environ["SITE_NAME"]  # read while it is imported
def make_app(debug=False):
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        body = f"{NAME} {os.getpid()}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
    return app
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site.env").write_text("# for production\nSITE_NAME='a name # with a hash'\n")
    (tmp_path / "mysite_main.py").write_text(SITE)
    return tmp_path


@pytest.mark.parametrize("flags", [(), ("--factory",)])
def test_a_factory_with_its_variables_at_the_address_of_gunicorn(folder: Path, flags: tuple[str, ...]) -> None:
    port, path = free_port(), folder / "sock"
    words = ("run", "mysite_main:make_app", "-b", f"127.0.0.1:{port}", "-b", f"unix:{path}", "--unix-mode", "660")
    with Running(*words, "-w", "1", "--env-file", "site.env", *flags, cwd=folder, app_dir=folder) as server:
        server.ready()
        found = httpx.get(f"http://127.0.0.1:{port}/", timeout=20)
        assert (found.status_code, found.text.rpartition(" ")[0]) == (200, "a name # with a hash")
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://site/", timeout=20).text == found.text


def test_a_worker_that_has_served_enough_is_replaced_and_nobody_notices(folder: Path) -> None:
    words = ("run", "mysite_main:make_app", "-p", "0", "--workers", "1", "--max-requests", "5")
    with (
        Running(*words, "--env-file", "site.env", cwd=folder, app_dir=folder) as server,
        httpx.Client(timeout=20) as client,
    ):
        server.ready()

        def pid() -> str:
            """Who answers; each request must be answered, by the same connection of its client."""
            answer = client.get(server.url)
            assert answer.status_code == 200
            return answer.text.rpartition(" ")[2]

        first = pid()
        eventually(lambda: pid() != first, "another worker has taken its place")
        assert f"worker {first} has taken " in server.output
