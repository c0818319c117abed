"""``ifserver publish``: sends something to a group, through the nodes or through the admin endpoint of a server."""

from __future__ import annotations

import argparse
import os
import sys
import urllib.error
from typing import Final

import msgspec

from ifserver import channels
from ifserver.config import arguments
from ifserver.config.configuration import Configuration
from ifserver.errors import ApplicationError, ChannelNameError, ConfigurationError
from ifserver.observe.publication import Publication, reached
from ifserver.observe.viewer.client import Client
from ifserver.services.lifecycle import Runtime, Service
from ifserver.worker.event_checks import checked_close

__all__ = ["main"]

#: What is read of standard input at most, in bytes: more than that no node carries.
_MAX_BYTES: Final = 64 * 1024 * 1024


def main(given: argparse.Namespace) -> int:
    """Publish, and print to how many processes that went; the exit code.

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
        return _over_http(Client(address), token, group, _publication(given))
    layer = arguments.layer_settings(given)
    publication = _publication(given)
    # Publishing over HTTP needs nothing of this, and starts faster without it.
    from ifserver.commands import running

    def build(runtime: Runtime) -> Service:
        from ifserver.services.publish import PublishService

        return PublishService(runtime, layer, group, publication, sys.stdout)

    return running.run_command(build)


def _token(configuration: Configuration) -> str:
    for path in ("front.admin_token", "worker.admin_token"):
        token = configuration.of(path).value
        if token is not None:
            return str(token)
    raise ConfigurationError(
        "publish: the admin endpoint asks for a token: set IFSERVER_FRONT_ADMIN_TOKEN, or front.admin_token in a file"
    )


def _over_http(client: Client, token: str, group: str, publication: Publication) -> int:
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
    """What the arguments, or standard input, say to publish."""
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
