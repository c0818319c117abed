"""``manage.py runserver`` and ``manage.py ifserver``, as a developer has them: real processes and a real site."""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.e2e.running import LIMIT_S, ROOT, Running, eventually

SETTINGS = """
import os
SECRET_KEY = "x"
DEBUG = os.environ.get("SITE_DEBUG", "1") == "1"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["ifserver.django", "django.contrib.contenttypes", "django.contrib.auth",
                  "django.contrib.staticfiles", "pages"]
ROOT_URLCONF = "mysite.urls"
ASGI_APPLICATION = "mysite.asgi.application"
WSGI_APPLICATION = "mysite.wsgi.application"
STATIC_URL = "/static/"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["SITE_DATABASE"]}}
IFSERVER = {"front": {"max_websocket_message_bytes": "1KiB", "admin": "127.0.0.1:1"},
            "worker": {"processes": 3, "reload_include": "*.cfg"}}
"""
ASGI = """
from django.core.asgi import get_asgi_application
pages = get_asgi_application()
from pages.views import VERSION
async def application(scope, receive, send):
    if scope["type"] != "websocket":
        return await pages(scope, receive, send)
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{VERSION} {event['text']}"})
"""
VIEWS = """
import asyncio, os, sys, time
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
VERSION = 1
def index(request):
    return HttpResponse(f"version {VERSION}")
def about(request):
    return JsonResponse({
        "kind": type(request).__name__, "argv": sys.argv, "main": os.environ.get("RUN_MAIN"), "path": sys.path[0],
        "ours": [name for name in os.environ if name.startswith("IFSERVER_LISTEN")],
    })
def fails(request):
    return HttpResponse(1 / 0)
async def ticks():
    while True:
        yield f"data: {VERSION}\\n\\n"
        await asyncio.sleep(0.1)
async def events(request):
    return StreamingHttpResponse(ticks(), content_type="text/event-stream")
def hangs(request):
    print("it hangs", flush=True)
    time.sleep(3600)
"""
FILES = {
    "manage.py": "import os, sys\nfrom django.core.management import execute_from_command_line\n"
    'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")\nexecute_from_command_line(sys.argv)\n',
    "mysite/__init__.py": "",
    "mysite/settings.py": SETTINGS,
    "mysite/asgi.py": ASGI,
    "mysite/wsgi.py": "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n",
    "mysite/urls.py": "from django.urls import path\nfrom pages import views\nurlpatterns = [path('', views.index), "
    "path('about/', views.about), path('fails/', views.fails), path('hangs/', views.hangs), "
    "path('events/', views.events)]\n",
    "pages/__init__.py": "",
    "pages/views.py": VIEWS,
    "pages/static/pages/style.css": "body {}",
}


class Site:
    """A Django project in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "site"
        for name, text in FILES.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.environment = {
            "SITE_DATABASE": str(folder / "db.sqlite3"),
            "PYTHONPATH": str(ROOT),
            # Python takes what was compiled in the same second, and has the same length, for the same.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.server: Running

    def manage(self, *arguments: str, status: int = 0, tracebacks: int = 0, **environment: str) -> Running:
        """``manage.py``, from another folder than its own."""
        command = [sys.executable, str(self.folder / "manage.py"), *arguments]
        environment = {**self.environment, **environment}
        cwd = self.folder.parent
        return Running(command, cwd=cwd, environment=environment, status=status, tracebacks=tracebacks)

    @contextmanager
    def runserver(self, *arguments: str, tracebacks: int = 0, **environment: str) -> Iterator[Running]:
        with self.manage("runserver", "0", *arguments, tracebacks=tracebacks, **environment) as self.server:
            yield self.server

    @property
    def address(self) -> str:
        return self.server.said(r"Starting (?:ASGI|WSGI)/ifserver version \S+ development server at http://(\S+)/$")[1]

    def get(self, path: str = "/", accept: str = "*/*") -> httpx.Response:
        return httpx.get(f"http://{self.address}{path}", headers={"accept": accept}, timeout=LIMIT_S)

    def connect(self) -> ClientConnection:
        return connect(f"ws://{self.address}/ws/")

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def ask(client: ClientConnection, text: str) -> str:
    client.send(text)
    return str(client.recv(LIMIT_S))


def test_an_edit_reaches_open_websockets_and_a_broken_one_is_shown(site: Site) -> None:
    with site.runserver(tracebacks=2) as server:
        with site.connect() as client:
            assert ask(client, "a") == "1 a"
            assert site.get().text == "version 1"

            site.edit("pages/views.py", "VERSION = 1", "VERSION = 2")
            server.said(r"pages/views\.py changed")
            assert site.get().text == "version 2"
            assert ask(client, "b") == "2 b"
            (site.folder / "pages" / "some.cfg").touch()
            server.said(r"pages/some\.cfg changed")
            assert ask(client, "b") == "2 b"

            site.edit("pages/views.py", "VERSION = 2", "VERSION = (")
            server.said("ERROR: The application cannot be loaded:")
            page = eventually(lambda: (r := site.get(accept="text/html")).status_code == 500 and r, "the error")
            assert "SyntaxError" in page.text
            assert "views.py" in page.text
            # The traceback begins where the site's own code does.
            assert "django/core" not in page.text
            with pytest.raises(InvalidStatus):
                site.connect()

            site.edit("pages/views.py", "VERSION = (", "VERSION = 3")
            eventually(lambda: site.get().text == "version 3", "the mended version")
            assert ask(client, "c") == "3 c"
            # Django's own page, and its traceback in the terminal.
            failed = site.get("/fails/", accept="text/html")
            assert (failed.status_code, "ZeroDivisionError" in failed.text) == (500, True)
            server.said("ZeroDivisionError")
        server.said(r"WebSocket DISCONNECT /ws/ ")
        server.end(signal.SIGINT)
        assert re.search(r"WebSocket HANDSHAKING /ws/ (?s:.*)WebSocket CONNECT /ws/ ", server.output)
        assert server.output.count("WebSocket CONNECT") == 1
        assert server.output.count("The application cannot be loaded") == 1
        assert re.search(r'^\[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\] "GET / HTTP/1.1" 200 9$', server.output, re.MULTILINE)


def test_settings_say_anew_whether_it_is_asgi_or_wsgi(site: Site) -> None:
    """As in the tutorial of Channels, where ASGI_APPLICATION comes while runserver runs."""
    asgi = 'ASGI_APPLICATION = "mysite.asgi.application"\n'
    site.edit("mysite/settings.py", asgi, "")
    with site.runserver() as server:
        assert site.get("/about/").json()["kind"] == "WSGIRequest"
        with pytest.raises(InvalidStatus):
            site.connect()
        site.edit("mysite/settings.py", "WSGI_APP", f"{asgi}WSGI_APP")
        eventually(lambda: site.get("/about/").json()["kind"] == "ASGIRequest", "ASGI")
        with site.connect() as client:
            assert ask(client, "a") == "1 a"
        site.edit("mysite/settings.py", asgi, "")
        eventually(lambda: site.get("/about/").json()["kind"] == "WSGIRequest", "WSGI")
        assert "IFSERVER in the settings has changed" not in server.output
        site.edit("mysite/settings.py", '"1KiB"', '"2KiB"')
        server.said(r"^IFSERVER in the settings has changed\. It is read only when runserver starts: restart it\.$")
    with site.runserver("--noasgi") as server:
        assert site.get("/about/").json()["kind"] == "WSGIRequest"
        site.edit("mysite/settings.py", "WSGI_APP", f"{asgi}WSGI_APP")
        server.said(r"mysite/settings\.py changed")
        assert site.get("/about/").json()["kind"] == "WSGIRequest"
    site.edit("mysite/settings.py", asgi, "")
    with site.runserver("--nothreading") as server:
        assert site.get().text == "version 1"
        site.edit("mysite/settings.py", "WSGI_APP", f"{asgi}WSGI_APP")
        server.said("The application cannot be loaded: --nothreading is for WSGI: with ASGI, add --noasgi.")


def test_an_error_in_a_model_is_told_by_its_line(site: Site) -> None:
    with site.runserver(tracebacks=1) as server:
        assert site.get().text == "version 1"
        (site.folder / "pages" / "models.py").write_text(
            "from django.db import models\nclass Page(models.Model):\n"
            "    author = models.ForeignKey('auth.User', on_delete=None)\n"
        )
        said = r"^django\.setup\(\): TypeError: on_delete must be callable\. "
        server.said(rf"{said}\({re.escape(str(site.folder))}/pages/models\.py:3\)")


def test_an_edit_ends_event_streams_and_alarms_nobody(site: Site) -> None:
    """Their clients connect again. Nothing else waits for them."""
    with site.runserver() as server:
        url = f"http://{site.address}/events/"
        with httpx.stream("GET", url, timeout=LIMIT_S) as response:
            lines = response.iter_lines()
            assert next(lines) == "data: 1"
            site.edit("pages/views.py", "VERSION = 1", "VERSION = 2")
            server.said(r"pages/views\.py changed")
            assert site.get().text == "version 2"
            with httpx.stream("GET", url, timeout=LIMIT_S) as second:
                assert next(second.iter_lines()) == "data: 2"
            with pytest.raises(httpx.TransportError):
                list(lines)
        server.said(r'"GET /events/ HTTP/1\.1" 200 ', times=2)
        assert "ERROR" not in server.output
        assert "have not ended" not in server.output


def test_it_says_what_django_says(site: Site) -> None:
    with site.runserver() as server:
        said = [
            r"^Performing system checks\.\.\.$",
            r"^System check identified no issues \(0 silenced\)\.$",
            r"^You have \d+ unapplied migration\(s\)\..* app\(s\): auth, contenttypes\.$",
            r"^Run 'python manage.py migrate' to apply them\.$",
            r"^Django version \S+, using settings 'mysite.settings'$",
            r"^Quit the server with CONTROL-C\.$",
        ]
        places = [server.said(each) and re.search(each, server.output, re.MULTILINE) for each in said]
        assert [place.start() for place in places if place] == sorted(place.start() for place in places if place)
        about = site.get("/about/").json()
        assert about["kind"] == "ASGIRequest"
        assert about["argv"] == [str(site.folder / "manage.py"), "runserver", "0"]
        assert (about["main"], about["path"]) == ("true", str(site.folder))
        # The limits of IFSERVER hold; what is for production does not.
        with site.connect() as client:
            client.send("x" * 2000)
            with pytest.raises(Exception, match="1009"):
                client.recv(LIMIT_S)
        host, port = site.address.split(":")
        with site.manage("runserver", f"{host}:{port}", status=1) as second:
            second.said("^Error: That port is already in use.$")
            second.ended()
        # What the checks find is shown, and the next edit mends it.
        site.edit("mysite/settings.py", '"ifserver.django", ', "")
        site.edit("mysite/settings.py", '"pages"]', '"ifserver.django", "pages"]')
        server.said(r"\(ifserver.E001\)")
        page = eventually(lambda: (r := site.get()).status_code == 500 and r.text, "the error")
        assert "HINT: Put ifserver.django first." in page
        assert "\x1b" not in page
        site.edit("mysite/settings.py", 'APPS = ["django', 'APPS = ["ifserver.django", "django')
        site.edit("mysite/settings.py", '"ifserver.django", "pages"]', '"pages"]')
        eventually(lambda: site.get().text == "version 1", "the mended settings")


def test_static_files_with_debug_and_without(site: Site) -> None:
    style = "/static/pages/style.css"
    with site.runserver("--noreload", "--noasgi", "--nothreading", IFSERVER_LISTEN_PORT="1") as server:
        assert site.get(style).text == "body {}"
        assert site.get("/about/").json()["kind"] == "WSGIRequest"
        assert site.get("/about/").json()["ours"] == []
        assert "WSGI/ifserver" in server.output
        assert "Watching" not in server.output
    with site.runserver("--nostatic") as server:
        assert site.get(style).status_code == 404
        server.said('"GET /static/pages/style.css HTTP/1.1" 404 ')
    with site.runserver("--noreload", SITE_DEBUG="0"):
        assert site.get(style).status_code == 404
    with site.runserver("--insecure", "--noreload", SITE_DEBUG="0"):
        assert site.get(style).text == "body {}"


@pytest.mark.parametrize("by", ["settings", "environment", "option"])
def test_http_of_its_own_has_static_files_and_the_log(site: Site, by: str) -> None:
    """``worker.http``, which is a pool beside that of WebSockets."""
    environment = {"IFSERVER_WORKER_HTTP": "mysite.wsgi:application"} if by == "environment" else {}
    option = ("--http", "mysite.wsgi:application") if by == "option" else ()
    if by == "settings":
        http = '"http": "mysite.wsgi:application", "pools": ["http"],'
        site.edit("mysite/settings.py", '"processes": 3', f'{http} "processes": 3')
    with site.runserver(*option, **environment) as server:
        assert site.get("/static/pages/style.css").text == "body {}"
        server.said('"GET /static/pages/style.css HTTP/1.1" 200 ')
        assert site.get("/about/").json()["kind"] == "WSGIRequest"
        with site.connect() as client:
            client.send("a")
            assert client.recv(LIMIT_S) == "1 a"
        server.said("WebSocket CONNECT /ws/")
        assert "Starting ASGI/" in server.output
        assert "HTTP is answered by mysite.wsgi:application (WSGI)" in server.output
        assert server.output.count("Performing system checks") == 1
    with site.runserver("--noasgi", "--noreload", **environment) as server:
        assert site.get("/static/pages/style.css").text == "body {}"
        assert "Starting WSGI/" in server.output


@pytest.mark.parametrize("command", ["'runserver', '0', '--noreload'", "'ifserver', '--', '-p', '0', '-w', '1'"])
def test_the_server_of_another_command_ends_with_it(site: Site, command: str) -> None:
    folder = site.folder / "pages" / "management" / "commands"
    folder.mkdir(parents=True)
    (folder / "own.py").write_text(
        "from django.core.management import BaseCommand, call_command\n"
        "class Command(BaseCommand):\n"
        f"    def handle(self, **options):\n        call_command({command})\n"
    )
    with site.manage("own", status=-signal.SIGTERM) as server:
        url = server.said(r"(?:listening on|server at) (http://127\.0\.0\.1:\d+)")[1]
        assert httpx.get(url, timeout=LIMIT_S).text == "version 1"
        server.end()  # which checks that nothing is left


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x:y",), '"x:y" is not a valid port number or address:port pair.'),
        (("--nothreading",), "--nothreading is for WSGI: with ASGI, add --noasgi."),
        (("--websocket-max-frame-size", "9"), "give --websocket-max-message-size."),
        (
            ("--noasgi", "--http", "mysite.wsgi:application"),
            "--http is for a site that runs an ASGI_APPLICATION beside it.",
        ),
        (("--http_timeout", "0"), "--http_timeout: must be at least 1 second, got 0."),
    ],
)
def test_options_that_cannot_be(site: Site, arguments: tuple[str, ...], said: str) -> None:
    with site.manage("runserver", *arguments, status=1) as command:
        command.said(f"^CommandError: .*{re.escape(said)}$")
        command.ended()


def test_ctrl_c_waits_for_no_request(site: Site) -> None:
    with site.runserver("--noasgi") as server:
        host, port = site.address.split(":")
        with socket.create_connection((host, int(port)), LIMIT_S) as client:
            client.sendall(b"GET /hangs/ HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            server.said("it hangs")
            server.end(signal.SIGINT)
        assert "has not stopped within" not in server.output


def test_without_reload_an_error_ends_it(site: Site) -> None:
    site.edit("pages/views.py", "VERSION = 1", "VERSION = (")
    with site.manage("runserver", "0", "--noreload", status=2, tracebacks=1) as command:
        command.said("SyntaxError: ")
        command.ended()


def test_testserver_keeps_to_its_own_database(site: Site) -> None:
    site.edit("pages/views.py", "return HttpResponse(f", "from django.db import connection; return HttpResponse(f")
    site.edit("pages/views.py", "version {VERSION}", "database {connection.settings_dict['NAME']}")
    data = site.folder / "group.json"
    data.write_text('[{"model": "auth.group", "pk": 1, "fields": {"name": "x", "permissions": []}}]')
    with site.manage("testserver", str(data), "--noinput", "--addrport", "0", "-v", "0") as server:
        url = server.said(r"Starting development server at (\S+)$")[1]
        answer = httpx.get(url, timeout=LIMIT_S).text
        assert answer.startswith("database ")
        assert answer != f"database {site.environment['SITE_DATABASE']}"
        server.end(signal.SIGINT)


def test_ipv6(site: Site) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with site.runserver("-6"):
        assert site.address.startswith("[::1]:")
        assert site.get().text == "version 1"


def test_production_has_the_projects_settings(site: Site) -> None:
    site.edit("mysite/settings.py", '"admin": "127.0.0.1:1"', '"server_header": "from the project"')
    (site.folder.parent / "ifserver.toml").write_text("[worker]\nprocesses = 1\n[front]\nmax_headers = 50\n")
    with site.manage("ifserver", "-p", "0", SITE_DEBUG="0") as server:
        url = server.url
        server.said("ready: requests are answered")
        answer = httpx.get(url, timeout=LIMIT_S)
        assert (answer.text, answer.headers["server"]) == ("version 1", "from the project")
        assert "1 worker runs mysite.asgi:application" in server.output
    with site.manage("ifserver", "settings") as shown:
        shown.said(r'front\.server_header .*"from the project" .* IFSERVER\["front"\]\["server_header"\]$')
        shown.said(r"front\.max_headers .* 50 .* ifserver\.toml:4$")
        shown.said(r'worker\.application .*"mysite\.asgi:application" .* manage\.py$')
        shown.ended()
    site.edit("mysite/settings.py", '"server_header"', '"max_heders"')
    with site.manage("ifserver", "-p", "0", status=2) as command:
        said = 'IFSERVER["front"]["max_heders"]: front.max_heders: unknown; did you mean front.max_headers?'
        command.said(re.escape(said))
        command.ended()


@pytest.mark.parametrize(
    ("edit", "arguments", "said"),
    [
        (None, ("--max-heders", "1"), "max-heders"),
        (None, ("serve", "-p", "0"), "a cluster is missing"),
        (('ALLOWED_HOSTS = ["127.0.0.1"]', "ALLOWED_HOSTS = []"), (), "You must set settings.ALLOWED_HOSTS"),
        (
            (
                "IFSERVER = {",
                "CHANNEL_LAYERS = {'default': {'BACKEND': 'ifserver.django.ChannelLayer', 'CONFIG': 5}}\nIFSERVER = {",
            ),
            (),
            "E004",
        ),
    ],
)
def test_what_has_to_be_corrected_ends_production_with_2(
    site: Site, edit: tuple[str, str] | None, arguments: tuple[str, ...], said: str
) -> None:
    """As the command ifserver does, so that systemd does not start it again and again."""
    if edit is not None:
        site.edit("mysite/settings.py", *edit)
    with site.manage("ifserver", *arguments, status=2, SITE_DEBUG="0") as command:
        command.said(said)
        command.ended()
