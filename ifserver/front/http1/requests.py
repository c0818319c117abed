"""What the head of an HTTP/1 request means: its framing, its host, its wishes. Pure."""

from __future__ import annotations

import re
from typing import Final

from ifserver import headers as h
from ifserver.config.settings import FrontSettings
from ifserver.front.incoming_request import BadRequest, Incoming

__all__ = ["examine"]

#: What may stand in a Host: a name or an address, and a port; nothing at all too (RFC 9110 7.2, RFC 3986 3.2.2).
_HOST: Final = re.compile(
    rb"""(?: (?!:) [A-Za-z0-9\-._~!$&'()*+,;=]* (?:%[0-9A-Fa-f]{2} [A-Za-z0-9\-._~!$&'()*+,;=]*)*
           | \[ (?: [0-9A-Fa-f:.]+ | [vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~:]+ ) \] )
         (?: :[0-9]{0,5} )? \Z""",
    re.VERBOSE,
)
#: Where the authority of an absolute-form ends (RFC 3986 3.2).
_END_OF_AUTHORITY: Final = re.compile(rb"[/?#]")
#: The ports that need not be said (RFC 9110 4.2.1, 4.2.2).
_DEFAULT_PORTS: Final = {b"http": b"80", b"https": b"443"}
#: The fields that are looked at one by one.
_TELLING: Final = frozenset({b"host", b"connection", b"content-length", b"transfer-encoding", b"expect"})
# A number, since bytes are searched for it much faster than for bytes.
_UNDERSCORE: Final = ord("_")


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
            if value.lower() != b"keep-alive" and b"close" in h.items(value.lower()):
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
    # could say what a proxy removes from its requests, or sets.
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

    Where the two disagree, somebody else may have gone by the other one.
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
    """`authority` in lower case and without a port that need not be said (RFC 9110 4.2.3)."""
    authority = authority.lower()
    host, colon, port = authority.rpartition(b":")
    if colon and port in (b"", _DEFAULT_PORTS[scheme.lower()]):
        return host
    return authority
