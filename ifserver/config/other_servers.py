"""Flags of uvicorn, gunicorn, hypercorn and Daphne: which setting each means, and advice about the rest. Pure.

A flag that can mean one thing is accepted. Any other is an error with advice what to use, or that nothing is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ifserver.errors import ConfigurationError

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

_PROTOCOLS: Final = "not needed: ifserver has its own HTTP/1.1 and WebSocket implementation"
#: Of its ``--http``.
_PROTOCOLS_OF_UVICORN: Final = ("auto", "h11", "httptools")

#: Errors for flags that mean nothing here; those of one text together, of uvicorn, gunicorn, hypercorn and Daphne.
_ADVICE: Final = {
    "--loop -k --worker-class --asgi-loop": (
        "not needed: ifserver always uses asyncio on uvloop, and runs WSGI applications in threads (--threads)"
    ),
    "--ws --protocol --uwsgi-allow-from --http-parser": _PROTOCOLS,
    "--lifespan --asgi-lifespan": "not needed: the application's lifespan is run if it has one",
    "--reload-delay --reload-engine": "not needed: changes are noticed at once, by the kernel's word",
    "--reset-contextvars": "not needed: each request has a context of its own",
    (
        "--http2 --http-protocols --http2-cleartext --http2-max-concurrent-streams "
        "--http2-initial-window-size --http2-max-frame-size --http2-max-header-list-size --quic-bind"
    ): ("HTTP/2 and HTTP/3 are not spoken; let a proxy in front do that"),
    "--ws-max-queue": "not needed: each direction of a WebSocket has a window of 256 KiB",
    "--limit-concurrency": (
        "--max-connections limits connections; --concurrency limits requests at a time, and more than that wait"
    ),
    "--backlog": "not needed: it is 2048",
    "--no-access-log": "not needed: there is no access log unless --access-log names one",
    "--no-proxy-headers --date-header": "not needed: that is how it is by default",
    "--log-config --logger-class --log-config-json": (
        "the application configures its own logging; ours are the loggers ifserver and twisted"
    ),
    "--use-colors": "the log has no colours",
    "--no-use-colors": "not needed: the log has no colours",
    "--header": "the application, or a proxy in front, sets headers of responses",
    "--no-date-header": "the Date header is always sent",
    "--no-server-header": "--no-server-name is the flag for that",
    "--ssl-keyfile-password --keyfile-password": "the key must not be encrypted",
    "--ssl-version --ssl-ciphers --do-handshake-on-connect --suppress-ragged-eofs --ciphers": (
        "not needed: TLS 1.2 and 1.3 with safe ciphers are spoken, and nothing else"
    ),
    "--ssl-cert-reqs --ssl-ca-certs --ca-certs --cert-reqs --verify-mode": (
        "clients' certificates are not asked for; let a proxy in front do that"
    ),
    "--reload-extra-file": "--reload-include GLOB watches other files as well",
    "--spew": "not there: use a debugger or a profiler in the application",
    "--worker-connections": "--concurrency limits requests of a worker at a time, --max-connections connections",
    "--worker-tmp-dir": "not needed: workers report to their supervisor through shared memory",
    "--timeout": "--response-timeout limits the wait for a response, --stall-timeout how long a worker may be stuck",
    "--preload --preload-app": "not there: each worker imports the application itself, so that SIGHUP brings new code",
    "--check-config": "'ifserver settings' checks and shows the settings, 'ifserver check' asks Redis",
    "--print-config": "'ifserver settings' shows the settings",
    "--chdir": "--app-dir names the folder of the application",
    "--pythonpath": "--app-dir names the folder of the application; or set PYTHONPATH",
    "-c": "--config FILE names a file of settings, in TOML",
    "--env": "set variables before the command, or with --env-file FILE",
    "--error-logfile --log-file --error-log": (
        "the log goes to standard error, or with --log-to journal to systemd; redirect it with 2>FILE"
    ),
    "--capture-output -R --enable-stdio-inheritance": (
        "not needed: what the application prints goes to our own standard output"
    ),
    ("--disable-redirect-access-to-syslog --log-syslog --log-syslog-to --log-syslog-prefix --log-syslog-facility"): (
        "--log-to journal logs to systemd's journal; there is no syslog"
    ),
    "--access-logformat": "--access-log-format is common, combined or json",
    "--statsd-host --statsd-prefix --dogstatsd-tags --enable-backlog-metric": (
        "--admin HOST:PORT has metrics for Prometheus"
    ),
    "--reuse-port": "'ifserver serve --listen-processes N' runs several servers on one address",
    "--limit-request-line --limit-request-field_size --limit-request-field-size": (
        "--max-header-bytes limits the request line and all headers together"
    ),
    (
        "--permit-obsolete-folding --strip-header-spaces --permit-unconventional-http-method "
        "--permit-unconventional-http-version --casefold-http-method"
    ): ("not there: requests that two parsers might read differently are refused"),
    "--forwarder-headers": "SCRIPT_NAME is set by --root-path alone",
    "--no-sendfile --sendfile": "not needed: files are sent with sendfile where that is possible",
    "--paste --paste-global --paster": "name the application as MODULE:ATTRIBUTE",
    "--asgi-disconnect-grace-period --application-close-timeout": (
        "not needed: nothing is killed when its client leaves"
    ),
    "--dirty-app --dirty-workers --dirty-timeout --dirty-threads --dirty-graceful-timeout": (
        "not there: use a task queue, or a second 'ifserver run' with an application of its own"
    ),
    "--control-socket --control-socket-mode --no-control-socket": (
        "not there: --admin HOST:PORT has the live view and metrics, and 'ifserver status' shows them"
    ),
    "--daemon -D --pid --user --group -g --initgroups -n --name": (
        "let systemd, a container or another process manager do that (the documentation has a page on systemd)"
    ),
    "-m --umask": "--unix-mode sets the permissions of the Unix socket; a process manager sets the umask",
    "--debug": "not there: -v 2 shows more",
    "--insecure-bind": "-e tcp:PORT listens without TLS beside --port with --certfile",
    "--read-timeout": "--header-timeout and --body-timeout limit the wait for a request",
    "--log-fmt": "--log-format is human or json",
    "--proxy-headers-host --proxy-headers-port": (
        "X-Forwarded-For and Forwarded are read, and no others; --proxy-headers is enough"
    ),
    "--websocket-max-frame-size": "--max-websocket-message-bytes limits messages, and so their frames",
}
ADVICE: Final[Mapping[str, str]] = {flag: text for flags, text in _ADVICE.items() for flag in flags.split()}

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
