"""The commands ``status`` and ``top``: where to ask, and what to do with the answer."""

from __future__ import annotations

import argparse
import os
import sys
import urllib.error
from collections.abc import Mapping, Sequence
from typing import Final, TextIO

from rich.console import Console

from ifserver.config import arguments, command_line
from ifserver.errors import ConfigurationError
from ifserver.observe.viewer import pause, pool, tables, top
from ifserver.observe.viewer.client import Client

__all__ = ["COMMANDS", "main", "make_parser"]

#: The commands, and what they are for.
COMMANDS: Final = command_line.VIEWERS
#: Those of them that change something.
PAUSES: Final = ("pause", "resume")
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
    """Carry out one of `COMMANDS`; its exit code: 1 when there is no answer.

    Raises:
        ConfigurationError: no endpoint is named, or it is no address.
    """
    out = sys.stdout if out is None else out
    given = make_parser().parse_args(words)
    client = Client(_address(given, environ))
    try:
        if given.command in PAUSES:
            return pause.carry_out(client, given, _token(given, environ), out)
        if given.command == "pool":
            return pool.carry_out(client, given, _token(given, environ), out)
        if given.command == "top":
            if not (sys.stdin.isatty() and out.isatty()):
                raise ConfigurationError("top: needs a terminal; there is 'ifserver status', also with --json")
            top.run(client)
        elif given.json:
            print(client.raw_status().decode(), file=out)
        else:
            _show(client, out)
        out.flush()
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # Whoever reads our output has had enough. What is still buffered must not be written at the end either.
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
        if name == "status":
            command.add_argument("--json", action="store_true", help="as JSON: all that is known")
        elif name in PAUSES:
            pause.add_arguments(command, name)
        elif name == "pool":
            pool.add_arguments(command)
    return parser


def _token(given: argparse.Namespace, environ: Mapping[str, str]) -> str | None:
    """The token of the endpoint; None: no setting has one."""
    return _setting(given, environ, ("front.admin_token", "worker.admin_token"))


def _setting(given: argparse.Namespace, environ: Mapping[str, str], paths: Sequence[str]) -> str | None:
    """The first of these settings that has a value."""
    config = [] if given.config is None else ["--config", given.config]
    configuration = arguments.parse(["settings", *config], environ).configuration
    return next((value for path in paths if (value := configuration.of(path).value)), None)


def _address(given: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """The endpoint to ask."""
    address: str | None = given.admin
    if address is None:
        address = _setting(given, environ, ("front.admin", "worker.admin"))
    if address is None:
        missing = "no admin endpoint is named: give --admin HOST:PORT, or set front.admin"
        raise ConfigurationError(f"{given.command}: {missing}")
    return address


def _show(client: Client, out: TextIO) -> None:
    status = client.status()
    # As wide as it has to be: a terminal breaks lines that are too long for it, and nothing is left out.
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
