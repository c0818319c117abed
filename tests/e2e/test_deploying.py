"""Real traffic through the examples in ``packaging``: HAProxy and nginx read them as they are, but for addresses.

Both are in front of the commands that their own comments name. HAProxy's network 10.77.0.0/24 becomes 127.77.0.0/24.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from websockets.sync.client import connect

from tests.certificates import Certificates
from tests.command_lines import command_lines
from tests.e2e.running import APPS, ROOT, Gate, Running, eventually
from tests.e2e.wire import Reply, Wire, handshake, heard_over_tls
from tests.redis_server import RedisServer

HAPROXY = ROOT / "packaging/haproxy/haproxy.cfg"
NGINX = ROOT / "packaging/nginx/ifserver.conf"
LIMIT_S = 120.0
#: Who the clients are.
CLIENT = "127.0.0.3"

#: What ``edges`` has, and an event stream whose second and third event wait for a file each.
APPLICATION = """
from urllib.parse import parse_qs
import edges, zoo
async def app(scope, receive, send):
    if scope["type"] == "lifespan" or scope["path"] not in ("/events", "/echo"):
        return await edges.app(scope, receive, send)
    if scope["path"] == "/echo":
        return await zoo.echo(scope, receive, send)
    gate = parse_qs(scope["query_string"].decode())["gate"][0]
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(3):
        if number:
            await zoo.at(f"{gate}{number}")
        await send({"type": "http.response.body", "body": b"data: %d\\n\\n" % number, "more_body": True})
    await send({"type": "http.response.body"})
"""


class Way(NamedTuple):
    """A way to the application, through a proxy."""

    proxy: Running
    port: int
    tls_port: int
    trusted: ssl.SSLContext
    #: Folder for gates.
    folder: Path

    def wire(self) -> Wire:
        """A connection of `CLIENT`'s."""
        return From(("127.0.0.1", self.port))

    def secure(self) -> ssl.SSLSocket:
        """The same over TLS."""
        plain = socket.create_connection(("127.0.0.1", self.tls_port), LIMIT_S, (CLIENT, 0))
        return self.trusted.wrap_socket(plain, server_hostname="localhost")


class From(Wire):
    """A connection from `CLIENT`."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, LIMIT_S, (CLIENT, 0))
        self._file = self.socket.makefile("rb")


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    assert found is not None, f"{name} is missing: run tools/install-system-packages"
    return found


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """`text` with replacements, each of which must be for something."""
    for old, new in pairs:
        assert re.search(old, text, re.M), f"{old} is not there any more"
        text = re.sub(old, new, text, flags=re.M)
    return text


def listening(port: int, proxy: Running) -> bool:
    assert proxy.process.poll() is None, proxy.output
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def app_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("application")
    (folder / "deployed.py").write_text(APPLICATION)
    return folder


@pytest.fixture(scope="module")
def certificates() -> Iterator[Certificates]:
    with Certificates() as made:
        yield made


# HAProxy.


class Site:
    """Two interface servers behind HAProxy, started as its configuration says, and workers."""

    def __init__(self, stack: ExitStack, folder: Path, app_dir: Path, certificates: Certificates) -> None:
        self._stack, self._app_dir = stack, app_dir
        redis = stack.enter_context(RedisServer())
        self.port, self.tls_port, self.client_port, admin = (free_port() for _ in range(4))
        self._addresses = [
            (r"redis://10\.77\.0\.3", f"redis://127.0.0.1:{redis.port}"),
            (r"10\.77\.0\.2\b", "127.0.0.1"),
            (r"10\.77\.", "127.77."),
            (r"\b9100\b", str(admin)),
        ]
        text = replaced(HAPROXY.read_text(), *self._addresses)
        [words] = command_lines(text)
        others = [word.replace("127.77.0.11", "127.77.0.12") for word in words]
        port = ("-p", str(self.port))
        self.servers = [stack.enter_context(Running(*each, *port)) for each in (words, others)]
        self._cluster = words[words.index("--cluster") :]
        pem = folder / "site.pem"
        pem.write_text("".join(Path(certificates.path(f"server.{kind}")).read_text() for kind in ("pem", "key")))
        config = folder / "haproxy.cfg"
        config.write_text(self._config(text, pem))
        for server in self.servers:
            server.said("listening on")
        # With SIGTERM it does nothing about it, and ends.
        command = [program("haproxy"), "-db", "-f", str(config)]
        self.proxy = stack.enter_context(Running(command, status=-signal.SIGTERM))
        self.first = self._ask_before_there_is_a_worker()

    def _ask_before_there_is_a_worker(self) -> Reply:
        """The answer to a request that comes when no server is ready, and then a worker is started."""
        self.proxy.said("backend ifservers has no server available")
        with From(("127.0.0.1", self.client_port)) as wire:
            wire.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
            words = ("worker", "deployed:app", "--processes", "1", "--app-dir", str(self._app_dir), *self._cluster)
            self._stack.enter_context(Running(*words, environment={"PYTHONPATH": str(APPS)})).ready()
            return wire.receive()

    def _config(self, text: str, pem: Path) -> str:
        pairs = [
            (":8000$", f":{self.port}"),
            ("bind :80$", f"bind 127.0.0.1:{self.client_port}"),
            ("#bind :443 ssl crt /etc/haproxy/site.pem", f"bind 127.0.0.1:{self.tls_port} ssl crt {pem}"),
        ]
        # Only root can become somebody else.
        pairs += [] if os.getuid() == 0 else [("^    user haproxy\n", ""), ("^    group haproxy\n", "")]
        return replaced(text, *pairs)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, app_dir: Path, certificates: Certificates) -> Iterator[Site]:
    with ExitStack() as stack:
        found = Site(stack, tmp_path_factory.mktemp("haproxy"), app_dir, certificates)
        yield found
        for server in found.servers:
            if server.process.poll() is None:
                server.end(signal.SIGINT)  # which waits for no load balancer


@pytest.fixture(scope="module")
def through_haproxy(site: Site, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Way:
    for number in (1, 2):
        site.proxy.said(f"Server ifservers/server-{number} is UP")
    trusted = ssl.create_default_context(cafile=certificates.path("ca.pem"))
    return Way(site.proxy, site.client_port, site.tls_port, trusted, tmp_path_factory.mktemp("gates"))


# nginx.

#: A static file.
STYLE = b"body { color: green }"
WRAPPER = """
{user}
pid {folder}/nginx.pid;
error_log stderr warn;
daemon off;
worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/ifserver.conf;
}}
"""


@pytest.fixture(scope="module")
def through_nginx(tmp_path_factory: pytest.TempPathFactory, app_dir: Path, certificates: Certificates) -> Iterator[Way]:
    folder = tmp_path_factory.mktemp("nginx")
    port, tls_port = free_port(), free_port()
    [words] = command_lines(NGINX.read_text())
    words[words.index("mysite.asgi:application")] = "deployed:app"
    words += ["-p", "0", "--workers", "1", "--app-dir", str(app_dir)]
    with Running(*words, environment={"PYTHONPATH": str(APPS)}) as server:
        text = replaced(
            NGINX.read_text(),
            (r"server 127\.0\.0\.1:8000;", f"server 127.0.0.1:{server.ready().port};"),
            (r"listen 80;", f"listen 127.0.0.1:{port};"),
            (r"    listen \[::\]:80;\n", ""),
            (r"# listen 443 ssl;", f"listen 127.0.0.1:{tls_port} ssl;"),
            (r"# ssl_certificate     /etc/nginx/site.crt;", f"ssl_certificate {certificates.path('server.pem')};"),
            (r"# ssl_certificate_key /etc/nginx/site.key;", f"ssl_certificate_key {certificates.path('server.key')};"),
            (r"# ssl_protocols ", "ssl_protocols "),
            (r"alias /srv/site/static/;", f"alias {folder}/static/;"),
        )
        (folder / "static").mkdir()
        (folder / "static/site.css").write_bytes(STYLE)
        (folder / "ifserver.conf").write_text(text)
        wrapper = folder / "nginx.conf"
        # Only root can become somebody else, and then cannot read a test's folders.
        wrapper.write_text(WRAPPER.format(folder=folder, user="user root;" if os.getuid() == 0 else ""))
        with Running([program("nginx"), "-p", str(folder), "-c", str(wrapper)]) as proxy:
            eventually(lambda: listening(port, proxy), "nginx listens")
            trusted = ssl.create_default_context(cafile=certificates.path("ca.pem"))
            yield Way(proxy, port, tls_port, trusted, tmp_path_factory.mktemp("gates"))


@pytest.fixture(params=["haproxy", "nginx"])
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.getfixturevalue(f"through_{request.param}")
    return found


# What must hold behind both.


def seen(wire: Wire, *fields: str) -> dict[str, Any]:
    """What the application sees of a request with these header fields."""
    reply = wire.get("/", *fields)
    assert reply.status == 200
    found: dict[str, Any] = json.loads(reply.body)
    return found


LIES = ("x-forwarded-for: 203.0.113.7", "x-forwarded-proto: https", "forwarded: for=203.0.113.8;proto=https")


@pytest.mark.parametrize("lies", [(), LIES], ids=["plain", "lies"])
def test_the_application_sees_the_client(way: Way, lies: tuple[str, ...]) -> None:
    with way.wire() as wire:
        for _ in range(2):  # the connection is kept
            found = seen(wire, *lies)
            assert found["client"][0] == CLIENT
            assert found["scheme"] == "http"
            assert ["host", "test"] in found["headers"]


def test_the_application_sees_tls(way: Way) -> None:
    with way.secure() as secure:
        secure.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        response = http.client.HTTPResponse(secure)
        response.begin()
        found = json.loads(response.read())
        assert (found["client"][0], found["scheme"]) == (CLIENT, "https")
    where = {"host": "127.0.0.1", "port": way.tls_port, "local_addr": (CLIENT, 0), "ssl": way.trusted}
    (said,) = heard_over_tls("wss://localhost/", None, **where)
    assert json.loads(said)["scheme"] == "wss"


def test_a_websocket(way: Way) -> None:
    with way.wire() as wire, connect("ws://test/", sock=wire.socket) as client:
        assert json.loads(client.recv(LIMIT_S))["client"][0] == CLIENT
        for message in ("text", b"bytes", "x" * 100_000):
            client.send(message)
            assert client.recv(LIMIT_S) == message


def test_events_arrive_one_by_one(way: Way) -> None:
    gate = way.folder / f"events-{way.port}-"
    with way.wire() as wire:
        wire.send(f"GET /events?gate={gate} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
        status, _, headers = wire.head()
        assert (status, dict(headers)["content-type"]) == (200, "text/event-stream")
        for number in range(3):
            if number:
                Gate(Path(f"{gate}{number}")).open()
            # The next one is not sent before this has come.
            assert wire.chunk() == b"data: %d\n\n" % number
        assert wire.chunk() == b""


def test_an_upload_arrives_while_it_is_sent(way: Way) -> None:
    with way.wire() as wire:
        wire.send(b"POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n")
        wire.send(b"5\r\nfirst\r\n")
        assert wire.head()[0] == 200
        assert wire.chunk() == b"first"  # answered before there is more
        wire.send(b"6\r\nsecond\r\n0\r\n\r\n")
        assert wire.chunks() == b"second"


def test_a_large_upload(way: Way) -> None:
    size = 3_000_000  # more than nginx lets through by default
    with way.wire() as wire:
        wire.send(b"POST /read HTTP/1.1\r\nhost: test\r\ncontent-length: %d\r\n\r\n" % size)
        wire.send(bytes(size))
        assert wire.receive().body == b"%d" % size


def test_a_body_that_nobody_reads_breaks_nobody_elses_request(way: Way) -> None:
    """The proxy may use the same connection for the next request, whoever it is from."""
    size = 3_000_000
    with way.wire() as other:
        for _ in range(40):
            # Behind such an answer nginx itself closes its client's connection, but not the one to the server.
            with way.wire() as one:
                # "/" answers without reading the body.
                one.send(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
                assert one.receive().status == 200
            other.send(b"POST /read HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\n" + bytes(1000))
            reply = other.receive()
            assert (reply.status, reply.body) == (200, b"1000")


# nginx alone.


def test_one_id_for_a_request_in_both_logs(through_nginx: Way) -> None:
    with through_nginx.wire() as wire:
        reply = wire.get("/", "x-request-id: of-the-client")
        told = reply.header("x-request-id")
        assert told is not None
        assert re.fullmatch(r"[0-9a-f]{32}", told), told  # nginx's form
        assert ["x-request-id", told] in json.loads(reply.body)["headers"]
        assert not [name for name, _ in json.loads(reply.body)["headers"] if name == "forwarded"]


def test_a_response_may_have_long_headers(through_nginx: Way) -> None:
    with through_nginx.wire() as wire:
        reply = wire.get("/long")
        assert (reply.status, reply.header("x-11")) == (200, "v" * 1000)


def test_static_files_do_not_reach_ifserver(through_nginx: Way) -> None:
    """ifserver would add an id to its response."""
    with through_nginx.wire() as wire:
        found, missing = wire.get("/static/site.css"), wire.get("/static/missing.css")
        assert (found.status, found.body, found.header("x-request-id")) == (200, STYLE, None)
        assert (missing.status, missing.header("x-request-id")) == (404, None)
        assert wire.get("/").header("x-request-id")


# HAProxy alone: two servers, which come and go.


def test_new_clients_are_spread(site: Site, through_haproxy: Way) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            wire = stack.enter_context(through_haproxy.wire())
            wire.send(handshake("/"))
            assert wire.head()[0] == 101
        for server in site.servers:
            admin = server.said(r"admin endpoint at (http://\S+)/")[1]
            assert httpx.get(f"{admin}/status.json").json()["me"]["connections"] >= 2


def test_a_request_waits_for_the_first_worker(site: Site, through_haproxy: Way) -> None:
    """No server is ready then, and HAProxy lets it come to one all the same."""
    assert site.first.status == 200
    assert re.search(r"clients unready/server-\d", site.proxy.output)


def test_a_server_ends_and_no_request_fails(site: Site, through_haproxy: Way) -> None:
    ending, staying = site.servers
    failed: list[BaseException] = []
    stop = threading.Event()
    count = 0

    def ask() -> None:
        nonlocal count
        while not stop.wait(0.01):
            try:
                with through_haproxy.wire() as wire:
                    seen(wire)
            except BaseException as error:
                failed.append(error)
            count += 1

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    try:
        ending.process.send_signal(signal.SIGTERM)
        ending.said("not ready any more")
        site.proxy.said("Server ifservers/server-1 is DOWN", times=2)
        ending.ended()
    finally:
        stop.set()
        asking.join(LIMIT_S)
    assert failed == []
    assert count > 50
    assert staying.process.poll() is None
