"""A TCP proxy between processes and a node, for what the network may do to them. It runs on its own loop's thread.

Other threads than the loop's call its methods by way of `Proxy.do`; its attributes may be set by any.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Proxy", "loop_in_thread", "proxied"]

_PIECE = 64 * 1024


class Proxy:
    """Forwards connections to `target`, a port on 127.0.0.1, as long as its network is in order.

    Args:
        target: the port of the node.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        #: How long everything is on its way, in each direction, in seconds.
        self.delay_s = 0.0
        self._server: asyncio.Server | None = None
        self._pipes: set[_Pipe] = set()
        self._open = asyncio.Event()
        self._open.set()
        #: Its own port.
        self.port = 0

    async def start(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more, and cut all connections."""
        assert self._server is not None
        self._server.close()
        self.reset()
        for pipe in list(self._pipes):
            await pipe.over.wait()

    def hold(self) -> None:
        """Let nothing through, as a firewall that drops packets: what is sent meanwhile arrives when it is over."""
        self._open.clear()

    def release(self) -> None:
        """Let everything through again."""
        self._open.set()

    def lose(self) -> None:
        """All connections of now are dead for good, and neither end is told. New ones are as good as ever."""
        for pipe in self._pipes:
            pipe.dead = True

    def reset(self) -> None:
        """Cut all connections with RST; what is under way is lost."""
        for pipe in list(self._pipes):
            pipe.cut()

    async def passage(self) -> None:
        """Wait until packets go through."""
        await self._open.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pipe = _Pipe(self, writer)
        self._pipes.add(pipe)
        try:
            await pipe.run(reader, self._target)
        finally:
            pipe.cut()
            pipe.over.set()
            self._pipes.discard(pipe)

    def do(self, what: Callable[[Proxy], None]) -> None:
        """Call one of the methods above from another thread than the loop's."""
        assert self._server is not None
        done = threading.Event()

        def call() -> None:
            what(self)
            done.set()

        self._server.get_loop().call_soon_threadsafe(call)
        assert done.wait(120)


@contextlib.contextmanager
def loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread of its own.

    (Processes are started by the main thread: a child ends with the *thread* that has started it.)
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(120)
        loop.close()


@contextlib.contextmanager
def proxied(target: int, loop: asyncio.AbstractEventLoop) -> Iterator[Proxy]:
    """A proxy that runs on another thread's loop."""
    proxy = Proxy(target)
    asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(120)
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result(120)


class _Pipe:
    """One connection on both of its sides."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writers = [client]
        self._tasks: list[asyncio.Task[None]] = []
        #: Whether nothing gets through any more.
        self.dead = False
        self.over = asyncio.Event()
        self._cut = asyncio.Event()

    async def run(self, reader: asyncio.StreamReader, target: int) -> None:
        """Forward both ways until either side ends."""
        try:
            await self._proxy.passage()
            answers, node = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            return
        self._writers.append(node)
        ways = ((reader, node), (answers, self._writers[0]))
        self._tasks = [asyncio.create_task(self._forward(source, sink)) for source, sink in ways]
        cut = asyncio.create_task(self._cut.wait())
        await asyncio.wait([*self._tasks, cut], return_when=asyncio.FIRST_COMPLETED)
        for task in (*self._tasks, cut):
            task.cancel()
        await asyncio.gather(*self._tasks, cut, return_exceptions=True)

    def cut(self) -> None:
        """End both sides with RST."""
        self._cut.set()
        for writer in self._writers:
            transport: Any = writer.transport
            sock = transport.get_extra_info("socket")
            if not transport.is_closing() and sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Read and write with the delay between them; what was read in order is written in order."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1000)
        writing = asyncio.create_task(self._write(under_way, sink))
        try:
            while True:
                data = await source.read(_PIECE)
                await under_way.put((loop.time() + self._proxy.delay_s, data))
                if not data:
                    await writing
                    return
        except OSError:
            return
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, under_way: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await under_way.get()
            late = due - loop.time()
            if late > 0:
                await asyncio.sleep(late)
            await self._proxy.passage()
            if self.dead:
                # Neither side hears of the other again, its end included.
                await self._cut.wait()
            if not data:
                return
            sink.write(data)
            await sink.drain()
