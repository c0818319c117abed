"""What becomes of a client's connection, across real processes: when it is kept, and who has it meanwhile."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.running import APPS, Running

LIMIT_S = 120.0
#: More than what the kernel's buffers take.
UPLOAD_BYTES = 3_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running("run", "zoo:app", "--workers", "2", "-b", "127.0.0.1", "-p", "0", app_dir=APPS) as running:
        yield running.ready()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_nobody_reads_does_not_cost_the_connection(server: Running, chunked: bool) -> None:
    """http.client sends all of it before it looks at the response."""
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)
    client.connect()
    client.auto_open = 0
    for _ in range(40):
        body = iter([bytes(100_000)] * 30) if chunked else bytes(UPLOAD_BYTES)
        client.request("POST", "/nothing", body, encode_chunked=chunked)
        with client.getresponse() as response:
            assert (response.status, response.getheader("connection")) == (404, None)
            response.read()
        client.request("GET", "/")
        with client.getresponse() as response:
            assert response.status == 200
            response.read()
    client.close()


def test_a_pool_of_connections_survives_bodies_that_nobody_reads(server: Running) -> None:
    with httpx.Client(base_url=server.url, timeout=LIMIT_S) as client:
        for _ in range(40):
            assert client.post("/nothing", content=bytes(UPLOAD_BYTES)).status_code == 404
            assert client.post("/count", content=b"x" * 1000).text == "1000"


def test_the_answer_to_a_body_that_is_too_long_to_be_read_arrives(server: Running) -> None:
    """The client sends all of it all the same, and then opens another connection, since it was told to."""
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)
    for _ in range(5):
        client.request("POST", "/nothing", bytes(30_000_000))
        with client.getresponse() as response:
            assert (response.status, response.getheader("connection")) == (404, "close")
            response.read()
    client.close()
