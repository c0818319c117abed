"""Nodes and clusters as settings, and the URLs in which they are written.

::

    NAME=URL[,URL...]

    redis://[USER:PASSWORD@]HOST[:6379][/DATABASE]
    rediss://[USER:PASSWORD@]HOST[:6379][/DATABASE][?ca=PATH][&cert=PATH&key=PATH]
    redis+unix://[USER:PASSWORD@]/PATH[?db=DATABASE]
    redis+sentinel://[USER:PASSWORD@]HOST[:26379][,HOST[:26379]...]/SERVICE[/DATABASE][?OPTIONS]
    rediss+sentinel://...               the same over TLS, to the Sentinels and to the primary
    local:PATH

Commas separate nodes, and also the Sentinels of one node: a piece that does not begin with ``scheme://`` or ``local:``
continues the URL before it. User and password are the Redis' own; Sentinel's are the options ``sentinel_username`` and
``sentinel_password``. ``, / ? # @ %`` in a user, a password, a path or an option are written as ``%2C`` and so on.

Where a URL holds no password, the environment is asked, see `Credentials`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import unquote

from msgspec import Struct, structs

from ifserver import channels
from ifserver.errors import ChannelNameError, ConfigurationError

#: Host and port.
Address: TypeAlias = tuple[str, int]
_Wrong: TypeAlias = Callable[[str], ConfigurationError]

#: The variable that may hold the password of all Sentinels.
SENTINEL_PASSWORD: Final = "IFSERVER_REDIS_SENTINEL_PASSWORD"

_REDIS_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379

#: RFC 3986 3, as far as it is needed: scheme, authority, path, query.
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]*)((?:/[^?#]*)?)(?:\?([^#]*))?")
#: What begins a URL in a list of them.
_BEGIN: Final = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9+.\-]*://|local:)")
_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.\-]+)?)\]|([^\s\[\]:,]+))(?::([0-9]{1,5}))?")
#: Hosts and ports: nothing that a password would be taken for.
_HARMLESS: Final = re.compile(r"(?:(?:\[[0-9A-Fa-f:.]*\]?|[\w.\-]*)(?::[0-9]*)?(?:,|$))*")
#: Sentinel's own rule for names, which may be used in files (``sentinel monitor``).
_SERVICE: Final = re.compile(r"[A-Za-z0-9.\-_]+")

_TLS_OPTIONS: Final = ("ca", "cert", "key")
_SENTINEL_OPTIONS: Final = ("sentinel_username", "sentinel_password")
_SCHEMES: Final = ("redis", "rediss", "redis+unix", "redis+sentinel", "rediss+sentinel", "local")
_ENCODED: Final = "',', '/', '?', '#' and '@' in a password are written %2C, %2F, %3F, %23 and %40"


class TlsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a connection is encrypted. Certificate and host name of the other side are verified, always."""

    #: File of the authorities that are trusted (PEM); None: the system's.
    ca: str | None = None
    #: Files of this side's certificate and its key (PEM), for a Redis that asks for one (``tls-auth-clients``).
    cert: str | None = None
    key: str | None = None


class SentinelSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who knows which Redis is a node's primary."""

    #: The name under which the Sentinels monitor it (``sentinel monitor NAME``).
    service: str
    addresses: tuple[Address, ...]
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"SentinelSettings({self})"

    def __str__(self) -> str:
        return ",".join(map(written, self.addresses)) + f"/{self.service}"


class NodeSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place that holds channels, as `parse_cluster` read it from its URL."""

    name: str
    #: ``redis``, ``local`` (the embedded broker, over a Unix socket) or ``memory`` (in this very process).
    kind: str
    #: Host and port of a Redis; None where `path` or `sentinel` is given.
    address: Address | None = None
    #: Path of a Unix socket; a leading ``@`` means Linux's abstract namespace.
    path: str | None = None
    database: int = 0
    username: str | None = None
    password: str | None = None
    #: None: not encrypted.
    tls: TlsSettings | None = None
    sentinel: SentinelSettings | None = None

    @property
    def where(self) -> str:
        """Where it is, for people."""
        if self.sentinel is not None:
            return str(self.sentinel)
        return self.path or (written(self.address) if self.address else "this process")

    def __repr__(self) -> str:
        return f"NodeSettings({self})"

    def __str__(self) -> str:
        """The node for people: never with its password."""
        kind = "rediss" if self.tls is not None else self.kind
        return f"{self.name} ({kind}{'+sentinel' if self.sentinel is not None else ''} {self.where})"


class ClusterSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named set of nodes."""

    name: str
    nodes: tuple[NodeSettings, ...]


class Credentials(NamedTuple):
    """A user and a password, of which the URL had none, from the environment.

    ``IFSERVER_REDIS_PASSWORD_<NODE>`` goes before ``IFSERVER_REDIS_PASSWORD``, which is for all nodes, and so for
    ``..._USERNAME``; a node's name is in capitals there, with ``_`` for what is no letter or digit. Sentinel's are
    ``IFSERVER_REDIS_SENTINEL_USERNAME`` and ``IFSERVER_REDIS_SENTINEL_PASSWORD``.
    """

    username: str | None
    password: str | None

    @staticmethod
    def password_variables(node: str) -> tuple[str, str]:
        """The variables that may hold the password of a node: for all nodes, and for this one alone."""
        return "IFSERVER_REDIS_PASSWORD", f"IFSERVER_REDIS_PASSWORD_{_in_capitals(node)}"

    @classmethod
    def of_node(cls, name: str, environ: Mapping[str, str]) -> Credentials:
        """Those of a node."""
        own = _in_capitals(name)
        username = _variable(environ, f"USERNAME_{own}", "USERNAME")
        return cls(username, _variable(environ, f"PASSWORD_{own}", "PASSWORD"))

    @classmethod
    def of_sentinel(cls, environ: Mapping[str, str]) -> Credentials:
        """Those of all Sentinels."""
        return cls(_variable(environ, "SENTINEL_USERNAME"), _variable(environ, "SENTINEL_PASSWORD"))

    def unless(self, given: Credentials) -> Credentials:
        """`given`, with what it lacks from here: nothing if it has a password."""
        return given if given.password is not None else Credentials(given.username or self.username, self.password)


def _in_capitals(node: str) -> str:
    """A node's name as it stands in the name of a variable."""
    return re.sub(r"[^A-Z0-9]", "_", node.upper())


def _variable(environ: Mapping[str, str], *names: str) -> str | None:
    """The first of the variables that is not empty."""
    for name in (f"IFSERVER_REDIS_{name}" for name in names):
        if value := environ.get(name):
            if any("\ud800" <= character <= "\udfff" for character in value):  # what os.environ makes of other bytes
                raise ConfigurationError(f"{name}: not UTF-8")
            return value
    return None


def written(address: Address) -> str:
    """``host:port``; an IPv6 address in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_cluster(text: str, environ: Mapping[str, str] | None = None) -> ClusterSettings:
    """A cluster from ``NAME=URL[,URL...]``; the nodes of a list are ``NAME-1``, ``NAME-2``, ..., a single one ``NAME``.

    `environ` is where passwords are looked up that the URLs do not hold.

    Raises:
        ConfigurationError: it is not of that form; the text never holds a password.
    """
    name, equals, urls = text.partition("=")
    try:
        if not equals or "/" in name or "@" in name:
            raise ConfigurationError(f"--cluster {_masked(text)!r}: expected NAME=URL[,URL...]")
        channels.check_node_name(name)
    except ChannelNameError as error:
        raise ConfigurationError(f"--cluster: {error}") from error
    pieces = _split(urls)
    many = len(pieces) > 1
    nodes = tuple(_parse_node(f"{name}-{i}" if many else name, url, environ or {}) for i, url in enumerate(pieces, 1))
    return ClusterSettings(name=name, nodes=nodes)


def _split(urls: str) -> list[str]:
    """The URLs of a list; what begins none continues the one before."""
    found: list[str] = []
    for piece in urls.split(","):
        if found and not _BEGIN.match(piece):
            found[-1] += f",{piece.strip()}"
        else:
            found.append(piece.strip())
    return found


class _Parts(NamedTuple):
    """A URL in pieces."""

    scheme: str
    hosts: str
    path: str
    options: dict[str, str]
    given: Credentials


def _parse_node(name: str, url: str, environ: Mapping[str, str]) -> NodeSettings:
    def wrong(why: str) -> ConfigurationError:
        return ConfigurationError(f"--cluster {name}: {_masked(url)!r}: {why}")

    if url.startswith("local:"):
        path = url.removeprefix("local:")
        if not path:
            raise wrong("expected local:PATH")
        return NodeSettings(name=name, kind="local", path=path)
    parts = _parse_url(url, wrong)
    username, password = Credentials.of_node(name, environ).unless(parts.given)
    if username is not None and password is None:
        raise wrong(
            "a user without a password; it belongs into the URL or into the environment, as IFSERVER_REDIS_PASSWORD"
        )
    tls = _tls(parts, wrong) if parts.scheme.startswith("rediss") else None
    node = NodeSettings(name=name, kind="redis", username=username, password=password, tls=tls)
    return _PLACES[parts.scheme](node, parts, environ, wrong)


def _parse_url(url: str, wrong: _Wrong) -> _Parts:
    scheme = url.partition(":")[0].lower()
    if scheme not in _SCHEMES:
        raise wrong(f"unknown scheme {scheme if '://' in url else ''!r}, there are: {', '.join(_SCHEMES)}")
    matched = _URL.fullmatch(url)
    if matched is None or "@" in url[matched.end(2) :]:
        # An ``@`` behind the host is most likely a password's that was cut short at its ``/`` or ``?``.
        raise wrong(f"not a URL; {_ENCODED}")
    authority, path, query = matched[2], matched[3], matched[4]
    user, _, hosts = authority.rpartition("@")
    if "@" in user:
        raise wrong(f"not a URL; {_ENCODED}")
    username, _, password = user.partition(":")
    given = Credentials(unquote(username) or None, unquote(password) or None)
    return _Parts(scheme, hosts, path, _options(scheme, query or "", wrong), given)


def _options(scheme: str, query: str, wrong: _Wrong) -> dict[str, str]:
    there_are: tuple[str, ...] = ("db",) if scheme == "redis+unix" else ()
    if scheme.startswith("rediss"):
        there_are += _TLS_OPTIONS
    if scheme.endswith("+sentinel"):
        there_are += _SENTINEL_OPTIONS
    found: dict[str, str] = {}
    for option in query.split("&") if query else ():
        key, _, value = option.partition("=")
        if key not in there_are:
            known = f"there {'is' if len(there_are) == 1 else 'are'}: {', '.join(there_are) or 'none'}"
            raise wrong(f"unknown option {key!r} for {scheme}://, {known}")
        if key in found:
            raise wrong(f"option {key!r} is given twice")
        if not value:
            raise wrong(f"option {key!r} has no value")
        found[key] = unquote(value)
    return found


def _tls(parts: _Parts, wrong: _Wrong) -> TlsSettings:
    files = {name: parts.options[name] for name in _TLS_OPTIONS if name in parts.options}
    if ("cert" in files) != ("key" in files):
        raise wrong("a certificate and its key are given together, as cert=PATH&key=PATH")
    return TlsSettings(**files)


def _at_address(node: NodeSettings, parts: _Parts, _: Mapping[str, str], wrong: _Wrong) -> NodeSettings:
    if "," in parts.hosts:
        raise wrong("only a Sentinel URL has several hosts; URLs of further nodes begin with their schemes")
    address = _address(parts.hosts, _REDIS_PORT, wrong)
    return structs.replace(node, address=address, database=_database(parts.path.removeprefix("/"), wrong))


def _at_path(node: NodeSettings, parts: _Parts, _: Mapping[str, str], wrong: _Wrong) -> NodeSettings:
    if parts.hosts or not parts.path:
        raise wrong("expected redis+unix:///PATH")
    return structs.replace(node, path=unquote(parts.path), database=_database(parts.options.get("db", ""), wrong))


def _at_sentinels(node: NodeSettings, parts: _Parts, environ: Mapping[str, str], wrong: _Wrong) -> NodeSettings:
    service, _, database = unquote(parts.path.removeprefix("/")).partition("/")
    if not _SERVICE.fullmatch(service):
        raise wrong(f"expected {parts.scheme}://HOST[,HOST...]/SERVICE: the service's name is missing or cannot be")
    options = parts.options
    given = Credentials(options.get("sentinel_username"), options.get("sentinel_password"))
    username, password = Credentials.of_sentinel(environ).unless(given)
    if username is not None and password is None:
        raise wrong("a user of Sentinel without a password; it is IFSERVER_REDIS_SENTINEL_PASSWORD in the environment")
    addresses = tuple(_address(host, _SENTINEL_PORT, wrong) for host in parts.hosts.split(","))
    sentinel = SentinelSettings(service=service, addresses=addresses, username=username, password=password)
    return structs.replace(node, sentinel=sentinel, database=_database(database, wrong))


_PLACES: Final = {
    "redis": _at_address,
    "rediss": _at_address,
    "redis+unix": _at_path,
    "redis+sentinel": _at_sentinels,
    "rediss+sentinel": _at_sentinels,
}


def _address(text: str, port: int, wrong: _Wrong) -> Address:
    if not text:
        raise wrong("a host is missing")
    matched = _HOST.fullmatch(text)
    if matched is None or int(matched[3] or 0) > 65535:
        raise wrong(f"not a URL; {_ENCODED}")
    return unquote(matched[1] or matched[2]).lower(), port if matched[3] is None else int(matched[3])


def _database(text: str, wrong: _Wrong) -> int:
    if text and not (text.isascii() and text.isdigit()):
        raise wrong("a database is a number")
    return int(text or 0)


def _masked(url: str) -> str:
    """`url` without its options, and without what may be a password: all between ``//`` and its last ``@``."""
    url, *options = re.split("[?#]", url, maxsplit=1)
    begin = _BEGIN.match(url)
    scheme = begin[0] if begin is not None else ""
    place = url.removeprefix(scheme)
    _, at, behind = place.rpartition("@")
    if any("@" in option for option in options):
        return f"{scheme}***"
    if at:
        return f"{scheme}***@{behind}"
    harmless = scheme == "local:" or _HARMLESS.fullmatch(place.partition("/")[0])
    return scheme + (place if harmless else "***")
