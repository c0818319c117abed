"""``ifserver check``: whether the nodes are fit for use."""

from __future__ import annotations

import argparse
import sys

from ifserver.commands import running
from ifserver.config import arguments
from ifserver.services.lifecycle import Runtime, Service

__all__ = ["main"]


def main(given: argparse.Namespace) -> int:
    """Print what was found; the exit code."""
    layer = arguments.layer_settings(given)

    def build(runtime: Runtime) -> Service:
        # Its client of Redis imports the reactor, which must have been installed.
        from ifserver.services.check import CheckService

        return CheckService(runtime, layer, sys.stdout, given.json)

    return running.run_command(build)
