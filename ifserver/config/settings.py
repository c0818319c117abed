"""Every setting, once: its type, its default, its unit and what it does. Settings are frozen, and checked when made.

The texts are what operators read, wherever a setting is explained (`ifserver.config.schema`). An error names the
setting's path and its value: ``front.max_body_bytes: must be at least 0, got -1``.

To add a setting, add its field here, or in `ifserver.config.front_settings`: its flag, its variable, its key in the
file and its documentation follow.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta, structs

from ifserver.config import checks
from ifserver.config.front_settings import MIB, MOST_BYTES, AdminAddress, AdminHosts, AdminToken, FrontSettings
from ifserver.config.node_urls import ClusterSettings
from ifserver.config.schema import (
    LIVE,
    Count,
    Seconds,
    Setting,
    Settings,
    Texts,
    check,
    flag,
    section_of,
    settings_of,
)
from ifserver.errors import ConfigurationError

__all__ = [
    "SECTIONS",
    "FrontSettings",
    "LayerSettings",
    "ListenSettings",
    "LogSettings",
    "WorkerSettings",
    "all_settings",
]


class ListenSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to listen for clients; 127.0.0.1:8000 by default."""

    host: Annotated[
        str | None,
        "Host or address to listen on; the flag also takes HOST:PORT and unix:PATH. :: is IPv6 only, to which an "
        "endpoint may be added. none: 127.0.0.1; with $PORT 0.0.0.0.",
        flag("-b", "--bind", value="HOST", common=True),
    ] = None
    port: Annotated[
        Annotated[int, Meta(ge=0, le=65_535)] | None,
        "Port to listen on; 0: any that is free. none: 8000. The variable PORT, which platforms set, counts where "
        "neither a port nor another place to listen is given, and then the host is 0.0.0.0 unless one is given.",
        flag("-p", value="PORT", common=True),
    ] = None
    unix: Annotated[
        str | None, "A Unix socket to listen on.", flag("-u", "--unix-socket", value="PATH", common=True)
    ] = None
    unix_mode: Annotated[
        str,
        "Permissions of that socket's file, in octal. Whoever may write to it may connect. By default that is "
        "everybody, since a proxy in front runs as another user: limit it by the permissions of the folder, or with "
        "660 and a common group.",
        flag(value="MODE"),
        check(checks.problem_of_mode),
    ] = "666"
    fd: Annotated[
        tuple[int, ...],
        "Inherited sockets to listen on, from systemd or a process manager.",
        flag(value="N", common=True),
    ] = ()
    endpoints: Annotated[
        Texts,
        "Endpoints of Twisted to listen on, for example ssl:8443:privateKey=key.pem:certKey=cert.pem.",
        flag("-e", "--endpoint", value="ENDPOINT", common=True),
    ] = ()
    certfile: Annotated[
        str | None,
        "Certificate for TLS on host and port and on inherited sockets: a file in PEM. "
        "Intermediate certificates follow it in the same file. It is read again on SIGHUP. none: no TLS there.",
        flag(value="FILE", common=True),
    ] = None
    keyfile: Annotated[
        str | None,
        "The certificate's private key, in PEM and not encrypted. none: certfile holds it as well.",
        flag(value="FILE", common=True),
    ] = None
    processes: Annotated[
        Count | None,
        "Server processes of serve that share these addresses and their connections. none: one.",
        flag(common=True),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keyfile is not None and self.certfile is None:
            raise ConfigurationError(f"listen.keyfile: {self.keyfile!r} is of no use without a certfile")

    @property
    def tcp(self) -> tuple[str, int] | None:
        """The plain address: the one that was given, or the default if nothing was."""
        elsewhere = self.unix is not None or self.fd or self.endpoints
        if self.host is None and self.port is None and elsewhere:
            return None
        return self.host or "127.0.0.1", 8000 if self.port is None else self.port


class LayerSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The channel layer: the clusters, and what a node may hold."""

    clusters: Annotated[
        Annotated[tuple[ClusterSettings, ...], Meta(extra={"separator": None})],
        "The clusters and the URLs of their nodes. redis://[user:password@]host[:port][/database], rediss:// with "
        "TLS, redis+sentinel://host[,host...]/service, redis+unix:///path[?db=N]. Passwords are better kept in "
        "IFSERVER_REDIS_PASSWORD. Servers and workers need the same list.",
        flag("--cluster", common=True),
    ]
    home: Annotated[
        str | None, "The cluster where this process receives. none: the first.", flag(value="NAME", common=True)
    ] = None
    placement: Annotated[
        Literal["home-first", "spread"],
        "Which clusters get requests: home-first, or all of them by their queues (spread). home-first: other clusters "
        "get requests while no node of the home cluster is well. Answers come home all the same: one of its nodes must "
        "be reachable.",
        flag(common=True),
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
        "Messages in an inbox. It is reached only when its owner has ended or is stuck.",
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

    application: Annotated[
        str,
        "The application as MODULE:ATTRIBUTE, for example mysite.asgi:application.",
        flag(value="APP"),
        check(checks.problem_of_application),
    ]
    http: Annotated[
        str | None,
        "Another application for HTTP, so that the first one has WebSockets only: a pool of its own, named http. So "
        "the sync views of a Django site run as WSGI in threads, and its WebSockets as ASGI. none: the same one.",
        flag(value="APP", common=True),
        check(checks.problem_of_application),
    ] = None
    pools: Annotated[
        tuple[str, ...],
        "Pools whose workers ifserver worker runs; default is that of worker.application. Empty: all, as ifserver run.",
        flag("--pool", value="NAME[,...]", common=True),
    ] = ()
    factory: Annotated[
        bool,
        "Whether the application is a factory: a function that takes no arguments and returns the application. One "
        "whose parameters are all optional is called as a factory in any case, and so is mysite.app:make_app().",
        flag(common=True),
    ] = False
    interface: Annotated[
        Literal["auto", "asgi", "wsgi"],
        "Interface of the application: asgi (3), wsgi, or auto, which looks at its parameters.",
        flag(common=True),
    ] = "auto"
    threads: Annotated[
        Count,
        "Threads in which a WSGI application runs, in each process: the number of requests that it handles at a time.",
        flag(common=True),
    ] = 8
    stream_uploads: Annotated[
        bool,
        "Whether a WSGI application is called before the body of a request has come, and reads it while its client "
        "sends. Then an upload holds a thread for as long as that takes. Otherwise wsgi.input is a file with the whole "
        "body.",
    ] = False
    app_dir: Annotated[
        str, "Folder to import the application from: put first in sys.path.", flag(value="DIR", common=True)
    ] = "."
    env_file: Annotated[
        str | None,
        "File of variables, NAME=VALUE on each line, for the environment of the application. Each worker reads it "
        "before it imports the application. Variables that exist already keep their values, and settings of ifserver "
        "have no effect there. none: no file.",
        flag(value="FILE", common=True),
    ] = None
    processes: Annotated[
        Count | None,
        "Worker processes. none: as many as there are CPUs; with reload one.",
        flag("-w", "--workers", "--processes", common=True),
    ] = None
    concurrency: Annotated[
        Count,
        "Requests that one process handles at a time before it has begun to answer them. Uploads do not count while "
        "the application waits for their clients.",
        flag(common=True),
    ] = 100
    max_streams: Annotated[Count, "Requests and open WebSockets that one process has in all."] = 10_000
    pull_batch: Annotated[
        Count,
        "Requests that a process takes at once. Few, so that a burst spreads over the workers. The process adapts it: "
        "fewer when they keep its loop busy, more when nearly all are answered at once.",
    ] = 8
    max_websocket_message_bytes: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_BYTES)],
        "Largest WebSocket message that the application may send: send() raises for a larger one. A node carries 64MiB "
        "at most.",
    ] = 32 * MIB
    file_header: Annotated[
        str | None,
        "Header of a response, for example X-Sendfile, in which the application names a file, by its absolute path, "
        "to be sent in place of the body. The header itself is not sent. none: no header means that.",
        check(checks.problem_of_header_name),
    ] = None
    max_requests: Annotated[
        Annotated[int, Meta(ge=0)],
        "Requests and WebSockets after which a worker process is replaced; 0: never. The new process is ready before "
        "the old one stops, as on SIGHUP; until then the old one takes more. Holds a memory leak of the application "
        "in check.",
        flag(common=True),
    ] = 0
    max_requests_jitter: Annotated[
        Annotated[int, Meta(ge=0)],
        "Up to so many are added to max_requests, by chance for each worker process, so that not all are replaced at "
        "once.",
    ] = 0
    drain_timeout_s: Annotated[
        Seconds,
        "How long a worker that stops waits for its requests and WebSockets; then they are cancelled.",
        flag(common=True),
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
        flag(common=True),
    ] = False
    reload_dirs: Annotated[
        tuple[str, ...],
        "Folders where reload looks for changes. Empty: app_dir.",
        flag("--reload-dir", value="DIR[,...]"),
    ] = ()
    reload_include: Annotated[
        tuple[str, ...],
        "Files that reload watches beside *.py, *.mo, .env and all in folders that are named templates or jinja2: "
        "patterns as *.yaml or config/*.toml. One that fits a folder means all that is in it.",
        flag(value="GLOB[,...]"),
        check(checks.problem_of_files),
    ] = ()
    reload_exclude: Annotated[
        tuple[str, ...],
        "Files and folders that reload does not watch: patterns as for reload_include, which win against those. "
        "Hidden ones, node_modules, site-packages, __pycache__ and what editors write beside a file are never watched, "
        "unless reload_include has just that name or pattern.",
        flag(value="GLOB[,...]"),
        check(checks.problem_of_files),
    ] = ()
    tracing: Annotated[
        bool,
        "Whether workers make a span for OpenTelemetry around each call of the application. It needs ifserver[otel]; "
        "the program that starts the process, or the application itself, configures OpenTelemetry's SDK.",
    ] = False
    admin: AdminAddress = None
    admin_hosts: AdminHosts = ()
    admin_token: AdminToken = None


class LogSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log of events, beside the access log."""

    verbosity: Annotated[
        Literal[0, 1, 2, 3],
        "How much is logged. 0: warnings, 1: events, 2 and 3: details.",
        flag("-v", common=True),
        LIVE,
    ] = 1
    log_format: Annotated[
        Literal["human", "json", "short"],
        "Format of the log: lines for people, one JSON object a line, or short lines without time and process, and "
        "without most events, for the terminal of a developer.",
    ] = "human"
    log_to: Annotated[
        Literal["stderr", "journal"], "Where the log goes: to standard error, or to the journal of systemd."
    ] = "stderr"


#: The sections of a file, in the order in which they are explained.
SECTIONS: Final[Mapping[str, type[Settings]]] = {
    section_of(struct): struct for struct in (ListenSettings, FrontSettings, LayerSettings, WorkerSettings, LogSettings)
}


@functools.cache
def all_settings() -> Mapping[str, Setting]:
    """Every setting by its path."""
    found = [setting for struct in SECTIONS.values() for setting in settings_of(struct).values()]
    stems = Counter(setting.stem for setting in found)
    return {setting.path: structs.replace(setting, shared=stems[setting.stem] > 1) for setting in found}
