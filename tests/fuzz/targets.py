"""What is fuzzed. Each target plays one case, drawn from the `Random` that it is given.

It raises if anything is wrong: an exception comes out of a protocol, something is kept when all is over, or grows.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import Any, Final

import msgspec
from twisted.internet.address import IPv4Address

from ifserver import channels
from ifserver import messages as m
from ifserver.config.settings import FrontSettings
from ifserver.errors import UndecodableError
from ifserver.front.http1.parser import RequestParser
from ifserver.front.incoming_request import Incoming
from ifserver.front.proxy_protocol import BadProxyHeader, parse_header
from ifserver.layers.embedded import frames as local
from tests.front import fakes as f
from tests.front.http1.test_malformed import TABLE
from tests.front.test_proxy_protocol import BAD, GOOD

__all__ = ["TARGETS"]

#: What of a request decides how it is read; mutations put these where they do not belong.
TOKENS: Final = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b";", b",", b"\x0b", b"\x7f", b"\xff", b"0", b"-1",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"Expect: 100-continue\r\n",
    b"Connection: close\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.0", b"http://b", b"ffffffffffffffff\r\n",
    b";a", b' ; a = "\\""', b"=", b'"', b"\\", b"\r\n5\r\n", b"Connection: keep-alive, close\r\n",
)  # fmt: skip
LIMITS: Final = {"max_header_bytes": 2000, "max_headers": 20, "max_body_bytes": 5000, "whole_body_bytes": 1000}
#: More than one connection of a world with `LIMITS` may hold of what its client has sent.
MAX_HELD: Final = 200_000


def mutated(random: Random, data: bytes, tokens: tuple[bytes, ...] = TOKENS) -> bytes:
    """`data` with a few things changed."""
    changed = bytearray(data)
    for _ in range(random.choice((0, 1, 1, 2, 5))):
        at = random.randint(0, len(changed))
        to = min(len(changed), at + random.choice((0, 1, 1, 4, 20)))
        kind = random.randrange(6)
        if kind == 0:
            changed[at:to] = b""
        elif kind == 1:
            changed[at:to] = random.choice(tokens)
        elif kind == 2:
            changed[at:at] = changed[at:to] * random.choice((1, 2, 100))
        elif kind == 3:
            changed[at:to] = random.randbytes(to - at)
        elif at < len(changed):
            changed[at] ^= 1 << random.randrange(8)
    return bytes(changed)


def pieces(random: Random, data: bytes) -> list[bytes]:
    """`data`, cut somewhere."""
    size = random.choice((1, 2, 7, 50, 1000, 100_000))
    cut = []
    while data:
        length = random.randint(1, size)
        cut.append(data[:length])
        data = data[length:]
    return cut


@contextmanager
def no_defects() -> Iterator[None]:
    """Raises what was logged as a defect, which reaches nobody else."""
    found: list[logging.LogRecord] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info or "defect" in record.getMessage():
                found.append(record)

    logger, collector = logging.getLogger("ifserver"), Collector()
    before = logger.propagate, logger.level
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(collector)
        logger.propagate, logger.level = before
    if found:
        raise AssertionError(logging.Formatter().format(found[0]))


def requests(random: Random) -> bytes:
    """A few requests of the table of malformed ones, changed or not."""
    chosen = [random.choice(TABLE).raw for _ in range(random.choice((1, 1, 2, 5)))]
    return b"".join(mutated(random, raw) if random.random() < 0.7 else raw for raw in chosen)


def http(random: Random) -> None:
    """A client that sends anything, and a worker that does anything."""
    world = f.World(**LIMITS)
    client = world.client()
    jobs: list[f.Job] = []
    with no_defects():
        data = random.randbytes(random.randint(1, 300)) if random.random() < 0.1 else requests(random)
        for piece in pieces(random, data):
            client.send(piece)
            if random.random() < 0.3:
                jobs += world.worker.jobs()
                world.settle()
            if jobs and random.random() < 0.5:
                _work(random, jobs)
            if random.random() < 0.02:
                _annoy(random, world, client)
            assert _held(client) < MAX_HELD
        for job in jobs:
            job.heard()
        client.take_again()
        world.advance(random.choice((0.0, 5.0, 200.0)))
        client.leave()
        world.worker.jobs()
        world.assert_empty()


def _held(client: f.FakeTransport) -> int:
    connection: Any = client.protocol
    parser = connection.parser
    held = sum(len(each.body) for each in connection.waiting) + len(connection.read_pacing.unparsed)
    held += len(parser._line) + len(parser._tail) + len(parser._target) + len(parser.early or b"")
    held += len(parser._chunks._line) if parser._chunks is not None else 0
    return held + sum(len(name) + len(value) for name, value in parser._headers)


def _work(random: Random, jobs: list[f.Job]) -> None:
    job = random.choice(jobs)
    kind = random.randrange(9)
    if kind == 0:
        job.claim()
    elif kind == 1:
        job.respond(random.choice((200, 204, 304, 99, 500)), _headers(random), b"body", random.random() < 0.5)
    elif kind == 2:
        job.body(b"x" * random.choice((0, 1, 100, 70_000)), random.random() < 0.7)
    elif kind == 3:
        job.release(random.choice(("died", "failed", "gone", "rejected")))
    elif kind == 4:
        job.window(random.randrange(1 << random.randrange(40)))
    elif kind == 5:
        job.accept(random.choice((None, "a", "a\r\nb")), _headers(random))
    elif kind == 6:
        job.send(random.choice((None, "text")), b"data")
    elif kind == 7:
        job.close(random.choice((1000, 1005, 4000, 0, 70_000)), "x" * random.choice((0, 200)))
    else:
        job.seq += random.choice((-1, 1))


def _headers(random: Random) -> m.Headers:
    return random.choice(
        ([], [(b"content-length", b"4")], [(b"content-length", b"x")], [(b"x", b"a\r\nb")], [(b"connection", b"close")])
    )


def _annoy(random: Random, world: f.World, client: f.FakeTransport) -> None:
    kind = random.randrange(4)
    if kind == 0 and not client.full:
        client.stop_taking()
    elif kind == 1 and client.full:
        client.take_again()
    elif kind == 2:
        client.half_close()
    else:
        world.advance(random.choice((0.1, 1.0, 30.0)))


def splits(random: Random) -> None:
    """The same bytes in other pieces are the same requests, and the same refusal."""
    data = requests(random)

    def parsed(cut: list[bytes]) -> tuple[Any, ...]:
        complete: list[Incoming] = []
        parser = RequestParser(FrontSettings(**LIMITS), complete.append)
        early = b""
        for piece in cut:
            if parser.early is not None:
                early += piece
            elif parser.refusal is None:
                parser.feed(piece)
        seen = [(i.method, i.target, i.http_version, i.headers, i.take_body(), i.keep_alive) for i in complete]
        status = parser.refusal.status if parser.refusal is not None else None
        # Of what is refused for its size, or before its line is complete, the status may depend on what had come.
        return seen, status is not None, (parser.early or b"") + early

    whole = parsed([data])
    other = pieces(random, data)
    assert parsed(other) == whole, f"{data!r} in pieces {other!r}"


def websocket(random: Random) -> None:
    """A client whose WebSocket is open sends anything."""
    world = f.World(max_websocket_message_bytes=3000, max_websocket_fragments=30)
    head = f.HANDSHAKE
    if random.random() < 0.5:
        head = head.removesuffix(b"\r\n") + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    client = world.client(head)
    job = world.worker.job(channels.WEBSOCKET_CONNECT)
    with no_defects():
        job.accept()
        world.settle()
        connection: Any
        (connection,) = world.server.connections
        got = len(client.received())
        data = b"".join(_frame(random) for _ in range(random.randint(1, 8)))
        data = mutated(random, data, (b"\x81", b"\x88\x82", b"\xff" * 10, b"\x82\xfe\xff\xff"))
        for piece in pieces(random, data):
            client.send(piece)
            held = sum(map(len, getattr(connection, "message_data", None) or ())) + len(connection.data or b"")
            assert held < 3000 + 100_000 + len(piece)
            if random.random() < 0.1:
                _work(random, [job])
            if random.random() < 0.02:
                _annoy(random, world, client)
        for message in f.of(m.WebSocketReceive, job.heard()):
            assert len(message.data or (message.text or "").encode()) <= 3000
        got += len(client.received())
        assert got < 1_000_000 + 2 * len(data)
        client.take_again()
        world.advance(random.choice((0.0, 10.0, 300.0)))
        client.leave()
        world.assert_empty()


def _frame(random: Random) -> bytes:
    payload = random.choice((b"", b"a", "ä€😀".encode(), b"\xff\xfe", b"\x03\xe8bye", b"x" * 2000, b"x" * 5000))
    rsv = 0
    if random.random() < 0.3:
        deflate = zlib.compressobj(1, wbits=-15)
        payload = deflate.compress(payload * random.choice((1, 100))) + deflate.flush(zlib.Z_SYNC_FLUSH)[:-4]
        rsv = 4
    opcode = random.choice((0, 0, 1, 1, 2, 8, 9, 10, random.randrange(16)))
    return f.frame(opcode, payload, fin=random.random() < 0.7, rsv=random.choice((rsv, rsv, random.randrange(8))))


def proxy(random: Random) -> None:
    """A proxy announces anything, and a request follows."""
    header = random.choice((*(each[0] for each in GOOD), *BAD))
    data = mutated(random, header, (b" ", b"\r\n", b"\0", b"TCP4", b"\xff\xff", b"65536")) + f.GET
    world = f.World()
    peer = IPv4Address("TCP", "127.0.0.1", 1)
    transport = f.FakeTransport(world, peer, peer)
    transport.protocol = world.server.announced.buildProtocol(peer)
    with no_defects():
        transport.protocol.makeConnection(transport)
        for piece in pieces(random, data):
            transport.send(piece)
        world.advance(random.choice((0.0, 6.0)))
        world.worker.jobs()
        transport.leave()
        world.settle()
        assert len(world.server.announced.waiting) == 0
    try:
        parsed = parse_header(data)
    except BadProxyHeader:
        return
    assert parsed is None or parsed.length <= len(data)


#: One message of each kind.
MESSAGES: Final = (
    m.Claim("p.1", 0, "!east.w", "s"),
    m.ResponseStart("p.1", 0, "!east.w", 0, 200, [(b"a", b"b")], b"body", False),
    m.ResponseBody("p.1", 0, "!east.w", 1, b"body", True),
    m.WebSocketAccept("p.1", 0, "!east.w", 0, "!east.w", "sub", [(b"a", b"b")]),
    m.WebSocketSend("p.1", 0, "!east.w", 1, "text", None),
    m.WebSocketClose("p.1", 0, "!east.w", 2, 1000, "why"),
    m.RequestBody("p.1", 0, 0, b"body", True),
    m.WebSocketReceive("p.1", 0, 0, None, b"data"),
    m.Disconnect("p.1", 0, 1, 1005, ""),
    m.Window("p.1", 0, "!east.w", 1000),
    m.Release("p.1", 0, "!east.w", "died"),
)


def messages(random: Random) -> None:
    """A node brings anything: to the decoders, to a server's inbox, and over the embedded broker's socket."""
    payload = m.encode(random.choice(MESSAGES)) if random.random() < 0.9 else random.randbytes(random.randint(0, 50))
    changed = mutated(
        random, payload, (b"\xc1", b"\xdf\xff\xff\xff\xff", b"\x91" * 2000, b"\xc6\xff\xff\xff\xff", b"\xc0")
    )
    for decode in (m.decode_request, m.decode_for_server, m.decode_for_worker):
        try:
            decode(changed)
        except UndecodableError:
            pass
    cutter = local.Cutter()
    try:
        for piece in pieces(random, local.frame(local.Taken(1, True, 2)) + len(changed).to_bytes(4, "big") + changed):
            for body in cutter.cut(piece):
                local.decode_answer(body)
    except (local.Malformed, msgspec.DecodeError):
        pass
    world = f.World()
    client = world.client(f.GET)
    with no_defects():
        job = world.worker.job()
        # For this very stream, as far as it can still be read.
        changed = changed.replace(b"p.1", job.stream.encode()) if random.random() < 0.5 else changed
        world.node.push(world.clusters.home.inbox, [changed])
        world.settle()
        client.leave()
        world.assert_empty()


TARGETS: Final[Mapping[str, Callable[[Random], None]]] = {
    "http": http,
    "splits": splits,
    "websocket": websocket,
    "proxy": proxy,
    "messages": messages,
}
