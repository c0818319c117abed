"""Where a server listens: IPv6, Unix sockets, inherited sockets, Twisted's endpoints, and what cannot be had."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.e2e.running import APPS, Running, command_line
from tests.e2e.wire import Wire


def run(*arguments: str, pass_fds: tuple[int, ...] = ()) -> Running:
    return Running("run", "zoo:app", "--workers", "1", *arguments, app_dir=APPS, pass_fds=pass_fds)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for this machine that nobody has signed but itself."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


def test_ipv6() -> None:
    with run("-b", "::1", "-p", "0") as server:
        server.ready()
        assert server.url.startswith("http://[::1]:")
        shown = httpx.get(f"{server.url}/show").json()
        assert (shown["client"], shown["server"]) == ("::1", ["::1", server.port])


def test_a_name_with_several_addresses() -> None:
    port = free_port()
    with run("-b", "localhost", "-p", str(port)) as server:
        server.ready()
        for family, *_, address in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM):
            with socket.socket(family) as client:
                client.connect(address)


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    with run("-u", str(path)) as server:
        server.ready()
        server.said(rf"listening on unix:{path}$")
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as http:
            shown = http.get("http://a.test/show").json()
        assert (shown["client"], shown["server"]) == (None, [str(path), None])
        with connect("ws://a.test/ws", sock=_unix(path)) as client:
            client.send("a")
            assert client.recv(20) == "a"
    assert not path.exists()


def test_what_a_killed_server_has_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    with run("-u", str(path)) as server:
        server.ready()
        server.killed()
    assert path.exists()
    with run("-u", str(path)) as server:
        server.ready()
        with Wire(str(path)) as wire:
            assert wire.get("/").status == 200


@pytest.mark.parametrize("unix", [False, True])
def test_an_inherited_socket(tmp_path: Path, unix: bool) -> None:
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as listening:
        path = str(tmp_path / "web.sock")
        listening.bind(path if unix else ("127.0.0.1", 0))
        listening.listen()
        fd = listening.fileno()
        with run("--fd", str(fd), pass_fds=(fd,)) as server:
            server.ready()
            with Wire(path if unix else listening.getsockname()) as wire:
                assert wire.get("/").status == 200
        # It is its owner's to remove.
        assert os.path.exists(path) is unix


def test_twisted_endpoints_beside_each_other(tmp_path: Path) -> None:
    tcp, tls, path = free_port(), free_port(), tmp_path / "web.sock"
    key, cert = certificate(tmp_path)
    endpoints = [
        f"tcp:{tcp}:interface=127.0.0.1",
        f"unix:{path}",
        f"ssl:{tls}:interface=127.0.0.1:privateKey={key}:certKey={cert}",
    ]
    with run(*(word for endpoint in endpoints for word in ("-e", endpoint))) as server:
        server.ready()
        for endpoint in endpoints:
            assert endpoint in server.said("listening on .*").string
        with Wire(("127.0.0.1", tcp)) as wire:
            shown = json.loads(wire.get("/show").body)
            assert (shown["scheme"], shown["client"], shown["server"]) == ("http", "127.0.0.1", ["127.0.0.1", tcp])
        with Wire(str(path)) as wire:
            assert wire.get("/").status == 200
        context = ssl.create_default_context(cafile=str(cert))
        body = os.urandom(1_000_000)
        with httpx.Client(verify=context, base_url=f"https://127.0.0.1:{tls}") as client:
            assert client.get("/show").json()["scheme"] == "https"
            assert client.post("/echo", content=body).content == body
        with connect(f"wss://127.0.0.1:{tls}/ws", ssl=context) as socket_client:
            socket_client.send(body[:100_000])
            assert socket_client.recv(20) == body[:100_000]
    assert not path.exists()


@pytest.mark.parametrize("how", ["-p", "tcp:{}:interface=127.0.0.1"])
def test_a_port_that_is_in_use_is_one_line(how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        where = ("-p", str(port)) if how == "-p" else ("-e", how.format(port))
        done = _refused("run", "zoo:app", "--app-dir", str(APPS), *where)
    assert done.stderr.startswith("ifserver: error: cannot listen on ")
    assert "in use" in done.stderr


def test_a_unix_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "web.sock")
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(path)
        taken.listen()
        assert "somebody listens there" in _refused("run", "zoo:app", "--app-dir", str(APPS), "-u", path).stderr
        assert os.path.exists(path)


def test_what_is_never_started_leaves_no_socket_behind(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    _refused("run", "zoo:nothing", "--app-dir", str(APPS), "-u", str(path))
    _refused("run", "zoo:app", "--app-dir", str(APPS), "-u", str(path), "-e", "tcp:none")
    assert not path.exists()


def test_a_port_can_be_had_again_at_once() -> None:
    port = free_port()
    for _ in range(2):
        with run("-p", str(port)) as server:
            server.ready()
            # The server closes first, so that its side of the connection lingers.
            assert httpx.get(server.url, headers={"connection": "close"}).status_code == 200


def _unix(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    return client


def _refused(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command_line(*arguments), capture_output=True, text=True, timeout=25)
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    return done
