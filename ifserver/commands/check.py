"""``ifserver check``: whether the nodes are fit for use, and the applications can be loaded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ifserver.commands import running
from ifserver.config import arguments
from ifserver.services.lifecycle import Runtime, Service

if TYPE_CHECKING:
    from ifserver.services.check_pools import PoolReport

__all__ = ["main"]


def main(given: argparse.Namespace) -> int:
    """Print what was found; the exit code."""
    pools = arguments.pools(given)
    reports: Sequence[PoolReport] = ()
    has_clusters = given.configuration.has("layer.clusters")
    # A file with clusters may be that of a machine where only servers run, and no application is installed.
    if pools or (given.configuration.has("worker.application") and not has_clusters):
        # Before there is a reactor. It imports what workers need, which other sites do without here.
        from ifserver.services import check_pools

        reports = check_pools.examine(pools, arguments.pool_workers(given))
    # Who has only ``ifserver run`` has no nodes.
    layer = arguments.layer_settings(given) if has_clusters or not reports else None

    def build(runtime: Runtime) -> Service:
        # Its client of Redis imports the reactor, which must have been installed.
        from ifserver.services.check import CheckService

        return CheckService(runtime, layer, sys.stdout, given.json, reports)

    return running.run_command(build)
