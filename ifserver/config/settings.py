"""Every setting, once: its type, its default, its unit and what it does. Settings are frozen, and checked when made.

The texts are what operators read, wherever a setting is explained (`ifserver.config.schema`). An error names the
setting's path and its value: ``front.max_body_bytes: must be at least 0, got -1``.

To add a setting, add its field here: its flag, its variable, its key in the file and its documentation follow.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta

from ifserver.config.networks import parse_networks
from ifserver.config.node_urls import ClusterSettings
from ifserver.config.schema import Settings
from ifserver.config.settings_checks import (
    check_address,
    check_name_of_clients,
    check_origins,
    check_paths,
    check_patterns,
    check_token,
    parse_application,
)
from ifserver.errors import ConfigurationError
from ifserver.headers import is_token

__all__ = [
    "LOCAL_NETWORKS",
    "FrontSettings",
    "LayerSettings",
    "ListenSettings",
    "LogSettings",
    "WorkerSettings",
]

Seconds: TypeAlias = Annotated[float, Meta(ge=0)]
#: A wait that cannot be nothing.
SomeSeconds: TypeAlias = Annotated[float, Meta(ge=0.001)]
Bytes: TypeAlias = Annotated[int, Meta(ge=0)]
SomeBytes: TypeAlias = Annotated[int, Meta(ge=1)]
#: How many.
Count: TypeAlias = Annotated[int, Meta(ge=1)]
#: These may have commas in them.
Clusters: TypeAlias = Annotated[tuple[ClusterSettings, ...], Meta(extra={"separator": None})]
Texts: TypeAlias = Annotated[tuple[str, ...], Meta(extra={"separator": None})]
#: A password.
Secret: TypeAlias = Annotated[str, Meta(extra={"secret": True})]
AdminAddress: TypeAlias = Annotated[
    str | None,
    "HOST:PORT of the admin endpoint: health, metrics and the live view, for operators only. none: there is none. "
    "Port 0: any that is free.",
]
AdminHosts: TypeAlias = Annotated[
    tuple[str, ...],
    "Host names that the admin endpoint answers to, beside IP addresses and localhost. Requests with other names are "
    "refused, against DNS rebinding.",
]
AdminToken: TypeAlias = Annotated[
    Secret | None,
    "Token for /groups/ on the admin endpoint, where programs publish, and for /pause, /resume and /pools: they send "
    "it as a bearer token. Give it in the environment, or in a file that nobody else can read; a long random text is "
    "best. none: nobody can publish there.",
]

#: What runs on this machine.
LOCAL_NETWORKS: Final = ("127.0.0.0/8", "::1")
#: chmod(1); a socket's file has no use for more bits.
_MODE: Final = re.compile(r"(0|0o)?[0-7]{3}")
_KIB: Final = 1024
_MIB: Final = 1024 * 1024
#: What a node carries in one message, but for some room for all else that it says.
_MOST_BYTES: Final = 64 * _MIB


class ListenSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to listen for clients; 127.0.0.1:8000 by default."""

    host: Annotated[
        str | None,
        "Host or address to listen on; the flag also takes HOST:PORT and unix:PATH. :: is IPv6 only, to which an "
        "endpoint may be added. none: 127.0.0.1; with $PORT 0.0.0.0.",
    ] = None
    port: Annotated[
        Annotated[int, Meta(ge=0, le=65_535)] | None,
        "Port to listen on; 0: any that is free. none: 8000. The variable PORT, which platforms set, counts where "
        "neither a port nor another place to listen is given, and then the host is 0.0.0.0 unless one is given.",
    ] = None
    unix: Annotated[str | None, "A Unix socket to listen on."] = None
    unix_mode: Annotated[
        str,
        "Permissions of that socket's file, in octal. Whoever may write to it may connect. By default that is "
        "everybody, since a proxy in front runs as another user: limit it by the permissions of the folder, or with "
        "660 and a common group.",
    ] = "666"
    fd: Annotated[tuple[int, ...], "Inherited sockets to listen on, from systemd or a process manager."] = ()
    endpoints: Annotated[
        Texts, "Endpoints of Twisted to listen on, for example ssl:8443:privateKey=key.pem:certKey=cert.pem."
    ] = ()
    certfile: Annotated[
        str | None,
        "Certificate for TLS on host and port and on inherited sockets: a file in PEM. "
        "Intermediate certificates follow it in the same file. It is read again on SIGHUP. none: no TLS there.",
    ] = None
    keyfile: Annotated[
        str | None, "The certificate's private key, in PEM and not encrypted. none: certfile holds it as well."
    ] = None
    processes: Annotated[
        Count | None, "Server processes of serve that share these addresses and their connections. none: one."
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _MODE.fullmatch(self.unix_mode):
            raise ConfigurationError(f"listen.unix_mode: expected an octal number such as 660, got {self.unix_mode!r}")
        if self.keyfile is not None and self.certfile is None:
            raise ConfigurationError(f"listen.keyfile: {self.keyfile!r} is of no use without a certfile")

    @property
    def tcp(self) -> tuple[str, int] | None:
        """The plain address: the one that was given, or the default if nothing was."""
        elsewhere = self.unix is not None or self.fd or self.endpoints
        if self.host is None and self.port is None and elsewhere:
            return None
        return self.host or "127.0.0.1", 8000 if self.port is None else self.port


class FrontSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an interface server allows its clients, and how long it waits."""

    broker_wait_s: Annotated[
        Seconds,
        "How long a request waits when no node can be reached; then 503. 0: the client gets 503 at once, and may try "
        "again.",
    ] = 0.0
    queue_timeout_s: Annotated[
        SomeSeconds,
        "How long a request may wait for a free worker; then 503. The default is about what a person waits before "
        "reloading the page.",
    ] = 30.0
    pause_timeout_s: Annotated[
        SomeSeconds,
        "How long a request may wait while its pool is paused (ifserver pause); then 503. A pause is as long where it "
        "is not said how long it may be.",
    ] = 60.0
    response_timeout_s: Annotated[
        SomeSeconds, "How long the application may take to begin its response, once a worker has the request; then 504."
    ] = 120.0
    websocket_connect_timeout_s: Annotated[
        SomeSeconds, "How long the application may take to accept a WebSocket, once a worker has it; then 504."
    ] = 20.0
    resume_timeout_s: Annotated[
        SomeSeconds,
        "How long a resumable WebSocket whose worker is gone waits for the next one; then it is closed with 1012.",
    ] = 300.0
    websocket_timeout_s: Annotated[SomeSeconds | None, "The longest life of a WebSocket. none: unlimited."] = None
    ping_interval_s: Annotated[
        Seconds,
        "Silence after which a WebSocket client is pinged; 0: never. The default is below the 60 s after which most "
        "proxies close a silent connection.",
    ] = 20.0
    ping_timeout_s: Annotated[
        SomeSeconds, "How long the client may take to answer a ping; then the connection is cut."
    ] = 30.0
    close_timeout_s: Annotated[SomeSeconds, "How long a WebSocket client may take to answer our close frame."] = 5.0
    max_websocket_message_bytes: Annotated[
        Annotated[int, Meta(ge=1, le=_MOST_BYTES)],
        "Largest WebSocket message of a client, after decompression; a larger one closes the WebSocket with 1009. "
        "A node carries 64MiB at most. Messages of the application have a limit of their own "
        "(worker.max_websocket_message_bytes).",
    ] = 1 * _MIB
    # The most that the Autobahn test suite tries is a message of 4 MiB in frames of 64 bytes, and an empty one at its
    # end.
    max_websocket_fragments: Annotated[
        Count,
        "Frames of one WebSocket message; more close it with 1009. An empty frame costs as much as a full one.",
    ] = 65_537
    resumable_paths: Annotated[
        tuple[str, ...],
        "Paths whose WebSockets stay open when their worker ends, and are given to the next one: patterns with * and "
        "?, as /ws/*. Subprotocols that begin with a session, such as GraphQL's, are left out. An application may "
        "decide for each in its accept. Where worker.reload is on and this is not given: all.",
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        "The origins whose pages may open WebSockets (RFC 6455 10.2), as https://www.example.com; others get 403. "
        "Empty: all. Clients that send no Origin are not browsers, and are let in.",
    ] = ()
    websocket_compression: Annotated[
        bool, "Whether permessage-deflate (RFC 7692), which costs CPU, is accepted when a client offers it."
    ] = True
    websocket_compression_window_bits: Annotated[
        Annotated[int, Meta(ge=9, le=15)],
        "Window of the compression: 2^9 to 2^15 bytes. Clients that let the server choose are asked for the same. With "
        "window bits 12 and memory level 5, a compressor uses 40 KiB, and JSON messages of 200 bytes become 4.2 times "
        "smaller; with 10 and 3, 14 KiB and 3.4 times; with 15 and 8, 260 KiB and 4.7 times. A compressor that is idle "
        "for 20 s uses no memory.",
    ] = 12
    websocket_compression_memory_level: Annotated[
        Annotated[int, Meta(ge=1, le=9)],
        "Memory that a compressor uses beside its window (zlib's memLevel): 2^10 to 2^18 bytes.",
    ] = 5
    header_timeout_s: Annotated[
        SomeSeconds,
        "Time from the first byte of a request to the end of its headers; then 408. Stops slowloris attacks.",
    ] = 20.0
    keep_alive_timeout_s: Annotated[
        Seconds,
        "How long an idle connection is kept for the next request. The default is above the 60 s of common load "
        "balancers.",
    ] = 75.0
    body_timeout_s: Annotated[
        SomeSeconds,
        "Longest silence in the middle of a request's body; then 408, or a cut connection once the response has begun. "
        "As nginx's client_body_timeout.",
    ] = 60.0
    write_timeout_s: Annotated[
        SomeSeconds,
        "How long a client may read nothing of its response, or less than 500 bytes per second; then its connection is "
        "cut. Some kernels report progress in steps of 400 KiB only, which take a client that reads 10 KB/s 40 s: much "
        "smaller values cut slow clients.",
    ] = 120.0
    max_unsent_bytes: Annotated[
        SomeBytes,
        "Bytes that may wait for a client to read them when something is sent to a group that it is a member of; "
        "beyond, group_overflow says what happens. What the application sends to one client waits in the worker.",
    ] = 1 * _MIB
    group_overflow: Annotated[
        Literal["close", "skip"],
        "What happens to a member of a group whose client reads too slowly (max_unsent_bytes): close its WebSocket "
        "with 1013, so that the client connects again and knows that it has missed something, or cut its response; or "
        "skip the message, which the metrics count, and of which the application is told if it has asked for gaps.",
    ] = "close"
    max_connections: Annotated[
        Count, "Connections in all; further ones are answered 503. An idle one uses 8 KiB and a file descriptor."
    ] = 20_000
    max_connections_per_client: Annotated[
        Count,
        "Connections of one client address (with IPv6: of one /64); further ones are answered 503. The default is "
        "enough for an office behind one address, and too few to use up max_connections. Unix sockets, trusted_proxies "
        "and uncounted_networks are not counted.",
    ] = 2_000
    uncounted_networks: Annotated[
        tuple[str, ...],
        "Networks that max_connections_per_client does not apply to. The default is this machine, where a proxy may "
        "run. Where max_connections_per_client is given and this is not: none.",
    ] = LOCAL_NETWORKS
    max_header_bytes: Annotated[
        Annotated[int, Meta(ge=256)],
        "Size of the request line and headers of one request; beyond it 431, or 414 if the target alone is longer.",
    ] = 64 * _KIB
    max_headers: Annotated[Count, "Number of header lines of one request; beyond it 431."] = 100
    max_body_bytes: Annotated[Bytes | None, "Size of the body of one request; beyond it 413. none: unlimited."] = (
        1024 * _MIB
    )
    whole_body_bytes: Annotated[
        Annotated[int, Meta(ge=0, le=_MOST_BYTES)],
        "A request with a Content-Length up to this is passed to a worker when it is complete, a larger one while it "
        "is still arriving. 64MiB at most.",
    ] = 64 * _KIB
    max_pipelined: Annotated[
        Count,
        "Pipelined requests that may wait on one connection; beyond that, reading pauses.",
    ] = 16
    underscores_in_headers: Annotated[
        Literal["drop", "refuse", "allow"],
        "What to do with header fields that have '_' in their names: drop (as nginx does), refuse (400) or allow. In "
        "CGI-like environments such as WSGI, X_User and X-User get the same name.",
    ] = "drop"
    retry_after_s: Annotated[Annotated[int, Meta(ge=0)], "Seconds in the Retry-After header of a 503."] = 1
    retry_methods: Annotated[
        tuple[str, ...],
        "Methods that another worker answers when theirs died before the response began (RFC 9110 9.2.2).",
    ] = ("GET", "HEAD", "OPTIONS")
    shutdown_delay_s: Annotated[
        Seconds,
        "How long a server that is told to stop goes on as before, but not ready, so that load balancers notice. Not "
        "after Ctrl-C.",
    ] = 0.0
    drain_timeout_s: Annotated[
        Seconds,
        "How long a server that stops waits for responses under way, and the time over which it closes WebSockets. "
        "After Ctrl-C 5 s at most. Service managers must wait longer before they kill: docker stop waits 10 s, "
        "Kubernetes 30 s.",
    ] = 30.0
    root_path: Annotated[str, "The root_path of every ASGI scope: a prefix that a proxy has cut off."] = ""
    server_header: Annotated[str | None, "What the Server header says. none: it is not sent."] = "ifserver"
    trusted_proxies: Annotated[
        tuple[str, ...], "Networks of proxies whose Forwarded and X-Forwarded-* headers are trusted. Empty: none."
    ] = ()
    proxy_protocol: Annotated[
        bool, "Whether proxies announce their clients with the PROXY protocol on TCP and Unix sockets."
    ] = False
    proxy_protocol_networks: Annotated[
        tuple[str, ...],
        "Proxies that may announce clients with the PROXY protocol, also on haproxy: endpoints; others are refused. On "
        "a Unix socket everybody may. Where trusted_proxies is given and this is not: those.",
    ] = LOCAL_NETWORKS
    proxy_protocol_timeout_s: Annotated[
        SomeSeconds,
        "How long the header of the PROXY protocol may take. Its specification asks for 3 s at least, so that a packet "
        "may be lost.",
    ] = 5.0
    access_log: Annotated[
        str | None,
        "Where the access log goes: a path, - for standard output, or journal for that of systemd. none: no access "
        "log. A file is reopened on SIGUSR1.",
    ] = None
    access_log_format: Annotated[
        Literal["common", "combined", "json"],
        "Format of the access log: that of NCSA (common), of Apache (combined), or one JSON object a line.",
    ] = "combined"
    access_log_queries: Annotated[
        bool, "Whether the access log contains query strings. Some applications have secrets there."
    ] = True
    request_id: Annotated[
        bool,
        "Whether each request has an id in the logs, and in the header X-Request-ID for the application and the "
        "client. An id from trusted_proxies is kept; others are made of the process and the number of the request.",
    ] = True
    file_roots: Annotated[
        tuple[str, ...],
        "Folders from which the server itself may send a file that the application responds with, provided both see "
        "the same file; others are sent by the worker. ifserver run: if none is given, any file.",
    ] = ()
    server_timing: Annotated[
        bool,
        "Whether the header Server-Timing says how long the request was queued, and how long the application took to "
        "begin. Any client can read it.",
    ] = False
    request_start: Annotated[
        bool,
        "Whether the header X-Request-Start tells the application when each request came, as t= and microseconds since "
        "the epoch. A time from trusted_proxies is kept; others are removed.",
    ] = False
    canary_by: Annotated[
        str,
        "By what a client is told apart where pools share requests, so that it stays with its pool: cookie (one that "
        "the server sets), address, cookie:NAME (one of the application) or header:NAME. Requests without that are "
        "told apart by the server's cookie.",
    ] = "cookie"
    tracing: Annotated[
        bool,
        "Whether the server makes spans for OpenTelemetry, of requests and of their offers to workers. It needs "
        "ifserver[otel]; whoever starts the process configures OpenTelemetry's SDK.",
    ] = False
    admin: AdminAddress = None
    admin_hosts: AdminHosts = ()
    admin_token: AdminToken = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("trusted_proxies", "uncounted_networks", "proxy_protocol_networks"):
            parse_networks(getattr(self, name), f"front.{name}")
        check_origins(self.allowed_origins, "front.allowed_origins")
        check_paths(self.resumable_paths, "front.resumable_paths")
        check_address(self.admin, "front.admin")
        check_token(self.admin_token, "front.admin_token")
        check_name_of_clients(self.canary_by, "front.canary_by")
        if self.root_path and not self.root_path.startswith("/"):
            raise ConfigurationError(f"front.root_path: must begin with '/', got {self.root_path!r}")
        if self.server_header is not None and not re.fullmatch(
            r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", self.server_header
        ):
            raise ConfigurationError(f"front.server_header: not a header value: {self.server_header!r}")


class LayerSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The channel layer: the clusters, and what a node may hold."""

    clusters: Annotated[
        Clusters,
        "The clusters and the URLs of their nodes. redis://[user:password@]host[:port][/database], rediss:// with "
        "TLS, redis+sentinel://host[,host...]/service, redis+unix:///path[?db=N]. Passwords are better kept in "
        "IFSERVER_REDIS_PASSWORD. Servers and workers need the same list.",
    ]
    home: Annotated[str | None, "The cluster where this process receives. none: the first."] = None
    placement: Annotated[
        Literal["home-first", "spread"],
        "Which clusters get requests: home-first, or all of them by their queues (spread). home-first: other clusters "
        "get requests while no node of the home cluster is well. Answers come home all the same: one of its nodes must "
        "be reachable.",
    ] = "home-first"
    broker_grace_s: Annotated[
        Seconds,
        "How long a node may be unreachable. Then the streams that use it move to another node, and processes that "
        "receive there and have moved to no other node are treated as dead.",
    ] = 30.0
    prefix: Annotated[str, "Prefix of every Redis key, so that a Redis can be shared with other things."] = "ifserver:"
    request_capacity: Annotated[
        Count, "Messages on a request channel; beyond it 503. More would wait longer than queue_timeout_s anyway."
    ] = 10_000
    inbox_capacity: Annotated[
        Count,
        "Messages in an inbox. It is reached only when its owner is gone or stuck.",
    ] = 100_000
    inbox_expiry_s: Annotated[
        Annotated[float, Meta(ge=1)],
        "How long an abandoned inbox is kept in Redis. Far above any pause of a node: this only collects garbage.",
    ] = 600.0
    request_expiry_s: Annotated[
        Annotated[float, Meta(ge=1)],
        "How long an abandoned request channel is kept. The default is that of queue_timeout_s and 60 s.",
    ] = 90.0

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


class WorkerSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The application, and how its workers run."""

    application: Annotated[str, "The application as MODULE:ATTRIBUTE, for example mysite.asgi:application."]
    http: Annotated[
        str | None,
        "Another application for HTTP, so that the first one has WebSockets only: a pool of its own, named http. So "
        "the sync views of a Django site run as WSGI in threads, and its WebSockets as ASGI. none: the same one.",
    ] = None
    pools: Annotated[
        tuple[str, ...],
        "Pools whose workers ifserver worker runs; default is that of worker.application. Empty: all, as ifserver run.",
    ] = ()
    factory: Annotated[
        bool,
        "Whether the application is a factory: a function that takes no arguments and returns the application. One "
        "whose parameters are all optional is called as a factory in any case, and so is mysite.app:make_app().",
    ] = False
    interface: Annotated[
        Literal["auto", "asgi", "wsgi"],
        "Interface of the application: asgi (3), wsgi, or auto, which looks at its parameters.",
    ] = "auto"
    threads: Annotated[
        Count,
        "Threads in which a WSGI application runs, in each process: the number of requests that it handles at a time.",
    ] = 8
    stream_uploads: Annotated[
        bool,
        "Whether a WSGI application is called before the body of a request has come, and reads it while its client "
        "sends. Then an upload holds a thread for as long as that takes. Otherwise wsgi.input is a file with the whole "
        "body.",
    ] = False
    app_dir: Annotated[str, "Folder to import the application from: put first in sys.path."] = "."
    env_file: Annotated[
        str | None,
        "File of variables, NAME=VALUE on each line, for the environment of the application. Each worker reads it "
        "before it imports the application. Variables that exist already keep their values, and settings of ifserver "
        "have no effect there. none: no file.",
    ] = None
    processes: Annotated[Count | None, "Worker processes. none: as many as there are CPUs; with reload one."] = None
    concurrency: Annotated[
        Count,
        "Requests that one process handles at a time before it has begun to answer them. Uploads do not count while "
        "the application waits for their clients.",
    ] = 100
    max_streams: Annotated[Count, "Requests and open WebSockets that one process has in all."] = 10_000
    pull_batch: Annotated[
        Count,
        "Requests that a process takes at once. Few, so that a burst spreads over the workers. The process adapts it: "
        "fewer when they keep its loop busy, more when nearly all are answered at once.",
    ] = 8
    max_websocket_message_bytes: Annotated[
        Annotated[int, Meta(ge=1, le=_MOST_BYTES)],
        "Largest WebSocket message that the application may send: send() raises for a larger one. A node carries 64MiB "
        "at most.",
    ] = 32 * _MIB
    file_header: Annotated[
        str | None,
        "Header of a response, for example X-Sendfile, in which the application names a file, by its absolute path, "
        "to be sent in place of the body. The header itself is not sent. none: no header means that.",
    ] = None
    max_requests: Annotated[
        Annotated[int, Meta(ge=0)],
        "Requests and WebSockets after which a worker process is replaced; 0: never. The new process is ready before "
        "the old one stops, as on SIGHUP; until then the old one takes more. Holds a memory leak of the application "
        "in check.",
    ] = 0
    max_requests_jitter: Annotated[
        Annotated[int, Meta(ge=0)],
        "Up to so many are added to max_requests, by chance for each worker process, so that not all are replaced at "
        "once.",
    ] = 0
    drain_timeout_s: Annotated[
        Seconds,
        "How long a worker that is told to stop waits for its requests and WebSockets; then they are cancelled.",
    ] = 5.0
    shutdown_timeout_s: Annotated[Seconds, "How long the application may take for its lifespan's shutdown."] = 5.0
    stall_timeout_s: Annotated[
        Annotated[float, Meta(ge=1)],
        "How long a worker's event loop may be blocked; then the worker is killed and replaced.",
    ] = 150.0
    restart_delay_s: Annotated[
        Seconds,
        "Delay before a worker that has crashed is started again; doubles with each crash in a row.",
    ] = 0.1
    max_restart_delay_s: Annotated[
        Annotated[float, Meta(ge=0.1)],
        "Longest restart_delay_s. The delay is reset when a worker has run for this long.",
    ] = 10.0
    reload: Annotated[
        bool,
        "For development: whether the workers are restarted when a file of the application changes. While the "
        "application cannot be loaded, requests are answered with the error.",
    ] = False
    reload_dirs: Annotated[tuple[str, ...], "Folders where reload looks for changes. Empty: app_dir."] = ()
    reload_include: Annotated[
        tuple[str, ...],
        "Files that reload watches beside *.py, *.mo, .env and all in folders that are named templates or jinja2: "
        "patterns as *.yaml or config/*.toml. One that fits a folder means all that is in it.",
    ] = ()
    reload_exclude: Annotated[
        tuple[str, ...],
        "Files and folders that reload does not watch: patterns as for reload_include, which win against those. "
        "Hidden ones, node_modules, site-packages, __pycache__ and what editors write beside a file are never watched, "
        "unless reload_include has just that name or pattern.",
    ] = ()
    tracing: Annotated[
        bool,
        "Whether workers make a span for OpenTelemetry around each call of the application. It needs ifserver[otel]; "
        "whoever starts the process, or the application itself, configures OpenTelemetry's SDK.",
    ] = False
    admin: AdminAddress = None
    admin_hosts: AdminHosts = ()
    admin_token: AdminToken = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_address(self.admin, "worker.admin")
        check_token(self.admin_token, "worker.admin_token")
        if self.file_header is not None and not is_token(self.file_header.encode()):
            raise ConfigurationError(f"worker.file_header: not a header's name: {self.file_header!r}")
        for name in ("reload_include", "reload_exclude"):
            check_patterns(getattr(self, name), f"worker.{name}")
        try:
            parse_application(self.application)
        except ConfigurationError as error:
            raise ConfigurationError(f"worker.{error}") from None


class LogSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log of events, beside the access log."""

    verbosity: Annotated[Literal[0, 1, 2, 3], "How much is logged. 0: warnings, 1: events, 2 and 3: details."] = 1
    log_format: Annotated[
        Literal["human", "json", "short"],
        "Format of the log: lines for people, one JSON object a line, or short lines without time and process, and "
        "without most events, for the terminal of a developer.",
    ] = "human"
    log_to: Annotated[
        Literal["stderr", "journal"], "Where the log goes: to standard error, or to the journal of systemd."
    ] = "stderr"
