"""The settings of an interface server (`ifserver.config.settings` has the other sections)."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta

from ifserver.config import checks
from ifserver.config.schema import (
    LIVE,
    Bytes,
    Count,
    Seconds,
    Secret,
    Settings,
    SomeBytes,
    SomeSeconds,
    check,
    flag,
)

Networks: TypeAlias = Annotated[tuple[str, ...], check(checks.problem_of_network), flag(value="NETWORK[,...]")]
AdminAddress: TypeAlias = Annotated[
    str | None,
    "HOST:PORT of the admin endpoint: health, metrics and the live view, for operators only. none: there is none. "
    "Port 0: any that is free.",
    flag(value="HOST:PORT", common=True),
    check(checks.problem_of_address),
]
AdminHosts: TypeAlias = Annotated[
    tuple[str, ...],
    "Host names that the admin endpoint answers to, beside IP addresses and localhost. Requests with other names are "
    "refused, against DNS rebinding.",
    flag(value="NAME[,...]"),
]
AdminToken: TypeAlias = Annotated[
    Secret | None,
    "Token for /groups/ on the admin endpoint, where programs publish, and for /pause, /resume and /pools: they send "
    "it as a bearer token. Give it in the environment, or in a file that only its owner can read; a long random text "
    "is best. none: nobody can publish there.",
    check(checks.problem_of_token),
]

#: What runs on this machine.
LOCAL_NETWORKS: Final = ("127.0.0.0/8", "::1")
_KIB: Final = 1024
MIB: Final = 1024 * 1024
#: What a node carries in one message, but for some room for all else that is in it.
MOST_BYTES: Final = 64 * MIB


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
        LIVE,
    ] = 30.0
    pause_timeout_s: Annotated[
        SomeSeconds,
        "How long a request may wait while its pool is paused (ifserver pause); then 503. It is also how long a pause "
        "may last where nothing else is given.",
        LIVE,
    ] = 60.0
    response_timeout_s: Annotated[
        SomeSeconds,
        "How long the application may take to begin its response, once a worker has the request; then 504.",
        flag("-t", "--http-timeout", common=True),
        LIVE,
    ] = 120.0
    websocket_connect_timeout_s: Annotated[
        SomeSeconds,
        "How long the application may take to accept a WebSocket, once a worker has it; then 504.",
        flag("--websocket_connect_timeout"),
        LIVE,
    ] = 20.0
    resume_timeout_s: Annotated[
        SomeSeconds,
        "How long a resumable WebSocket whose worker has ended waits for the next one; then it is closed with 1012.",
    ] = 300.0
    websocket_timeout_s: Annotated[
        SomeSeconds | None,
        "The longest life of a WebSocket. none: unlimited.",
        flag("--websocket_timeout", common=True, minus_one_is_none=True),
        LIVE,
    ] = None
    ping_interval_s: Annotated[
        Seconds,
        "Silence after which a WebSocket client is pinged; 0: never. The default is below the 60 s after which most "
        "proxies close a silent connection.",
        flag(common=True),
        LIVE,
    ] = 20.0
    ping_timeout_s: Annotated[
        SomeSeconds, "How long the client may take to answer a ping; then the connection is cut.", LIVE
    ] = 30.0
    close_timeout_s: Annotated[SomeSeconds, "How long a WebSocket client may take to answer our close frame.", LIVE] = (
        5.0
    )
    max_websocket_message_bytes: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_BYTES)],
        "Largest WebSocket message of a client, after decompression; a larger one closes the WebSocket with 1009. "
        "A node carries 64MiB at most. Messages of the application have a limit of their own "
        "(worker.max_websocket_message_bytes).",
        flag("--max-websocket-message-bytes"),
        LIVE,
    ] = 1 * MIB
    # The most that the Autobahn test suite tries is a message of 4 MiB in frames of 64 bytes, and an empty one at its
    # end.
    max_websocket_fragments: Annotated[
        Count,
        "Frames of one WebSocket message; more close it with 1009. An empty frame costs as much as a full one.",
        LIVE,
    ] = 65_537
    resumable_paths: Annotated[
        tuple[str, ...],
        "Paths whose WebSockets stay open when their worker ends, and are given to the next one: patterns with * and "
        "?, as /ws/*. Subprotocols that begin with a session, such as GraphQL's, are left out. An application may "
        "decide for each in its accept. Where worker.reload is on and this is not given: all.",
        flag("--resumable", value="PATTERN[,...]", common=True),
        check(checks.problem_of_path),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        "The origins whose pages may open WebSockets (RFC 6455 10.2), as https://www.example.com; others get 403. "
        "Empty: all. Clients that send no Origin are not browsers, and are let in.",
        flag(value="ORIGIN[,...]", common=True),
        check(checks.problem_of_origin, str.lower),
        LIVE,
    ] = ()
    websocket_compression: Annotated[
        bool, "Whether permessage-deflate (RFC 7692), which costs CPU, is accepted when a client offers it.", LIVE
    ] = True
    websocket_compression_window_bits: Annotated[
        Annotated[int, Meta(ge=9, le=15)],
        "Window of the compression: 2^9 to 2^15 bytes. Clients that let the server choose are asked for the same. With "
        "window bits 12 and memory level 5, a compressor uses 40 KiB, and JSON messages of 200 bytes become 4.2 times "
        "smaller; with 10 and 3, 14 KiB and 3.4 times; with 15 and 8, 260 KiB and 4.7 times. A compressor that is idle "
        "for 20 s uses no memory.",
        LIVE,
    ] = 12
    websocket_compression_memory_level: Annotated[
        Annotated[int, Meta(ge=1, le=9)],
        "Memory that a compressor uses beside its window (zlib's memLevel): 2^10 to 2^18 bytes.",
        LIVE,
    ] = 5
    header_timeout_s: Annotated[
        SomeSeconds,
        "Time from the first byte of a request to the end of its headers; then 408. Stops slowloris attacks.",
        LIVE,
    ] = 20.0
    keep_alive_timeout_s: Annotated[
        Seconds,
        "How long an idle connection is kept for the next request. The default is above the 60 s of common load "
        "balancers.",
        flag(common=True),
        LIVE,
    ] = 75.0
    body_timeout_s: Annotated[
        SomeSeconds,
        "Longest silence in the middle of a request's body; then 408, or a cut connection once the response has begun. "
        "As nginx's client_body_timeout.",
        LIVE,
    ] = 60.0
    write_timeout_s: Annotated[
        SomeSeconds,
        "How long a client may read nothing of its response, or less than 500 bytes per second; then its connection is "
        "cut. Some kernels report progress in steps of 400 KiB only, which take a client that reads 10 KB/s 40 s: much "
        "smaller values cut slow clients.",
        LIVE,
    ] = 120.0
    max_unsent_bytes: Annotated[
        SomeBytes,
        "Bytes that may wait for a client to read them when something is sent to a group that it is a member of; "
        "what happens beyond is group_overflow. What the application sends to one client waits in the worker.",
    ] = 1 * MIB
    group_overflow: Annotated[
        Literal["close", "skip"],
        "What happens to a member of a group whose client reads too slowly (max_unsent_bytes): close its WebSocket "
        "with 1013, so that the client connects again and knows that it has missed something, or cut its response; or "
        "skip the message, which the metrics count; an application that has asked for gaps is notified.",
    ] = "close"
    max_connections: Annotated[
        Count,
        "Connections in all; further ones are answered 503. An idle one uses 8 KiB and a file descriptor.",
        flag(common=True),
        LIVE,
    ] = 20_000
    max_connections_per_client: Annotated[
        Count,
        "Connections of one client address (with IPv6: of one /64); further ones are answered 503. The default is "
        "enough for an office behind one address, and too few to use up max_connections. Unix sockets, trusted_proxies "
        "and uncounted_networks are not counted.",
        LIVE,
    ] = 2_000
    uncounted_networks: Annotated[
        Networks,
        "Networks that max_connections_per_client does not apply to. The default is this machine, where a proxy may "
        "run. Where max_connections_per_client is given and this is not: none.",
        LIVE,
    ] = LOCAL_NETWORKS
    max_header_bytes: Annotated[
        Annotated[int, Meta(ge=256)],
        "Size of the request line and headers of one request; beyond it 431, or 414 if the target alone is longer.",
        LIVE,
    ] = 64 * _KIB
    max_headers: Annotated[Count, "Number of header lines of one request; beyond it 431.", LIVE] = 100
    max_body_bytes: Annotated[
        Bytes | None,
        "Size of the body of one request; beyond it 413. none: unlimited.",
        flag(common=True, minus_one_is_none=True),
        LIVE,
    ] = 1024 * MIB
    whole_body_bytes: Annotated[
        Annotated[int, Meta(ge=0, le=MOST_BYTES)],
        "A request with a Content-Length up to this is passed to a worker when it is complete, a larger one while it "
        "is still arriving. 64MiB at most.",
        LIVE,
    ] = 64 * _KIB
    max_pipelined: Annotated[
        Count, "Pipelined requests that may wait on one connection; beyond that, reading pauses.", LIVE
    ] = 16
    underscores_in_headers: Annotated[
        Literal["drop", "refuse", "allow"],
        "What to do with header fields that have '_' in their names: drop (as nginx does), refuse (400) or allow. In "
        "CGI-like environments such as WSGI, X_User and X-User get the same name.",
        LIVE,
    ] = "drop"
    retry_after_s: Annotated[Annotated[int, Meta(ge=0)], "Seconds in the Retry-After header of a 503.", LIVE] = 1
    retry_methods: Annotated[
        tuple[str, ...],
        "Methods that another worker answers when theirs died before the response began (RFC 9110 9.2.2).",
        LIVE,
    ] = ("GET", "HEAD", "OPTIONS")
    shutdown_delay_s: Annotated[
        Seconds,
        "How long a server goes on after SIGTERM as before, but not ready, so that load balancers notice. Not "
        "after Ctrl-C.",
        LIVE,
    ] = 0.0
    drain_timeout_s: Annotated[
        Seconds,
        "How long a server that stops waits for responses under way, and the time over which it closes WebSockets. "
        "After Ctrl-C 5 s at most. Service managers must wait longer before they kill: docker stop waits 10 s, "
        "Kubernetes 30 s.",
        flag(common=True),
        LIVE,
    ] = 30.0
    root_path: Annotated[
        str,
        "The root_path of every ASGI scope: a prefix that a proxy has cut off.",
        flag(value="PATH", common=True),
        check(checks.problem_of_root_path, lambda path: path.rstrip("/")),
        LIVE,
    ] = ""
    server_header: Annotated[
        str | None,
        "Value of the Server header. none: it is not sent.",
        flag("-s", "--server-name", common=True),
        check(checks.problem_of_header_value),
        LIVE,
    ] = "ifserver"
    trusted_proxies: Annotated[
        Networks,
        "Networks of proxies whose Forwarded and X-Forwarded-* headers are trusted. Empty: none.",
        flag(common=True),
        LIVE,
    ] = ()
    proxy_protocol: Annotated[
        bool,
        "Whether proxies announce their clients with the PROXY protocol on TCP and Unix sockets.",
        flag(common=True),
    ] = False
    proxy_protocol_networks: Annotated[
        Networks,
        "Proxies that may announce clients with the PROXY protocol, also on haproxy: endpoints; others are refused. On "
        "a Unix socket everybody may. Where trusted_proxies is given and this is not: those.",
        flag(value="NETWORK[,...]"),
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
        flag(value="PATH", common=True),
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
        flag("--file-root"),
        LIVE,
    ] = ()
    server_timing: Annotated[
        bool,
        "Whether the header Server-Timing shows how long the request was queued, and how long the application took to "
        "begin. Any client can read it.",
    ] = False
    request_start: Annotated[
        bool,
        "Whether the application gets the header X-Request-Start: when each request came, as t= and microseconds since "
        "the epoch. A time from trusted_proxies is kept; others are removed.",
    ] = False
    canary_by: Annotated[
        str,
        "By what a client is recognized where pools share requests, so that it stays with its pool: cookie (one that "
        "the server sets), address, cookie:NAME (one of the application) or header:NAME. Requests without that are "
        "recognized by the server's cookie.",
        flag(value="cookie|address|cookie:NAME|header:NAME"),
        check(checks.problem_of_client_key),
        LIVE,
    ] = "cookie"
    tracing: Annotated[
        bool,
        "Whether the server makes spans for OpenTelemetry, of requests and of their offers to workers. It needs "
        "ifserver[otel]; the program that starts the process configures OpenTelemetry's SDK.",
    ] = False
    admin: AdminAddress = None
    admin_hosts: AdminHosts = ()
    admin_token: AdminToken = None
