"""The commands ``pause`` and ``resume``."""

from __future__ import annotations

import argparse
import sys
import time
import urllib.error
from typing import Final, TextIO

from ifserver.config.quantities import parse_duration
from ifserver.errors import ConfigurationError
from ifserver.observe.viewer.client import Client
from ifserver.status import Paused

__all__ = ["add_arguments", "carry_out", "described"]

#: How often it is asked whether requests are still under way, in seconds.
_LOOK_S: Final = 0.25


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """What ``pause`` and ``resume`` take beside the endpoint."""
    parser.add_argument("pool", metavar="POOL", nargs="?", default="", help="the pool's name; nothing: all pools")
    if name == "pause":
        parser.add_argument(
            "--for",
            dest="duration",
            metavar="DURATION",
            help="end the pause after so long, in seconds or as 500ms or 2m (default: pause_timeout of the server)",
        )
        parser.add_argument("--wait", action="store_true", help="return when no request of the pool is under way")


def carry_out(client: Client, given: argparse.Namespace, token: str | None, out: TextIO) -> int:
    """Pause, or go on; the exit code: 1 when not all servers have, or what was waited for did not come.

    Raises:
        ConfigurationError: the pool is not known, or the endpoint refuses.
        OSError: no answer.
    """
    seconds = _seconds(given)
    try:
        paused = client.pause(given.command, given.pool, token, seconds)
        _show(paused, given.command, out)
        while getattr(given, "wait", False) and paused.under_way and paused.servers == paused.asked:
            time.sleep(_LOOK_S)
            paused = client.pause("", given.pool, token)
            if not paused.pools:
                print("ifserver: error: the pause is over, and requests were under way to its end", file=sys.stderr)
                return 1
    except urllib.error.HTTPError as error:
        return client.refused(given.command, error)
    if paused.servers < paused.asked or not paused.servers:
        print(f"ifserver: error: {paused.servers} of {paused.asked} servers have answered", file=sys.stderr)
        return 1
    if getattr(given, "wait", False):
        print("no request is under way", file=out)
    return 0


def described(pools: dict[str, float]) -> str:
    """What is paused, and for how long, for people."""
    return ", ".join(f"{_named(name)} for {left_s:.0f} s" for name, left_s in pools.items())


def _named(pool: str) -> str:
    return f"pool {pool}" if pool else "all pools"


def _seconds(given: argparse.Namespace) -> float | None:
    text: str | None = getattr(given, "duration", None)
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"pause: --for: {error}") from None


def _show(paused: Paused, command: str, out: TextIO) -> None:
    servers = f"{paused.servers} server{'' if paused.servers == 1 else 's'}"
    if paused.resumed:
        print(f"resumed on {servers}: {', '.join(map(_named, paused.resumed))}", file=out)
        if not paused.pools:
            return
    if not paused.pools:
        # An older server does not tell what was.
        print(f"nothing {'is' if paused.resumed is None else 'was'} paused on {servers}", file=out)
        return
    still = "still " if command == "resume" else ""
    under_way = f"{paused.under_way} request{' is' if paused.under_way == 1 else 's are'} under way"
    counts = f"{under_way}, {paused.waiting} wait{'s' if paused.waiting == 1 else ''}"
    print(f"{still}paused on {servers}: {described(paused.pools)}; {counts}", file=out, flush=True)
