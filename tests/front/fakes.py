"""A front without sockets and processes: a client's transport, a worker that is played by the test, and the clock.

Everything happens when the test says so: `World.settle` runs what is due in this turn, `World.advance` lets time pass.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

from twisted.internet import error, task
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ITransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ifserver import channels
from ifserver import messages as m
from ifserver.config.settings import FrontSettings
from ifserver.flow_control import MESSAGE_OVERHEAD
from ifserver.front.access_log import Entry
from ifserver.front.exchanges.exchange import Exchange
from ifserver.front.server import InterfaceServer
from ifserver.front.websocket.connection import WebSocketConnection
from ifserver.layers.clusters import Clusters
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.inbox import Place
from ifserver.layers.node import Limits, Node
from ifserver.metrics import Counters
from ifserver.observe import import_tracing
from ifserver.status import value_of

_Kind = TypeVar("_Kind", bound=m.Message)

NODE = "east"
SERVER = "front00000"
WORKER = "!east.worker0000"
SUPERVISOR = "supervisor"
#: What `task.Clock` shows at first: the machine was started so long ago.
UPTIME_S = 1000.0
#: What the wall clock shows at first: 2001-09-09 01:46:40.
EPOCH_S = 1_000_000_000.0
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Lines:
    """An access log that remembers."""

    enabled = True

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.style: tuple[str, bool] | None = None
        self.closed = False

    @property
    def lines(self) -> list[tuple[str, str, int, int]]:
        """Client, request line, status and bytes of each."""
        return [
            (e.client, f"{e.method} {e.target.decode('latin-1')} HTTP/{e.http_version}", e.status, e.sent_bytes)
            for e in self.entries
        ]

    def change(self, style: str, queries: bool) -> None:
        self.style = (style, queries)

    def write(self, entry: Entry) -> None:
        assert not self.closed, "written to after its end"
        self.entries.append(entry)

    def reopen(self) -> None:
        raise AssertionError("nobody has asked for that")

    def close(self) -> None:
        self.closed = True

    def statistics(self) -> dict[str, int]:
        return {}


def _discard(data: bytes) -> None:
    assert isinstance(data, bytes)


@implementer(ITransport, IPushProducer)
class FakeTransport:
    """One connection, seen from the server's side; the test holds the other end."""

    disconnecting = False

    def __init__(self, world: World, peer: Any, host: Any) -> None:
        self.protocol: Any = Protocol()
        self._world = world
        self._peer = peer
        self._host = host
        self._written = bytearray()
        #: What the client has sent and nobody has read; it waits while reading is paused.
        self._unread: deque[bytes] = deque()
        self.reading = True
        self.producer: Any = None
        #: The client does not read, so what is written stays in buffers.
        self.full = False
        #: Bytes that wait for the client, as the transport tells them.
        self.unsent = 0
        self.lost = False
        self.aborted = False
        self.write_closed = False
        self._half_closed = self.read_closed = False
        #: As `ifserver.net.endpoints.LoopTransport` has it: another one once the connection ends.
        self.write: Callable[[bytes], None] = self._write

    # The client.

    def send(self, data: bytes) -> None:
        """The client sends; read at once unless reading is paused."""
        self._unread.append(data)
        self._deliver()

    def received(self) -> bytes:
        """What the client has got since the last call."""
        data, self._written = bytes(self._written), bytearray()
        return data

    def unread(self) -> int:
        """Bytes that the client has sent and the server has not read."""
        return sum(map(len, self._unread))

    def leave(self, why: Exception | None = None) -> None:
        """The client cuts the connection. Unlike a kernel, this tells even while reading is paused."""
        self._lose(why or error.ConnectionDone())

    def half_close(self) -> None:
        """The client sends nothing more; seen when all has been read that it has sent."""
        self._half_closed = True
        self._deliver()
        self._world.settle()

    def stop_taking(self) -> None:
        """The client reads no more, and the buffers are full."""
        self.full = True
        if self.producer is not None:
            self.producer.pauseProducing()

    def take_again(self) -> None:
        """The client has read all."""
        self.full = False
        if self.producer is not None:
            self.producer.resumeProducing()
        if self.disconnecting and not self.lost:
            self._world.soon(lambda: self._lose(error.ConnectionDone()))

    # The server.

    def _write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        ended = self.write_closed or self.disconnecting
        assert not ended, "uvloop raises RuntimeError"
        self._written += data

    def _end(self) -> None:
        self.disconnecting = True
        self.write = _discard

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if self.disconnecting:
            return
        self._end()
        # As under TLS: with a producer registered, a connection is not closed.
        if not self.full and self.producer is None:
            self._world.soon(lambda: self._lose(error.ConnectionDone()))

    def buffered(self) -> int:
        return self.unsent

    def loseWriteConnection(self) -> None:
        self.write_closed = True

    def abortConnection(self) -> None:
        self._end()
        self.aborted = True
        self._world.soon(lambda: self._lose(error.ConnectionAborted()))

    def pauseProducing(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resumeProducing(self) -> None:
        assert not self.reading, "resumed twice"
        assert not self.read_closed, "nothing will come"
        self.reading = True
        self._world.soon(self._deliver)

    def stopProducing(self) -> None:
        self.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        assert self.producer is None, "a producer is registered already"
        self.producer = producer
        if self.full:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self.producer = None

    def getPeer(self) -> Any:
        return self._peer

    def getHost(self) -> Any:
        return self._host

    def _deliver(self) -> None:
        while self._unread and self.reading and not self.disconnecting and not self.lost:
            self.protocol.dataReceived(self._unread.popleft())
        if self._half_closed and not self._unread and self.reading and not self.disconnecting and not self.lost:
            self._half_closed, self.reading, self.read_closed = False, False, True
            if IHalfCloseableProtocol.providedBy(self.protocol):
                self.protocol.readConnectionLost()
            else:
                self._lose(error.ConnectionDone())

    def _lose(self, why: Exception) -> None:
        if not self.lost:
            self._end()
            self.lost = True
            self.protocol.connectionLost(Failure(why))


class FakeLoopTransport:
    """What uvloop gives, as far as it is needed."""

    def __init__(self) -> None:
        self.written = b""
        self.protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_extra_info(self, name: str) -> Any:
        return SimpleNamespace(family=socket.AF_INET) if name == "socket" else ("192.0.2.1", 80)

    def write(self, data: bytes) -> None:
        self.written += data


class Job:
    """One attempt of one stream, at the worker."""

    def __init__(self, worker: FakeWorker, request: Any) -> None:
        self.request = request
        self.stream = channels.identity(request.reply_channel)
        self.seq = 0
        self._worker = worker

    def tell(self, kind: type[m.Message], *fields: Any) -> None:
        """Send a message that has no `seq`."""
        self._worker.push(kind(self.stream, self.request.attempt, self._worker.inbox, *fields))

    def say(self, kind: type[m.Message], *fields: Any) -> None:
        """Send the next message of the stream."""
        self.seq += 1
        self.tell(kind, self.seq - 1, *fields)

    def claim(self) -> None:
        self.tell(m.Claim, SUPERVISOR)

    def window(self, consumed: int) -> None:
        self.tell(m.Window, consumed)

    def release(self, reason: str = "died") -> None:
        self.tell(m.Release, reason)

    def respond(
        self, status: int = 200, headers: m.Headers | None = None, body: bytes = b"", more_body: bool = False
    ) -> None:
        self.say(m.ResponseStart, status, headers or [], body, more_body)

    def body(self, body: bytes, more_body: bool = True) -> None:
        self.say(m.ResponseBody, body, more_body)

    def accept(self, subprotocol: str | None = None, headers: m.Headers | None = None) -> None:
        # One that is wrong may accept a request of HTTP.
        resumable = isinstance(self.request, m.WebSocketConnect) and self.request.resumable
        self.say(m.WebSocketAccept, self._worker.inbox, subprotocol, headers or [], resumable)

    def send(self, text: str | None = None, data: bytes | None = None) -> None:
        self.say(m.WebSocketSend, text, data)

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.say(m.WebSocketClose, code, reason)

    def heard(self) -> list[Any]:
        """What this stream was sent since the last call, in order."""
        return self._worker.heard(self)


class FakeWorker:
    """A worker process: takes requests and speaks for them, as the test tells it to."""

    def __init__(self, world: World, inbox: str = WORKER) -> None:
        self.inbox = inbox
        self._world = world
        self._heard: list[Any] = []
        #: What was sent in `Sync` messages, which `heard` leaves out.
        self.syncs: list[m.Sync] = []
        self.receipts: list[m.Receipt] = []

    def push(self, message: m.Message) -> None:
        """Send to the server's inbox; it is read at once."""
        home = self._world.clusters.home
        home.node.push(home.inbox, [m.encode(message)])

    def jobs(self, channel: str = channels.HTTP_REQUEST) -> list[Job]:
        """All requests that wait."""
        self._world.settle()
        return [Job(self, m.decode_request(payload)) for payload in self._world.pull(channel)]

    def job(self, channel: str = channels.HTTP_REQUEST) -> Job:
        """The one request that waits."""
        (job,) = self.jobs(channel)
        return job

    def heard(self, job: Job | None = None) -> list[Any]:
        """What was sent to this worker since the last call, or of that what is for `job`."""
        self._world.settle()
        for payload in self._world.pull(self.inbox):
            message = m.decode_for_worker(payload)
            if isinstance(message, m.Receipt):
                self.receipts.append(message)
                continue
            (self.syncs if isinstance(message, m.Sync) else self._heard).append(message)
        if job is None:
            heard, self._heard = self._heard, []
            return heard
        mine = [each for each in self._heard if each.stream == job.stream]
        self._heard = [each for each in self._heard if each.stream != job.stream]
        return mine


class World:
    """A server, its node, a worker, and as many clients as the test connects. Fields are settings of the front.

    Args:
        others: names of further nodes of the home cluster. The server begins on the first.
    """

    def __init__(
        self,
        *,
        start: bool = True,
        node: type[MemoryNode] = MemoryNode,
        others: Sequence[str] = (),
        request_capacity: int = 10_000,
        **settings: Any,
    ) -> None:
        self.clock = task.Clock()
        self.clock.rightNow = UPTIME_S
        #: By how much the wall clock was set forward since, or back.
        self.stepped_s = 0.0
        self._due: deque[Callable[[], object]] = deque()
        self.counters = Counters()
        limits = Limits(request_capacity, 90.0), Limits(100_000, 600.0)
        self.node, *self.others = [node(name, *limits, self.clock, "epoch") for name in (NODE, *others)]
        nodes: list[Node] = [self.node, *self.others]
        self.clusters = Clusters(SERVER, {NODE: nodes}, NODE, self.clock, self.soon, self.counters)
        home = self.clusters.home
        home.places = [Place(self.node, SERVER)]
        home.inbox, home.node = home.places[0].inbox, self.node
        self.access = Lines()
        settings.setdefault("server_header", None)
        settings.setdefault("request_id", False)
        tracing = import_tracing("front.tracing").Tracing(self.access) if settings.get("tracing") else None
        self.server = InterfaceServer(
            FrontSettings(**settings), self.clusters, tracing or self.access, self.clock, self.wall, tracing=tracing
        )
        self.worker = FakeWorker(self)
        if start:
            for each in (self.node, *self.others):
                each.start()
            self.node.beat(SUPERVISOR, value_of([channels.process_of(WORKER)]), math.inf)
            self.server.start()

    def wall(self) -> float:
        """The time of day."""
        return EPOCH_S - UPTIME_S + self.clock.seconds() + self.stepped_s

    def soon(self, call: Callable[[], object]) -> None:
        """Run `call` at the end of this turn."""
        self._due.append(call)

    def settle(self) -> None:
        """Let everything happen that is due now, in this turn and those that follow at once."""
        while True:
            while self._due:
                self._due.popleft()()
            self.clock.advance(0.0)
            if not self._due:
                return

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.settle()
        self.clock.advance(seconds)
        self.settle()

    def connect(self, peer: Any = None, host: Any = None, *data: bytes) -> FakeTransport:
        """A client connects, and sends `data`."""
        peer = peer or IPv4Address("TCP", "192.0.2.1", 50_000)
        transport = FakeTransport(self, peer, host or IPv4Address("TCP", "192.0.2.9", 80))
        transport.protocol = self.server.buildProtocol(peer)
        transport.protocol.makeConnection(transport)
        for piece in data:
            transport.send(piece)
        self.settle()
        return transport

    def client(self, *data: bytes) -> FakeTransport:
        """A client that has connected and sent `data`."""
        return self.connect(None, None, *data)

    def pull(self, channel: str) -> list[bytes]:
        """All that waits on `channel`, on any node."""
        found: list[bytes] = []
        for node in (self.node, *self.others):
            pulling: Deferred[Any] = node.pull([channel], 100_000, 1.0)
            pulling.addCallbacks(lambda pulled: found.extend(pulled.payloads), lambda _: None)
            if not pulling.called:
                pulling.cancel()
        return found

    def waiting(self, channel: str = channels.HTTP_REQUEST) -> int:
        """Requests that nobody has taken."""
        self.settle()
        return len(self.node._channels[channel].messages) if channel in self.node._channels else 0

    def drain(self) -> list[None]:
        """Begin to end the server; the list gets an item when that is done."""
        done: list[None] = []
        Deferred.fromCoroutine(self.server.drain()).addCallback(done.append)
        self.settle()
        return done

    def assert_empty(self) -> None:
        """Nothing is kept of connections and streams that have ended."""
        self.settle()
        server = self.server
        assert len(server.exchanges.registry) == 0
        assert server.statistics()["connections"] == 0
        tables: list[Any] = [*server.exchanges.http_waits.values(), *server.exchanges.websocket_waits.values()]
        tables += [*server.http1._all]
        tables += [server.slow_clients]
        tables += [server.websockets.lifetimes]
        assert [len(table) for table in tables] == [0] * len(tables)
        timers: Any = self.clock.getDelayedCalls()
        owners = [getattr(timer.func, "__self__", None) for timer in timers]
        assert [each for each in owners if isinstance(each, FakeTransport | WebSocketConnection | Exchange)] == []
        opened, closed = (
            {kind: self.counters.value(name, kind) for kind in ("http", "websocket")}
            for name in ("streams_opened", "streams_closed")
        )
        assert opened == closed


def leave_with_last_words(world: World) -> tuple[FakeTransport, Job]:
    """A client whose resumable WebSocket has lost its worker says something, and leaves; its former job."""
    client = world.client(HANDSHAKE)
    job = world.worker.job(channels.WEBSOCKET_CONNECT)
    job.accept()
    client.received()
    job.release("died")
    client.send(frame(TEXT, b"save this") + close_frame(1000))
    world.settle()
    return client, job


HANDSHAKE = (
    b"GET /chat?x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Frame(NamedTuple):
    """A frame as the client sees it."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0


def frame(
    opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0, mask: bytes = b"\x01\x02\x03\x04"
) -> bytes:
    """The bytes of a frame of a client (RFC 6455 5.2)."""
    length = len(payload)
    head = bytes([fin << 7 | rsv << 4 | opcode])
    masked = 0x80 if mask else 0
    if length < 126:
        head += bytes([masked | length])
    elif length < 65536:
        head += bytes([masked | 126]) + length.to_bytes(2, "big")
    else:
        head += bytes([masked | 127]) + length.to_bytes(8, "big")
    if mask:
        key = (mask * (length // 4 + 1))[:length]
        payload = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")
    return head + mask + payload


def frames(data: bytes) -> list[Frame]:
    """The frames in what a server has sent, of which none is masked (RFC 6455 5.1)."""
    found = []
    while data:
        first, length, data = data[0], data[1], data[2:]
        assert length < 128, "a masked frame"
        if length > 125:
            size = 2 if length == 126 else 8
            length, data = int.from_bytes(data[:size], "big"), data[size:]
        assert len(data) >= length, "half a frame"
        found.append(Frame(first & 15, data[:length], bool(first & 0x80), first >> 4 & 7))
        data = data[length:]
    return found


def close_frame(code: int | None = None, reason: str = "") -> bytes:
    """The bytes of a client's close frame."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode())


def of(kind: type[_Kind], messages: list[Any]) -> list[_Kind]:
    """Those of `messages` that are of `kind`."""
    return [each for each in messages if type(each) is kind]


def units(payload_bytes: int) -> int:
    """What a message of so many bytes costs of a window."""
    return payload_bytes + MESSAGE_OVERHEAD


def split_response(data: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """Status line, header fields and the rest."""
    head, _, rest = data.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b": ")
        assert name not in fields, f"{name!r} came twice"
        fields[name] = value
    return status, fields, rest
