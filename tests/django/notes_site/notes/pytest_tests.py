"""What a site may ask of the fixtures, beside its test cases."""

import httpx
import pytest
from websockets.sync.client import connect

from notes.models import Note


@pytest.mark.parametrize("text", ["first", "second"])
def test_the_test_and_the_site_share_a_database(ifserver_live_server, text) -> None:
    Note.objects.create(text=text)
    assert httpx.get(ifserver_live_server.url, timeout=60).json() == {"notes": [text]}


def test_websockets(ifserver_live_server) -> None:
    with connect(f"{ifserver_live_server.ws_url}/ws/", open_timeout=60) as socket:
        socket.send('{"text": "news"}')
        assert socket.recv(60) == '{"text": "news", "count": 1}'


def test_without_a_server(db) -> None:
    assert not Note.objects.exists()


@pytest.mark.django_db(databases=["default", "archive"], transaction=True)
def test_another_database(ifserver_live_server) -> None:
    Note.objects.using("archive").create(text="old")
    assert httpx.get(f"{ifserver_live_server.url}/archive/", timeout=60).text == "1"
