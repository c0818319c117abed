"""Bodies in chunks: what any split of the bytes gives, beside a decoder that has them all at once, and llhttp's."""

from __future__ import annotations

import re
from typing import NamedTuple

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ifserver.config.settings import FrontSettings
from ifserver.front.http1.chunked import ChunkedBody
from ifserver.front.incoming_request import BadRequest, Incoming

LIMIT = 100_000
OVERHEAD = 1000


class Outcome(NamedTuple):
    """What came of some bytes."""

    #: Of the body, until its end or until it was refused.
    body: bytes
    #: The bytes up to its end; None: it has not ended.
    end: int | None
    #: With which it was refused; 0: it was not.
    status: int


def decode(pieces: list[bytes], limit: int | None = LIMIT, overhead: int = OVERHEAD) -> Outcome:
    incoming = Incoming("POST", b"/", "1.1", [], True)
    body = ChunkedBody(incoming, FrontSettings(max_body_bytes=limit, max_header_bytes=overhead))
    before = 0
    try:
        for piece in pieces:
            taken = body.feed(b"??" + piece, 2) - 2
            if body.complete:
                before += taken
                break
            assert taken == len(piece)
            before += taken
    except BadRequest as error:
        return Outcome(b"", None, error.status)
    assert incoming.body_bytes == sum(map(len, incoming.body))
    return Outcome(incoming.take_body(), before if body.complete else None, 0)


def reference(data: bytes) -> Outcome:
    """The same of all the bytes at once, written from the grammar, without limits, and slow; half a line may be bad."""
    token = r"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
    at, body = 0, b""
    while True:
        end = data.find(b"\n", at)
        if end < 0:
            return Outcome(body, None, 0)
        line = data[at : end + 1].decode("latin-1")
        at = end + 1
        size = re.fullmatch(r"([0-9A-Fa-f]{1,16})(?:[ \t]*;([\t -~\x80-\xff]*))?\r\n", line)
        if size is None or not ends_its_quotes(size[2] or ""):
            return Outcome(b"", None, 400)
        length = int(size[1], 16)
        if length == 0:
            break
        body += data[at : at + length]
        at += length
        if data[at : at + 2] != b"\r\n"[: max(0, len(data) - at)]:
            return Outcome(b"", None, 400) if b"\n" in data[at:] else Outcome(body, None, 0)
        at += 2
    while True:
        end = data.find(b"\n", at)
        if end < 0:
            return Outcome(body, None, 0)
        line = data[at : end + 1].decode("latin-1")
        at = end + 1
        if line == "\r\n":
            return Outcome(body, at, 0)
        name = re.fullmatch(rf"({token}):[\t -~\x80-\xff]*\r\n", line)
        if name is None or name[1].lower() in ("content-length", "transfer-encoding"):
            return Outcome(b"", None, 400)


def ends_its_quotes(text: str) -> bool:
    """Whether a quote that begins in it ends in it; what is escaped outside of quotes may be no quote and no escape."""
    quoted = escaped = False
    for sign in text:
        if escaped and not quoted and sign in '\\"':
            return False
        if sign == '"' and not escaped:
            quoted = not quoted
        escaped = sign == "\\" and not escaped
    return not quoted


def by_llhttp(data: bytes) -> Outcome:
    """What llhttp makes of it; it does not tell where the body has ended."""
    body: list[bytes] = []

    class Callbacks:
        complete = 0

        def on_body(self, piece: bytes) -> None:
            body.append(piece)

        def on_message_complete(self) -> None:
            self.complete = 1

    callbacks = Callbacks()
    parser = httptools.HttpRequestParser(callbacks)
    parser.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        for i in range(len(data)):
            parser.feed_data(data[i : i + 1])
            if callbacks.complete:
                return Outcome(b"".join(body), i + 1, 0)
    except httptools.HttpParserError:
        return Outcome(b"", None, 400)
    return Outcome(b"".join(body), None, 0)


extensions = st.sampled_from(
    [
        b"",
        b"",
        b";a",
        b";a=b",
        b';a="b;c"',
        b' ; a\t= "\\"\\\\" ; b',
        b";" + b"a" * 50,
        b";" + b"a" * 300,
        b';a="\xe4\\\xff"',
        b';=""',
    ]
)
trailers = st.lists(
    st.sampled_from(
        [b"X: y\r\n", b"Connection: close\r\n", b"Y:\r\n", b"Z: \xe4\t \r\n", b"Z:" + b"y" * 200 + b"\r\n"]
    ),
    max_size=3,
)
data_ = st.one_of(st.binary(max_size=20), st.sampled_from([b"\r\n", b"\r\n\r\n" * 5, b"0\r\n\r\n", b"x" * 300]))
hexadecimal = st.sampled_from([b"%x", b"%X", b"%04x", b"%016X"])


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A body, and the same in chunks."""
    pieces = [piece for piece in draw(st.lists(data_, max_size=8)) if piece]
    coded = b"".join(draw(hexadecimal) % len(piece) + draw(extensions) + b"\r\n" + piece + b"\r\n" for piece in pieces)
    last = draw(st.sampled_from([b"0", b"000"])) + draw(extensions) + b"\r\n"
    return b"".join(pieces), coded + last + b"".join(draw(trailers)) + b"\r\n"


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[bytes]:
    if draw(st.booleans()):
        size = draw(st.integers(1, 3))
        return [data[i : i + size] for i in range(0, len(data), size)]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


@given(st.data(), bodies(), st.binary(max_size=10))
def test_a_body_comes_out_as_it_was_and_ends_where_it_ends(
    data: st.DataObject, pair: tuple[bytes, bytes], behind: bytes
) -> None:
    body, coded = pair
    expected = Outcome(body, len(coded), 0)
    assert decode([coded + behind]) == expected
    assert decode(data.draw(splits(coded + behind))) == expected
    assert reference(coded + behind) == expected


#: What decides how a body in chunks is read; put where it does not belong.
SIGNS = [
    b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"\n\r", b"\0", b" ", b"\t", b";", b";;", b"=", b'"', b"\\", b"+", b"-", b"0x",
    b"_", b"0", b"00000000000000000", b"f", b"ffffffffffffffff", b"\x0b", b"\x7f", b"\xe4", b",", b":", b"0\r\n\r\n",
    b"1\r\nx\r\n", b"Content-Length: 1\r\n",
]  # fmt: skip


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A body in chunks with something wrong, or not."""
    coded = draw(bodies())[1]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(coded)))
        to = at + draw(st.integers(0, 2))
        coded = coded[:at] + draw(st.sampled_from([b"", *SIGNS])) + coded[to:]
    return coded


@settings(max_examples=400, deadline=None)
@given(st.data(), spoilt())
@example(data=None, coded=b"3\r\nabc\r\r\n5\r\nhello\r\n0\r\n\r\n")
def test_what_is_wrong_is_refused_however_it_is_cut(data: st.DataObject | None, coded: bytes) -> None:
    whole = decode([coded], limit=None, overhead=10**9)
    cuts = [coded[i : i + 1] for i in range(len(coded))] if data is None else data.draw(splits(coded))
    assert decode(cuts, limit=None, overhead=10**9) == whole
    if whole.status != 413:
        assert reference(coded) == whole
    other = by_llhttp(coded)
    if whole.end is not None and other.end is not None:
        # It takes more than this does, and less; what both take is the same.
        assert other == whole


@given(st.data(), spoilt(), st.integers(256, 350), st.integers(1, 300))
def test_limits_are_the_same_however_it_is_cut(data: st.DataObject, coded: bytes, overhead: int, limit: int) -> None:
    whole = decode([coded], limit, overhead)
    assert decode(data.draw(splits(coded)), limit, overhead) == whole


def test_a_size_that_is_too_large_does_not_wait_for_its_bytes() -> None:
    assert decode([b"a\r\n"], limit=10) == Outcome(b"", None, 0)
    assert decode([b"b\r\n"], limit=10) == Outcome(b"", None, 413)
    assert decode([b"a\r\n0123456789\r\n1\r\n"], limit=10) == Outcome(b"", None, 413)
    assert decode([b"a\r\n0123456789\r\n0\r\n\r\n"], limit=10) == Outcome(b"0123456789", 20, 0)


def test_no_body_has_as_many_bytes_as_cannot_be_counted() -> None:
    assert decode([b"7fffffffffffffff\r\nx"], limit=None) == Outcome(b"x", None, 0)
    assert decode([b"8000000000000000\r\nx"], limit=None) == Outcome(b"", None, 413)
    assert decode([b"1\r\nx\r\n7fffffffffffffff\r\n"], limit=None) == Outcome(b"", None, 413)
    assert decode([b"10000000000000000\r\nx"], limit=None) == Outcome(b"", None, 400)


@pytest.mark.parametrize("size", [1, 4, 1000, 100_000])
def test_empty_lines_in_a_body_are_data_and_nothing_is_looked_for_in_them(size: int) -> None:
    """Each chunk is one piece of the body; where it is cut, it is one piece more."""
    body = b"\r\n" * 50_000
    coded = b"".join(b"%x\r\n%b\r\n" % (size, body[i : i + size]) for i in range(0, len(body), size)) + b"0\r\n\r\n"
    incoming = Incoming("POST", b"/", "1.1", [], True)
    chunks = ChunkedBody(incoming, FrontSettings(max_body_bytes=None))
    feeds = [coded[i : i + 16_384] for i in range(0, len(coded), 16_384)]
    for piece in feeds:
        chunks.feed(piece, 0)
    assert chunks.complete
    assert len(incoming.body) <= len(body) // size + len(feeds)
    assert incoming.take_body() == body


@pytest.mark.parametrize(
    ("line", "size"),
    [(b"1;" + b"a" * 100, 1), (b"0" * 15 + b"1", 1), (b"1;a" + b";a" * 100, 20), (b"1" + b" " * 99, 7)],
)
def test_what_stands_around_the_chunks_is_bounded(line: bytes, size: int) -> None:
    """By so many bytes and 16 for each of the body, and no time is spent that grows faster than the bytes do."""
    coded = (line + b"\r\nx\r\n") * 20_000
    assert decode([coded[i : i + size] for i in range(0, 20_000, size)]).status == 400
    assert decode([b"1\r\nx\r\n" * 20_000]).status == 0


@pytest.mark.parametrize("size", [1, 7, 16_384])
def test_a_line_is_short_however_large_the_body_is(size: int) -> None:
    """What a body has earned by its bytes must not be spent on one line."""
    body = b"x" * 1_000_000
    before = b"%x\r\n%b\r\n" % (len(body), body)
    for line, status in [(b"a" * 4092, 0), (b'"' * 4092, 0), (b'"' + b"\\" * 4090 + b'"', 0), (b"a" * 4093, 400)]:
        coded = b"1;" + line + b"\r\n"
        pieces = [coded[i : i + size] for i in range(0, len(coded), size)]
        assert decode([before, *pieces], limit=None).status == status
    # It is refused before it has ended.
    assert decode([before, b"1;" + b"a" * 4094], limit=None).status == 0
    assert decode([before, b"1;" + b"a" * 4095], limit=None).status == 400


@pytest.mark.parametrize("size", [1, 7, 16_384])
def test_trailers_have_the_limits_of_headers_however_large_the_body_is(size: int) -> None:
    body = b"x" * 100_000
    before = b"%x\r\n%b\r\n0\r\n" % (len(body), body)
    for trailers, status in [
        (b"X:\r\n" * 100 + b"\r\n", 0),
        (b"X:\r\n" * 101, 431),
        (b"X:" + b"y" * (OVERHEAD - 6) + b"\r\n\r\n", 0),
        (b"X:" + b"y" * (OVERHEAD - 1), 431),
        (b"X:" + b"y" * 500 + b"\r\nY:" + b"y" * 500, 431),
    ]:
        pieces = [trailers[i : i + size] for i in range(0, len(trailers), size)]
        assert decode([before, *pieces]).status == status


def test_extensions_are_ignored_and_end_where_their_line_does() -> None:
    for extension in (b";", b";;a", b' ;a=""b', b'\t;\xe4="\\\\"', b";a=b c", b";\\"):
        coded = b"1" + extension + b"\r\nx\r\n0" + extension + b"\r\n\r\n"
        assert decode([coded]) == Outcome(b"x", len(coded), 0)
    for extension in (
        b" ",
        b" a",
        b";\n",
        b";\r",
        b';a="\r',
        b";\r\r",
        b";\0",
        b";\x0b",
        b";\x7f",
        b'"',
        b';"',
        b';"\\"',
        b';\\"',
        b';\\""',
        b';"""',
    ):
        assert decode([b"1" + extension + b"\r\nx\r\n0\r\n\r\n"]).status == 400
