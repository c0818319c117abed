"""The command line: what may be said, and the settings that it means. Names are Daphne's where Daphne has them."""

from __future__ import annotations

import argparse
import os
from typing import Any, NoReturn, TypeAlias

import msgspec

from ifserver import __version__
from ifserver.errors import ConfigurationError
from ifserver.settings import FrontSettings, LayerSettings, WorkerSettings, parse_cluster

__all__ = ["Bind", "bind_of", "front_settings", "layer_settings", "parse", "worker_settings"]

_Parser: TypeAlias = argparse.ArgumentParser
_DEFAULT_HOST = "127.0.0.1"
_DEFAULT_PORT = 8000
#: Who is believed with --proxy-headers alone: what runs on this machine.
_LOCAL_PROXIES = ("127.0.0.0/8", "::1")
_FRONT = FrontSettings()
_WORKER = WorkerSettings(application="module:attribute")


class Bind(msgspec.Struct, frozen=True):
    """Where to listen, as the command line has it."""

    host: str | None
    port: int | None
    unix: str | None
    fds: list[int]
    endpoints: list[str]

    @property
    def tcp(self) -> tuple[str, int] | None:
        """The plain address: the one that was given, or the default if nothing was."""
        elsewhere = self.unix is not None or self.fds or self.endpoints
        if self.host is None and self.port is None and elsewhere:
            return None
        return self.host or _DEFAULT_HOST, _DEFAULT_PORT if self.port is None else self.port


class _OneLine(argparse.ArgumentParser):
    """Says what is wrong in one line; who wants to know what there is asks with ``--help``."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The arguments; exits with status 2 and one line when they are wrong, and with 0 for ``--help``."""
    parser = _OneLine(
        prog="ifserver",
        description="An interface server: it keeps the clients' connections, workers run the application.",
    )
    parser.add_argument("--version", action="version", version=f"ifserver {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run", help="server, broker and workers on this machine", description="Run it all on this machine: no Redis."
    )
    _add_application(run)
    run.add_argument(
        "--workers", "--processes", dest="processes", type=int, metavar="N", help="worker processes (default: CPUs)"
    )
    _add_worker(run)
    _add_front(run)
    serve = commands.add_parser(
        "serve", help="an interface server", description="Run an interface server; workers are started elsewhere."
    )
    _add_layer(serve)
    serve.add_argument(
        "--placement",
        choices=("home-first", "spread"),
        default="home-first",
        help="which clusters get requests: the home cluster while it is well (default), or all by their queues",
    )
    _add_front(serve)
    worker = commands.add_parser(
        "worker", help="worker processes", description="Run worker processes for interface servers that run elsewhere."
    )
    _add_application(worker)
    _add_layer(worker)
    worker.add_argument("--processes", type=int, metavar="N", help="worker processes (default: CPUs)")
    _add_worker(worker)
    for command in (run, serve, worker):
        command.add_argument(
            "-v",
            "--verbosity",
            type=int,
            choices=range(4),
            default=1,
            help="0: warnings, 1: what happens (default), 2 and 3: details",
        )
    return parser.parse_args(arguments)


def _add_application(parser: _Parser) -> None:
    parser.add_argument("application", metavar="APP", help="MODULE:ATTRIBUTE, for example mysite.asgi:application")


def _add_layer(parser: _Parser) -> None:
    parser.add_argument(
        "--cluster",
        action="append",
        required=True,
        metavar="NAME=URL[,URL...]",
        help="a cluster and its nodes: redis://[user:password@]host[:port][/database], redis+unix:///path[?db=N]; "
        "may be given again for other clusters",
    )
    parser.add_argument("--home", metavar="NAME", help="the cluster where this process receives (default: the first)")


def _add_worker(parser: _Parser) -> None:
    group = parser.add_argument_group("workers")
    group.add_argument(
        "--app-dir", default=".", metavar="DIR", help="folder that is importable (default: the current one)"
    )
    group.add_argument(
        "--concurrency",
        type=int,
        default=_WORKER.concurrency,
        metavar="N",
        help="requests that one process works on and has not begun to answer (default: %(default)s)",
    )
    group.add_argument(
        "--max-streams",
        type=int,
        default=_WORKER.max_streams,
        metavar="N",
        help="all that one process holds, open WebSockets included (default: %(default)s)",
    )
    group.add_argument("--reload", action="store_true", help="restart the workers when a Python file changes")


def _add_front(parser: _Parser) -> None:
    where = parser.add_argument_group("where to listen", f"default: {_DEFAULT_HOST}:{_DEFAULT_PORT}")
    where.add_argument("-b", "--bind", metavar="HOST", help="host or address to listen on")
    where.add_argument("-p", "--port", type=_port, metavar="PORT", help="port to listen on; 0: any that is free")
    where.add_argument("-u", "--unix-socket", metavar="PATH", help="Unix socket to listen on")
    where.add_argument("--fd", type=int, action="append", default=[], metavar="N", help="inherited socket to listen on")
    where.add_argument(
        "-e",
        "--endpoint",
        action="append",
        default=[],
        metavar="ENDPOINT",
        help="Twisted endpoint to listen on, for example ssl:8443:privateKey=key.pem:certKey=cert.pem",
    )
    group = parser.add_argument_group("clients")
    group.add_argument("--root-path", default="", metavar="PATH", help="root_path of the application (ASGI scope)")
    group.add_argument(
        "--proxy-headers",
        action="store_true",
        help="believe Forwarded and X-Forwarded-* of trusted proxies (default: of those on this machine)",
    )
    group.add_argument(
        "--trusted-proxies", metavar="NETWORK[,...]", help="believe those of these networks; implies --proxy-headers"
    )
    group.add_argument(
        "--proxy-protocol",
        action="store_true",
        help="clients are announced with the PROXY protocol, by the --trusted-proxies (default: by this machine)",
    )
    group.add_argument(
        "--underscores-in-headers",
        choices=("drop", "refuse", "allow"),
        default=_FRONT.underscores_in_headers,
        help="what becomes of header fields with '_' in their names (default: %(default)s)",
    )
    group.add_argument(
        "--no-websocket-compression", action="store_true", help="do without permessage-deflate, which costs CPU"
    )
    group.add_argument(
        "--allowed-origins",
        metavar="ORIGIN[,...]",
        help="whose pages may open WebSockets, for example https://www.example.com (default: all)",
    )
    group.add_argument("-s", "--server-name", default=_FRONT.server_header, help="what the Server header says")
    group.add_argument("--no-server-name", action="store_true", help="send no Server header")
    group.add_argument("--access-log", metavar="PATH", help="access log in combined format; -: standard output")
    _add_limits(parser)
    _add_waits(parser)


def _add_limits(parser: _Parser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max-connections",
        type=int,
        default=_FRONT.max_connections,
        metavar="N",
        help="connections; others are answered 503 (default: %(default)s)",
    )
    group.add_argument(
        "--max-connections-per-client",
        type=int,
        metavar="N",
        help="connections of one address; never of Unix sockets and --trusted-proxies, and of this machine only if "
        f"given here (default: {_FRONT.max_connections_per_client})",
    )
    group.add_argument(
        "--max-body-bytes",
        type=int,
        default=_FRONT.max_body_bytes,
        metavar="N",
        help="body of a request; 413 beyond; -1: unlimited (default: %(default)s)",
    )


def _add_waits(parser: _Parser) -> None:
    group = parser.add_argument_group("how long to wait, in seconds")
    for flags, default, text in (
        (("-t", "--http-timeout"), _FRONT.response_timeout_s, "for a response to begin, once a worker has the request"),
        (("--websocket_timeout", "--websocket-timeout"), None, "longest life of a WebSocket; -1: unlimited (default)"),
        (
            ("--websocket_connect_timeout", "--websocket-connect-timeout"),
            _FRONT.websocket_connect_timeout_s,
            "for a WebSocket to be accepted",
        ),
        (("--header-timeout",), _FRONT.header_timeout_s, "for the head of a request to be complete"),
        (("--body-timeout",), _FRONT.body_timeout_s, "for the next bytes of a request's body"),
        (("--write-timeout",), _FRONT.write_timeout_s, "for a client to take any of what is due to it"),
        (("--keep-alive-timeout",), _FRONT.keep_alive_timeout_s, "for the next request on a connection; 0: never"),
        (("--ping-interval",), _FRONT.ping_interval_s, "silence after which a WebSocket client is pinged; 0: never"),
        (("--ping-timeout",), _FRONT.ping_timeout_s, "for its pong"),
    ):
        shown = "" if default is None else " (default: %(default)s)"
        group.add_argument(*flags, type=float, default=default, metavar="S", help=text + shown)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 65535, got {text!r}")
    return int(text)


def bind_of(arguments: argparse.Namespace) -> Bind:
    """Where to listen."""
    return Bind(arguments.bind, arguments.port, arguments.unix_socket, arguments.fd, arguments.endpoint)


def front_settings(arguments: argparse.Namespace) -> FrontSettings:
    """The settings of an interface server.

    Raises:
        ConfigurationError: a value cannot be.
    """
    trusted: tuple[str, ...] = ()
    if arguments.trusted_proxies is not None:
        trusted = tuple(part.strip() for part in arguments.trusted_proxies.split(","))
    elif arguments.proxy_headers:
        trusted = _LOCAL_PROXIES
    lifetime = arguments.websocket_timeout
    per_client, origins = arguments.max_connections_per_client, arguments.allowed_origins
    return FrontSettings(
        header_timeout_s=arguments.header_timeout,
        body_timeout_s=arguments.body_timeout,
        write_timeout_s=arguments.write_timeout,
        keep_alive_timeout_s=arguments.keep_alive_timeout,
        max_connections=arguments.max_connections,
        max_connections_per_client=_FRONT.max_connections_per_client if per_client is None else per_client,
        uncounted_networks=_FRONT.uncounted_networks if per_client is None else (),
        max_body_bytes=None if arguments.max_body_bytes == -1 else arguments.max_body_bytes,
        underscores_in_headers=arguments.underscores_in_headers,
        websocket_compression=not arguments.no_websocket_compression,
        allowed_origins=() if origins is None else tuple(origin.strip().lower() for origin in origins.split(",")),
        proxy_protocol=arguments.proxy_protocol,
        proxy_protocol_networks=trusted or _LOCAL_PROXIES,
        response_timeout_s=arguments.http_timeout,
        websocket_timeout_s=None if lifetime is not None and lifetime < 0 else lifetime,
        websocket_connect_timeout_s=arguments.websocket_connect_timeout,
        ping_interval_s=arguments.ping_interval,
        ping_timeout_s=arguments.ping_timeout,
        root_path=arguments.root_path.rstrip("/"),
        server_header=None if arguments.no_server_name else arguments.server_name,
        trusted_proxies=trusted,
        access_log=arguments.access_log,
    )


def layer_settings(arguments: argparse.Namespace) -> LayerSettings:
    """The clusters.

    Raises:
        ConfigurationError: a URL or a name cannot be.
    """
    clusters = tuple(map(parse_cluster, arguments.cluster))
    placement: Any = getattr(arguments, "placement", "home-first")  # workers place nothing
    return LayerSettings(clusters=clusters, home=arguments.home, placement=placement)


def worker_settings(arguments: argparse.Namespace) -> WorkerSettings:
    """The settings of the workers.

    Raises:
        ConfigurationError: a value cannot be.
    """
    given: dict[str, Any] = {
        name: getattr(arguments, name) for name in ("application", "processes", "concurrency", "max_streams", "reload")
    }
    folder = os.path.realpath(arguments.app_dir)
    if not os.path.isdir(folder):
        raise ConfigurationError(f"worker.app_dir: no such folder: {arguments.app_dir!r}")
    return WorkerSettings(app_dir=folder, **given)
