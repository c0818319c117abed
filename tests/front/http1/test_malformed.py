"""What two parsers could read differently: a table of raw requests, what each is answered, and by which clause.

The cases come from reading RFC 9112 and 9110 and from what the suites of llhttp, h11, nginx, Node and the HTTP Garden
try. 200 stands for a request that is right, and that is followed by another on the same connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from ifserver import messages as m
from ifserver.front.http1.shared import SILENCE_S
from tests.front.fakes import Job, World, of

NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


class Case(NamedTuple):
    """One request, the status that it is answered with, and why."""

    clause: str
    raw: bytes
    status: int


def line(clause: str, request_line: bytes, status: int = 400) -> Case:
    """A request with nothing but a Host behind that line."""
    return Case(clause, request_line + b"\r\nHost: a\r\n\r\n", status)


def field(clause: str, lines: bytes, status: int = 400) -> Case:
    """A GET with these header lines beside Host."""
    return Case(clause, b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n\r\n", status)


def host(clause: str, value: bytes, status: int = 400) -> Case:
    return Case(clause, b"GET / HTTP/1.1\r\nHost:" + value + b"\r\n\r\n", status)


def length(clause: str, fields: bytes, status: int = 400) -> Case:
    """A POST with three bytes behind its head."""
    return Case(clause, b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n\r\nabc", status)


def coding(clause: str, fields: bytes, status: int = 400) -> Case:
    """A POST with an empty body in chunks behind its head."""
    return Case(clause, b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n\r\n0\r\n\r\n", status)


def chunks(clause: str, body: bytes, status: int = 400) -> Case:
    return Case(clause, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body, status)


def extension(what: str, text: bytes, status: int = 400) -> Case:
    return chunks(f"9112 7.1.1: an extension {what}", b"3" + text + b"\r\nabc\r\n0" + text + b"\r\n\r\n", status)


LINES = [
    line("9112 3: the line that all others differ from", b"GET / HTTP/1.1", 200),
    line("9112 3: one space between method and target", b"GET  / HTTP/1.1"),
    line("9112 3: one space between target and version", b"GET /  HTTP/1.1"),
    line("9112 3: nothing behind the version", b"GET / HTTP/1.1 "),
    line("9112 3: nothing before the method", b" GET / HTTP/1.1"),
    line("9112 3: no tab before the method", b"\tGET / HTTP/1.1"),
    line("9112 3: a tab is no space", b"GET\t/ HTTP/1.1"),
    line("9112 3: a tab is no space", b"GET /\tHTTP/1.1"),
    line("9112 3: a vertical tab is no space", b"GET\x0b/ HTTP/1.1"),
    line("9112 3: a form feed is no space", b"GET /\x0cHTTP/1.1"),
    line("9112 3: white space within the target", b"GET /a b HTTP/1.1"),
    line("9112 3: two targets", b"GET / / HTTP/1.1"),
    line("9112 3: no target", b"GET HTTP/1.1"),
    line("9112 3: no version (HTTP/0.9)", b"GET /"),
    line("9112 3: nothing but a method", b"GET"),
    line("9112 3: a header before the request line", b"Host: a"),
    line("9112 2.3: the name of the protocol is case-sensitive", b"GET / http/1.1"),
    line("9112 2.3: another protocol", b"GET / RTSP/1.0"),
    line("9112 2.3: another protocol, and a method of both", b"OPTIONS * RTSP/1.0"),
    line("9112 2.3: another protocol and its method", b"DESCRIBE / RTSP/1.0"),
    line("9112 2.3: another protocol", b"SOURCE / ICE/1.0"),
    line("9112 2.3: another protocol", b"GET / SIP/2.0"),
    line("9112 2.3: one digit each", b"GET / HTTP/1.10"),
    line("9112 2.3: one digit each", b"GET / HTTP/01.1"),
    line("9112 2.3: one digit each", b"GET / HTTP/1.1.1"),
    line("9112 2.3: a dot", b"GET / HTTP/1,1"),
    line("9112 2.3: two digits", b"GET / HTTP/1"),
    line("9112 2.3: two digits", b"GET / HTTP/1."),
    line("9112 2.3: no sign", b"GET / HTTP/+1.1"),
    line("9112 2.3: no white space", b"GET / HTTP/ 1.1"),
    line("9112 2.3: nothing behind it", b"GET / HTTP/1.1x"),
    line("9110 15.6.6: a major version that is not spoken here", b"GET / HTTP/2.0", 505),
    line("9110 15.6.6: a major version that is not spoken here", b"GET / HTTP/3.0", 505),
    line("9110 15.6.6: a version that is not spoken here", b"GET / HTTP/0.9", 505),
    line("9110 15.6.6: a version that there is not", b"GET / HTTP/1.9", 505),
    Case("9113 3.4: the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    Case("the first bytes of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    Case("no HTTP at all", b"\x00", 400),
    line("9110 9.1: methods are case-sensitive", b"get / HTTP/1.1", 501),
    line("9110 9.1: a method that is not known", b"BREW / HTTP/1.1", 501),
    line("9110 9.1: a method is a token", b"G\x00T / HTTP/1.1"),
    line("9110 9.1: a method is a token", b"G(T) / HTTP/1.1"),
    line("9110 9.1: a method is a token", b"G\xc3\x84T / HTTP/1.1"),
    line("9110 9.3.6: no tunnels here", b"CONNECT a:80 HTTP/1.1", 501),
    Case("9112 2.2: one empty line before a request", b"\r\n" + NEXT, 200),
    Case("9112 2.2: a few empty lines before a request", b"\r\n" * 4 + NEXT, 200),
    Case("9112 2.2: too many empty lines before a request", b"\r\n" * 5 + NEXT, 400),
    Case("9112 2.2: a lone LF is no empty line", b"\n" + NEXT, 400),
    Case("9112 2.2: a lone CR is no empty line", b"\r" + NEXT, 400),
    Case("9112 2.2: LF CR is no empty line", b"\n\r" + NEXT, 400),
]

ENDS = [
    Case("9112 2.2: a lone LF behind the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    Case("9112 2.2: a lone LF behind every line", b"GET / HTTP/1.1\nHost: a\n\n", 400),
    Case("9112 2.2: a lone LF behind a field", b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    Case("9112 2.2: a lone LF as the empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    Case("9112 2.2: a lone CR behind the request line", b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    Case("9112 2.2: a lone CR behind a field", b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    Case("9112 2.2: a lone CR before the end", b"GET / HTTP/1.1\r\nHost: a\r\n\rX\r\n\r\n", 400),
    Case("9112 2.2: two CRs", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400),
    Case("9112 2.2: two CRs", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400),
    Case("9112 2.2: two CRs as the empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n", 400),
    Case("9112 2.2: white space before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    Case("9112 2.2: a tab before the first field", b"GET / HTTP/1.1\r\n\tX: a\r\nHost: a\r\n\r\n", 400),
]

FIELDS = [
    field("9110 5.5: white space around a value is none of it", b"X: \t a \t", 200),
    field("9110 5.5: an empty value", b"X:", 200),
    field("9110 5.5: obs-text is let through", b"X: \x80\xff", 200),
    field("9112 5.1: no space before the colon", b"X : a"),
    field("9112 5.1: no tab before the colon", b"X\t: a"),
    field("9112 5.1: not before the colon of what matters either", b"Transfer-Encoding : chunked"),
    field("9112 5.2: no folded lines", b"X: a\r\n b"),
    field("9112 5.2: no folded lines", b"X: a\r\n\tb"),
    field("9112 5.2: none that hides a coding", b"Transfer-Encoding:\r\n chunked"),
    field("9112 5: a colon", b"X"),
    field("9110 5.1: a name", b": a"),
    field("9110 5.1: a name is a token", b"X Y: a"),
    field("9110 5.1: a name is a token", b"X(: a"),
    field("9110 5.1: a name is a token", b"X\x00: a"),
    field("9110 5.1: a name is a token", b"X\x7f: a"),
    field("9110 5.1: a name is a token", b"X\xe4: a"),
    field("9110 5.1: a name is a token", b'"X": a'),
    field("9110 5.5: no NUL", b"X: a\x00b"),
    field("9110 5.5: no CR", b"X: a\rb"),
    field("9110 5.5: no LF", b"X: a\nb: c"),
    field("9110 5.5: no other control", b"X: a\x01b"),
    field("9110 5.5: no vertical tab", b"X: \x0b"),
    field("9110 5.5: no DEL", b"X: a\x7f"),
    field("9110 10.1.1: an expectation that cannot be met", b"Expect: tea", 417),
]

HOSTS = [
    Case("9112 3.2: no Host", b"GET / HTTP/1.1\r\n\r\n", 400),
    Case("9112 3.2: two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    Case("9112 3.2: two Hosts that are equal", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400),
    Case("9112 3.2: two Hosts in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    host("9112 3.2: an empty Host", b"", 200),
    host("9110 7.2: a port", b" a.example:8080", 200),
    host("3986 3.2.2: an address in brackets", b" [::1]:80", 200),
    host("3986 3.2.2: percent-encoding", b" a%c3%a4", 200),
    host("9110 7.2: two of them", b" a b"),
    host("9110 7.2: no path", b" a/b"),
    host("9110 7.2: no user", b" b@a"),
    host("9110 7.2: no query", b" a?b"),
    host("9110 7.2: no fragment", b" a#b"),
    host("3986 3.2.2: no backslash", b" a\\b"),
    host("3986 3.2.2: nothing outside ASCII", b" \xe4"),
    host("3986 3.2.3: a port is a number", b" a:x"),
    host("3986 3.2.3: a port is a number", b" a:-1"),
    host("3986 3.2.3: a port has at most five digits", b" a:100000"),
    host("3986 3.2.3: one port", b" a:80:80"),
    host("9110 4.2.1: no port without a host", b" :80"),
    host("3986 3.2.2: brackets around an IPv6 address", b" ::1"),
    host("3986 3.2.2: both brackets", b" [::1"),
    host("3986 3.2.2: nothing behind the brackets", b" [::1]x"),
    host("3986 3.2.2: an address in brackets", b" [x]"),
    host("3986 2.1: two hexadecimal digits", b" a%zz"),
]

TARGETS = [
    line("9112 3.2.2: absolute-form that agrees with Host", b"GET http://a/ HTTP/1.1", 200),
    line("9110 4.2.3: host and scheme are case-insensitive", b"GET HTTP://A/ HTTP/1.1", 200),
    line("9110 4.2.3: the default port is the same as none", b"GET http://a:80/ HTTP/1.1", 200),
    line("9110 4.2.3: the default port is the same as none", b"GET https://a:443/ HTTP/1.1", 200),
    line("9112 3.2.2: absolute-form that disagrees with Host", b"GET http://b/ HTTP/1.1"),
    line("9112 3.2.2: absolute-form with another port", b"GET http://a:81/ HTTP/1.1"),
    line("9112 3.2.2: absolute-form with another scheme's port", b"GET http://a:443/ HTTP/1.1"),
    line("9110 4.2.4: a user in a target", b"GET http://a@b/ HTTP/1.1"),
    line("9110 4.2.1: a target without a host", b"GET http:///x HTTP/1.1"),
    line("9110 4.2.1: a target without a host", b"GET http:/x HTTP/1.1"),
    line("9110 4.2: another scheme", b"GET ftp://a/ HTTP/1.1"),
    line("9110 4.2: another scheme", b"GET javascript:alert(1) HTTP/1.1"),
    line("9112 3.2.3: authority-form is for CONNECT", b"GET a:80 HTTP/1.1"),
    line("9112 3.2.4: asterisk-form", b"OPTIONS * HTTP/1.1", 200),
    line("9112 3.2.4: asterisk-form is for OPTIONS", b"GET * HTTP/1.1"),
    line("9112 3.2.1: a path begins with a slash", b"GET a HTTP/1.1"),
    line("9112 3.2.1: a query needs a path", b"GET ?a HTTP/1.1"),
    line("9112 3.2: no fragment", b"GET /a#b HTTP/1.1"),
    line("9112 3.2: no fragment", b"GET http://a/#b HTTP/1.1"),
    line("9112 3.2: no NUL", b"GET /\x00 HTTP/1.1"),
    line("9112 3.2: no control", b"GET /\x1f HTTP/1.1"),
    line("9112 3.2: no DEL", b"GET /\x7f HTTP/1.1"),
    line("3986 2: nothing outside ASCII", b"GET /\xc3\xa4 HTTP/1.1"),
]

LENGTHS = [
    length("9112 6.3: a length", b"Content-Length: 3", 200),
    length("9110 8.6: leading zeros", b"Content-Length: 03", 200),
    length("9110 5.5: white space around it", b"Content-Length:\t3 ", 200),
    length("9112 6.3: two that differ", b"Content-Length: 3\r\nContent-Length: 4"),
    length("9112 6.3: two that are equal MAY be refused", b"Content-Length: 3\r\nContent-Length: 3"),
    length("9112 6.3: a list of two", b"Content-Length: 3, 4"),
    length("9112 6.3: a list of two that are equal", b"Content-Length: 3, 3"),
    length("9112 6.3: a list", b"Content-Length: 3,"),
    length("9110 8.6: no sign", b"Content-Length: +3"),
    length("9110 8.6: no sign", b"Content-Length: -3"),
    length("9110 8.6: decimal", b"Content-Length: 0x3"),
    length("9110 8.6: decimal", b"Content-Length: 3e0"),
    length("9110 8.6: digits", b"Content-Length: 3_0"),
    length("9110 8.6: ASCII digits", b"Content-Length: \xd9\xa3"),
    length("9110 8.6: no white space within", b"Content-Length: 3 3"),
    length("9110 8.6: more digits than any body has", b"Content-Length: " + b"0" * 5000),
    length("9110 8.6: no parameters", b"Content-Length: 3;a=b"),
    length("9110 8.6: no quotes", b'Content-Length: "3"'),
    length("9110 8.6: not empty", b"Content-Length:"),
    length("9110 8.6: no more than can be counted", b"Content-Length: 18446744073709551619"),
    length("9112 5.1: no space before the colon", b"Content-Length : 3"),
    length("9112 6.1: with a coding", b"Content-Length: 3\r\nTransfer-Encoding: chunked"),
    length("9112 6.1: with a coding, in the other order", b"Transfer-Encoding: chunked\r\nContent-Length: 3"),
    length("9112 6.1: with a coding that is not known", b"Content-Length: 3\r\nTransfer-Encoding: identity"),
    length("9110 15.5.14: more than is allowed", b"Content-Length: 5001", 413),
    Case("9110 9.3.1: a GET may have a body", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 200),
]

CODINGS = [
    coding("9112 7.1: chunked", b"Transfer-Encoding: chunked", 200),
    coding("9110 10.1.4: names of codings are case-insensitive", b"Transfer-Encoding: Chunked", 200),
    coding("9110 5.5: white space around it", b"Transfer-Encoding:chunked ", 200),
    coding("9112 6.1: twice", b"Transfer-Encoding: chunked, chunked"),
    coding("9112 6.1: twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    coding("9112 6.3: something behind it", b"Transfer-Encoding: chunked, identity"),
    coding("9112 6.3: something behind it", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
    coding("9112 6.1: something before it", b"Transfer-Encoding: gzip, chunked", 501),
    coding("9112 6.1: something before it", b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", 501),
    coding("9112 6.1: not known", b"Transfer-Encoding: xchunked", 501),
    coding("9112 6.1: not known", b"Transfer-Encoding: chunkedx", 501),
    coding("9112 6.1: not known", b"Transfer-Encoding: chun ked", 501),
    coding("9112 6.1: not known", b'Transfer-Encoding: "chunked"', 501),
    coding("9112 6.1: not known", b"Transfer-Encoding: cow", 501),
    coding("9112 7: chunked has no parameters", b"Transfer-Encoding: chunked;q=1", 501),
    coding("9110 5.6.1: an empty item", b"Transfer-Encoding: ,chunked", 501),
    coding("9110 5.6.1: an empty item", b"Transfer-Encoding: chunked,"),
    coding("9112 6.1: empty", b"Transfer-Encoding:"),
    coding("9110 5.5: a control before it", b"Transfer-Encoding: \x0bchunked"),
    coding("9110 5.5: a control behind it", b"Transfer-Encoding: chunked\x0c"),
    Case(
        "9112 6.1: faulty in HTTP/1.0",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
]

CHUNKS = [
    chunks("9112 7.1: a chunk", b"3\r\nabc\r\n0\r\n\r\n", 200),
    chunks("9112 7.1: upper and lower case", b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", 200),
    chunks("9112 7.1: leading zeros", b"0003\r\nabc\r\n00\r\n\r\n", 200),
    chunks("9112 7.1: empty lines in a chunk", b"8\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", 200),
    chunks("9112 7.1.1: an extension", b'3;a;b=c;d="e;f"\r\nabc\r\n0\r\n\r\n', 200),
    chunks("9112 7.1.2: a trailer", b"3\r\nabc\r\n0\r\nX: y\r\n\r\n", 200),
    chunks("9112 7.1: a size", b"\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: hexadecimal", b"3g\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: no prefix", b"0x3\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: no sign", b"+3\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: no sign", b"-3\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: digits", b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n"),
    chunks("9112 7.1: no white space before it", b" 3\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: no white space behind it", b"3 \r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: no tab behind it", b"3\t\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: no more than can be counted", b"10000000000000003\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: as many digits as can be counted", b"0000000000000003\r\nabc\r\n0000000000000000\r\n\r\n", 200),
    chunks("9112 7.1: no more digits than can be counted", b"00000000000000003\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: digits", b"\xd9\xa3\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: no NUL behind the size", b"3\x00\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: no NUL before the size", b"\x003\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: no comma", b"3,3\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: no empty line before a size", b"3\r\nabc\r\n\r\n0\r\n\r\n"),
    chunks("9112 2.2: two CRs behind the data", b"3\r\nabc\r\r\n0\r\n\r\n"),
    chunks("9112 2.2: a lone CR behind the data", b"3\r\nabc\r0\r\n\r\n"),
    chunks("9112 2.2: LF CR behind the data", b"3\r\nabc\n\r0\r\n\r\n"),
    chunks("9112 2.2: a lone LF behind the size", b"3\nabc\r\n0\r\n\r\n"),
    chunks("9112 2.2: a lone CR behind the size", b"3\rabc\r\n0\r\n\r\n"),
    chunks("9112 2.2: two CRs behind the size", b"3\r\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: a lone LF behind the data", b"3\r\nabc\n0\r\n\r\n"),
    chunks("9112 7.1: no CRLF behind the data", b"3\r\nabc0\r\n\r\n"),
    chunks("9112 7.1: more data than was said", b"3\r\nabcd\r\n0\r\n\r\n"),
    chunks("9112 7.1: less data than was said", b"4\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1: a lone LF behind the last size", b"0\n\r\n"),
    chunks("9112 7.1: a lone LF at the end", b"0\r\n\n"),
    *(
        extension("is ignored, whatever it is", text, 200)
        for text in (
            b";",
            b";;a",
            b";a;",
            b";=b",
            b";a b",
            b";\xe4",
            b';"a"',
            b";a=",
            b";a=b=c",
            b';a="b"c',
            b";a ",
            b";\\a",
        )
    ),
    extension("begins with a semicolon", b" a"),
    extension("begins with a semicolon", b"=a"),
    extension("has no open quote", b';"'),
    extension("has no quote within a quoted value", b';a="b"c"'),
    extension("has no escaped quote at its end", b';a="b\\"'),
    extension("has no escaped quote outside of quotes", b';a=\\"'),
    extension("has no control in a quoted value", b';a="\x01"'),
    extension("has no escaped control in a quoted value", b';a="\\\x01"'),
    extension("has no DEL in a quoted value", b';a="\x7f"'),
    extension("has no CRLF in a quoted value", b';a="\r\n"'),
    extension("has no lone LF in a quoted value", b';a="\n"'),
    extension("has no lone CR in a quoted value", b';a="\r"'),
    extension("has white space of other kinds nowhere", b";\x0ba"),
    extension("may have white space behind the semicolon", b"; a", 200),
    extension("may have white space before the semicolon", b" ;a", 200),
    extension("may have white space wherever there is a sign", b'\t; a\t= \tb ; c = "d"', 200),
    extension("may have a quoted value", b';a="b;c, d=\te"', 200),
    extension("may have an empty quoted value", b';a=""', 200),
    extension("may have an escaped quote in a quoted value", b';a="b\\";c"', 200),
    extension("may have an escaped backslash in a quoted value", b';a="b\\\\";c', 200),
    extension("may have obs-text in a quoted value", b';a="\xe4\\\xff"', 200),
    chunks("9112 7.1.1: an extension with a lone LF", b"3;a\nb\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1.1: an extension with a lone CR", b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1.1: an extension with a NUL", b"3;a\x00\r\nabc\r\n0\r\n\r\n"),
    chunks("9112 7.1.1: a quote without its end", b'3;a="b\r\nabc\r\n0\r\n\r\n'),
    chunks("9112 5.1: a trailer's name", b"0\r\nX : y\r\n\r\n"),
    chunks("9112 2.2: a trailer's end", b"0\r\nX: y\n\r\n"),
    chunks("9110 6.5.1: a length in a trailer", b"0\r\nContent-Length: 3\r\n\r\n"),
    chunks("9110 6.5.1: a coding in a trailer", b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    chunks("9112 5.2: a folded trailer", b"0\r\nX: y\r\n z\r\n\r\n"),
    chunks("9112 5: a colon in a trailer", b"0\r\nX\r\n\r\n"),
    chunks("9110 5.1: a trailer has a name", b"0\r\n: y\r\n\r\n"),
    chunks("9110 5.1: a trailer's name is a token", b"0\r\nX\x00: y\r\n\r\n"),
    chunks("9110 5.5: no NUL in a trailer", b"0\r\nX: a\x00b\r\n\r\n"),
    chunks("9110 5.5: no CR in a trailer", b"0\r\nX: a\rb\r\n\r\n"),
    chunks("9110 5.5: obs-text in a trailer is let through", b"0\r\nX:\t\xe4 \r\nY:\r\n\r\n", 200),
    chunks("9110 6.5.1: a length in a trailer, whatever its case", b"0\r\nX: y\r\ncOntent-length: 3\r\n\r\n"),
    chunks("9110 6.5.1: trailers are no headers", b"0\r\nConnection: close\r\n\r\n", 200),
    chunks("9110 6.5.1: trailers are no headers", b"0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 200),
    chunks("9110 6.5.1: trailers are no headers", b"0\r\nHost: b\r\nExpect: tea\r\n\r\n", 200),
    chunks("9110 15.5.14: as much as is allowed", b"1388\r\n" + b"x" * 5000 + b"\r\n0\r\n\r\n", 200),
    chunks("9110 15.5.14: the size tells that it is more than is allowed", b"1389\r\nabc", 413),
    chunks("9110 15.5.14: the sum tells that it is more than is allowed", b"3\r\nabc\r\n1386\r\nabc", 413),
    chunks("9110 15.5.14: far more than is allowed", b"fffffffffffffffe\r\nabc", 413),
    chunks("9110 15.5.14: far more than is allowed", b"3\r\nabc\r\nFFFFFFFFFFFFFFFF;a\r\nabc", 413),
    chunks("9110 15.5.14: more than is allowed", b"1389\r\n" + b"x" * 5001 + b"\r\n0\r\n\r\n", 413),
]

TABLE = [*LINES, *ENDS, *FIELDS, *HOSTS, *TARGETS, *LENGTHS, *CODINGS, *CHUNKS]


def answers(pieces: list[bytes]) -> tuple[list[str], list[int], bool]:
    """The paths of the requests that were complete, the statuses that the client saw, and whether it was cut off."""
    world = World(max_body_bytes=5000)
    client = world.client()
    paths: list[str] = []
    jobs: list[Job] = []
    for piece in pieces:
        client.send(piece)
        moved = True
        while moved:
            moved = False
            for job in world.worker.jobs():
                job.claim()
                jobs.append(job)
                moved = True
            for job in list(jobs):
                rest = of(m.RequestBody, job.heard())
                job.window(1_000_000_000)  # of what may be sent, this is no test
                if not (rest[-1].more_body if rest else job.request.more_body):
                    jobs.remove(job)
                    paths.append(job.request.path)
                    job.respond(200)
                    moved = True
            world.settle()
    got = client.received()
    statuses = [int(part[:3]) for part in got.split(b"HTTP/1.1 ")[1:]]
    world.advance(SILENCE_S)
    lost = client.lost
    client.leave()
    world.assert_empty()
    return paths, statuses, lost


#: The cases of each section. Each of them being a test would cost more than what it tests.
SECTIONS: dict[str, list[Case]] = {}
for each in TABLE:
    SECTIONS.setdefault(each.clause.partition(":")[0], []).append(each)


@contextmanager
def named(case: Case) -> Iterator[None]:
    """Say which case it was, if it fails."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"{case.clause}: {case.raw!r}")
        raise


@pytest.mark.parametrize("section", SECTIONS)
def test_whole(section: str) -> None:
    for case in SECTIONS[section]:
        with named(case):
            paths, statuses, lost = answers([case.raw, NEXT])
            if case.status == 200:
                assert statuses == [200] * len(paths)
                assert paths[-1] == "/next"
                assert len(paths) == 2
                assert not lost
            else:
                assert statuses == [case.status]
                assert paths == []
                assert lost


@pytest.mark.parametrize("section", SECTIONS)
def test_byte_by_byte(section: str) -> None:
    """However it is cut, the answer is the same."""
    for case in SECTIONS[section]:
        with named(case):
            paths, statuses, lost = answers([bytes([byte]) for byte in case.raw + NEXT])
            if case.status == 200:
                assert statuses == [200] * len(paths)
                assert paths[-1] == "/next"
                assert not lost
            else:
                assert statuses == [case.status]
                assert paths == []
                assert lost


@pytest.mark.parametrize("section", SECTIONS)
def test_in_one_piece_with_what_is_around_it(section: str) -> None:
    """Behind another request and before the next, in the same bytes."""
    for case in SECTIONS[section]:
        with named(case):
            paths, statuses, lost = answers([NEXT + case.raw + NEXT, b""])
            assert paths[0] == "/next"
            assert statuses[0] == 200
            assert lost is (case.status != 200)


@pytest.mark.parametrize("empty_lines", [0, 1, 10])
def test_a_line_is_looked_at_behind_a_body_in_chunks_too(empty_lines: int) -> None:
    """In the same bytes, where llhttp does not tell at which of them the body has ended."""
    body = b"\r\n\r\n" * empty_lines + b"x"
    chunked = b"POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    assert answers([chunked + b"GET / RTSP/1.0\r\nHost: a\r\n\r\n" + NEXT, b""]) == (["/first"], [200, 400], True)
    assert answers([chunked + NEXT + NEXT]) == (["/first", "/next", "/next"], [200] * 3, False)


def test_there_is_much_of_it() -> None:
    assert len(TABLE) >= 240
    assert len({case.raw for case in TABLE}) == len(TABLE)


@pytest.mark.parametrize(("how", "status"), [("drop", 200), ("allow", 200), ("refuse", 400)])
def test_underscores_in_names(how: str, status: int) -> None:
    """RFC 3875 4.1.18: ``X_User`` and ``X-User`` are one name to CGI and its heirs."""
    world = World(underscores_in_headers=how)
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nX_User: eve\r\nX-User: ann\r\nContent_Length: 9\r\n\r\n")
    if status == 400:
        assert client.received().startswith(b"HTTP/1.1 400 ")
        return
    request = world.worker.job().request
    names = [name for name, _ in request.headers]
    assert names == [b"host", b"x-user"] if how == "drop" else [b"host", b"x_user", b"x-user", b"content_length"]
    assert not request.more_body
