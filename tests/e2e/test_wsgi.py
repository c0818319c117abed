"""A WSGI application, which is what many Django sites still are, behind the same command."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import httpx

from tests.e2e.running import APPS, EXAMPLES, LIMIT_S, Gate, Running
from tests.e2e.wire import Wire


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
