"""Flags of uvicorn, gunicorn, hypercorn and Daphne: which setting each means, and what is said of the rest. Pure.

A flag that can mean one thing is accepted. Any other is an error that says what to use, or that nothing is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ifserver.errors import ConfigurationError

__all__ = ["ADVICE", "NAMES", "bind_to", "meant"]

#: Settings, and what others call them. Not shown in the help.
NAMES: Final[Mapping[tuple[str, ...], tuple[str, ...]]] = {
    ("listen.unix",): ("--uds",),
    ("listen.certfile",): ("--ssl-certfile",),
    ("listen.keyfile",): ("--ssl-keyfile",),
    ("front.drain_timeout_s", "worker.drain_timeout_s"): ("--graceful-timeout", "--timeout-graceful-shutdown"),
    ("front.keep_alive_timeout_s",): ("--keep-alive", "--timeout-keep-alive"),
    ("front.ping_interval_s",): ("--ws-ping-interval", "--websocket-ping-interval"),
    ("front.ping_timeout_s",): ("--ws-ping-timeout",),
    ("front.max_websocket_message_bytes",): ("--ws-max-size", "--websocket-max-message-size"),
    ("front.websocket_compression",): ("--ws-per-message-deflate",),
    ("front.max_header_bytes",): ("--h11-max-incomplete-event-size",),
    ("front.max_headers",): ("--limit-request-fields",),
    ("front.underscores_in_headers",): ("--header-map",),
    ("front.trusted_proxies",): ("--forwarded-allow-ips",),
    ("front.proxy_protocol_networks",): ("--proxy-allow-from",),
    ("front.access_log",): ("--access-logfile",),
    ("worker.max_requests",): ("--limit-max-requests",),
    ("worker.max_requests_jitter",): ("--limit-max-requests-jitter",),
    ("worker.stall_timeout_s",): ("--timeout-worker-healthcheck",),
    ("log.verbosity",): ("--log-level",),
}

_LEVELS: Final = {"critical": "0", "error": "0", "warning": "0", "info": "1", "debug": "2", "trace": "3"}
#: Values that others have, and ours.
_VALUES: Final[Mapping[str, Mapping[str, str]]] = {
    "log.verbosity": _LEVELS,
    "worker.interface": {"asgi3": "asgi"},
    "front.underscores_in_headers": {"dangerous": "allow"},
}

_IS_DEFAULT: Final = "not needed: that is how it is by default"
_UVLOOP: Final = "not needed: ifserver always uses asyncio on uvloop, and runs WSGI applications in threads (--threads)"
_PROTOCOLS: Final = "not needed: ifserver has its own HTTP/1.1 and WebSocket implementation"
#: Of its ``--http``.
_PROTOCOLS_OF_UVICORN: Final = ("auto", "h11", "httptools")
_CLIENT_CERTIFICATES: Final = "clients' certificates are not asked for; let a proxy in front do that"
_TLS: Final = "not needed: TLS 1.2 and 1.3 with safe ciphers are spoken, and nothing else"
_NO_HTTP2: Final = "HTTP/2 and HTTP/3 are not spoken; let a proxy in front do that"
_DAEMON: Final = "let systemd, a container or another process manager do that (the documentation has a page on systemd)"
_HEADER_BYTES: Final = "--max-header-bytes limits the request line and all headers together"
_MODE: Final = "--unix-mode sets the permissions of the Unix socket; a process manager sets the umask"
_STRICT: Final = "not there: requests that two parsers might read differently are refused"
_SENDFILE: Final = "not needed: files are sent with sendfile where that is possible"
_NO_SYSLOG: Final = "--log-to journal logs to systemd's journal; there is no syslog"
_DIRTY: Final = "not there: use a task queue, or a second 'ifserver run' with an application of its own"
_CONTROL: Final = "not there: --admin HOST:PORT has the live view and metrics, and 'ifserver status' shows them"
_OWN_LOGGERS: Final = "the application configures its own logging; ours are the loggers ifserver and twisted"
_CONFIG: Final = "--config FILE names a file of settings, in TOML"
_LOG_FILE: Final = "the log goes to standard error, or with --log-to journal to systemd; redirect it with 2>FILE"

#: What is said of flags that mean nothing here.
ADVICE: Final[Mapping[str, str]] = {
    # uvicorn
    "--loop": _UVLOOP,
    "--ws": _PROTOCOLS,
    "--lifespan": "not needed: the application's lifespan is run if it has one",
    "--reload-delay": "not needed: changes are noticed at once, by the kernel's word",
    "--reset-contextvars": "not needed: each request has a context of its own",
    "--http2": _NO_HTTP2,
    "--ws-max-queue": "not needed: each direction of a WebSocket has a window of 256 KiB",
    "--limit-concurrency": (
        "--max-connections limits connections; --concurrency limits requests at a time, and more than that wait"
    ),
    "--backlog": "not needed: it is 2048",
    "--no-access-log": "not needed: there is no access log unless --access-log names one",
    "--no-proxy-headers": _IS_DEFAULT,
    "--log-config": _OWN_LOGGERS,
    "--use-colors": "the log has no colours",
    "--no-use-colors": "not needed: the log has no colours",
    "--header": "the application, or a proxy in front, sets headers of responses",
    "--date-header": _IS_DEFAULT,
    "--no-date-header": "the Date header is always sent",
    "--no-server-header": "--no-server-name is the flag for that",
    "--ssl-keyfile-password": "the key must not be encrypted",
    "--ssl-version": _TLS,
    "--ssl-ciphers": _TLS,
    "--ssl-cert-reqs": _CLIENT_CERTIFICATES,
    "--ssl-ca-certs": _CLIENT_CERTIFICATES,
    # gunicorn
    "--reload-engine": "not needed: changes are noticed at once, by the kernel's word",
    "--reload-extra-file": "--reload-include GLOB watches other files as well",
    "--spew": "not there: use a debugger or a profiler in the application",
    "-k": _UVLOOP,
    "--worker-class": _UVLOOP,
    "--worker-connections": "--concurrency limits requests of a worker at a time, --max-connections connections",
    "--worker-tmp-dir": "not needed: workers report to their supervisor through shared memory",
    "--timeout": "--response-timeout limits the wait for a response, --stall-timeout how long a worker may be stuck",
    "--preload": "not there: each worker imports the application itself, so that SIGHUP brings new code",
    "--preload-app": "not there: each worker imports the application itself, so that SIGHUP brings new code",
    "--check-config": "'ifserver settings' checks and shows the settings, 'ifserver check' asks Redis",
    "--print-config": "'ifserver settings' shows the settings",
    "--chdir": "--app-dir names the folder of the application",
    "--pythonpath": "--app-dir names the folder of the application; or set PYTHONPATH",
    "-c": _CONFIG,
    "--env": "set variables before the command, or with --env-file FILE",
    "--error-logfile": _LOG_FILE,
    "--log-file": _LOG_FILE,
    "--capture-output": "not needed: what the application prints goes to our own standard output",
    "-R": "not needed: what the application prints goes to our own standard output",
    "--enable-stdio-inheritance": "not needed: what the application prints goes to our own standard output",
    "--disable-redirect-access-to-syslog": _NO_SYSLOG,
    "--log-syslog": _NO_SYSLOG,
    "--log-syslog-to": _NO_SYSLOG,
    "--log-syslog-prefix": _NO_SYSLOG,
    "--log-syslog-facility": _NO_SYSLOG,
    "--access-logformat": "--access-log-format is common, combined or json",
    "--logger-class": _OWN_LOGGERS,
    "--log-config-json": _OWN_LOGGERS,
    "--statsd-host": "--admin HOST:PORT has metrics for Prometheus",
    "--statsd-prefix": "--admin HOST:PORT has metrics for Prometheus",
    "--dogstatsd-tags": "--admin HOST:PORT has metrics for Prometheus",
    "--enable-backlog-metric": "--admin HOST:PORT has metrics for Prometheus",
    "--reuse-port": "'ifserver serve --listen-processes N' runs several servers on one address",
    "--limit-request-line": _HEADER_BYTES,
    "--limit-request-field_size": _HEADER_BYTES,
    "--limit-request-field-size": _HEADER_BYTES,
    "--permit-obsolete-folding": _STRICT,
    "--strip-header-spaces": _STRICT,
    "--permit-unconventional-http-method": _STRICT,
    "--permit-unconventional-http-version": _STRICT,
    "--casefold-http-method": _STRICT,
    "--forwarder-headers": "SCRIPT_NAME is set by --root-path alone",
    "--no-sendfile": _SENDFILE,
    "--sendfile": _SENDFILE,
    "--paste": "name the application as MODULE:ATTRIBUTE",
    "--paste-global": "name the application as MODULE:ATTRIBUTE",
    "--paster": "name the application as MODULE:ATTRIBUTE",
    "--protocol": _PROTOCOLS,
    "--uwsgi-allow-from": _PROTOCOLS,
    "--http-parser": _PROTOCOLS,
    "--http-protocols": _NO_HTTP2,
    "--http2-cleartext": _NO_HTTP2,
    "--http2-max-concurrent-streams": _NO_HTTP2,
    "--http2-initial-window-size": _NO_HTTP2,
    "--http2-max-frame-size": _NO_HTTP2,
    "--http2-max-header-list-size": _NO_HTTP2,
    "--asgi-loop": _UVLOOP,
    "--asgi-lifespan": "not needed: the application's lifespan is run if it has one",
    "--asgi-disconnect-grace-period": "not needed: nothing is killed when its client leaves",
    "--dirty-app": _DIRTY,
    "--dirty-workers": _DIRTY,
    "--dirty-timeout": _DIRTY,
    "--dirty-threads": _DIRTY,
    "--dirty-graceful-timeout": _DIRTY,
    "--control-socket": _CONTROL,
    "--control-socket-mode": _CONTROL,
    "--no-control-socket": _CONTROL,
    "--daemon": _DAEMON,
    "-D": _DAEMON,
    "--pid": _DAEMON,
    "--user": _DAEMON,
    "--group": _DAEMON,
    "-g": _DAEMON,
    "--initgroups": _DAEMON,
    "-n": _DAEMON,
    "--name": _DAEMON,
    "-m": _MODE,
    "--umask": _MODE,
    "--ca-certs": _CLIENT_CERTIFICATES,
    "--do-handshake-on-connect": _TLS,
    "--suppress-ragged-eofs": _TLS,
    "--cert-reqs": _CLIENT_CERTIFICATES,
    "--ciphers": _TLS,
    # hypercorn
    "--debug": "not there: -v 2 shows more",
    "--error-log": _LOG_FILE,
    "--quic-bind": _NO_HTTP2,
    "--insecure-bind": "-e tcp:PORT listens without TLS beside --port with --certfile",
    "--verify-mode": _CLIENT_CERTIFICATES,
    "--keyfile-password": "the key must not be encrypted",
    "--read-timeout": "--header-timeout and --body-timeout limit the wait for a request",
    # Daphne
    "--log-fmt": "--log-format is human or json",
    "--proxy-headers-host": "X-Forwarded-For and Forwarded are read, and no others; --proxy-headers is enough",
    "--proxy-headers-port": "X-Forwarded-For and Forwarded are read, and no others; --proxy-headers is enough",
    "--application-close-timeout": "not needed: nothing is killed when its client leaves",
    "--websocket-max-frame-size": "--max-websocket-message-bytes limits messages, and so their frames",
}

_PORT: Final = re.compile(r"[0-9]{1,5}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)


def bind_to(text: str) -> dict[str, str]:
    """What ``--bind`` names, as texts by the paths of our settings: a host, ``HOST:PORT``, ``unix:PATH`` or ``fd://N``.

    Raises:
        ConfigurationError: it is a port alone.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        return {"listen.unix": path.removeprefix("//") if path.startswith("///") else path}
    if text.startswith("fd://"):
        return {"listen.fd": text.removeprefix("fd://")}
    if text.isdecimal():
        raise ConfigurationError(f"expected a host, got {text!r}; a port is given as -p {text}")
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if colon and _PORT.fullmatch(port) and (bracketed or ":" not in host):
        # Without a host gunicorn listens on all addresses.
        return {"listen.host": host.strip("[]") or "0.0.0.0", "listen.port": port}
    return {"listen.host": text[1:-1] if text.startswith("[") and text.endswith("]") else text}


def meant(path: str, flag: str, text: str) -> str:
    """What a flag's value is called here.

    Raises:
        ConfigurationError: others have such a value, and we do not.
    """
    if path in ("front.trusted_proxies", "front.proxy_protocol_networks") and "*" in text:
        raise ConfigurationError(f"name your proxies' networks; everybody is 0.0.0.0/0,::/0, and not {text!r}")
    if path == "listen.endpoints" and _VARIABLE.fullmatch(text):
        raise ConfigurationError("expected an endpoint of Twisted; variables are set with --env-file FILE")
    if path == "worker.http" and text in _PROTOCOLS_OF_UVICORN:
        raise ConfigurationError(f"{text!r} is {_PROTOCOLS}; --http names an application that answers HTTP only")
    value = _VALUES.get(path, {}).get(text.lower(), text)
    if flag == "--log-level" and not value.isdecimal():
        raise ConfigurationError(f"expected {', '.join(_LEVELS)}, got {text!r}")
    return value
