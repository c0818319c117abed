"""A WSGI application, which is what many Django sites still are, behind the same command."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.e2e.running import APPS, EXAMPLES, LIMIT_S, Gate, Running, eventually
from tests.e2e.test_files import slow
from tests.e2e.wire import Wire
from tests.e2e.wsgi_zoo import FILE_BYTES


def test_the_django_example_by_its_wsgi_entry(tmp_path: Path) -> None:
    site = {"DJANGO_SITE_DATA": str(tmp_path)}
    command = ("run", "demo.wsgi:application", "-p", "0", "--workers", "1", "--threads", "4")
    with Running(*command, app_dir=EXAMPLES / "django_site", environment=site) as server, httpx.Client() as client:
        server.ready()
        page = client.get(f"{server.url}/guestbook/", timeout=LIMIT_S)
        assert page.status_code == 200
        entry = {"name": "Grace", "text": "by WSGI", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
        answer = client.post(f"{server.url}/guestbook/", data=entry, timeout=LIMIT_S, follow_redirects=True)
        assert answer.status_code == 200
        assert "by WSGI" in answer.text


def test_a_worker_whose_threads_all_send_responses_leaves_requests_to_others(gate: Gate) -> None:
    command = ("run", "wsgi_zoo:app", "-p", "0", "--workers", "2", "--threads", "2", "--queue-timeout", "5s")
    with Running(*command, app_dir=APPS) as server, ExitStack() as stack:
        server.ready()

        def wire() -> Wire:
            return stack.enter_context(Wire(("127.0.0.1", server.port)))

        # Of three streams two are of one worker, which has no other threads; the other worker has one.
        streams: dict[bytes, list[Wire]] = defaultdict(list)
        for _ in range(3):
            client = wire().send(f"GET /half?gate={gate} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
            assert client.head()[0] == 200
            streams[client.chunk()].append(client)
        assert sorted(map(len, streams.values())) == [1, 2]
        [idle] = [pid for pid, clients in streams.items() if len(clients) == 1]
        others = [wire().send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n") for _ in range(24)]
        for other in others:
            reply = other.receive()
            assert (reply.status, reply.body) == (200, idle)
        gate.open()
        for clients in streams.values():
            for client in clients:
                assert client.chunks() == b"end"


@pytest.mark.parametrize("target", ["file", "pieces", "whole"])
def test_clients_that_read_nothing_hold_no_thread(target: str) -> None:
    command = ("run", "wsgi_zoo:app", "-p", "0", "--workers", "1", "--threads", "2")
    with Running(*command, app_dir=APPS) as server, ExitStack() as stack:
        server.ready()
        idle = [stack.enter_context(slow(server, target)) for _ in range(5)]
        for sock in idle:
            assert sock.recv(1) == b"H"  # it has a thread, or had one
        assert httpx.get(server.url, timeout=LIMIT_S).text.isdecimal()
        for sock in idle:
            body = b"".join(iter(lambda sock=sock: sock.recv(1_000_000), b"")).partition(b"\r\n\r\n")[2]
            assert body.count(b"x") == FILE_BYTES or body == b"0123456789abcdef" * (FILE_BYTES // 16)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    """A server with one worker, on a port and a Unix socket, which trusts its proxies."""
    path = str(tmp_path_factory.mktemp("zoo") / "web.sock")
    words = ("-b", "127.0.0.1", "-p", "0", "-u", path, "--workers", "1", "--proxy-headers")
    with Running("run", "wsgi_zoo:app", *words, app_dir=APPS) as server:
        server.ready()
        yield server, path


@pytest.fixture
def client(zoo: tuple[Running, str]) -> Iterator[Wire]:
    with Wire(("127.0.0.1", zoo[0].port)) as wire:
        yield wire


def test_of_a_file_that_grows_as_much_is_sent_as_was_announced(zoo: tuple[Running, str], client: Wire) -> None:
    for _ in range(3):
        reply = client.get("/grows")
        assert (reply.status, reply.body, reply.framing) == (200, b"0123456789", "length")
    zoo[0].said("GET '/grows' .*: the body is longer than its Content-Length")


def test_headers_that_are_about_the_connection_are_dropped(client: Wire) -> None:
    reply = client.get("/hops")
    assert (reply.status, reply.body, reply.header("x-a"), reply.header("keep-alive")) == (
        200,
        b"data: 1\n\n",
        "1",
        None,
    )
    assert client.get("/").status == 200


@pytest.mark.parametrize("target", ["/file", "/pieces", "/whole"])
def test_a_large_response_comes_whole(client: Wire, target: str) -> None:
    body = client.get(target).body
    assert len(body) == FILE_BYTES
    assert target == "/pieces" or body == b"0123456789abcdef" * (FILE_BYTES // 16)


def test_a_path_is_the_bytes_that_came(client: Wire) -> None:
    shown = json.loads(client.get("/show/%FF%c3%a4%2F").body)
    assert shown["PATH_INFO"] == "/show/\xff\xc3\xa4/"
    assert shown["RAW_URI"] == "/show/%FF%c3%a4%2F"


def test_a_list_of_a_kind_that_closes_is_closed(client: Wire) -> None:
    before = int(client.get("/closed").body)
    assert client.get("/closing").body == b"onetwo"
    eventually(lambda: int(client.get("/closed").body) == before + 1, "it is closed")


def test_addresses_over_a_unix_socket(zoo: tuple[Running, str]) -> None:
    with Wire(zoo[1]) as client:
        shown = json.loads(client.get("/show").body)
        assert (shown["REMOTE_ADDR"], shown["SERVER_NAME"], shown["SERVER_PORT"]) == ("", "test", "80")


def test_addresses_that_a_trusted_proxy_tells(zoo: tuple[Running, str], client: Wire) -> None:
    told = ("X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https")
    shown = json.loads(client.get("/show", *told).body)
    assert (shown["REMOTE_ADDR"], shown["wsgi.url_scheme"]) == ("192.0.2.7", "https")
    with Wire(zoo[1]) as proxied:
        shown = json.loads(proxied.get("/show", *told).body)
    assert (shown["REMOTE_ADDR"], shown["wsgi.url_scheme"], shown["SERVER_PORT"]) == ("192.0.2.7", "https", "443")


def test_streams_go_both_ways_where_uploads_are_streamed() -> None:
    command = ("run", "wsgi_zoo:app", "-p", "0", "--workers", "1", "--threads", "2", "--stream-uploads")
    with Running(*command, app_dir=APPS) as server:
        server.ready()
        with Wire(("127.0.0.1", server.port)) as one, Wire(("127.0.0.1", server.port)) as other:
            one.send(b"POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
            assert one.head()[0] == 200
            assert one.chunk() == b"one"
            assert other.get("/").status == 200, "it blocks its thread alone"
            one.send(b"3\r\ntwo\r\n")
            assert one.chunk() == b"two"
            one.send(b"0\r\n\r\n")
            assert one.chunks() == b""
            one.send(b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 3_000_000)
            assert one.receive().body == b"x" * 3_000_000


def test_a_websocket_handshake_reaches_the_application_as_a_get(client: Wire) -> None:
    handshake = ("upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13")
    reply = client.get("/show?a=1", *handshake, "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==")
    shown = json.loads(reply.body)
    assert (reply.status, shown["REQUEST_METHOD"], shown["QUERY_STRING"]) == (200, "GET", "a=1")
    assert (shown["HTTP_UPGRADE"], shown["HTTP_CONNECTION"]) == ("websocket", "upgrade")
