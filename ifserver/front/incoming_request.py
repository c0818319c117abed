"""A request while it arrives: its target, what its head means (its framing, its host, its wishes), its id, and when it
came. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ifserver import headers as h
from ifserver.config.networks import Networks
from ifserver.config.settings import FrontSettings
from ifserver.messages import Headers

__all__ = [
    "REQUEST_ID",
    "REQUEST_START",
    "BadRequest",
    "Incoming",
    "Refused",
    "examine",
    "identify",
    "parse_target",
    "stamp",
]

#: The header that carries a request's id.
REQUEST_ID: Final = b"x-request-id"
#: The header with the time at which a request came.
REQUEST_START: Final = b"x-request-start"
#: As proxies write it: microseconds, milliseconds or (nginx's ``t=${msec}``) seconds since the epoch.
_TIME: Final = re.compile(rb"(?:t=)?[0-9]{1,20}(?:\.[0-9]{1,9})?\Z")
#: An id of somebody else's that is taken over: short, and nothing that could do harm in a log.
_SANE_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}\Z")
#: What may stand in a Host: a name or an address, and a port; nothing at all too (RFC 9110 7.2, RFC 3986 3.2.2).
_HOST: Final = re.compile(
    rb"""(?: (?! : | .*%(?![0-9A-Fa-f]{2}) ) [A-Za-z0-9\-._~!$&'()*+,;=%]*
           | \[ (?: [0-9A-Fa-f:.]+ | [vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~:]+ ) \] )
         (?: :[0-9]{0,5} )? \Z""",
    re.VERBOSE,
)
#: An item of Connection (RFC 9112 9.6).
_CLOSE: Final = re.compile(rb"(?:\A|,)[ \t]*close[ \t]*(?:,|\Z)", re.IGNORECASE)
#: Where the authority of an absolute-form ends (RFC 3986 3.2).
_END_OF_AUTHORITY: Final = re.compile(rb"[/?#]")
#: The ports that need not be sent (RFC 9110 4.2.1, 4.2.2).
_DEFAULT_PORTS: Final = {b"http": b"80", b"https": b"443"}
#: The fields that are looked at one by one.
_TELLING: Final = frozenset({b"host", b"connection", b"content-length", b"transfer-encoding", b"expect"})
# A number, since bytes are searched for it much faster than for bytes.
_UNDERSCORE: Final = ord("_")
#: What stands before the path of an absolute-form (RFC 3986 3.2).
_AUTHORITY: Final = re.compile(rb"[^/?#]+")


class BadRequest(Exception):
    """The request is refused with `status`, and the connection closed; the text is the reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Refused(NamedTuple):
    """What is known of a request that was refused before it could be offered; empty: that is not."""

    method: str
    target: bytes
    http_version: str
    headers: Headers
    stream: str = ""
    request_id: bytes = b""


class Incoming:
    """One request, while it arrives."""

    __slots__ = (
        "body",
        "body_bytes",
        "chunked",
        "complete",
        "content_length",
        "expects_continue",
        "headers",
        "http_version",
        "keep_alive",
        "method",
        "path",
        "query_string",
        "raw_path",
        "request_id",
        "stream",
        "target",
        "upgrade",
    )

    def __init__(self, method: str, target: bytes, http_version: str, headers: Headers, keep_alive: bool) -> None:
        self.method = method
        self.target = target
        self.http_version = http_version
        self.headers = headers
        self.keep_alive = keep_alive
        self.upgrade = False
        #: Pieces of the body that have not been taken yet, and the bytes that have arrived in all.
        self.body: list[bytes] = []
        self.body_bytes = 0
        self.complete = False
        #: How the end of the body is marked; neither: there is no body (RFC 9112 6.3).
        self.chunked = False
        self.content_length: int | None = None
        self.expects_continue = False
        #: Its reply channel's process and stream, and its id for people; empty until it is offered.
        self.stream = ""
        self.request_id = b""
        self.path, self.raw_path, self.query_string = parse_target(method, target)

    @property
    def left_bytes(self) -> int | None:
        """How much of the body has not arrived; None: that is not known (chunks)."""
        return None if self.content_length is None else self.content_length - self.body_bytes

    def take_body(self) -> bytes:
        """What has arrived of the body since the last call."""
        body = self.body
        if not body:
            return b""
        taken = body[0] if len(body) == 1 else b"".join(body)
        self.body = []
        return taken


def parse_target(method: str, target: bytes) -> tuple[str, bytes, bytes]:
    """Decoded path, raw path and query string of a request target (RFC 9112 3.2).

    Raises:
        BadRequest: it is no origin-form, absolute-form or asterisk-form.
    """
    if not target.startswith(b"/"):
        target = _without_authority(method, target)
    raw_path, _, query_string = target.partition(b"?")
    if b"#" in target:
        raise BadRequest(400, "a fragment in the request target")
    if not raw_path.isascii():
        raise BadRequest(400, "bytes outside ASCII in the request target")
    path = h.percent_decoded(raw_path) if b"%" in raw_path else raw_path
    return path.decode("utf-8", "replace"), raw_path, query_string


def _without_authority(method: str, target: bytes) -> bytes:
    if target == b"*" and method == "OPTIONS":
        return target
    if method == "CONNECT":
        # RFC 9110 9.3.6: a server that is no proxy does not know how to tunnel.
        raise BadRequest(501, "CONNECT is not supported")
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise BadRequest(400, "not a request target")
    authority = _AUTHORITY.match(rest)
    if authority is None:
        raise BadRequest(400, "a request target without a host")  # RFC 9110 4.2.1
    path = rest[authority.end() :]
    return path if path.startswith(b"/") else b"/" + path


def examine(incoming: Incoming, settings: FrontSettings, known_host: bytes) -> bytes:
    """Note how the body is framed, and what the client expects; give the headers the form in which they are passed on.

    Args:
        known_host: a Host that was right; the next one of a connection is the same, as a rule.

    Returns:
        The Host, to be known from now on.

    Raises:
        BadRequest: the request is refused.
    """
    version = incoming.http_version
    if version != "1.1" and version != "1.0":
        raise BadRequest(505, f"HTTP version {version}")
    if incoming.method == "CONNECT":
        # RFC 9110 9.3.6: a server that is no proxy does not know how to tunnel.
        raise BadRequest(501, "CONNECT is not supported")
    hosts = 0
    underscores = False
    for name, value in incoming.headers:
        if name not in _TELLING:
            if _UNDERSCORE in name:
                underscores = True
        elif name == b"host":
            hosts += 1
            if value != known_host:
                if not _HOST.match(value):
                    raise BadRequest(400, "not a Host")
                known_host = value
        elif name == b"connection":
            # RFC 9112 9.3: "close" wins over "keep-alive". In HTTP/1.0, llhttp has it the other way round.
            if value.lower() != b"keep-alive" and _CLOSE.search(value) is not None:
                incoming.keep_alive = False
        elif name == b"content-length":
            incoming.content_length = h.length(value)
            if incoming.content_length is None:
                raise BadRequest(400, "not a Content-Length")
        elif name == b"transfer-encoding":
            _check_coding(value, version, incoming)
        elif name == b"expect" and version == "1.1":
            if value.lower() != b"100-continue":
                raise BadRequest(417, "an expectation that cannot be met")
            incoming.expects_continue = True
    if underscores:
        _treat_underscores(incoming, settings.underscores_in_headers)
    if hosts > 1 or (not hosts and version == "1.1"):
        # RFC 9112 3.2: a server MUST respond with 400 to either.
        raise BadRequest(400, f"{hosts} Host header fields")
    if incoming.target[:1] not in b"/*":
        _take_host_of_target(incoming)
    length, limit = incoming.content_length, settings.max_body_bytes
    if length is not None and limit is not None and length > limit:
        raise BadRequest(413, "the body is too large")
    return known_host


def _treat_underscores(incoming: Incoming, how: str) -> None:
    # RFC 3875 4.1.18: in a CGI-like environment (WSGI's too) `X_User` and `X-User` have the same name, so that a client
    # could send what a proxy removes from its requests, or sets.
    if how == "refuse":
        raise BadRequest(400, "a header name with '_'")
    if how == "drop":
        incoming.headers = [each for each in incoming.headers if _UNDERSCORE not in each[0]]


def _check_coding(value: bytes, version: str, incoming: Incoming) -> None:
    if version == "1.0":
        raise BadRequest(400, "Transfer-Encoding in HTTP/1.0")  # RFC 9112 6.1: its framing is faulty
    if value.lower() != b"chunked":
        # RFC 9112 6.1: a server that does not understand a transfer coding SHOULD respond with 501.
        raise BadRequest(501, "a transfer coding other than chunked")
    incoming.chunked = True


def _take_host_of_target(incoming: Incoming) -> None:
    """RFC 9112 3.2.2: of a request in absolute-form a server MUST ignore Host, and use the host of the target.

    Where the two disagree, another server may have used the other one.
    """
    scheme, _, rest = incoming.target.partition(b"://")
    authority = _END_OF_AUTHORITY.split(rest, 1)[0]
    if not _HOST.match(authority):
        raise BadRequest(400, "not a host in the request target")
    host = h.find(incoming.headers, b"host")
    if host is None:
        incoming.headers = [(b"host", authority), *incoming.headers]
    elif _normal(host, scheme) != _normal(authority, scheme):
        raise BadRequest(400, "Host is not that of the request target")


def _normal(authority: bytes, scheme: bytes) -> bytes:
    """`authority` in lower case and without a port that need not be sent (RFC 9110 4.2.3)."""
    authority = authority.lower()
    host, colon, port = authority.rpartition(b":")
    if colon and port in (b"", _DEFAULT_PORTS[scheme.lower()]):
        return host
    return authority


def identify(incoming: Incoming, made: bytes, peer: tuple[str, int] | None, trusted: Networks | None) -> None:
    """Give a request its id, which it carries as X-Request-ID from now on: the one that it came with, or `made`.

    Only a `peer` in `trusted` may name it, as with ``X-Forwarded-For``. What is no 1 to 128 visible characters of ASCII
    is no id, and two are none.
    """
    headers = incoming.headers
    if REQUEST_ID in dict(headers):
        given = h.values(headers, REQUEST_ID)
        if (
            trusted
            and (peer is None or peer[0] in trusted)
            and len(given) == 1
            and _SANE_ID.match(given[0]) is not None
        ):
            incoming.request_id = given[0]
            return
        headers[:] = [field for field in headers if field[0] != REQUEST_ID]
    incoming.request_id = made
    headers.append((REQUEST_ID, made))


def stamp(incoming: Incoming, at: float, peer: tuple[str, int] | None, trusted: Networks | None) -> None:
    """Let a request carry X-Request-Start: when it came, as ``t=`` and microseconds since the epoch.

    What it came with is kept if `identify` would keep an id, and if it is a time.

    Args:
        at: the time of day, in seconds since the epoch.
    """
    headers = incoming.headers
    if REQUEST_START in dict(headers):
        given = h.values(headers, REQUEST_START)
        if trusted and (peer is None or peer[0] in trusted) and len(given) == 1 and _TIME.match(given[0]) is not None:
            return
        headers[:] = [field for field in headers if field[0] != REQUEST_START]
    headers.append((REQUEST_START, b"t=%d" % (at * 1_000_000)))
