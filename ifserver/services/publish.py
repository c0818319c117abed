"""``ifserver publish`` over nodes: connects to them, publishes once, and prints how many processes have got it."""

from __future__ import annotations

import asyncio
import sys
from typing import Final, TextIO

from ifserver import channels
from ifserver.config.settings import LayerSettings
from ifserver.errors import NodeError, PushInDoubt
from ifserver.observe.publication import Publication, reached
from ifserver.services.service import Runtime, Service, clusters_of, connect

#: How long the nodes may take to publish, in seconds.
_PUBLISH_S: Final = 5.0


class PublishService(Service):
    """Publishes `publication` in `group`, writes to `out` how many processes have got it, and ends."""

    def __init__(
        self, runtime: Runtime, layer: LayerSettings, group: str, publication: Publication, out: TextIO
    ) -> None:
        super().__init__(runtime)
        self._clusters = clusters_of(runtime, layer, channels.new_process_name())
        self._group = group
        self._publication = publication
        self._out = out

    async def start(self) -> None:
        await connect(self._clusters)
        try:
            publishing = self._clusters.groups.publish(self._group, **self._publication._asdict())
            processes = await asyncio.wait_for(self.runtime.future(publishing), _PUBLISH_S)
        except (NodeError, TimeoutError) as error:
            print(f"ifserver: error: {_outcome(error)}", file=sys.stderr)
            self.ended.set_result(1)
            return
        for node in self._clusters.nodes.values():
            if not node.connected:
                why = "there is no connection, so processes that listen there did not get it"
                print(f"ifserver: warning: node {node.name}: {why}", file=sys.stderr)
        self._out.write(f"{reached(processes)}\n")
        self.ended.set_result(0)

    async def stop(self) -> None:
        await self.runtime.future(self._clusters.stop())

    def stop_now(self) -> None:
        """Nothing is waited for."""


def _outcome(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"it may have been published, or not: no answer within {_PUBLISH_S:g} s"
    return (
        f"it may have been published, or not: {error}" if isinstance(error, PushInDoubt) else f"not published: {error}"
    )
