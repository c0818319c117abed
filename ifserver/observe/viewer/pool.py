"""The command ``pool``: the pools side by side, and how they share requests."""

from __future__ import annotations

import argparse
import sys
import urllib.error
from collections.abc import Sequence
from typing import Final, TextIO

import msgspec
from rich.console import Console

from ifserver.errors import ConfigurationError
from ifserver.observe.viewer import tables
from ifserver.observe.viewer.client import Client
from ifserver.status import Pools

__all__ = ["add_arguments", "carry_out"]

_WIDTH: Final = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``pool`` takes beside the endpoint."""
    parser.add_argument(
        "weights",
        metavar="NAME=WEIGHT",
        nargs="*",
        help="let these pools share their requests like that, on all servers; nothing: show all pools",
    )
    parser.add_argument("--reset", action="store_true", help="let all pools share their requests as the settings say")
    parser.add_argument("--json", action="store_true", help="as JSON: all that is known")


def carry_out(client: Client, given: argparse.Namespace, token: str | None, out: TextIO) -> int:
    """Show the pools, or let them share their requests in another way; the exit code: 1 when not all servers have
    answered.

    Raises:
        ConfigurationError: that cannot be asked for, or the endpoint refuses.
        OSError: no answer.
    """
    weights = _weights(given.weights)
    if weights and given.reset:
        raise ConfigurationError("pool: --reset: takes the weights of the settings, so that none can be given")
    try:
        pools = client.pools(weights, given.reset, token)
    except urllib.error.HTTPError as error:
        return client.refused("pool", error)
    if given.json:
        print(msgspec.json.encode(pools).decode(), file=out)
    else:
        _show(pools, out)
    return _judge(pools)


def _weights(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, equals, weight = word.partition("=")
        if not (name and equals and weight):
            raise ConfigurationError(f"pool: {word!r}: expected NAME=WEIGHT, for example web-next=5")
        if name in found:
            raise ConfigurationError(f"pool: {name}: given twice")
        found[name] = weight
    return found


def _show(pools: Pools, out: TextIO) -> None:
    servers = f"{pools.servers} server{'' if pools.servers == 1 else 's'}"
    if not pools.pools:
        print(f"there are no pools on {servers}", file=out)
        return
    Console(file=out, width=_WIDTH).print(tables.pools(pools.pools, pools.workers))
    since = "since a canary has begun to get a share, or the server was started"
    print(f"on {servers}, counted for {tables.seconds(pools.counted_s)}: {since}", file=out)


def _judge(pools: Pools) -> int:
    """Say what is not as it should be; the exit code."""
    for pool in pools.pools:
        if pool.weight and not pools.workers.get(pool.name):
            said = f"pool {pool.name} has a weight of {pool.weight:g} and no worker that is ready: its requests wait"
            print(f"ifserver: warning: {said}", file=sys.stderr)
    if not pools.agreed:
        said = "the servers do not share requests in the same way: their settings of the pools differ"
        print(f"ifserver: warning: {said}", file=sys.stderr)
    if pools.servers < pools.asked or not pools.servers:
        print(f"ifserver: error: {pools.servers} of {pools.asked} servers have answered", file=sys.stderr)
        return 1
    return 0
