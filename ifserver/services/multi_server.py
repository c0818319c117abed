"""``serve --processes N``: several interface servers that share their addresses, and their parent.

The parent holds the listening sockets and nothing else: it answers nobody, and has no connection to a node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec
from msgspec import structs

from ifserver import __version__
from ifserver.config.checks import parse_address
from ifserver.config.configuration import CommandSettings, live_paths, updated
from ifserver.config.pools import all_of
from ifserver.config.settings import FrontSettings
from ifserver.errors import ConfigurationError
from ifserver.net import sockets
from ifserver.net.tls import Certificate
from ifserver.process import addresses, children
from ifserver.process.addresses import ServerLaunch
from ifserver.process.children import Child
from ifserver.process.servers import REPORT_S, Report, Servers
from ifserver.services.server import Listening, ServeService
from ifserver.services.service import Runtime, Service

#: Longer than any `Report`.
_REPORT_BYTES: Final = 256

_log = logging.getLogger(__name__)


class MultiServerService(Service):
    """The parent of `count` servers.

    Args:
        words: the command line, by which they read their settings anew.
    """

    def __init__(
        self, runtime: Runtime, count: int, settings: CommandSettings, listening: Listening, words: Sequence[str]
    ) -> None:
        super().__init__(runtime)
        if listening.descriptions:
            raise ConfigurationError(
                f"--endpoint {listening.descriptions[0]!r}: cannot be shared by several processes; use --host, --port, "
                "--unix or --fd"
            )
        self._count = count
        self._listening = listening
        self._groups = addresses.by_address(listening.sockets)
        self._words = tuple(words)
        self._settings = settings
        if _admin_port(settings.front) + count > 65_536:
            raise ConfigurationError(f"front.admin: {count} servers need as many ports, got {settings.front.admin}")
        self._no_delay = asyncio.Event()
        self._servers = Servers(count, self._start_server, runtime.reactor, self._all_ready, self._failed)

    async def start(self) -> None:
        scheme = "http:" if self._listening.certificate is None else "https:"
        where = ", ".join(sockets.url_of(group[0]).replace("http:", scheme, 1) for group in self._groups)
        _log.info("ifserver %s, starting %d servers for %s", __version__, self._count, where)
        self._servers.start()

    async def stop(self) -> None:
        self.ending = True
        front, number = self._settings.front, signal.SIGQUIT if self.quick else signal.SIGTERM
        if self.succeeded:
            number = signal.SIGUSR2
        patience_s = front.shutdown_delay_s + front.drain_timeout_s
        stopped = self.runtime.future(self._servers.stop(number, patience_s))
        # They listen for so long; then nobody does, and new clients must not be kept waiting.
        if front.shutdown_delay_s and not self.quick and not self.succeeded:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._no_delay.wait(), front.shutdown_delay_s)
        for file in () if self.succeeded else self._listening.files:
            file.remove()
        for sock in self._listening.sockets:
            sock.close()
        await stopped

    def stop_now(self) -> None:
        self.quick = True
        self._no_delay.set()
        self._servers.forward(signal.SIGQUIT)

    def well(self) -> bool:
        return self._servers.serving() > 0 or not self.ready

    def counts(self) -> dict[str, int]:
        report = self._servers.report()
        return {
            "connections": report.connections, "streams": report.streams, "servers": self._servers.serving()
        }  # fmt: skip

    def reload(self, new: CommandSettings) -> Collection[str]:
        """Each reads its settings itself; these are for those that are started later."""
        old = self._settings
        self._settings = structs.replace(old, front=updated(old.front, new.front), log=new.log, pools=new.pools)
        self._servers.forward(signal.SIGHUP)
        return {*live_paths(), *all_of((*old.pools, *new.pools))}

    def reopen_logs(self) -> None:
        self._servers.forward(signal.SIGUSR1)

    def _all_ready(self) -> None:
        _log.info("ready: %d servers", self._count)
        self.is_ready()

    def _failed(self, status: int) -> None:
        if not self.ended.done():
            self.ended.set_result(status)

    def _start_server(
        self, number: int, ready: Callable[[], None], reported: Callable[[Report], None], ended: Callable[[], None]
    ) -> Child:
        loop = self.runtime.loop
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)

        def has_ended() -> None:
            loop.remove_reader(ours)
            ours.close()
            ended()

        def read() -> None:
            with contextlib.suppress(BlockingIOError, msgspec.DecodeError):
                reported(msgspec.msgpack.decode(ours.recv(_REPORT_BYTES), type=Report))

        try:
            launch = ServerLaunch(
                sockets=tuple(sock.fileno() for sock in addresses.share(self._groups, number, self._count)),
                parent=os.getpid(),
                words=self._words,
                settings=structs.replace(self._settings, front=_front_of(self._settings.front, number)),
                report_fd=theirs.fileno(),
                taken_over=self._listening.taken_over,
            )
            child = addresses.start_server(launch, loop, ready, has_ended)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        loop.add_reader(ours, read)
        return child


def _front_of(front: FrontSettings, number: int) -> FrontSettings:
    """The settings of the server of that number: each has an admin endpoint of its own, at the port that is this much
    higher."""
    port = _admin_port(front)
    if front.admin is None or not port:
        return front
    host, _ = parse_address(front.admin)
    return structs.replace(front, admin=f"[{host}]:{port + number}" if ":" in host else f"{host}:{port + number}")


def _admin_port(front: FrontSettings) -> int:
    return 0 if front.admin is None else parse_address(front.admin)[1]


class MemberService(ServeService):
    """One of several servers. Reports to its parent."""

    def __init__(self, runtime: Runtime, launch: ServerLaunch) -> None:
        listen = launch.settings.listen
        listening = Listening(
            [sockets.inherit(fd) for fd in launch.sockets],
            taken_over=launch.taken_over,
            certificate=None if listen.certfile is None else Certificate(listen.certfile, listen.keyfile),
        )
        super().__init__(runtime, launch.settings, listening)
        self._ready_fd = launch.ready_fd
        self._reports = socket.socket(fileno=launch.report_fd)
        self._reports.setblocking(False)
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        await super().start()
        self._report()
        children.report_ready(self._ready_fd)

    async def stop(self) -> None:
        await super().stop()
        if self._timer is not None:
            self._timer.cancel()
        self._reports.close()

    def _report(self) -> None:
        self._timer = self.runtime.loop.call_later(REPORT_S, self._report)
        counts = self.counts()
        # A parent that does not read them does not need them either; with one that has ended this process ends.
        with contextlib.suppress(OSError):
            self._reports.send(msgspec.msgpack.encode(Report(counts["connections"], counts["streams"])))
