"""The names of the flags: one for each setting, and beside it Daphne's and other well-known ones. Pure.

Names that only other servers have are in `ifserver.config.other_servers`. Secrets have no flags: every user of the
machine can read command lines.

A setting's flag is its name without the unit of a time: ``--keep-alive-timeout`` for ``front.keep_alive_timeout_s``.
Where two sections have a setting of the same name, its section stands in front (``--front-drain-timeout``,
``--worker-drain-timeout``), and the plain flag means each of them that the command has.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from ifserver.config.configuration import all_settings
from ifserver.config.other_servers import NAMES
from ifserver.config.schema import Setting
from ifserver.config.settings import LOCAL_NETWORKS
from ifserver.config.values import NONE

__all__ = [
    "COMMANDS",
    "COMMON",
    "SHORTHANDS",
    "UNLIMITED",
    "Flag",
    "Shorthand",
    "flags_of",
    "names_of",
    "others_of",
    "settings_of",
    "switched_off",
]

#: The sections that each command uses. The others in a file are read and checked, but do not concern it.
COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "run": ("listen", "front", "worker", "log"),
    "serve": ("listen", "layer", "front", "log"),
    "worker": ("layer", "worker", "log"),
    "publish": ("layer", "log"),
    "check": ("layer", "log"),
    "settings": ("listen", "layer", "front", "worker", "log"),
}

#: Settings of a command's sections that mean nothing for it, so that it has no flag for them: ``run`` has one server,
#: whose admin endpoint tells of the workers as well, and it has the workers of all pools.
_WITHOUT: Final[Mapping[str, frozenset[str]]] = {
    "run": frozenset({"listen.processes", "worker.admin", "worker.admin_hosts", "worker.pools"}),
}

#: Names beside those that follow from the setting's.
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "listen.host": ("-b", "--bind"),
    "listen.port": ("-p",),
    "listen.unix": ("-u", "--unix-socket"),
    "listen.endpoints": ("-e", "--endpoint"),
    "front.response_timeout_s": ("-t", "--http-timeout"),
    "front.websocket_timeout_s": ("--websocket_timeout",),
    "front.websocket_connect_timeout_s": ("--websocket_connect_timeout",),
    "front.server_header": ("-s", "--server-name"),
    # In a command that has the workers' as well: that is a limit on what the application sends, and another matter.
    "front.max_websocket_message_bytes": ("--max-websocket-message-bytes",),
    "front.file_roots": ("--file-root",),
    "front.resumable_paths": ("--resumable",),
    "layer.clusters": ("--cluster",),
    "worker.pools": ("--pool",),
    "worker.processes": ("-w", "--workers", "--processes"),
    "worker.reload_dirs": ("--reload-dir",),
    "log.verbosity": ("-v",),
}

#: What ``--help`` shows; ``--help-all`` shows the rest as well.
COMMON: Final = frozenset(
    f"{section}.{name}"
    for section, names in {
        "listen": "host port unix fd endpoints certfile keyfile processes",
        "layer": "clusters home placement",
        "worker": (
            "http pools factory interface app_dir env_file processes concurrency threads max_requests drain_timeout_s "
            "reload admin"
        ),
        "front": (
            "root_path trusted_proxies proxy_protocol allowed_origins resumable_paths server_header access_log "
            "max_connections max_body_bytes response_timeout_s websocket_timeout_s keep_alive_timeout_s "
            "ping_interval_s drain_timeout_s admin"
        ),
        "log": "verbosity",
    }.items()
    for name in names.split()
)

#: Flags for which -1 means ``none``, as it does for Daphne's ``--websocket_timeout``.
UNLIMITED: Final = frozenset({"front.websocket_timeout_s", "front.max_body_bytes"})


class Shorthand(NamedTuple):
    """A flag without a value, which stands for a value of a setting."""

    name: str
    path: str
    text: str
    help: str
    #: Whether the setting's own flag wins against it, wherever it stands.
    weak: bool


SHORTHANDS: Final = (
    Shorthand(
        "--proxy-headers",
        "front.trusted_proxies",
        ",".join(LOCAL_NETWORKS),
        "Believe Forwarded and X-Forwarded-* of proxies on this machine, or of the --trusted-proxies",
        weak=True,
    ),
    Shorthand("--no-server-name", "front.server_header", NONE, "Send no Server header", weak=False),
)


class Flag(NamedTuple):
    """A flag of a command: its names, and the settings that it sets."""

    names: tuple[str, ...]
    settings: tuple[Setting, ...]


def names_of(setting: Setting) -> tuple[str, ...]:
    """The names of a setting's own flag, in any command; none of a secret. A switch has ``--no-...`` as well."""
    if setting.secret:
        return ()
    plain = f"--{setting.stem}"
    derived = f"--{setting.section}{plain[1:]}" if setting.stem in _shared() else plain
    aliases = _ALIASES.get(setting.path, ())
    short = tuple(name for name in aliases if not name.startswith("--"))
    return tuple(dict.fromkeys((*short, derived, *aliases)))


def flags_of(command: str) -> Iterator[Flag]:
    """The flags of a command, without `SHORTHANDS` and other servers' names."""
    settings = list(settings_of(command))
    taken = {name for setting in settings for name in names_of(setting)}
    by_plain: dict[str, list[Setting]] = {}
    for setting in settings:
        by_plain.setdefault(f"--{setting.stem}", []).append(setting)
    for plain, alike in by_plain.items():
        free = plain not in taken
        for setting in alike:
            yield Flag(names_of(setting) + ((plain,) if free and len(alike) == 1 else ()), (setting,))
        if free and len(alike) > 1:
            yield Flag((plain,), tuple(alike))


def settings_of(command: str) -> Iterator[Setting]:
    """The settings for which a command has flags."""
    for path, setting in all_settings().items():
        if setting.section in COMMANDS[command] and path not in _WITHOUT.get(command, ()) and not setting.secret:
            yield setting


def others_of(command: str) -> Iterator[Flag]:
    """The names that other servers have for settings of a command."""
    settings = {setting.path: setting for setting in settings_of(command)}
    for paths, names in NAMES.items():
        if found := tuple(settings[path] for path in paths if path in settings):
            yield Flag(names, found)


def switched_off(name: str) -> str:
    """The name of the flag that says no: ``--no-reload`` for ``--reload``."""
    return f"--no-{name.removeprefix('--')}"


@functools.cache
def _shared() -> frozenset[str]:
    """The names that more than one section has."""
    counted = Counter(setting.stem for setting in all_settings().values())
    return frozenset(stem for stem, count in counted.items() if count > 1)
