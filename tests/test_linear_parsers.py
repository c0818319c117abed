"""What others send costs no more than its bytes: each parser of it, with whatever could make it slow.

Each `Place` where foreign bytes are read gets each unit, repeated until there are `size` bytes, and twice as many, at
once. Measured are

* steps: lines of Python that are executed, and functions of C that are called. They are counted, so that a busy machine
  changes nothing. One call may take `TURN_STEPS`: what a client sends at once must not hold the event loop for longer;
* memory: the peak that `tracemalloc` sees, the stack of `re` included, which may take 128 bytes for a character;
* the processor's time, since one call in C may be slow by itself: the best of some runs, where it is more than
  `NOISE_S`, beside that of an eighth of the input. It may be three times what is linear. This finds what is quadratic,
  and nothing else.

Where bytes may come in pieces, a piece of one byte may cost no more behind many bytes than behind few.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from twisted.internet.address import IPv4Address

from ifserver import channels
from ifserver import headers as h
from ifserver import messages as m
from ifserver.config.networks import parse_networks
from ifserver.errors import ChannelNameError, UndecodableError
from ifserver.front.access_log import Entry, as_combined, as_json
from ifserver.front.exchanges.routing import Positions
from ifserver.front.incoming_request import BadRequest, Incoming, identify, parse_target, stamp
from ifserver.front.proxy_protocol import BadProxyHeader, parse_header
from ifserver.front.websocket import deflate
from ifserver.front.websocket.opening import websocket_problem
from ifserver.layers import operator_orders
from ifserver.layers.embedded import frames as embedded
from ifserver.observe import publication
from ifserver.observe.tracing import context_in
from ifserver.status import decode_facts, facts_of, names_of
from ifserver.worker.wsgi_call import environ_of
from tests.front import fakes as f
from tests.observe.admin.stage import Stage
from tests.worker.stage import http_request

#: The most that one call may cost, in steps: 10 ms or so, and most take a hundredth of that.
TURN_STEPS: Final = 200_000
#: What twice the input may cost, compared with the input; and what it may cost in any case.
FACTOR: Final = 2.2
FEW_STEPS: Final = 2_000
#: Bytes of memory for each byte of the input, and in any case.
BYTES_PER_BYTE: Final = 40
SOME_BYTES: Final = 256 * 1024
#: Below so many seconds of the processor's time nothing is compared. What is quadratic takes more for 60 KB.
NOISE_S: Final = 0.003

#: What is repeated.
UNITS: Final = (
    b"a", b"0", b'"', b"\\", b"%", b"%41", b"%ff", b",", b";", b"=", b":", b"/", b"@", b"://", b"?", b".", b"_", b" ",
    b"\t", b"[", b"{", b"\xff", b"\0", b"\r", b"\n", b"\r\n", b"a,", b" ,", b"; a=", b'"\\', b';a="', b"1.2.3.4, ", b"://a@",
)  # fmt: skip
#: What is nested, in MessagePack: lists, dictionaries, and lists that say that they are long.
NESTED: Final = (b"\x91", b"\x81", b"\x81\xa0", b"\xdc\xff\xff", b"\xc1", b"\xc0", b"\xa1a", b"\xff", b"\xcb")

Feed = Callable[[bytes], object]


class Place(NamedTuple):
    """Where foreign bytes are read."""

    #: A parser that has read nothing. It gets the bytes at once.
    make: Callable[[], Feed]
    before: bytes = b""
    behind: bytes = b""
    units: tuple[bytes, ...] = UNITS
    size: int = 30_000

    def input(self, unit: bytes, size: int) -> bytes:
        return self.before + unit * (size // len(unit)) + self.behind


def steps(feed: Feed, data: bytes) -> int:
    """How many steps it takes to read `data`."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "c_call"

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        feed(data)
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    return count


def memory(feed: Feed, data: bytes) -> int:
    """The most memory that it takes, in bytes."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        feed(data)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def seconds(make: Callable[[], Feed], data: bytes, times: int = 3) -> float:
    """The least time of the processor that it takes."""
    found = []
    for _ in range(times):
        feed = make()
        began = time.process_time()
        feed(data)
        found.append(time.process_time() - began)
    return min(found)


# Parsers.


def function(parse: Feed, *refusals: type[Exception]) -> Callable[[], Feed]:
    """A function that reads all at once, and may refuse it."""

    def feed(data: bytes) -> None:
        try:
            parse(data)
        except refusals:
            pass

    return lambda: feed


class Clients:
    """Clients of one server, one after the other: they are connected by `connect`, and each is new."""

    def __init__(self, connect: Callable[[], f.FakeTransport]) -> None:
        self._connect = connect
        self._last: f.FakeTransport | None = None

    def __call__(self) -> Feed:
        if self._last is not None:
            self._last.leave()
        self._last = self._connect()
        return self._last.send


def connection(**settings: Any) -> Clients:
    """A client's connection."""
    world = f.World(max_connections_per_client=10**6, request_capacity=10**6, **settings)
    return Clients(world.client)


def websocket(head: bytes = f.HANDSHAKE, **settings: Any) -> Clients:
    """A client's open WebSocket."""
    world = f.World(max_connections_per_client=10**6, **settings)

    def connect() -> f.FakeTransport:
        world.settle()
        client = world.client(head)
        world.worker.jobs(channels.WEBSOCKET_CONNECT)[-1].accept()
        world.settle()
        return client

    return Clients(connect)


def announced() -> Clients:
    """A connection that a proxy has to announce."""
    world = f.World()
    peer = IPv4Address("TCP", "127.0.0.1", 1)

    def connect() -> f.FakeTransport:
        transport = f.FakeTransport(world, peer, peer)
        transport.protocol = world.server.announced.buildProtocol(peer)
        transport.protocol.makeConnection(transport)
        return transport

    return Clients(connect)


class Broker(embedded.Peer):
    """The embedded broker's end of a connection."""

    def message_received(self, body: bytes | memoryview) -> None:
        ask = embedded.decode_ask(body)
        if isinstance(ask, embedded.Push):
            self.whole(ask)
        elif isinstance(ask, embedded.Call):
            for kind in embedded.CALLS.values():
                try:
                    kind.decode_arguments(ask.arguments)
                except msgspec.DecodeError:
                    pass

    def malformed(self, why: str) -> None:
        pass


TRUSTED: Final = parse_networks(["10.0.0.0/8", "1.2.3.4"], "x")
PEER: Final = ("10.0.0.1", 1)


def by_field(*names: bytes) -> Callable[[Callable[[m.Headers], object]], Callable[[], Feed]]:
    """What looks at headers, where the fields of these names hold the bytes."""
    return lambda look: function(lambda value: look([(name, value) for name in names]))


def incoming(headers: m.Headers) -> Incoming:
    return Incoming("GET", b"/", "1.1", headers, True)


def log(value: bytes) -> None:
    entry = Entry(
        at=1.0, client="::1", method="GET", target=value, http_version="1.1", status=200, sent_bytes=1, duration_s=0.1,
        queue_s=None, stream="", request_id="", referer=value, user_agent=value,
    )  # fmt: skip
    as_combined(entry, False)
    as_json(entry)


def compressed(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


END: Final = b" HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD: Final = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST: Final = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE: Final = POST + b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
DEFLATING: Final = f.HANDSHAKE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
#: The head of a frame with 65,536 bytes.
FRAME: Final = b"\xff\0\0\0\0\0\1\0\0\0\0\0\0"
http: Final = connection(
    trusted_proxies=("0.0.0.0/0",), allowed_origins=("http://a",), resumable_paths=("/a*a*a*a*b",), request_id=True
)
admin: Final = Clients(Stage(token="t").connect)
frames: Final = websocket(max_websocket_fragments=10**6)
deflated: Final = websocket(DEFLATING)
FIELDS: Final = (
    b"X", b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect", b"Upgrade", b"X-Forwarded-For",
)  # fmt: skip

PLACES: Final[Mapping[str, Place]] = {
    # The head of a request.
    "anything": Place(http, units=(*UNITS, b"a:\r\n", b"GET ", f.GET, b"POST / HTTP/1.1\r\n\r\n")),
    "target": Place(http, b"GET /", END),
    "unfinished target": Place(http, b"GET /"),
    "query": Place(http, b"GET /?", END),
    "host in a target": Place(http, b"GET http://", b"/" + END),
    "version": Place(http, b"GET / HTTP/", b"\r\n\r\n"),
    "name": Place(http, HEAD, b": a\r\n\r\n"),
    "names": Place(http, HEAD, b"\r\n", (b"a:\r\n", b"a_b: c\r\n", b":\r\n", b" a\r\n", b"Host: a\r\n")),
    "unfinished value": Place(http, HEAD + b"X: "),
    **{f"value of {name.decode()}": Place(http, HEAD + name + b": ", b"\r\n\r\n") for name in FIELDS},
    "path of a handshake": Place(http, b"GET /", f.HANDSHAKE[len("GET /chat?x") :]),
    # Its body.
    "body": Place(http, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n"),
    "chunks": Place(
        http,
        LARGE,
        units=(
            *UNITS,
            b"1\r\na\r\n",
            b"1;\r\na\r\n",
            b'1;""\r\na\r\n',
            b"0000000000000001\r\na\r\n",
            b"0\r\n\r\n" + f.GET,
            b"1;" + b'"' * 4000 + b"\r\na\r\n",
            b'1;"' + b"\\" * 4000 + b'"\r\na\r\n',
        ),
        size=120_000,
    ),
    "extension": Place(http, LARGE + b'1;a="', b"\r\na\r\n0\r\n\r\n"),
    "trailers": Place(http, LARGE + b"0\r\n", b"\r\n", (*UNITS, b"X:\r\n", b"X: y\r\n"), 120_000),
    "value of a trailer": Place(http, LARGE + b"0\r\nX: ", b"\r\n\r\n"),
    # What a proxy says of a connection.
    "PROXY": Place(announced(), units=(*UNITS, b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n")),
    "PROXY, version 1": Place(announced(), b"PROXY TCP4 ", b"\r\n"),
    "PROXY, version 2": Place(
        function(parse_header, BadProxyHeader),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\xe0" + b"\1\2\3\4" * 3,
        units=(b"\0\0\0", b"\x20\0\0", b"\x20\0\1\1", b"\xff", b"\0"),
        size=2_000,
    ),
    # A WebSocket.
    "frames": Place(
        frames,
        f.frame(1, b"", False),
        units=(
            f.frame(0, b"a", False),
            f.frame(0, b"", False),
            f.frame(8),
            f.frame(9),
            f.frame(9, b"a" * 125),
            f.frame(10),
            f.frame(0, b"") + f.frame(1, b"", False),
            f.frame(0, b"a" * 125) + f.frame(2, b"", False),
        ),
        size=10_000,
    ),
    "text": Place(frames, b"\x81" + FRAME),
    "compressed message": Place(deflated, b"\xc1" + FRAME),
    "compressed messages": Place(
        deflated,
        units=(
            f.frame(1, b"", rsv=4),
            f.frame(1, b"\3\0", rsv=4),
            f.frame(2, compressed(b"a" * 10**5), rsv=4),
            f.frame(2, b"\3\0" * 60, rsv=4),
            f.frame(2, b"\0\0\0\xff\xff" * 20, rsv=4),
        ),
        size=10_000,
    ),
    "offers": Place(
        by_field(b"sec-websocket-extensions")(lambda headers: deflate.agree(headers, 15)),
        units=(*UNITS, b"permessage-deflate, ", b"permessage-deflate; x, ", b"; server_max_window_bits=1"),
    ),
    "version of a handshake": Place(by_field(b"sec-websocket-version")(lambda each: websocket_problem(incoming(each)))),
    "key of a handshake": Place(
        by_field(b"sec-websocket-key")(
            lambda each: websocket_problem(incoming([*each, (b"sec-websocket-version", b"13")]))
        )
    ),
    # What is made of a request.
    "request target": Place(function(lambda value: parse_target("GET", value), BadRequest), b"/"),
    "client": Place(
        by_field(b"x-forwarded-for", b"x-forwarded-proto")(lambda each: h.seen_by_proxies(each, PEER, "http", TRUSTED))
    ),
    "Forwarded": Place(by_field(b"forwarded")(lambda each: h.seen_by_proxies(each, PEER, "http", TRUSTED))),
    "quoted in Forwarded": Place(
        by_field(b"forwarded")(lambda each: h.seen_by_proxies(each, PEER, "http", TRUSTED)), b'for="', b'"'
    ),
    "id": Place(by_field(b"x-request-id")(lambda each: identify(incoming(each), b"x", PEER, TRUSTED))),
    "time": Place(by_field(b"x-request-start")(lambda each: stamp(incoming(each), 1.0, PEER, TRUSTED))),
    "spans": Place(by_field(b"traceparent", b"tracestate", b"baggage")(context_in)),
    "cookie of a canary": Place(
        by_field(b"cookie")(lambda each: Positions("cookie:s").of(each, PEER, False)),
        units=(*UNITS, b"s=", b"; s=", b"ifserver_canary=", b"ifserver_canary=1x; ", b"; ifserver_canary= "),
    ),
    "access log": Place(function(log)),
    "environment": Place(
        function(
            lambda value: environ_of(http_request(raw_path=b"/" + value, headers=[(b"host", value), (b"x", value)]))
        )
    ),
    # What nodes bring.
    "requests": Place(function(m.decode_request, UndecodableError), b"\1", units=NESTED),
    "to a server": Place(function(m.decode_for_server, UndecodableError), b"\1", units=NESTED),
    "to a worker": Place(function(m.decode_for_worker, UndecodableError), b"\1", units=NESTED),
    "broadcasts": Place(function(m.decode_broadcast, UndecodableError), b"\1", units=NESTED),
    "orders": Place(function(operator_orders.read, UndecodableError), b"\x92\x91", units=NESTED),
    "answers": Place(function(operator_orders.read_here, UndecodableError), b"\x95\x91", units=NESTED),
    "names in a beat": Place(function(names_of)),
    "facts in a beat": Place(function(lambda value: decode_facts(facts_of(value))), b"\n", units=NESTED),
    "names of channels": Place(
        function(lambda value: channels.identity(channels.check(value.decode("latin-1"))), ChannelNameError, ValueError)
    ),
    # (Its clients are processes of ours: what they send at once is not bounded by a turn.)
    "embedded broker": Place(
        lambda: Broker().dataReceived,
        units=(
            *UNITS,
            *(
                embedded.frame(each)
                for each in (
                    embedded.EndPulls(),
                    embedded.Push(1, "a", [], True),
                    embedded.Push(1, "a", [b"a"] * 9, True),
                    embedded.Call(1, "a", msgspec.Raw(b"\xc0")),
                )
            ),
        ),
        size=10_000,
    ),
    "call of the embedded broker": Place(
        lambda: lambda value: Broker().dataReceived((len(value) + 5).to_bytes(4, "big") + b"\x94\4\1\xa1a" + value),
        units=NESTED,
    ),
    # The admin endpoint.
    "admin request": Place(admin, units=(*UNITS, b"a:\r\n", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")),
    "admin arguments": Place(
        admin, b"GET /status.json?", b" HTTP/1.1\r\nHost: localhost\r\n\r\n", (*UNITS, b"&", b"a=&"), 3_500
    ),
    "admin host": Place(admin, b"GET / HTTP/1.1\r\nHost: ", b"\r\n\r\n", size=3_500),
    "token": Place(
        admin, b"GET /groups/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ", b"\r\n\r\n", size=3_500
    ),
    "publication": Place(
        function(lambda value: publication.parse("application/json", value), ValueError),
        b'{"json":',
        units=(*UNITS, b'{"a":', b"1,", b'"a",'),
    ),
    "type of a publication": Place(
        function(lambda value: publication.parse("text/x" + value.decode("latin-1"), b""), ValueError),
        units=(*UNITS, b"; charset", b";charset="),
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_bytes_of_others_cost_no_more_than_their_number(name: str) -> None:
    place = PLACES[name]
    found = []
    for unit in place.units:
        half, data = place.input(unit, place.size), place.input(unit, 2 * place.size)
        count = steps(place.make(), data)
        if count > TURN_STEPS:
            found.append(f"{unit!r}: {count} steps in one turn")
        if count > FEW_STEPS and count > FACTOR * (before := steps(place.make(), half)) + FEW_STEPS:
            found.append(f"{unit!r}: {before} steps, and {count} for twice as much")
        peak = memory(place.make(), data)
        if peak > BYTES_PER_BYTE * len(data) + SOME_BYTES:
            found.append(f"{unit!r}: {peak} bytes of memory for {len(data)}")
        took = seconds(place.make, data, 1)
        if took > NOISE_S:
            eighth = seconds(place.make, place.input(unit, place.size // 4), 5)
            if (took := seconds(place.make, data, 5)) > 3 * 8 * eighth + NOISE_S:
                found.append(f"{unit!r}: {eighth:.6f} s, and {took:.6f} s for eight times as much")
    assert found == []


@pytest.mark.parametrize(
    ("make", "before", "unit", "many"),
    [
        (http, b"GET /", b"a", 60_000),
        (http, b"G", b"E", 60_000),
        (http, HEAD + b"X", b"a", 60_000),
        (http, HEAD + b"X: ", b"a", 60_000),
        (http, POST + b"1;", b"a", 3_000),
        (http, LARGE + b"0\r\nX: ", b"a", 60_000),
        (frames, b"\x82" + FRAME, b"a", 60_000),
        (frames, b"\x81" + FRAME, b"a", 60_000),
        (lambda: Broker().dataReceived, b"\0\1\0\0", b"a", 60_000),
        (announced(), b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\xe0", b"a", 3_000),
        (admin, b"GET /", b"a", 7_000),
    ],
)  # fmt: skip
def test_a_byte_costs_the_same_however_many_have_come(
    make: Callable[[], Feed], before: bytes, unit: bytes, many: int
) -> None:
    def fed(data: bytes) -> Callable[[], Feed]:
        def made() -> Feed:
            feed = make()
            feed(data)

            def bytewise(rest: bytes) -> None:
                for i in range(len(rest)):
                    feed(rest[i : i + 1])

            return bytewise

        return made

    rest = unit * 500
    at_first, later = (seconds(fed(before + unit * count), rest, 7) for count in (0, many))
    assert later < 5 * at_first + NOISE_S
