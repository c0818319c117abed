"""The examples, each as its own documentation starts it, with its data in a temporary folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from examples.chat.app import NEEDS_GROUPS
from tests.e2e.running import EXAMPLES, LIMIT_S, Running, eventually
from tests.e2e.wire import close_of
from tests.redis_server import RedisServer


def run(application: str, app_dir: Path, **environment: str) -> Running:
    arguments = ("run", application, "-p", "0", "--workers", "2")
    return Running(*arguments, app_dir=app_dir, environment=environment)


@pytest.fixture(scope="module")
def hello() -> Iterator[str]:
    with run("hello:app", EXAMPLES) as server:
        yield server.ready().url


@pytest.fixture
def chat_server(tmp_path: Path) -> Iterator[Running]:
    """A chat with nothing in it."""
    with run("chat.app:app", EXAMPLES, CHAT_DB=str(tmp_path / "log.sqlite3")) as server:
        yield server.ready()


@pytest.fixture
def chat(chat_server: Running) -> str:
    return chat_server.url


@pytest.fixture(scope="module")
def fastapi() -> Iterator[str]:
    with run("fastapi_app:app", EXAMPLES) as server:
        yield server.ready().url


@pytest.fixture(scope="module")
def django(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = str(tmp_path_factory.mktemp("django"))
    with run("demo.asgi:application", EXAMPLES / "django_site", DJANGO_SITE_DATA=data) as server:
        yield server.ready().url


def test_the_django_site_has_an_icon_and_the_chat_leads_back(django: str) -> None:
    icon = httpx.get(f"{django}/favicon.ico", follow_redirects=True, timeout=20)
    assert (icon.status_code, icon.headers["content-type"]) == (200, "image/svg+xml")
    assert icon.url.path in httpx.get(django, timeout=20).text
    assert '<a id="back" href="/">' in httpx.get(f"{django}/chat/", timeout=20).text


def socket_url(url: str) -> str:
    return url.replace("http", "ws", 1)


# hello


def test_hello(hello: str) -> None:
    assert httpx.get(hello).text == "Hello, world!\n"
    assert httpx.get(f"{hello}/nothing").status_code == 404
    body = os.urandom(300_000)
    assert httpx.post(f"{hello}/echo", content=iter([body[:1000], body[1000:]])).content == body
    with connect(f"{socket_url(hello)}/ws", subprotocols=["echo"]) as client:  # type: ignore[list-item]
        assert client.subprotocol == "echo"
        client.send(body)
        assert client.recv(LIMIT_S) == body


# chat


def say(client: ClientConnection, name: str, text: str, key: str | None = None) -> None:
    client.send(json.dumps({"name": name, "text": text, "key": key}))


def heard(client: ClientConnection) -> tuple[str, str]:
    message = json.loads(client.recv(LIMIT_S))
    return message["name"], message["text"]


def history(client: ClientConnection) -> list[tuple[str, str]]:
    """What a member hears when it has come in, or when another process has taken over."""
    messages = json.loads(client.recv(LIMIT_S))
    assert isinstance(messages, list)
    return [(message["name"], message["text"]) for message in messages]


@contextmanager
def come_in(url: str, before: list[tuple[str, str]] | None = None) -> Iterator[ClientConnection]:
    with connect(f"{socket_url(url)}/ws") as client:
        assert history(client) == (before or [])
        yield client


def test_the_chat_joins_its_members_whichever_worker_holds_them(chat: str) -> None:
    assert "<title>Chat</title>" in httpx.get(chat).text
    with ExitStack() as stack:
        members = [stack.enter_context(come_in(chat)) for _ in range(6)]
        say(members[0], "Ada", "Hello")
        assert {heard(member) for member in members} == {("Ada", "Hello")}
        say(members[5], "Grace", "Hello Ada")
        assert {heard(member) for member in members} == {("Grace", "Hello Ada")}
        stack.enter_context(come_in(chat, [("Ada", "Hello"), ("Grace", "Hello Ada")]))


def test_the_chat_sends_nonsense_away(chat: str) -> None:
    hello = {"name": "Ada", "text": "Hello"}
    for nonsense in (
        "{", "1" * 5000, "[" * 5000, json.dumps(hello | {"text": " "}), json.dumps(hello | {"name": 1}),
        json.dumps(hello | {"key": 1}), json.dumps(hello | {"key": ""}), json.dumps(hello | {"key": "k" * 65}),
        json.dumps(hello | {"key": "\ud800"}), json.dumps([hello]), "null",
    ):  # fmt: skip
        with come_in(chat) as client:
            client.send(nonsense)
            assert close_of(client)[0] == 1008, nonsense


def test_the_chat_keeps_one_message_of_a_key(chat: str) -> None:
    with come_in(chat) as one, come_in(chat) as two:
        for client in (one, two):
            for key in ("a", "b", "a"):
                say(client, "Ada", f"Hello {key}", key)
            say(client, "Ada", "Hello")
        for client in (one, two):
            # What was said again is sent again, as it is in the log: it uses up no id.
            heard_here = [json.loads(client.recv(LIMIT_S)) for _ in range(8)]
            messages = {message["id"]: message for message in heard_here}
            assert all(messages[message["id"]] == message for message in heard_here)
            assert sorted(messages) == [1, 2, 3, 4]
            assert sorted(message["key"] or "" for message in messages.values()) == ["", "", "a", "b"]
        with connect(f"{socket_url(chat)}/ws") as late:
            assert json.loads(late.recv(LIMIT_S)) == [messages[number] for number in (1, 2, 3, 4)]


def kill_the_workers(server: Running) -> None:
    """Kill them all at once, and wait for the next ones."""
    killed = server.workers()
    # None may take over from one that was killed a moment before it.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in killed:
            os.kill(pid, number)
    eventually(lambda: len(set(server.workers()) - set(killed)) == len(killed), "other workers")


def test_the_chat_outlives_its_workers(chat_server: Running) -> None:
    with come_in(chat_server.url) as ada, come_in(chat_server.url) as grace:
        said = []
        for number in range(3):
            say(ada, "Ada", f"Before {number}", f"b{number}")
            said.append(("Ada", f"Before {number}"))
            assert heard(ada) == heard(grace) == said[-1]
            kill_the_workers(chat_server)
            # Each is told that there is another process; both are members as before.
            assert history(ada) == history(grace) == said
            # Had this not come back, it would have to be said again. It is in the log once.
            say(ada, "Ada", f"Before {number}", f"b{number}")
            say(ada, "Ada", f"After {number}", f"a{number}")
            for client in (ada, grace):
                assert [heard(client), heard(client)] == [said[-1], ("Ada", f"After {number}")]
            said.append(("Ada", f"After {number}"))
        with come_in(chat_server.url, said):
            pass


def test_the_chat_reads_on_from_its_log_after_a_gap(tmp_path: Path) -> None:
    """What a process had put into the log when it died, and what was lost on the way to the group."""
    path = tmp_path / "log.sqlite3"
    with (
        RedisServer() as redis,
        Running("serve", "-p", "0", *(cluster := ("--cluster", f"main=redis://127.0.0.1:{redis.port}"))) as server,
        Running("worker", "chat.app:app", *cluster, app_dir=EXAMPLES, environment={"CHAT_DB": str(path)}) as workers,
    ):
        workers.ready()
        with come_in(server.url) as ada:
            say(ada, "Ada", "One")
            assert heard(ada) == ("Ada", "One")
            redis.kill()
            with closing(sqlite3.connect(path)) as file, file:
                file.execute("INSERT INTO messages (sent_at, name, text) VALUES (1.5, 'Grace', 'Lost')")
            redis.start()
            assert history(ada) == [("Ada", "One"), ("Grace", "Lost")]
            say(ada, "Ada", "Two")
            assert heard(ada) == ("Ada", "Two")


def test_the_chat_reads_a_file_without_keys(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    file = sqlite3.connect(path)
    with file:
        file.execute(
            "CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, sent_at REAL NOT NULL, "
            "name TEXT NOT NULL, text TEXT NOT NULL)"
        )
        insert = "INSERT INTO messages (sent_at, name, text) VALUES (?, ?, ?)"
        file.executemany(insert, [(1.5, "Ada", "Old"), (2.5, "Ada", "Older")])
    # Twice: it was given its keys by the first.
    for number in (1, 2):
        with (
            run("chat.app:app", EXAMPLES, CHAT_DB=str(path)) as server,
            connect(f"{socket_url(server.ready().url)}/ws") as client,
        ):
            assert [message["key"] for message in json.loads(client.recv(LIMIT_S))] == [None, None, "k1"][: number + 1]
            say(client, "Ada", f"New {number}", f"k{number}")
            assert json.loads(client.recv(LIMIT_S))["key"] == f"k{number}"
    with file:
        # Whoever has it open since before goes on too.
        file.execute(insert, (3.5, "Ada", "From the former version"))
        assert file.execute("SELECT COUNT(*) FROM messages").fetchone() == (5,)
    file.close()


def test_the_chat_on_a_server_without_groups(tmp_path: Path) -> None:
    uvicorn = [sys.executable, "-m", "uvicorn", "chat.app:app", "--port", "0", "--app-dir", str(EXAMPLES)]
    environment = {"CHAT_DB": str(tmp_path / "log.sqlite3")}
    with Running(uvicorn, environment=environment, status=-signal.SIGTERM) as server:
        url = server.ready().said(r"running on (http://\S+)")[1]
        page = httpx.get(url)
        assert (page.status_code, page.text) == (501, NEEDS_GROUPS)
        server.said(NEEDS_GROUPS)
        with pytest.raises(InvalidStatus, match="403"), connect(f"{socket_url(url)}/ws"):
            pass


# FastAPI


def test_fastapi_json(fastapi: str) -> None:
    assert httpx.get(fastapi).json()["uptime_seconds"] >= 0
    order = {"lines": [{"name": "tea", "price": "2.50", "quantity": 2}]}
    made = httpx.post(f"{fastapi}/receipts", json=order)
    assert (made.status_code, made.json()) == (201, {"items": 2, "total": "5.00"})
    assert httpx.post(f"{fastapi}/receipts", json={"lines": []}).status_code == 422
    assert httpx.get(f"{fastapi}/docs").status_code == 200


def test_fastapi_server_sent_events_come_one_by_one(fastapi: str) -> None:
    at: list[float] = []
    with httpx.stream("GET", f"{fastapi}/events?count=3", timeout=LIMIT_S) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("id:"):
                at.append(time.monotonic())
                assert line == f"id: {len(at) - 1}"
    assert len(at) == 3
    # Half a second lies between two of them, where they are made.
    assert at[2] - at[0] > 0.5


def test_fastapi_upload(fastapi: str) -> None:
    content = os.urandom(3_000_000)
    sent = httpx.post(f"{fastapi}/upload", files={"file": ("a.bin", content)}, timeout=LIMIT_S)
    assert sent.json() == {"name": "a.bin", "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_fastapi_websocket(fastapi: str) -> None:
    with connect(f"{socket_url(fastapi)}/ws") as client:
        for number, total in (("2", 2), ("40", 42)):
            client.send(number)
            assert json.loads(client.recv(LIMIT_S)) == {"total": total}
        client.send("x")
        assert close_of(client) == (1008, "not a whole number")


# Django


class Browser(httpx.Client):
    """A client that fills in forms."""

    def submit(self, path: str, files: dict[str, tuple[str, bytes]] | None = None, **fields: str) -> httpx.Response:
        """Get a page and post the form on it, with its CSRF token."""
        page = self.get(path)
        token = re.search('name="csrfmiddlewaretoken" value="(.+?)"', page.text)
        assert token is not None, page.text
        data = {"csrfmiddlewaretoken": token[1], **fields}
        return self.post(path, data=data, files=files, headers={"referer": f"{self.base_url}"})


@pytest.fixture
def browser(django: str) -> Iterator[Browser]:
    with Browser(base_url=django, follow_redirects=True, timeout=LIMIT_S) as browser:
        yield browser


def test_django_login_and_admin(browser: Browser) -> None:
    assert "Log in" in browser.get("/").text
    assert browser.post("/accounts/login/", data={"username": "admin", "password": "admin"}).status_code == 403
    wrong = browser.submit("/accounts/login/", username="admin", password="wrong")
    assert "sessionid" not in browser.cookies
    assert wrong.status_code == 200
    home = browser.submit("/accounts/login/", username="admin", password="admin", next="/")
    assert '<span id="user">admin</span>' in home.text
    admin = browser.get("/admin/")
    assert "Site administration" in admin.text
    sheets = re.findall('<link rel="stylesheet" href="(.+?)"', admin.text)
    assert sheets
    for sheet in sheets:
        style = browser.get(sheet)
        assert (style.status_code, style.headers["content-type"]) == (200, "text/css")
    assert browser.get("/static/nothing.css").status_code == 404
    made = browser.submit("/admin/pages/entry/add/", author="Ada", text="From the admin")
    assert "was added successfully" in made.text


def test_django_static_files_are_not_sent_twice(browser: Browser) -> None:
    first = browser.get("/static/pages/style.css")
    again = browser.get("/static/pages/style.css", headers={"if-modified-since": first.headers["last-modified"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")


def test_django_guestbook(browser: Browser) -> None:
    page = browser.submit("/guestbook/", text="Fine weather <here>")
    assert page.url.path == "/guestbook/"
    assert "Fine weather &lt;here&gt;" in page.text


@pytest.mark.parametrize("size", [0, 10, 4_000_000])
def test_django_upload(browser: Browser, size: int) -> None:
    content = os.urandom(size)
    page = browser.submit("/upload/", files={"file": ("a.bin", content)})
    assert page.url.path.startswith("/upload/")
    assert f'<span id="result-size">{size}</span>' in page.text
    assert hashlib.sha256(content).hexdigest() in page.text


def test_django_stream_comes_line_by_line(browser: Browser) -> None:
    at = []
    with browser.stream("GET", "/stream/") as response:
        for line in response.iter_lines():
            at.append(time.monotonic())
            assert line.startswith(f"Line {len(at)} of 10, at ")
    assert len(at) == 10
    # A tenth of a second lies between two of them, where they are made.
    assert at[-1] - at[0] > 0.5


def test_django_clock_is_left_in_its_middle(browser: Browser) -> None:
    with browser.stream("GET", "/clock/events/") as response:
        assert next(response.iter_lines()) == "id: 0"


@pytest.fixture
def django_chat(django: str) -> Iterator[tuple[ClientConnection, ClientConnection]]:
    """Two members of the site's chat."""
    origin = Origin(django)
    with (
        connect(f"{socket_url(django)}/chat/ws", origin=origin) as one,
        connect(f"{socket_url(django)}/chat/ws", origin=origin) as two,
    ):
        assert history(one) == history(two)
        yield one, two


def test_django_chat(browser: Browser, django_chat: tuple[ClientConnection, ClientConnection]) -> None:
    assert "<title>Chat</title>" in browser.get("/chat/").text
    one, two = django_chat
    for text in ("Hello", "Hello again"):
        say(one, "Ada", text)
        assert heard(one) == heard(two) == ("Ada", text)
    # It keeps one message of a key.
    for name in ("Ada", "Grace"):
        say(two, name, "One", "a1")
        assert heard(one) == heard(two) == ("Ada", "One")


def test_the_django_site_speaks_in_its_chat(
    browser: Browser, django_chat: tuple[ClientConnection, ClientConnection]
) -> None:
    browser.submit("/guestbook/", text="Fine weather")
    for member in django_chat:
        assert heard(member) == ("The site", "A guest has signed the guestbook.")


def test_the_django_chat_sends_nonsense_and_strangers_away(django: str) -> None:
    with connect(f"{socket_url(django)}/chat/ws", origin=Origin(django)) as client:
        history(client)
        client.send("{")
        assert close_of(client)[0] == 1008
    with (
        pytest.raises(InvalidStatus, match="403"),
        connect(f"{socket_url(django)}/chat/ws", origin=Origin("http://a.test")),
    ):
        pass


def test_the_django_chat_outlives_its_workers(tmp_path: Path) -> None:
    arguments = ("run", "demo.asgi:application", "-p", "0", "--workers", "2", "--resumable", "/chat/*")
    environment = {"DJANGO_SITE_DATA": str(tmp_path)}
    with Running(*arguments, app_dir=EXAMPLES / "django_site", environment=environment) as server:
        url, origin = f"{socket_url(server.ready().url)}/chat/ws", Origin(server.url)
        with connect(url, origin=origin) as ada, connect(url, origin=origin) as grace:
            assert history(ada) == history(grace) == []
            said = []
            for number in range(3):
                say(ada, "Ada", f"Before {number}", f"b{number}")
                said.append(("Ada", f"Before {number}"))
                assert heard(ada) == heard(grace) == said[-1]
                kill_the_workers(server)
                assert history(ada) == history(grace) == said
        # On a busy machine the new workers take their time, and those who wait are reported.
        expected = ("was killed", "requests have waited for more than")
        warned = [line for line in server.output.splitlines() if "WARNING" in line or "ERROR" in line]
        assert all(any(text in line for text in expected) for line in warned), warned
