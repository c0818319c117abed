"""The clients: each does one thing after another, checks every byte of it, and writes down what it saw."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

from tests.chaos.http import Connection, Ended, Wrong
from tests.chaos.pattern import STEP, digest, pattern
from tests.chaos.records import Echo, History, Lag, Member, Publication, Request, Socket

__all__ = ["HANG_S", "Load", "Site"]

#: Who waits for longer than this hangs: nothing in docs/explanation/failures.rst takes longer than ``queue_timeout``
#: (30 s), the second that a withdrawal may take, and what a busy machine adds.
HANG_S = 40.0
#: How often the clients look whether they stand still themselves, and what they call so, in seconds.
_LOOK_S = 0.05
_LAG_S = 0.1
#: Pause after a server has refused a connection, or a request.
_REFUSED_S = 0.1


class Site(Protocol):
    """Where the servers are."""

    def ports(self) -> list[int]:
        """The port of each server."""

    def only_node(self, server: int) -> str:
        """The one node where the server may receive; empty if there are more."""


class Load:
    """All clients, from `run` until `stop`.

    Args:
        seed: of what they do; what they see depends on the site.
    """

    def __init__(self, site: Site, seed: str, scale: float = 1.0) -> None:
        self._site = site
        self._seed = seed
        self.history = History()
        self._stopping = asyncio.Event()
        self._count = 0
        clients: list[tuple[int, Callable[[Random], Awaitable[None]]]] = [
            (2, self._arrivals),
            (6, self._pages),
            (3, self._bodies),
            (3, self._events),
            (8, self._talk),
            (8, self._idle),
            (6, self._members),
            (1, self._publications),
        ]
        self._clients = [client for count, client in clients for _ in range(max(1, round(count * scale)))]

    async def run(self) -> None:
        """Begin, and go on until told to stop; what is under way then is awaited."""
        watching = asyncio.create_task(self._watch())
        randoms = [Random(f"{self._seed} client {number}") for number in range(len(self._clients))]
        try:
            async with asyncio.TaskGroup() as group:
                for client, random in zip(self._clients, randoms, strict=True):
                    group.create_task(client(random))  # type: ignore[arg-type]
        finally:
            watching.cancel()
        self.history.ended_at = time.monotonic()

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping.set()

    async def _watch(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            if now - before - _LOOK_S > _LAG_S:
                self.history.lags.append(Lag(now, now - before - _LOOK_S))

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until there is nothing to wait for."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            pass

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"

    # HTTP.

    async def _pages(self, random: Random) -> None:
        """GET and POST, short ones and slow ones, several on one connection."""
        while not self._stopping.is_set():
            server = random.randrange(len(self._site.ports()))
            connection = None
            for _ in range(random.randint(1, 8)):
                method = random.choice(["GET", "GET", "POST"])
                seconds = random.choice([0.0, 0.0, 0.0, 0.2, 1.0])
                size = STEP * random.randint(1, 200)
                request = self._begin("page", method, server, seconds)
                target = f"/page?id={request.name}&s={seconds}&bytes={size}"
                connection = await self._exchange(request, connection, target, b"", pattern(request.name, 0, size))
                if connection is None or self._stopping.is_set():
                    break
                await self._pause(random.uniform(0.02, 0.3))
                if connection.surprise():
                    self.history.idle_closed.append((time.monotonic(), server))
                    break
            if connection is not None:
                connection.close()

    async def _arrivals(self, random: Random) -> None:
        """GET and POST that do not wait for each other, each on a connection of its own: also while nothing answers."""
        async with asyncio.TaskGroup() as group:
            while not self._stopping.is_set():
                server = random.randrange(len(self._site.ports()))
                request = self._begin("page", random.choice(["GET", "POST"]), server, 0.0)
                target = f"/page?id={request.name}&bytes=800"
                group.create_task(self._once(request, target, pattern(request.name, 0, 800)))
                await self._pause(random.uniform(0.01, 0.1))

    async def _once(self, request: Request, target: str, answer: bytes) -> None:
        connection = await self._exchange(request, None, target, b"", answer)
        if connection is not None:
            connection.close()

    async def _bodies(self, random: Random) -> None:
        """Uploads and downloads, with and without their lengths."""
        while not self._stopping.is_set():
            server = random.randrange(len(self._site.ports()))
            size = STEP * random.randint(100, 200_000)
            chunked = random.random() < 0.5
            if random.random() < 0.5:
                request = self._begin("upload", "POST", server, 1.0)
                body = pattern(request.name, 0, size)
                target, answer = f"/upload?id={request.name}", digest(body)
            else:
                request = self._begin("download", "GET", server, 1.0)
                body, answer = b"", pattern(request.name, 0, size)
                target = f"/download?id={request.name}&bytes={size}" + ("&chunked=1" if chunked else "")
            connection = await self._exchange(request, None, target, body, answer, chunked)
            if connection is not None:
                connection.close()
            await self._pause(random.uniform(0.1, 0.6))

    async def _events(self, random: Random) -> None:
        """Server-sent events."""
        while not self._stopping.is_set():
            server = random.randrange(len(self._site.ports()))
            count, pause = random.randint(2, 60), random.choice([0.0, 0.02, 0.1])
            request = self._begin("events", "GET", server, count * pause * 1.5)
            answer = "".join(f"data: {request.name} {number}\n\n" for number in range(count)).encode()
            target = f"/events?id={request.name}&count={count}&s={pause}"
            connection = await self._exchange(request, None, target, b"", answer)
            if connection is not None:
                connection.close()
            await self._pause(random.uniform(0.05, 0.3))

    def _begin(self, kind: str, method: str, server: int, takes_s: float) -> Request:
        node = self._site.only_node(server)
        request = Request(self._name(kind), method, kind, server, node, time.monotonic(), takes_s)
        self.history.requests.append(request)
        return request

    async def _exchange(
        self,
        request: Request,
        connection: Connection | None,
        target: str,
        body: bytes,
        answer: bytes,
        chunked: bool = False,
    ) -> Connection | None:
        """Ask, and write down the answer; the connection, if it can be used again."""
        try:
            async with asyncio.timeout(HANG_S):
                if connection is None:
                    connection = await Connection.to(self._site.ports()[request.server])
                request.outcome = await connection.ask(request.method, target, body, answer, chunked)
        except Ended as error:
            request.outcome = str(error)
        except Wrong as error:
            request.outcome = f"wrong: {error}"
        except TimeoutError:
            request.outcome = "hung"
        request.ended_at = time.monotonic()
        if request.outcome in ("refused", "503"):
            await self._pause(_REFUSED_S)
        if connection is not None and (request.outcome != "ok" or not connection.reusable):
            connection.close()
            return None
        return connection

    # WebSocket.

    async def _talk(self, random: Random) -> None:
        """Numbered messages, often several under way at a time."""
        while not self._stopping.is_set():
            socket, client = await self._open(random)
            if client is not None:
                await self._hold(socket, client, lambda talk: talk.many(random))

    async def _idle(self, random: Random) -> None:
        """A few messages, a long silence, and a few more: whoever had nothing under way has lost nothing."""
        while not self._stopping.is_set():
            socket, client = await self._open(random)
            if client is not None:
                await self._hold(socket, client, lambda talk: talk.seldom(random))

    # Groups.

    async def _members(self, random: Random) -> None:
        """Members of the group, which say nothing."""
        while not self._stopping.is_set():
            socket, client = await self._open(random, "/room", resumable=True)
            if client is not None:
                member = Member(socket)
                self.history.members.append(member)
                await self._hold(socket, client, lambda talk: talk.listen(member, random))  # noqa: B023

    async def _publications(self, random: Random) -> None:
        """Some messages to the group at a time."""
        while not self._stopping.is_set():
            server, count = random.randrange(len(self._site.ports())), random.choice([1, 1, 5, 50])
            request = self._begin("publish", "POST", server, 0.0)
            self.history.publications.append(Publication(request, count))
            await self._once(request, f"/publish?id={request.name}&count={count}", pattern(request.name, 0, 80))
            await self._pause(random.uniform(0.02, 0.3))

    async def _open(
        self, random: Random, path: str = "/echo", resumable: bool = False
    ) -> tuple[Socket, ClientConnection | None]:
        server = random.randrange(len(self._site.ports()))
        name = self._name("socket")
        socket = Socket(name, server, self._site.only_node(server), time.monotonic(), resumable=resumable)
        self.history.sockets.append(socket)
        client = None
        try:
            client = await connect(
                f"ws://127.0.0.1:{self._site.ports()[server]}{path}?id={name}",
                proxy=None, compression=None, ping_interval=None, open_timeout=HANG_S, close_timeout=HANG_S,
                # With a bound it would not read the end while it closes a connection on which much has come.
                max_queue=None,
            )  # fmt: skip
            assert client.response is not None
            socket.worker = int(client.response.headers["x-pid"])
            socket.opened_at = time.monotonic()
        except InvalidStatus as error:
            socket.outcome = str(error.response.status_code)
        except ConnectionRefusedError:
            socket.outcome = "refused"
        except TimeoutError:
            socket.outcome = "hung"
        except (OSError, EOFError, InvalidMessage, InvalidHandshake) as error:
            broken = isinstance(error, OSError | EOFError) or isinstance(error.__cause__, OSError | EOFError)
            socket.outcome = "reset" if broken else f"wrong: {error!r}"
        socket.ended_at = time.monotonic()
        if client is None:
            await self._pause(_REFUSED_S)
        return socket, client

    async def _hold(self, socket: Socket, client: ClientConnection, talk: Callable[[Talk], Awaitable[None]]) -> None:
        """Talk on an open WebSocket until that is done, or it ends."""
        try:
            await talk(Talk(socket, client, self._pause))
            await client.close()
            socket.outcome = "left" if client.close_code == 1000 else "cut"
        except ConnectionClosed as error:
            socket.outcome = f"closed {error.rcvd.code}" if error.rcvd is not None else "cut"
        except Wrong as error:
            socket.outcome = f"wrong: {error}"
        except TimeoutError:
            socket.outcome = "hung"
        socket.ended_at = time.monotonic()
        if client.close_code is None:
            client.transport.abort()


class Talk:
    """What is said on one WebSocket. Every message comes back, in order and once."""

    def __init__(self, socket: Socket, client: ClientConnection, pause: Callable[[float], Awaitable[None]]) -> None:
        self._socket = socket
        self._client = client
        self._pause = pause
        self._next = 0

    async def many(self, random: Random) -> None:
        """Some messages at a time, one after another."""
        for _ in range(random.randint(1, 60)):
            for _ in range(random.choice([1, 1, 1, 5, 20])):
                await self._say(random.choice([10, 100, 1000, 20_000]))
            await self._hear()
            await self._rest(random.uniform(0.0, 0.5))

    async def seldom(self, random: Random) -> None:
        """A message before a long silence and one after."""
        await self._say(100)
        await self._hear()
        await self._rest(random.uniform(6.0, 25.0))
        await self._say(100)
        await self._hear()

    async def listen(self, member: Member, random: Random) -> None:
        """Hear what the group is sent, for a while: of each sender in order, and nothing twice."""
        loop = asyncio.get_running_loop()
        leaving_at = loop.time() + random.uniform(2.0, 25.0)
        leaving = asyncio.ensure_future(self._pause(leaving_at - loop.time()))
        try:
            while not leaving.done():
                hearing = asyncio.ensure_future(self._client.recv())
                await asyncio.wait([hearing, leaving], return_when=asyncio.FIRST_COMPLETED)
                if not hearing.done():
                    hearing.cancel()
                    await asyncio.wait([hearing])
                if not hearing.cancelled():
                    self._heard_of_group(member, hearing.result())
        finally:
            leaving.cancel()

    def _heard_of_group(self, member: Member, text: str | bytes) -> None:
        name, _, number = str(text).partition(" ")
        if name == "gap":
            member.gaps.append(time.monotonic())
            return
        heard = member.heard.setdefault(name, [])
        if heard and int(number) <= heard[-1]:
            raise Wrong(f"message {number} of {name} came after message {heard[-1]}")
        heard.append(int(number))

    async def _say(self, size: int) -> None:
        number = len(self._socket.echoes)
        text = f"{self._socket.name} {number} ".ljust(size, "x")
        # First, for it may be lost in the middle of its being sent.
        self._socket.echoes.append(Echo(number, time.monotonic()))
        async with asyncio.timeout(HANG_S):
            await self._client.send(text)

    async def _hear(self) -> None:
        """Wait for what was said."""
        while self._next < len(self._socket.echoes):
            async with asyncio.timeout(HANG_S):
                text = await self._client.recv()
            self._heard(text)

    async def _rest(self, seconds: float) -> None:
        """Say nothing; whatever comes meanwhile is wrong, or the end."""
        hearing = asyncio.ensure_future(self._client.recv())
        resting = asyncio.ensure_future(self._pause(seconds))
        await asyncio.wait([hearing, resting], return_when=asyncio.FIRST_COMPLETED)
        resting.cancel()
        if hearing.done():
            self._heard(hearing.result())
        else:
            hearing.cancel()
            # Of websockets' own accord, cancelling it loses nothing.
            await asyncio.wait([hearing])
            if not hearing.cancelled():
                self._heard(hearing.result())

    def _heard(self, text: str | bytes) -> None:
        number = self._next
        if number >= len(self._socket.echoes):
            raise Wrong(f"after all {number} messages came {text[:60]!r}")
        if not isinstance(text, str) or text.rstrip("x") != f"{self._socket.name} {number} ":
            raise Wrong(f"instead of message {number} came {text[:60]!r}")
        self._socket.echoes[number].came_at = time.monotonic()
        self._next += 1
