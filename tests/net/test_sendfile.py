"""Sending files past a transport of the loop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.protocol import Factory, Protocol

from ifserver.net.endpoints import LoopTransport
from ifserver.net.sendfile import Outlet
from ifserver.net.sockets import taken_by_peer
from tests.fresh_loop import run

MIB = 1024 * 1024
CONTENT = os.urandom(4 * MIB)


@pytest.fixture
def fd(tmp_path: Path) -> Any:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def play(kind: str, act: Callable[[LoopTransport, socket.socket], Awaitable[None]]) -> None:
    """Run `act` with a transport, and the socket of its peer. Nothing stays open."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
        with socket.socket(family) as listening:
            listening.bind(("127.0.0.1", 0) if kind == "tcp" else "")
            listening.listen()
            peer = socket.create_connection(listening.getsockname()) if kind == "tcp" else socket.socket(family)
            if kind != "tcp":
                peer.connect(listening.getsockname())
            ours, _ = listening.accept()
        peer.setblocking(False)
        protocol = Protocol()
        factory: Any = Factory.forProtocol(lambda: protocol)
        await loop.connect_accepted_socket(lambda: LoopTransport(factory), ours)
        transport: Any = protocol.transport
        try:
            await act(transport, peer)
        finally:
            transport.abortConnection()
            peer.close()
            await asyncio.sleep(0.01)

    before = len(os.listdir("/proc/self/fd"))
    run(main)
    assert len(os.listdir("/proc/self/fd")) <= before


async def received(peer: socket.socket, size: int) -> bytes:
    loop, got = asyncio.get_running_loop(), b""
    while len(got) < size and (piece := await loop.sock_recv(peer, MIB)):
        got += piece
    return got


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_head_and_a_file_reach_the_peer_as_it_takes_them(kind: str, fd: int) -> None:
    async def act(transport: LoopTransport, peer: socket.socket) -> None:
        outlet = Outlet.of(transport)
        assert outlet is not None
        assert outlet.send_head(b"head") == 4
        offset, sent, over = 0, [0], asyncio.Event()

        def send() -> None:
            nonlocal offset
            try:
                count = outlet.send_file(fd, offset, MIB)
            except BlockingIOError:
                return
            sent.append(count)
            offset += count
            if not count:
                outlet.close()
                over.set()

        outlet.wait(send)
        outlet.wait(send)
        assert await received(peer, 4 + len(CONTENT)) == b"head" + CONTENT
        await over.wait()
        assert len(sent) > 3, "more than the socket takes at a time"
        # And the connection is the transport's again.
        transport.write(b"next")
        assert await received(peer, 4) == b"next"

    play(kind, act)


def test_where_something_waits_to_be_sent_there_is_none() -> None:
    async def act(transport: LoopTransport, peer: socket.socket) -> None:
        transport.write(CONTENT)
        assert Outlet.of(transport) is None
        await received(peer, len(CONTENT))
        outlet = Outlet.of(transport)
        assert outlet is not None
        outlet.close()
        transport.loseConnection()
        assert Outlet.of(transport) is None

    play("tcp", act)


def test_with_anything_but_a_plain_transport_of_the_loop_there_is_none() -> None:
    class Other(LoopTransport):
        """As with TLS."""

    assert Outlet.of(object()) is None
    assert Outlet.of(Other(Factory.forProtocol(Protocol))) is None


def test_a_peer_that_is_gone_and_a_transport_that_has_closed_its_socket(fd: int) -> None:
    async def act(transport: LoopTransport, peer: socket.socket) -> None:
        outlet = Outlet.of(transport)
        assert outlet is not None
        outlet.wait(lambda: None)
        outlet.wait_not()
        transport.abortConnection()
        # Its number may be that of another client by now: what we have is still ours.
        await asyncio.sleep(0)
        peer.close()

        def send_all() -> None:
            while True:
                outlet.send_file(fd, 0, MIB)

        with pytest.raises(OSError, match=r"Broken pipe|reset|not connected"):
            send_all()
        outlet.close()

    play("tcp", act)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_that_the_peer_takes_more_can_be_told_though_as_much_is_unread_again(kind: str, fd: int) -> None:
    async def act(transport: LoopTransport, peer: socket.socket) -> None:
        outlet = Outlet.of(transport)
        assert outlet is not None

        def fill() -> int:
            sent = 0
            try:
                while True:
                    sent += outlet.send_file(fd, 0, 64 * 1024)
            except BlockingIOError:
                return sent

        sent = fill()
        before = taken_by_peer(transport)
        assert taken_by_peer(transport) == before
        await received(peer, sent)
        fill()
        assert taken_by_peer(transport) != before
        outlet.close()

    play(kind, act)
