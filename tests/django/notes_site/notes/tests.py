"""What a site may ask of its test cases; `tests.django.test_testing` has Django and pytest-django run them."""

import json
import os

import httpx
from django.test import override_settings
from websockets.sync.client import ClientConnection, connect

from ifserver.django import ChannelsLiveServerTestCase, LiveServerTestCase
from notes.models import Note


class HttpTests(LiveServerTestCase):
    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.live_server_url + path, timeout=60)

    def test_the_site_sees_what_the_test_has_written(self) -> None:
        Note.objects.create(text="from the test")
        assert self.get("/").json() == {"notes": ["from the test"]}

    def test_the_test_sees_what_the_site_has_written(self) -> None:
        assert httpx.post(self.live_server_url, content="from the site").status_code == 200
        assert [note.text for note in Note.objects.all()] == ["from the site"]

    def test_nothing_of_other_tests_is_left(self) -> None:
        assert self.get("/").json() == {"notes": []}

    def test_static_files_are_served(self) -> None:
        answer = self.get("/static/notes/style.css")
        assert (answer.status_code, answer.text) == (200, "body { color: black }\n")
        assert self.get("/static/notes/missing.css").status_code == 404

    def test_mail_is_sent_to_nobody(self) -> None:
        assert self.get("/mail/").text == "django.core.mail.backends.locmem.EmailBackend"

    def test_a_database_that_the_test_case_does_not_have_cannot_be_used(self) -> None:
        before = self.server.written
        assert self.get("/archive/").status_code == 500
        self.server.wait_for_output("Add 'archive' to notes.tests.HttpTests.databases", before)

    def test_a_worker_that_dies_is_replaced(self) -> None:
        Note.objects.create(text="kept")
        killed = self.server.kill_worker()
        assert self.get("/").json() == {"notes": ["kept"]}
        assert killed not in self.server.workers

    if "NOTES_FAIL" in os.environ:

        def test_fails(self) -> None:
            assert self.get("/broken/").status_code == 200


@override_settings(GREETING="overridden", ASGI_APPLICATION=None)
class SettingsTests(LiveServerTestCase):
    serve_static = False
    databases = frozenset({"default", "archive"})

    def test_the_site_has_the_settings_of_the_class(self) -> None:
        assert httpx.get(f"{self.live_server_url}/greeting/").text == "overridden http wsgi"

    def test_static_files_are_not_served(self) -> None:
        assert httpx.get(f"{self.live_server_url}/static/notes/style.css").status_code == 404

    def test_it_has_the_databases_of_the_class(self) -> None:
        Note.objects.using("archive").create(text="old")
        assert httpx.get(f"{self.live_server_url}/archive/").text == "1"


class WebSocketTests(ChannelsLiveServerTestCase):
    server_options = {"resumable": ["/ws/*"]}  # noqa: RUF012

    def connect(self) -> ClientConnection:
        return connect(f"{self.live_server_ws_url}/ws/", open_timeout=60)

    def test_everybody_is_told(self) -> None:
        with self.connect() as first, self.connect() as second:
            first.send(json.dumps({"text": "news"}))
            for each in (first, second):
                assert json.loads(each.recv(60)) == {"text": "news", "count": 1}
        assert Note.objects.get().text == "news"

    def test_a_socket_stays_open_while_the_workers_are_replaced(self) -> None:
        with self.connect() as socket:
            self.server.restart_workers()
            socket.send(json.dumps({"text": "news"}))
            assert json.loads(socket.recv(60)) == {"text": "news", "count": 1}
