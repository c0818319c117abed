"""The commands ``status``, ``top``, ``pause``, ``resume`` and ``pool``: where to ask, what to do with the answer."""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.error
from collections.abc import Mapping, Sequence
from typing import Final, TextIO

import msgspec
from rich.console import Console

from ifserver.config import arguments, command_line
from ifserver.config.values import parse_duration
from ifserver.errors import ConfigurationError
from ifserver.observe.viewer import tables, top
from ifserver.observe.viewer.client import Client
from ifserver.status import Paused, Pools

__all__ = ["COMMANDS", "main", "make_parser"]

#: The commands, and what they are for.
COMMANDS: Final = command_line.VIEWERS
_PAUSES: Final = ("pause", "resume")
#: How often it is asked whether requests are still under way, in seconds.
_LOOK_S: Final = 0.25
#: As wide as a table has to be: a terminal breaks lines that are too long for it, and nothing is left out.
_WIDTH: Final = 300
_DESCRIPTION: Final = (
    "Ask the admin endpoint of a server or of a supervisor. Where none is named, it is the one that the settings name: "
    "front.admin, or else worker.admin."
)
_DESCRIPTIONS: Final = {
    "pause": "Pause a pool, or all, on all servers: new requests and the messages of open WebSockets wait in the "
    "servers, and what is under way goes on. A pause ends by itself. The admin endpoint of any server is asked: "
    "--admin, or that of the settings; its token, where it has one, is read from IFSERVER_FRONT_ADMIN_TOKEN or the "
    "file.",
    "pool": "Show the pools side by side: weights, requests, errors (5xx) and the times until responses began, of all "
    "servers together. With weights: let a pool and its canaries share their requests like that, on all servers, from "
    "now on; open WebSockets stay where they are. Of pools that are not named canaries keep their weight, and the pool "
    "itself gets what is left of 100. The admin endpoint is found as for ifserver pause.",
    "resume": "End a pause, on all servers: what has waited goes on, in its order. The admin endpoint is found as for "
    "ifserver pause.",
}


def main(words: Sequence[str], environ: Mapping[str, str] = os.environ, out: TextIO | None = None) -> int:
    """Carry out one of `COMMANDS`; its exit code: 1 when there is no answer, or not all servers have followed an order.

    Raises:
        ConfigurationError: no endpoint is named, it is no address, or it refuses.
    """
    out = sys.stdout if out is None else out
    given = make_parser().parse_args(words)
    client = Client(_address(given, environ))
    try:
        if given.command in _PAUSES:
            return pause(client, given, _token(given, environ), out)
        if given.command == "pool":
            return pool(client, given, _token(given, environ), out)
        if given.command == "top":
            if not (sys.stdin.isatty() and out.isatty()):
                raise ConfigurationError("top: needs a terminal; there is 'ifserver status', also with --json")
            top.run(client)
        elif given.json:
            print(client.raw_status().decode(), file=out)
        else:
            _show_status(client, out)
        out.flush()
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # The reader of our output has closed it. What is still buffered must not be written at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return 0
    except urllib.error.HTTPError as error:
        return client.refused(given.command, error)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        print(f"ifserver: error: {client.url}: {error}", file=sys.stderr)
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of `COMMANDS`."""
    parser = argparse.ArgumentParser(prog="ifserver", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, brief in COMMANDS.items():
        command = commands.add_parser(
            name, help=brief, description=_DESCRIPTIONS.get(name, _DESCRIPTION), allow_abbrev=False
        )
        command.add_argument("--admin", metavar="HOST:PORT", help="the admin endpoint, or its URL")
        command.add_argument("--config", metavar="FILE", help="file with settings")
        if name in _PAUSES:
            command.add_argument(
                "pool", metavar="POOL", nargs="?", default="", help="the pool's name; nothing: all pools"
            )
        if name == "pause":
            command.add_argument(
                "--for",
                dest="duration",
                metavar="DURATION",
                help="end the pause after so long, in seconds or as 500ms or 2m (default: pause_timeout of the server)",
            )
            command.add_argument("--wait", action="store_true", help="return when no request of the pool is under way")
        elif name == "pool":
            command.add_argument(
                "weights",
                metavar="NAME=WEIGHT",
                nargs="*",
                help="let these pools share their requests like that, on all servers; nothing: show all pools",
            )
            command.add_argument(
                "--reset", action="store_true", help="let all pools share their requests as the settings say"
            )
        if name in ("pool", "status"):
            command.add_argument("--json", action="store_true", help="as JSON: all that is known")
    return parser


# Where to ask.


def _token(given: argparse.Namespace, environ: Mapping[str, str]) -> str | None:
    """The token of the endpoint; None: no setting has one."""
    return _setting(given, environ, ("front.admin_token", "worker.admin_token"))


def _setting(given: argparse.Namespace, environ: Mapping[str, str], paths: Sequence[str]) -> str | None:
    """The first of these settings that has a value."""
    config = [] if given.config is None else ["--config", given.config]
    configuration = arguments.parse(["settings", *config], environ).configuration
    return next((value for path in paths if (value := configuration.of(path).value)), None)


def _address(given: argparse.Namespace, environ: Mapping[str, str]) -> str:
    address: str | None = given.admin
    if address is None:
        address = _setting(given, environ, ("front.admin", "worker.admin"))
    if address is None:
        missing = "no admin endpoint is named: give --admin HOST:PORT, or set front.admin"
        raise ConfigurationError(f"{given.command}: {missing}")
    return address


# ``status``.


def _show_status(client: Client, out: TextIO) -> None:
    status = client.status()
    console = Console(file=out, width=_WIDTH)
    found = tables.ordered(status)
    parts = [tables.head(status), tables.nodes(status), tables.processes(status)]
    parts += [tables.pools(status.pools)] if status.pools else []
    parts += [tables.groups(status)] if status.groups else []
    parts += [tables.events(status)] if status.events else []
    for part in (*parts, tables.streams(found)):
        console.print(part)
        console.print()
    if status.groups_total > len(status.groups):
        console.print(f"{status.groups_total} groups in all, of which these are the largest")
    if status.streams_total > len(found):
        console.print(f"{status.streams_total} streams in all, of which these are the oldest")


# ``pause`` and ``resume``.


def pause(client: Client, given: argparse.Namespace, token: str | None, out: TextIO) -> int:
    """Pause, or end a pause; the exit code: 1 when not all servers have, or what was waited for did not come."""
    is_pause = given.command == "pause"
    paused = client.pause(given.command, given.pool, token, _seconds(given) if is_pause else None)
    _show_paused(paused, given.command, out)
    waits = is_pause and given.wait
    while waits and paused.under_way and paused.servers == paused.asked:
        time.sleep(_LOOK_S)
        paused = client.pause("", given.pool, token)
        if not paused.pools:
            print("ifserver: error: the pause is over, and requests were under way to its end", file=sys.stderr)
            return 1
    if not _all_answered(paused):
        return 1
    if waits:
        print("no request is under way", file=out)
    return 0


def _seconds(given: argparse.Namespace) -> float | None:
    if given.duration is None:
        return None
    try:
        return parse_duration(given.duration)
    except ConfigurationError as error:
        raise ConfigurationError(f"pause: --for: {error}") from None


def _show_paused(paused: Paused, command: str, out: TextIO) -> None:
    servers = _servers(paused)
    if paused.resumed:
        print(f"resumed on {servers}: {', '.join(map(tables.named, paused.resumed))}", file=out)
        if not paused.pools:
            return
    if not paused.pools:
        # An older server does not report what was.
        print(f"nothing {'is' if paused.resumed is None else 'was'} paused on {servers}", file=out)
        return
    still = "still " if command == "resume" else ""
    under_way = f"{paused.under_way} request{' is' if paused.under_way == 1 else 's are'} under way"
    counts = f"{under_way}, {paused.waiting} wait{'s' if paused.waiting == 1 else ''}"
    print(f"{still}paused on {servers}: {tables.paused(paused.pools)}; {counts}", file=out, flush=True)


# ``pool``.


def pool(client: Client, given: argparse.Namespace, token: str | None, out: TextIO) -> int:
    """Show the pools, or let them share their requests in another way; the exit code: 1 when not all servers have
    answered."""
    weights = _weights(given.weights)
    if weights and given.reset:
        raise ConfigurationError("pool: --reset: takes the weights of the settings, so that none can be given")
    pools = client.pools(weights, given.reset, token)
    if given.json:
        print(msgspec.json.encode(pools).decode(), file=out)
    elif not pools.pools:
        print(f"there are no pools on {_servers(pools)}", file=out)
    else:
        Console(file=out, width=_WIDTH).print(tables.pools(pools.pools, pools.workers))
        since = "since a canary has begun to get a share, or the server was started"
        counted = tables.seconds(pools.counted_s)
        print(f"on {_servers(pools)}, counted for {counted}: {since}", file=out)
    for each in pools.pools:
        if each.weight and not pools.workers.get(each.name):
            text = f"pool {each.name} has a weight of {each.weight:g} and no worker that is ready: its requests wait"
            print(f"ifserver: warning: {text}", file=sys.stderr)
    if not pools.agreed:
        text = "the servers do not share requests in the same way: their settings of the pools differ"
        print(f"ifserver: warning: {text}", file=sys.stderr)
    return 0 if _all_answered(pools) else 1


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


def _all_answered(answer: Paused | Pools) -> bool:
    if answer.servers and answer.servers >= answer.asked:
        return True
    print(f"ifserver: error: {answer.servers} of {answer.asked} servers have answered", file=sys.stderr)
    return False


def _servers(answer: Paused | Pools) -> str:
    return f"{answer.servers} server{'' if answer.servers == 1 else 's'}"
