"""Settings that are read anew while a process runs: what has changed, and what of it takes effect at once. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, TypeAlias, TypeVar

import msgspec

from ifserver.config.pools import POOLS, RULES, PoolSettings, pool_path
from ifserver.config.schema import Settings

__all__ = ["LIVE", "Reading", "describe_changes", "differences", "pools_of", "rules_of", "updated"]

_S = TypeVar("_S", bound=Settings)

#: The sections that a command uses, by name, and each of the pools as ``pools.NAME``.
Reading: TypeAlias = Mapping[str, Settings]

#: What an interface server takes over while it runs (`ifserver.front.server.InterfaceServer.change`); and the log
#: level. What is not named here needs a restart.
LIVE: Final = frozenset(
    {"log.verbosity"}
    | {
        f"front.{name}"
        for name in (
            "queue_timeout_s",
            "pause_timeout_s",
            "response_timeout_s",
            "websocket_connect_timeout_s",
            "websocket_timeout_s",
            "ping_interval_s",
            "ping_timeout_s",
            "close_timeout_s",
            "max_websocket_message_bytes",
            "max_websocket_fragments",
            "allowed_origins",
            "websocket_compression",
            "websocket_compression_window_bits",
            "websocket_compression_memory_level",
            "header_timeout_s",
            "keep_alive_timeout_s",
            "body_timeout_s",
            "write_timeout_s",
            "max_connections",
            "max_connections_per_client",
            "uncounted_networks",
            "max_header_bytes",
            "max_headers",
            "max_body_bytes",
            "whole_body_bytes",
            "max_pipelined",
            "underscores_in_headers",
            "retry_after_s",
            "file_roots",
            "retry_methods",
            "shutdown_delay_s",
            "drain_timeout_s",
            "root_path",
            "server_header",
            "trusted_proxies",
            "canary_by",
        )
    }
)


def differences(old: Reading, new: Reading) -> list[str]:
    """The paths of the settings that have other values in `new` than in `old`; and pools that are in one only."""
    return [
        f"{section}.{name}"
        for section, settings in new.items()
        for name in settings.__struct_fields__
        if section in old and getattr(settings, name) != getattr(old[section], name)
    ] + [path for path in {**old, **new} if path.startswith(f"{POOLS}.") and (path in old) != (path in new)]


def pools_of(reading: Reading) -> tuple[PoolSettings, ...]:
    """The pools, in their order."""
    return tuple(settings for settings in reading.values() if isinstance(settings, PoolSettings))


def rules_of(reading: Reading) -> set[str]:
    """The paths of the settings that say which requests the pools take."""
    return {pool_path(pool.name, rule) for pool in pools_of(reading) for rule in RULES}


def updated(section: str, old: _S, new: _S) -> _S:
    """`new`, but as in `old` what needs a restart: so nothing is half changed."""
    kept = {name: getattr(old, name) for name in old.__struct_fields__ if f"{section}.{name}" not in LIVE}
    return msgspec.structs.replace(new, **kept)


def describe_changes(started: Reading, before: Reading, new: Reading, live: Collection[str]) -> list[str]:
    """What the operator is told of new settings. Values may be secret, and are not told.

    Args:
        started: those with which we were started.
        before: those that were read last.
        live: what has taken effect at once. What is in `LIVE` and not here could not be taken over, and no restart
            would help.
    """
    applied = [path for path in differences(before, new) if path in live]
    pending = [path for path in differences(started, new) if path not in live and path not in LIVE]
    texts = [f"changed, for what begins now: {', '.join(applied)}"] if applied else []
    texts += [f"changed, but a restart is needed for: {', '.join(pending)}"] if pending else []
    return texts or ["no setting has changed"]
