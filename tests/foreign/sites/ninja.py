"""django-ninja: its tutorial, with async operations, uploads and streams."""

from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.running import LIMIT_S, eventually
from tests.foreign.clients import UPLOAD, Browser, Cut, events
from tests.foreign.site import USER, Needs, Site
from tests.foreign.ways import Served

__all__ = ["SITE"]

SITE = Site("ninja")


@SITE.scenario("operations, docs, errors")
def operations(served: Served) -> None:
    with httpx.Client(base_url=f"{served.url}/api", timeout=LIMIT_S) as api:
        assert api.get("/add", params={"a": 1, "b": 2}).json() == {"result": 3}
        assert api.get("/add", params={"a": "x", "b": 2}).status_code == 422
        assert api.post("/items", json={"name": "a", "tags": ["b"]}).json() == {"name": "a", "tags": ["b"]}
        assert api.get("/me").status_code == 401
        assert "Swagger" in api.get("/docs").text or "swagger" in api.get("/docs").text
        assert "/api/ticks" in api.get("/openapi.json").json()["paths"]


@SITE.scenario("async operations, with the database")
def asynchronous(served: Served) -> None:
    with httpx.Client(base_url=f"{served.url}/api", timeout=LIMIT_S) as api:
        assert USER in api.get("/users").json()["users"]

        def say(word: str) -> str:
            return str(api.get("/say-after", params={"delay": 0.5, "word": word}).json()["saying"])

        words = [str(number) for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(say, words)) == words


@SITE.scenario("the session of the admin")
def session(served: Served) -> None:
    with Browser(served.url) as browser:
        browser.login("/admin/")
        assert browser.get("/api/me").json() == {"name": USER}


@SITE.scenario("upload of 20 MB, sync and async")
def upload(served: Served) -> None:
    for name in ("upload", "upload-async"):
        answer = httpx.post(f"{served.url}/api/{name}", files={"file": ("numbers.bin", UPLOAD)}, timeout=LIMIT_S)
        digest = hashlib.sha256(UPLOAD).hexdigest()
        assert answer.json() == {"name": "numbers.bin", "size": len(UPLOAD), "sha256": digest}, answer.text


@SITE.scenario("JSON lines of a sync generator")
def numbers(served: Served) -> None:
    answer = httpx.get(f"{served.url}/api/numbers", timeout=LIMIT_S)
    assert [json.loads(line)["number"] for line in answer.iter_lines()] == [0, 1, 2, 3]
    assert answer.headers["content-type"].startswith("application/jsonl")


@SITE.scenario("events", Needs.ASGI)
def ticks(served: Served) -> None:
    with events(f"{served.url}/api/ticks") as stream:
        began = time.monotonic()
        assert [json.loads(next(stream).data)["number"] for _ in range(5)] == [0, 1, 2, 3, 4]
        assert time.monotonic() - began < 10


@SITE.scenario("a worker is killed: events are cut", Needs.ASGI | Needs.WORKERS)
def killed(served: Served) -> None:
    with events(f"{served.url}/api/ticks") as stream:
        next(stream)
        served.kill_workers()
        with pytest.raises(Cut):
            list(stream)
    assert httpx.get(f"{served.url}/api/add?a=1&b=1", timeout=LIMIT_S).json() == {"result": 2}


@SITE.scenario("an edit", Needs.RUNSERVER)
def edited(served: Served) -> None:
    with served.edited("items/api.py", '"result": a + b', '"result": a * b'):
        path = f"{served.url}/api/add?a=3&b=4"
        eventually(lambda: httpx.get(path, timeout=LIMIT_S).json() == {"result": 12}, "the new code")
    eventually(lambda: httpx.get(path, timeout=LIMIT_S).json() == {"result": 7}, "the old code")
