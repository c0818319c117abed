"""Listening sockets: what can be had, what is said of the rest, and that no file is left behind or taken away."""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ifserver.errors import ConfigurationError
from ifserver.net import sockets


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_tcp_listens_at_once(stack: ExitStack) -> None:
    [sock] = map(stack.enter_context, sockets.bind_tcp("127.0.0.1", 0))
    stack.enter_context(socket.create_connection(sock.getsockname()))
    assert sockets.url_of(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_ipv6_leaves_ipv4_to_others(stack: ExitStack) -> None:
    [six] = map(stack.enter_context, sockets.bind_tcp("::1", 0))
    assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    assert sockets.url_of(six) == f"http://[::1]:{six.getsockname()[1]}"


def test_a_name_has_all_its_addresses(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    bound = list(map(stack.enter_context, sockets.bind_tcp("name", 0)))
    assert [sock.getsockname()[0] for sock in bound] == ["::1", "127.0.0.1"]


def test_an_address_that_the_machine_lacks_does_not_matter_beside_one_that_it_has(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    [sock] = map(stack.enter_context, sockets.bind_tcp("name", 0))
    assert sock.getsockname()[0] == "127.0.0.1"
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found[:1] * 2)
    with pytest.raises(ConfigurationError, match=r"cannot listen on name:0: this machine has none of its addresses"):
        sockets.bind_tcp("name", 0)


def test_a_port_in_use(stack: ExitStack) -> None:
    taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    port = taken.getsockname()[1]
    with pytest.raises(ConfigurationError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: Address already in use$"):
        sockets.bind_tcp("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 70, "\0"])
def test_a_host_that_is_none(host: str) -> None:
    with pytest.raises((ConfigurationError), match="cannot listen on "):
        sockets.bind_tcp(host, 0)


def test_a_unix_socket_is_open_to_all_and_its_file_goes_with_it(stack: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "sock"
    sock, file = sockets.bind_unix(str(path))
    stack.enter_context(sock)
    assert file is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert sockets.url_of(sock) == f"unix:{path}"
    stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
    file.remove()
    assert not path.exists()
    file.remove()


def test_a_unix_socket_may_be_for_few(stack: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "sock"
    sock, _ = sockets.bind_unix(str(path), 0o660)
    stack.enter_context(sock)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_file_that_another_server_has_put_in_its_place_stays(stack: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "sock"
    sock, file = sockets.bind_unix(str(path))
    stack.enter_context(sock)
    assert file is not None
    path.rename(tmp_path / "kept")  # so that its inode is not used again
    stack.enter_context(sockets.bind_unix(str(path))[0])
    file.remove()
    assert path.exists()


def test_an_abstract_unix_socket_has_no_file(stack: ExitStack) -> None:
    name = f"@ifserver-test-{os.getpid()}"
    sock, file = sockets.bind_unix(name)
    stack.enter_context(sock)
    assert file is None
    assert sockets.url_of(sock) == f"unix:{name}"
    with pytest.raises(ConfigurationError, match="Address already in use"):
        sockets.bind_unix(name)


def test_a_stale_unix_socket_is_replaced_and_nothing_else(stack: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    sock, _ = sockets.bind_unix(str(path))
    stack.enter_context(sock)
    with pytest.raises(ConfigurationError, match=f"cannot listen on the Unix socket {path}: somebody listens there"):
        sockets.bind_unix(str(path))
    other = tmp_path / "file"
    other.write_text("precious")
    with pytest.raises(ConfigurationError, match="there is something else by that name"):
        sockets.bind_unix(str(other))
    assert other.read_text() == "precious"


@pytest.mark.parametrize("path", ["/nowhere/sock", "/tmp/" + "x" * 200, "/tmp/a\0b"])
def test_a_path_that_cannot_be(path: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot listen on the Unix socket "):
        sockets.bind_unix(path)


def test_a_private_socket_can_be_had_once(stack: ExitStack) -> None:
    name = f"ifserver-private-{os.getpid()}"
    stack.enter_context(sockets.bind_private(name))
    with pytest.raises(OSError, match="in use"):
        sockets.bind_private(name)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_an_inherited_socket(stack: ExitStack, family: int) -> None:
    given = socket.socket(family)
    given.listen() if family != socket.AF_UNIX else given.bind("")
    sock = stack.enter_context(sockets.inherit(given.detach()))
    assert sock.family == family


def test_what_cannot_be_inherited_stays_open(stack: ExitStack) -> None:
    left, right = map(stack.enter_context, socket.socketpair())
    datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    stack.callback(os.close, writing)
    for fd, why in (
        (left.fileno(), "connected already"),
        (datagrams.fileno(), "not a stream socket"),
        (reading, "non-socket"),
    ):
        with pytest.raises(ConfigurationError, match=f"--fd {fd}: .*{why}"):
            sockets.inherit(fd)
        os.fstat(fd)
    right.close()


@pytest.mark.parametrize("fd", [-1, 10_000])
def test_a_descriptor_that_is_none(fd: int) -> None:
    with pytest.raises(ConfigurationError, match=f"--fd {fd}: "):
        sockets.inherit(fd)


# How many.


@pytest.fixture
def few_files() -> Iterator[int]:
    """A process that may have 600 files open, until it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (600, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_files_are_asked_for(few_files: int) -> None:
    assert sockets.allow_open_files(500) == 600
    assert sockets.allow_open_files(700) == 700
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (700, few_files)


def test_not_more_than_the_system_allows(few_files: int) -> None:
    assert sockets.allow_open_files(few_files + 1) == few_files


def test_how_many_files_are_left(few_files: int) -> None:
    left, limit = sockets.files_left()
    assert limit == 600
    opened = [os.dup(2) for _ in range(10)]
    assert sockets.files_left()[0] <= left - 10
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(opened) + 1, few_files))
    while sockets.files_left()[0]:
        opened.append(os.dup(2))
    assert sockets.files_left() == (0, max(opened) + 1)
    for fd in opened:
        os.close(fd)
    assert sockets.files_left()[0] >= 10
