"""Django REST framework: its quickstart and its tutorial."""

from __future__ import annotations

import hashlib
import shutil
import time

import httpx

from tests.e2e.running import LIMIT_S
from tests.foreign.clients import UPLOAD, Browser
from tests.foreign.site import PASSWORD, USER, Needs, Site
from tests.foreign.ways import Served

__all__ = ["SITE"]

SITE = Site("rest_framework", apps=("snippets",))


def client(served: Served) -> httpx.Client:
    """A client of the API, who says who it is with each request."""
    return httpx.Client(base_url=served.url, auth=(USER, PASSWORD), timeout=LIMIT_S)


@SITE.scenario("snippets: create, read, change, filter, delete")
def snippets(served: Served) -> None:
    with client(served) as api:
        made = api.post("/snippets/", json={"code": "print(1)", "title": "one"})
        assert (made.status_code, made.json()["owner"]) == (201, USER)
        url = made.json()["url"]
        # Links name the host and the scheme that the client used.
        assert url.startswith(f"{served.url}/snippets/")
        assert made.headers["location"] == url
        assert "<pre>" in api.get(f"{url}highlight/").text
        assert api.patch(url, json={"title": "two"}).json()["title"] == "two"
        assert api.get("/snippets/", params={"language": "python"}).json()["count"] >= 1
        assert api.get("/snippets/", params={"language": "ruby"}).json()["count"] == 0
        gone = api.delete(url)
        assert (gone.status_code, gone.content) == (204, b"")
        assert api.get(url).status_code == 404
        assert api.get("/users/?format=json").json()["results"][0]["username"] == USER
        assert set(api.options("/snippets/").json()) >= {"name", "actions"}
        assert api.head("/snippets/").headers["allow"] == "GET, POST, HEAD, OPTIONS"
    answer = httpx.post(f"{served.url}/snippets/", json={"code": "1"}, timeout=LIMIT_S)
    assert answer.status_code == 403


@SITE.scenario("browsable API: login, forms, style")
def browsable(served: Served) -> None:
    with Browser(served.url) as browser:
        browser.headers["accept"] = "text/html"
        page = browser.login("/api-auth/login/?next=/snippets/")
        assert "Django REST framework" in page.text
        title = f"from a form {time.monotonic_ns()}"
        made = browser.fill_in("/snippets/", {"title": title, "code": "x = 1", "language": "python"})
        assert (made.status_code, title in made.text) == (201, True)
        assert browser.get("/static/rest_framework/css/bootstrap.min.css").status_code == 200


@SITE.scenario("upload of 20 MB, as a file and as a form")
def upload(served: Served) -> None:
    digest = hashlib.sha256(UPLOAD).hexdigest()
    with client(served) as api:
        headers = {"content-disposition": "attachment; filename=numbers.bin", "content-type": "application/zip"}
        answer = api.put("/upload/numbers.bin", content=UPLOAD, headers=headers)
        assert answer.json() == {"name": "numbers.bin", "size": len(UPLOAD), "sha256": digest}
        answer = api.put("/upload/form.bin", files={"file": ("form.bin", UPLOAD)})
        assert answer.json()["sha256"] == digest


@SITE.scenario("upload of 20 MB, in chunks", Needs.WSGI)
def chunks(served: Served) -> None:
    # Under ASGI it takes a body without a Content-Length for none, on every server.
    digest = hashlib.sha256(UPLOAD).hexdigest()
    headers = {"content-disposition": "attachment; filename=numbers.bin", "content-type": "application/zip"}
    with client(served) as api:
        pieces = (UPLOAD[at : at + 100_000] for at in range(0, len(UPLOAD), 100_000))
        answer = api.put("/upload/chunked.bin", content=pieces, headers=headers)
        assert answer.json()["sha256"] == digest, answer.text


@SITE.scenario("a throttle that all workers share")
def throttle(served: Served) -> None:
    shutil.rmtree(served.project.folder / "cache", ignore_errors=True)
    with client(served) as api:
        assert [api.get("/throttled/").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
        assert int(api.get("/throttled/").headers["retry-after"]) > 3000


@SITE.scenario("workers are killed: reads are repeated, nothing hangs", Needs.WORKERS)
def killed(served: Served) -> None:
    with client(served) as api:
        api.get("/snippets/")
        served.kill_workers()
        assert api.get("/snippets/").status_code == 200


@SITE.scenario("its tests with LiveServerTestCase", Needs.RUNSERVER | Needs.ASGI)
def tests(served: Served) -> None:
    assert "OK" in served.manage("test")
