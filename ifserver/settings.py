"""Every setting, once, with its default, its unit and why. Settings are frozen and checked when they are made.

An error names the setting's path and its value: ``front.max_body_bytes: must be at least 1, got -1``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from ifserver import channels
from ifserver.errors import ChannelNameError, ConfigurationError

__all__ = [
    "ClusterSettings",
    "FrontSettings",
    "LayerSettings",
    "Network",
    "NodeSettings",
    "WorkerSettings",
    "parse_application",
    "parse_cluster",
    "parse_networks",
]

Seconds: TypeAlias = float
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

#: RFC 6454 6.2; in lower case, as browsers write it.
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.\-]*://[a-z0-9\-._~\[\]:%]+|null")
_KIB: Final = 1024
_MIB: Final = 1024 * 1024


class _Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base: checks every number against the least value that `_least` gives for it."""

    def __post_init__(self) -> None:
        for name, least in self._least().items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ConfigurationError(f"{self._path()}.{name}: must be at least {least}, got {value}")

    def _path(self) -> str:
        return type(self).__name__.removesuffix("Settings").lower()

    def _least(self) -> dict[str, float]:
        return {}


class NodeSettings(_Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place that holds channels, as `parse_cluster` read it from its URL."""

    name: str
    #: ``redis``, ``local`` (the embedded broker, over a Unix socket) or ``memory`` (in this very process).
    kind: str
    #: Host and port of a Redis; None where `path` is given.
    address: tuple[str, int] | None = None
    #: Path of a Unix socket; a leading ``@`` means Linux's abstract namespace.
    path: str | None = None
    database: int = 0
    username: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        """The node for people: never with its password."""
        where = self.path or (f"{self.address[0]}:{self.address[1]}" if self.address else "this process")
        return f"{self.name} ({self.kind} {where})"


class ClusterSettings(_Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named set of nodes."""

    name: str
    nodes: tuple[NodeSettings, ...]


class LayerSettings(_Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The channel layer: which clusters there are, and what a node may hold."""

    clusters: tuple[ClusterSettings, ...]
    #: The cluster where this process receives; None: the first.
    home: str | None = None
    #: ``home-first``: other clusters get requests while no node of the home cluster is well. ``spread``: all are alike.
    placement: Literal["home-first", "spread"] = "home-first"
    #: Prefix of every Redis key, so that a Redis can be shared with other things.
    prefix: str = "ifserver:"
    #: Messages on a request channel. More than that would wait longer than `queue_timeout_s` anyway.
    request_capacity: int = 10_000
    #: Messages in an inbox. The windows keep it far below; reaching it means that its owner is gone or stuck.
    inbox_capacity: int = 100_000
    #: How long an abandoned inbox is kept. Collects garbage and decides nothing, so far above any pause of a node.
    inbox_expiry_s: Seconds = 600.0
    #: How long an abandoned request channel is kept: the default `queue_timeout_s` + 60.
    request_expiry_s: Seconds = 90.0

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [cluster.name for cluster in self.clusters]
        if not names:
            raise ConfigurationError("layer.clusters: at least one cluster is needed")
        for name in names:
            if names.count(name) > 1:
                raise ConfigurationError(f"layer.clusters: cluster {name!r} is given twice")
        nodes = [node.name for cluster in self.clusters for node in cluster.nodes]
        for name in nodes:
            if nodes.count(name) > 1:
                raise ConfigurationError(f"layer.clusters: two nodes are named {name!r}")
        if self.home is not None and self.home not in names:
            raise ConfigurationError(f"layer.home: no cluster is named {self.home!r}, there are: {', '.join(names)}")

    @property
    def home_cluster(self) -> ClusterSettings:
        """The cluster where this process receives."""
        return next(c for c in self.clusters if self.home in (None, c.name))

    def _least(self) -> dict[str, float]:
        return {"request_capacity": 1, "inbox_capacity": 1, "inbox_expiry_s": 1, "request_expiry_s": 1}


class FrontSettings(_Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an interface server allows its clients, and how long it waits for whom."""

    #: How long a request waits for a node when none can be reached; then 503. 0: a client that may try again is told so
    #: at once.
    broker_wait_s: Seconds = 0.0
    #: How long a request may wait to be taken by a worker; then 503. What a person waits before reloading.
    queue_timeout_s: Seconds = 30.0
    #: From being taken to the start of the response; then 504. Daphne's ``--http-timeout``.
    response_timeout_s: Seconds = 120.0
    #: From being taken to the answer of a WebSocket handshake; then 504. Daphne's ``--websocket_connect_timeout``.
    websocket_connect_timeout_s: Seconds = 20.0
    #: The longest life of a WebSocket; None: unlimited. Daphne's ``--websocket_timeout``.
    websocket_timeout_s: Seconds | None = None
    #: Silence after which a WebSocket client is pinged; 0: never. Below the 60 s after which most proxies cut.
    ping_interval_s: Seconds = 20.0
    #: How long the pong may take; then the connection is dropped.
    ping_timeout_s: Seconds = 30.0
    #: How long the client may take to answer our close frame.
    close_timeout_s: Seconds = 5.0
    #: Largest WebSocket message, in bytes after decompression, in both directions; more is 1009.
    max_websocket_message_bytes: int = 1 * _MIB
    #: Frames of one WebSocket message; more is 1009. A frame of no bytes costs as much as one of many. The most that
    #: the Autobahn test suite tries is a message of 4 MiB in frames of 64 bytes, and an empty one to end it.
    max_websocket_fragments: int = 65_537
    #: The origins whose pages may open WebSockets (RFC 6455 10.2), as ``https://www.example.com``; others get 403.
    #: Empty: all. Clients that name no origin are no browsers, and not meant.
    allowed_origins: tuple[str, ...] = ()
    #: Whether permessage-deflate (RFC 7692) is accepted when a client offers it.
    websocket_compression: bool = True
    #: From the first byte of a request to the end of its headers; then 408. Ends a slowloris.
    header_timeout_s: Seconds = 20.0
    #: Idle time of a keep-alive connection between two requests. Above the 60 s of common load balancers.
    keep_alive_timeout_s: Seconds = 75.0
    #: Silence in the middle of a request's body, while it is being read; then 408, or an abort once the response has
    #: begun. As nginx's ``client_body_timeout``.
    body_timeout_s: Seconds = 60.0
    #: How long a client may take nothing of what is due to it; then its connection is cut. Some kernels tell us that it
    #: takes something in steps of 400 KiB only, which are 40 s for one that reads 10 KB/s.
    write_timeout_s: Seconds = 120.0
    #: Connections in all; others are answered 503. An idle one costs 8 KiB, and a file descriptor.
    max_connections: int = 20_000
    #: Connections of one client address (of IPv6: of its /64); others are answered 503. Enough for an office behind one
    #: address, too few to use up `max_connections`. Unix sockets and trusted proxies are not counted ...
    max_connections_per_client: int = 2_000
    #: ... nor these networks: what runs on this machine may be a proxy that nobody has told us of.
    uncounted_networks: tuple[str, ...] = ("127.0.0.0/8", "::1")
    #: Request line and headers of one request, in bytes; 431 beyond (414 where the target alone is longer). The 64 KiB
    #: of h11's and uvicorn's users.
    max_header_bytes: int = 64 * _KIB
    #: Header lines of one request; 431 beyond.
    max_headers: int = 100
    #: Body of one request, in bytes; 413 beyond. None: unlimited.
    max_body_bytes: int | None = 1024 * _MIB
    #: A request with a Content-Length up to this many bytes is pushed whole, a larger one while it is still arriving.
    whole_body_bytes: int = 64 * _KIB
    #: Requests that may wait on one connection behind the one being answered; reading pauses beyond.
    max_pipelined: int = 16
    #: What becomes of header fields with ``_`` in their names: ``drop`` (as nginx does), ``refuse`` (400) or ``allow``.
    #: CGI-like environments give ``X_User`` and ``X-User`` the same name.
    underscores_in_headers: str = "drop"
    #: What an unanswered client is told to wait, in the Retry-After of a 503.
    retry_after_s: int = 1
    #: Methods that may be offered once more when their worker died before the response began (RFC 9110 9.2.2).
    retry_methods: tuple[str, ...] = ("GET", "HEAD", "OPTIONS")
    #: How long the end of this server waits for responses that are under way.
    drain_timeout_s: Seconds = 5.0
    #: ``root_path`` of every scope.
    root_path: str = ""
    #: The ``Server`` header; None: not sent.
    server_header: str | None = "ifserver"
    #: Networks whose ``X-Forwarded-*`` and ``Forwarded`` are believed; empty: nobody's.
    trusted_proxies: tuple[str, ...] = ()
    #: Whether clients are announced with the PROXY protocol on TCP and Unix sockets, ...
    proxy_protocol: bool = False
    #: ... and by whom: others are refused. Also for ``haproxy:`` endpoints. Whoever connects to a Unix socket may.
    proxy_protocol_networks: tuple[str, ...] = ("127.0.0.0/8", "::1")
    #: How long it may take until the header of the PROXY protocol is complete. Its specification asks for 3 s at least,
    #: so that a packet may be lost.
    proxy_protocol_timeout_s: Seconds = 5.0
    #: Where the access log goes: a path, ``-`` for standard output, None for nowhere.
    access_log: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("trusted_proxies", "uncounted_networks", "proxy_protocol_networks"):
            parse_networks(getattr(self, name), f"front.{name}")
        for origin in self.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigurationError(
                    f"front.allowed_origins: {origin!r}: expected SCHEME://HOST[:PORT], for example https://example.com"
                )
        if self.underscores_in_headers not in ("drop", "refuse", "allow"):
            raise ConfigurationError(
                f"front.underscores_in_headers: must be drop, refuse or allow, got {self.underscores_in_headers!r}"
            )
        if self.root_path and not self.root_path.startswith("/"):
            raise ConfigurationError(f"front.root_path: must begin with '/', got {self.root_path!r}")
        if self.server_header is not None and not re.fullmatch(
            r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", self.server_header
        ):
            raise ConfigurationError(f"front.server_header: not a header value: {self.server_header!r}")

    def _least(self) -> dict[str, float]:
        positive = 0.001
        return {
            "broker_wait_s": 0,
            "queue_timeout_s": positive,
            "response_timeout_s": positive,
            "websocket_connect_timeout_s": positive,
            "websocket_timeout_s": positive,
            "ping_interval_s": 0,
            "ping_timeout_s": positive,
            "close_timeout_s": positive,
            "max_websocket_message_bytes": 1,
            "header_timeout_s": positive,
            "keep_alive_timeout_s": 0,
            "body_timeout_s": positive,
            "write_timeout_s": positive,
            "max_connections": 1,
            "max_connections_per_client": 1,
            "proxy_protocol_timeout_s": positive,
            "max_websocket_fragments": 1,
            "max_header_bytes": 256,
            "max_headers": 1,
            "max_body_bytes": 0,
            "whole_body_bytes": 0,
            "max_pipelined": 1,
            "retry_after_s": 0,
            "drain_timeout_s": 0,
        }


class WorkerSettings(_Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The application, and how much of it runs where."""

    #: ``module:attribute``.
    application: str
    #: Folder that is put in front of ``sys.path``.
    app_dir: str = "."
    #: Worker processes; None: as many as there are CPUs.
    processes: int | None = None
    #: Streams of one process that have not begun to answer.
    concurrency: int = 100
    #: All streams that one process holds, open WebSockets included.
    max_streams: int = 10_000
    #: Messages taken from a request channel at once. Few, so that a burst spreads over the workers.
    pull_batch: int = 8
    #: Largest WebSocket message that the application may send, in bytes; the front's limit holds both ways.
    max_websocket_message_bytes: int = 1 * _MIB
    #: How long a worker that is told to stop waits for the streams that it holds.
    drain_timeout_s: Seconds = 5.0
    #: How long the application may take over its lifespan's shutdown.
    shutdown_timeout_s: Seconds = 5.0
    #: Without a turn of its loop for so long, a worker process is stuck: it is killed, told and replaced.
    stall_timeout_s: Seconds = 150.0
    #: Delay before a worker that has crashed is started again; doubles with each crash in a row ...
    restart_delay_s: Seconds = 0.1
    #: ... up to this, and starts anew when one has lived for this long.
    max_restart_delay_s: Seconds = 10.0
    #: Restart the workers when a Python file below `app_dir` changes.
    reload: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_application(self.application)

    def _least(self) -> dict[str, float]:
        return {
            "processes": 1,
            "concurrency": 1,
            "max_streams": 1,
            "pull_batch": 1,
            "max_websocket_message_bytes": 1,
            "drain_timeout_s": 0,
            "shutdown_timeout_s": 0,
            "stall_timeout_s": 1,
            "restart_delay_s": 0,
            "max_restart_delay_s": 0.1,
        }


def parse_application(text: str) -> tuple[str, str]:
    """Module and attribute of ``module:attribute``.

    Raises:
        ConfigurationError: it is not of that form.
    """
    module, colon, attribute = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise ConfigurationError(
            f"application {text!r}: expected MODULE:ATTRIBUTE, for example mysite.asgi:application"
        )
    return module, attribute


def parse_networks(texts: Iterable[str], path: str) -> tuple[Network, ...]:
    """The networks in CIDR notation (a bare address is a network of one).

    Raises:
        ConfigurationError: one of them is none; `path` is named.
    """
    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ConfigurationError(f"{path}: {error}") from error
    return tuple(networks)


def parse_cluster(text: str) -> ClusterSettings:
    """A cluster from ``NAME=URL[,URL...]``; the nodes of a list are ``NAME-1``, ``NAME-2``, ..., a single one ``NAME``.

    URLs are ``redis://[user:password@]host[:port][/database]``, ``redis+unix:///path[?db=N]`` and ``local:PATH``.

    Raises:
        ConfigurationError: it is not of that form; the text never holds a password.
    """
    name, equals, urls = text.partition("=")
    try:
        if not equals:
            raise ConfigurationError(f"--cluster {_masked(text)!r}: expected NAME=URL[,URL...]")
        channels.check_node_name(name)
    except ChannelNameError as error:
        raise ConfigurationError(f"--cluster: {error}") from error
    parts = urls.split(",")
    many = len(parts) > 1
    nodes = tuple(_parse_node(f"{name}-{i}" if many else name, url.strip()) for i, url in enumerate(parts, 1))
    return ClusterSettings(name=name, nodes=nodes)


def _parse_node(name: str, url: str) -> NodeSettings:
    def wrong(why: str) -> ConfigurationError:
        return ConfigurationError(f"--cluster {name}: {_masked(url)!r}: {why}")

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # Its own text would quote what it took for the port, which may be a piece of the password.
        raise wrong("not a URL; '/', '?', '#' and '@' in a password are written %2F, %3F, %23 and %40") from None
    if parts.scheme == "local":
        if not parts.path:
            raise wrong("expected local:PATH")
        return NodeSettings(name=name, kind="local", path=parts.path)
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    if parts.scheme == "redis":
        if not parts.hostname:
            raise wrong("a host is missing")
        if parts.query or parts.fragment:
            raise wrong("nothing may follow the database's number")
        database = _database(parts.path.removeprefix("/"), wrong)
        return NodeSettings(
            name=name,
            kind="redis",
            address=(parts.hostname, 6379 if port is None else port),
            database=database,
            username=username,
            password=password,
        )
    if parts.scheme == "redis+unix":
        if not parts.path:
            raise wrong("expected redis+unix:///PATH")
        key, _, number = parts.query.partition("=")
        if key not in ("", "db"):
            raise wrong(f"unknown option {key!r}, there is: db")
        database = _database(number, wrong)
        return NodeSettings(
            name=name, kind="redis", path=parts.path, database=database, username=username, password=password
        )
    raise wrong(f"unknown scheme {parts.scheme!r}, there are: redis, redis+unix, local")


def _database(text: str, wrong: Any) -> int:
    if text and not (text.isascii() and text.isdigit()):
        raise wrong("a database is a number")
    return int(text or 0)


def _masked(url: str) -> str:
    """`url` without what stands between ``//`` and its last ``@``, which may be a password."""
    before, at, rest = url.rpartition("@")
    scheme, slashes, _ = before.partition("//")
    return f"{scheme if slashes else ''}{slashes}***@{rest}" if at else url
