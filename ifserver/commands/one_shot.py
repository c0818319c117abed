"""The commands that end by themselves: ``check``, ``publish``, ``settings`` and ``completion``.

Each imports what it needs, so that it starts as fast as it can.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from ifserver import channels
from ifserver.config import arguments, command_line
from ifserver.errors import ApplicationError, ChannelNameError, ConfigurationError

if TYPE_CHECKING:
    from ifserver.config.configuration import Configuration
    from ifserver.observe.publication import Publication
    from ifserver.services.check import PoolReport
    from ifserver.services.service import Runtime, Service


#: The script of each shell, under the name by which that shell finds it. ``docs/generate.py`` makes them, so a shell
#: that reads one starts no Python.
SCRIPTS: Final = {
    shell: Path(__file__).with_name("shells") / name
    for shell, name in {"bash": "ifserver.bash", "zsh": "_ifserver", "fish": "ifserver.fish"}.items()
}
#: What is read of standard input at most, in bytes: more than that no node carries.
_MAX_BYTES: Final = 64 * 1024 * 1024


def settings(given: argparse.Namespace) -> int:
    """Print the settings that hold, as a table, as JSON or as a file; the exit code."""
    from ifserver.config import manual

    if given.example:
        text = manual.example()
    else:
        manual.check(given.configuration, os.environ)
        text = (manual.json if given.json else manual.table)(given.configuration, os.environ)
    print(text, end="")
    return 0


def completion(words: Sequence[str]) -> int:
    """Print the script with which a shell completes the flags; the exit code. Exits with status 2 and one line when the
    arguments are wrong."""
    given = command_line.make_parser(whole=False).parse_args(words)
    print(SCRIPTS[given.shell].read_text("utf-8"), end="")
    return 0


def check(given: argparse.Namespace) -> int:
    """Print whether the nodes are fit for use, and the applications can be loaded; the exit code."""
    from ifserver.services.check import CheckService, examine_pools

    configuration: Configuration = given.configuration
    pools = configuration.pools()
    reports: Sequence[PoolReport] = ()
    has_clusters = configuration.has("layer.clusters")
    # A file with clusters may be that of a machine where only servers run, and no application is installed.
    if pools or (configuration.has("worker.application") and not has_clusters):
        # Before there is a reactor: it forks.
        reports = examine_pools(pools, arguments.worker_settings(configuration))
    # With `ifserver run` alone there are no nodes.
    layer = configuration.layer(os.environ) if has_clusters or not reports else None
    return _run(lambda runtime: CheckService(runtime, layer, sys.stdout, given.json, reports))


def _run(build: Callable[[Runtime], Service]) -> int:
    from ifserver.services import lifecycle

    return lifecycle.run(build, lambda runtime: lifecycle.Control())


# ``ifserver publish``.


def publish(given: argparse.Namespace) -> int:
    """Send something to a group, through the nodes or the admin endpoint of a server; the exit code.

    Raises:
        ConfigurationError: there is nowhere to publish, or nothing that can be published.
    """
    try:
        group = channels.check_group(given.group)
    except ChannelNameError as error:
        raise ConfigurationError(f"publish: {error}") from None
    configuration: Configuration = given.configuration
    address = given.admin
    if address is None and not configuration.has("layer.clusters"):
        address = configuration.of("front.admin").value
        if address is None:
            raise ConfigurationError(
                "publish: there is nowhere to publish: give --cluster NAME=URL, or --admin HOST:PORT of a server; or "
                "set [clusters] or front.admin in ifserver.toml, or IFSERVER_LAYER_CLUSTERS or IFSERVER_FRONT_ADMIN"
            )
    if address is not None:
        token = _token(configuration)
        return _over_http(address, token, group, _publication(given))
    layer = configuration.layer(os.environ)
    publication = _publication(given)

    def build(runtime: Runtime) -> Service:
        from ifserver.services.publish import PublishService

        return PublishService(runtime, layer, group, publication, sys.stdout)

    return _run(build)


def _token(configuration: Configuration) -> str:
    for path in ("front.admin_token", "worker.admin_token"):
        token = configuration.of(path).value
        if token is not None:
            return str(token)
    raise ConfigurationError(
        "publish: the admin endpoint asks for a token: set IFSERVER_FRONT_ADMIN_TOKEN, or front.admin_token in a file"
    )


def _over_http(address: str, token: str, group: str, publication: Publication) -> int:
    import urllib.error

    from ifserver.observe.publication import reached
    from ifserver.observe.viewer.client import Client

    client = Client(address)
    try:
        processes = client.publish(group, publication, token)
    except urllib.error.HTTPError as error:
        return client.refused("publish", error)
    except (OSError, ValueError) as error:
        print(f"ifserver: error: {client.url}: {error}", file=sys.stderr)
        return 1
    print(reached(processes))
    return 0


def _publication(given: argparse.Namespace) -> Publication:
    """What the arguments, or standard input, have to publish."""
    from ifserver.observe.publication import Publication

    exclude = given.exclude or ""
    if given.close is not None:
        if given.text is not None:
            raise ConfigurationError("publish: --close takes no TEXT, got one")
        return Publication(close=_close(given.close), exclude=exclude)
    data, of = (os.fsencode(given.text), "TEXT") if given.text not in (None, "-") else (_read(), "standard input")
    if given.bytes:
        return Publication(data=data, exclude=exclude)
    try:
        text = (msgspec.json.format(data, indent=-1) if given.json else data).decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"publish: {of} is not UTF-8 at byte {error.start}: give --bytes") from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"publish: --json: {of}: {error}") from None
    return Publication(text=text, exclude=exclude)


def _close(text: str) -> tuple[int, str]:
    from ifserver.asgi_events import checked_close

    code, _, reason = text.partition(":")
    try:
        return checked_close(int(code), reason)
    except ValueError:
        raise ConfigurationError(f"publish: --close: expected CODE or CODE:REASON, got {text!r}") from None
    except ApplicationError as error:
        raise ConfigurationError(f"publish: --close: {str(error).removeprefix('websocket.close: ')}") from None


def _read() -> bytes:
    data = sys.stdin.buffer.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ConfigurationError("publish: standard input is longer than 64 MiB")
    return data
