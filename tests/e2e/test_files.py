"""Files that the server sends by itself, and those that it does not, between real processes."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.certificates import Certificates
from tests.e2e.operators import ADMIN, scrape
from tests.e2e.running import APPS, LIMIT_S, Running, eventually
from tests.redis_server import RedisServer

KIB = 1024
MIB = 1024 * KIB
CONTENT = os.urandom(3 * MIB + 5)
#: More than all buffers between a server and a client that does not read.
LONG = 64 * MIB
APP = ("file_zoo:app", "-p", "0", "--processes", "1", "--file-header", "X-Sendfile", *ADMIN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "file").write_bytes(CONTENT)
    (folder / "empty").write_bytes(b"")
    os.mkfifo(folder / "fifo")
    (folder / "link").symlink_to(folder / "file")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("log") / "access.log"
    with Running("run", *APP, "--access-log", str(log), "--access-log-format", "common", app_dir=APPS) as server:
        yield server.ready()
        # Those of the requests for what is no file.
        server.tracebacks = server.output.count("Traceback (most recent call last)")


def counted(*servers: Running) -> tuple[int, int]:
    """Files sent by servers, and those that were left to workers."""
    found = scrape(*servers)
    return int(found["ifserver_files_sent_total"]), int(found["ifserver_files_declined_total"])


def get(running: Running, path: str, name: Path | str = "", **headers: str) -> httpx.Response:
    return httpx.get(f"{running.url}/{path}?path={name}", headers=headers, timeout=LIMIT_S)


def logged(running: Running) -> list[str]:
    path = running._command[running._command.index("--access-log") + 1]
    return [line.partition('"')[2].replace('"', "").strip() for line in Path(path).read_text().splitlines()]


def test_with_run_the_server_sends_every_file(server: Running, folder: Path) -> None:
    before = counted(server)
    for name in ("file", "link"):
        response = get(server, "file.zip", folder / name)
        assert (response.status_code, response.content == CONTENT) == (200, True)
        assert response.headers["content-length"] == str(len(CONTENT))
        assert "etag" in response.headers
    response = get(server, "named", folder / "file")
    assert response.content == CONTENT
    assert response.headers["content-type"].startswith("text/x-file")
    assert "x-sendfile" not in response.headers
    assert get(server, "temporary.zip?size=300000&").content == bytes(300_000)
    assert counted(server) == (before[0] + 4, 0)
    assert f"GET /file.zip?path={folder}/file HTTP/1.1 200 {len(CONTENT)}" in logged(server)


def test_what_an_application_sends_otherwise_is_as_ever(server: Running, folder: Path) -> None:
    before = counted(server)
    assert get(server, "file.zip", folder / "empty").content == b""
    response = get(server, "file.zip", folder / "file", range="bytes=5-200000")
    assert (response.status_code, response.content == CONTENT[5:200_001]) == (206, True)
    response = httpx.head(f"{server.url}/file.zip?path={folder}/file")
    assert (response.content, response.headers["content-length"]) == (b"", str(len(CONTENT)))
    assert counted(server) == before


@pytest.mark.parametrize("name", ["fifo", "", "nothing"])
def test_what_is_no_file_is_500_and_nobody_waits_for_it(server: Running, folder: Path, name: str) -> None:
    assert get(server, "named", folder / name).status_code == 500
    server.said(r"x-sendfile: cannot send .*: (not a regular file|No such file)")
    assert get(server, "").status_code == 200


def test_a_connection_goes_on_behind_a_file_and_ends_where_the_client_says_so(server: Running, folder: Path) -> None:
    request = f"GET /file.zip?path={folder}/file HTTP/1.1\r\nHost: a\r\n"
    with socket.create_connection(("127.0.0.1", server.port), LIMIT_S) as sock:
        # All at once: three requests wait for the one before them.
        sock.sendall(
            f"{request}\r\n{request}\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n{request}Connection: close\r\n\r\n".encode()
        )
        data = b"".join(iter(lambda: sock.recv(MIB), b""))
    assert data.count(b"HTTP/1.1 200 OK") == 4
    assert data.count(CONTENT) == 3
    assert data.endswith(CONTENT)
    with socket.create_connection(("127.0.0.1", server.port), LIMIT_S) as sock:
        sock.sendall(request.replace("1.1", "1.0").encode() + b"\r\n")
        data = b"".join(iter(lambda: sock.recv(MIB), b""))
    assert data.endswith(CONTENT)


def slow(running: Running, path: str) -> socket.socket:
    """A client that has asked for something, and reads nothing yet."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
    sock.settimeout(LIMIT_S)
    sock.connect(("127.0.0.1", running.port))
    sock.sendall(f"GET /{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    return sock


def files_open(running: Running) -> list[str]:
    """The files of these tests that the server has open."""
    found = []
    for fd in Path("/proc", str(running.pid), "fd").iterdir():
        try:
            found.append(os.readlink(fd))
        except FileNotFoundError:
            pass
    return [path for path in found if path.endswith("/long")]


def test_a_slow_client_needs_no_worker_and_no_memory(server: Running, tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"")
    os.truncate(path, LONG)
    before = counted(server)[0]
    memory = _memory(server.pid)
    socks = [slow(server, f"file.zip?path={path}") for _ in range(5)]
    eventually(lambda: counted(server)[0] == before + 5, "the files are being sent")
    # The worker has done its part: another one answers in its place, and the files are sent to their ends.
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: server.workers() not in ([], [worker]), "there is another worker")
    assert get(server, "").status_code == 200
    assert _memory(server.pid) - memory < 4 * MIB
    for sock in socks[:3]:
        head, _, got = sock.recv(KIB).partition(b"\r\n\r\n")
        assert b"200 OK" in head
        size = len(got)
        while piece := sock.recv(MIB):
            size += len(piece)
        assert size == LONG
        sock.close()
    # These leave, one in good order and one by a reset.
    socks[3].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for sock in socks[3:]:
        sock.close()
    eventually(lambda: not files_open(server), "no file is open")
    lines = eventually(lambda: _lines(server, path, 5), "all are logged")
    sizes = sorted(int(line.rpartition(" ")[2]) for line in lines)
    assert sizes[2:] == [LONG] * 3
    assert sizes[1] < LONG


def _lines(running: Running, path: Path, count: int) -> list[str]:
    found = [line for line in logged(running) if str(path) in line]
    return found if len(found) == count else []


def _memory(pid: int) -> int:
    return int(Path("/proc", str(pid), "statm").read_text().split()[1]) * 4096


def test_a_file_that_becomes_shorter_while_it_is_sent_cuts_the_connection(server: Running, tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"")
    os.truncate(path, LONG)
    with slow(server, f"file.zip?path={path}") as sock:
        eventually(lambda: files_open(server), "the file is being sent")
        os.truncate(path, 8 * MIB)
        with pytest.raises(ConnectionResetError):
            list(iter(lambda: sock.recv(MIB), b""))
    server.said(r"cutting the connection: the file b'.*/long' cannot be sent: it was truncated while being sent")
    eventually(lambda: not files_open(server), "no file is open")


def test_a_server_that_ends_sends_files_to_their_ends(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"")
    os.truncate(path, LONG)
    with Running("run", *APP, app_dir=APPS) as server:
        server.ready()
        with slow(server, f"file.zip?path={path}") as sock:
            eventually(lambda: files_open(server), "the file is being sent")
            server.process.send_signal(signal.SIGTERM)
            server.said("waiting up to")
            size = 0
            while piece := sock.recv(MIB):
                size += len(piece)
            assert size > LONG
        server.ended()


def test_over_tls(folder: Path) -> None:
    with Certificates() as files:
        certificate = ("--certfile", files.path("server.pem"), "--keyfile", files.path("server.key"))
        with Running("run", *APP, *certificate, app_dir=APPS) as server:
            server.ready()
            trusting = ssl.create_default_context(cafile=files.path("ca.pem"))
            with httpx.Client(verify=trusting, timeout=LIMIT_S) as client:
                for _ in range(2):
                    assert client.get(f"{server.url}/file.zip?path={folder}/file").content == CONTENT
            assert counted(server) == (2, 0)


def test_what_wsgi_wraps(folder: Path) -> None:
    with Running("run", "file_zoo:wsgi", *APP[1:], "--threads", "1", app_dir=APPS) as server:
        server.ready()
        assert get(server, "", folder / "file").content == CONTENT
        assert get(server, "", f"{folder}/file&from=100001").content == CONTENT[100_001:]
        # The only thread is free while a client takes its time.
        with slow(server, f"?path={folder}/file") as sock:
            assert get(server, "", folder / "empty").content == b""
            assert b"".join(iter(lambda: sock.recv(MIB), b"")).endswith(CONTENT)
        assert counted(server) == (3, 0)


def test_with_serve_only_what_is_below_its_roots(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT[::-1])
    (folder / "escape").symlink_to(tmp_path)
    with RedisServer() as redis:
        cluster = ("--cluster", f"main=redis://127.0.0.1:{redis.port}")
        serve = ("serve", "-p", "0", *ADMIN, *cluster)
        with (
            Running(*serve, "--file-root", str(folder)) as server,
            Running(*serve) as rootless,
            Running("worker", "file_zoo:app", "--processes", "1", *cluster, app_dir=APPS) as worker,
        ):
            worker.ready()
            assert get(server, "file.zip", folder / "file").content == CONTENT
            assert counted(server) == (1, 0)
            up = folder / os.path.relpath(tmp_path, folder) / "file"
            for outside in (tmp_path / "file", folder / "escape" / "file", up):
                assert get(server, "file.zip", outside).content == CONTENT[::-1]
            assert counted(server) == (1, 3)
            # One that may send nothing is not even asked.
            assert get(rootless, "file.zip", folder / "file").content == CONTENT
            assert counted(rootless) == (0, 0)
            for each in (server, rootless, worker):
                each.process.send_signal(signal.SIGTERM)


def test_a_root_that_is_none_is_told(tmp_path: Path) -> None:
    arguments = ("serve", "-p", "0", "--cluster", "main=redis://127.0.0.1:1", "--file-root", str(tmp_path / "no"))
    with Running(*arguments, status=2) as server:
        server.ended()
        assert f"front.file_roots: '{tmp_path}/no': No such file or directory" in server.output
