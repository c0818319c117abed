"""A service from its start to its end, and what signals do to it.

==================  ===================================================================================================
SIGTERM             end in order; once more: at once
SIGINT (Ctrl-C)     end in order, and quickly, for somebody waits; once more: at once
SIGHUP              read the settings anew; workers are replaced. From a terminal that is closed: end
SIGUSR1             open the log files anew
SIGUSR2             start a successor that takes over the listening sockets, then end
==================  ===================================================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

from twisted.internet.defer import Deferred

from ifserver.config.rereading import Reading, describe_changes
from ifserver.config.settings import LogSettings
from ifserver.errors import ConfigurationError, IfserverError
from ifserver.logs import events
from ifserver.logs.events import Mark
from ifserver.process import children
from ifserver.process.children import Child
from ifserver.process.systemd import Herald

__all__ = ["Control", "Lifecycle", "Runtime", "Service", "failed"]

#: What tells a process to end; the last one is for servers whose parent hears Ctrl-C in their place.
_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
#: Of two SIGTERMs that come so close together, in seconds, the second is no order of its own: a manager or timeout(1)
#: that tells every process of a group, and this one as well.
_SAME_S: Final = 0.5
#: How long a successor may take until it is ready.
_SUCCESSOR_S: Final = 90.0

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Runtime(NamedTuple):
    """What everything runs on: Twisted's asyncio reactor, and the loop below it."""

    reactor: Any
    loop: asyncio.AbstractEventLoop

    def future(self, deferred: Deferred[_T]) -> asyncio.Future[_T]:
        """`deferred` for a coroutine of asyncio's."""
        return deferred.asFuture(self.loop)


class Service(ABC):
    """Something that runs from `start` to `stop`."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        #: Has the exit status once the service has ended by itself.
        self.ended: asyncio.Future[int] = runtime.loop.create_future()
        #: Is done once it does what it is there for.
        self.got_ready: asyncio.Future[None] = runtime.loop.create_future()
        #: Whether its end has begun.
        self.ending = False
        #: Whether somebody at a terminal waits for the end, which must not take long then.
        self.quick = False
        #: Whether a successor has taken over the listening sockets.
        self.succeeded = False

    @property
    def ready(self) -> bool:
        """Whether it does what it is there for, and will go on doing so."""
        return self.got_ready.done() and not self.ending

    @abstractmethod
    async def start(self) -> None:
        """Begin. May be cancelled; `stop` follows in any case.

        Raises:
            IfserverError: it cannot be; `ConfigurationError` if that is the operator's affair.
        """

    @abstractmethod
    async def stop(self) -> None:
        """End in order: what is under way is finished, within the timeouts of the settings."""

    @abstractmethod
    def stop_now(self) -> None:
        """Let the `stop` that is under way wait for nobody."""

    def is_ready(self) -> None:
        """From now on it does what it is there for."""
        if not self.got_ready.done():
            self.got_ready.set_result(None)

    def well(self) -> bool:
        """Whether it can do what it is there for. Where that is watched, it is restarted if it cannot for long."""
        return True

    def counts(self) -> dict[str, int]:
        """How many there are of what, for people."""
        return {}

    def reload(self, new: Reading) -> Collection[str]:
        """The operator has asked for new settings, or for new code; the paths of the settings that take effect."""
        return ()

    def reopen_logs(self) -> None:
        """Files that are written to have been moved away: go on in new ones."""
        return


class Control(NamedTuple):
    """What may be done to a service while it runs."""

    #: The settings that hold.
    settings: Reading = MappingProxyType({})
    #: Reads them anew; raises `ConfigurationError`. None: signals do nothing but end it.
    reread: Callable[[], Reading] | None = None
    #: Says as much in the log as ``log.verbosity`` says.
    log_at: Callable[[int], None] = lambda verbosity: None
    #: Starts a successor, of which is told that it is ready and that it has ended; raises `IfserverError` or `OSError`.
    succeed: Callable[[Callable[[], None], Callable[[], None]], Child] | None = None
    #: The pipe by which a successor tells its predecessor that it is ready.
    ready_fd: int | None = None
    #: Whether it was started by another process of ours, which tells it when to end.
    is_child: bool = False
    #: Whether it is one of several servers.
    is_member: bool = False


class Lifecycle:
    """A service from its start to its end, and what signals do to it."""

    def __init__(self, service: Service, runtime: Runtime, herald: Herald, control: Control) -> None:
        self.status = 0
        self._service = service
        self._runtime = runtime
        self._herald = herald
        self._control = control
        self._settings = control.settings
        self._has_terminal = has_terminal()
        self._stop_requested = asyncio.Event()
        self._stop_requested_at = 0.0
        self._successor: Child | None = None
        self._successor_timer: Any = None
        self._task: asyncio.Task[None] | None = None
        service.got_ready.add_done_callback(self._ready)

    def handlers(self) -> Mapping[signal.Signals, Callable[[signal.Signals], None]]:
        """What signals do."""
        # Children leave SIGINT to their parent, see `children.belong_to`.
        handlers = dict.fromkeys(_ENDS[1:] if self._control.is_child else _ENDS[:2], self.request_stop)
        if self._control.reread is not None:
            handlers[signal.SIGHUP] = self.request_reload
            handlers[signal.SIGUSR1] = self.request_reopen
            handlers[signal.SIGUSR2] = self.successor_took_over if self._control.is_member else self.request_successor
        return handlers

    def begin(self) -> None:
        """Start the service."""
        self._task = self._runtime.loop.create_task(self._run())

    # Signals.

    def request_stop(self, number: signal.Signals) -> None:
        """SIGINT or SIGTERM: end in order. A second one: at once."""
        now = self._runtime.loop.time()
        if not self._stop_requested.is_set():
            self._log_end("%s: stopping", number)
            self._stop_requested_at = now
            self._service.quick = number != signal.SIGTERM
            self._request_stop()
        elif number != signal.SIGTERM or (not self._control.is_child and now - self._stop_requested_at >= _SAME_S):
            self._log_end("%s again: stopping at once, open requests are cut off", number, logging.WARNING)
            self._service.stop_now()

    def _log_end(self, text: str, number: signal.Signals, level: int = logging.INFO) -> None:
        """Children are told by their parent, which has logged it for all."""
        name = "Ctrl-C" if number == signal.SIGINT and self._has_terminal else number.name
        events.report(_log, logging.DEBUG if self._control.is_child else level, Mark.STOPPING, text, name)

    def request_reload(self, number: signal.Signals) -> None:
        """SIGHUP: read the settings anew; but if the terminal is gone from which we were started, end."""
        if self._has_terminal and not has_terminal():
            self.request_stop(number)
            return
        reread = self._control.reread
        if reread is None or not self._service.ready:
            _log.info("%s: ignored, because this process is starting or stopping", number.name)
            return
        self._herald.reloading()
        try:
            new = reread()
        except ConfigurationError as error:
            text = "%s: the settings stay as they are: %s"
            if "worker" in self._settings:
                text = "%s: the settings stay as they are, and the workers are not replaced: %s"
            events.report(_log, logging.ERROR, Mark.DEPLOY_FAILED, text, number.name, error)
        else:
            live = {"log.verbosity", *self._service.reload(new)}
            texts = describe_changes(self._control.settings, self._settings, new, live)
            changed, self._settings = new != self._settings, new
            log = new.get("log")
            if isinstance(log, LogSettings):
                self._control.log_at(log.verbosity)
            # Children are told what their parent is told, who says it for all.
            level = logging.DEBUG if self._control.is_child else logging.INFO
            for text in texts:
                if changed:
                    events.report(_log, level, Mark.SETTINGS, "%s: %s", number.name, text)
                else:
                    _log.log(level, "%s: %s", number.name, text)
        self._herald.ready()

    def request_reopen(self, number: signal.Signals) -> None:
        """SIGUSR1: open the log files anew."""
        _log.info("%s: reopening the log files", number.name)
        self._service.reopen_logs()

    def request_successor(self, number: signal.Signals) -> None:
        """SIGUSR2: start a successor."""
        succeed = self._control.succeed
        if succeed is None:
            _log.warning("%s: ignored, because a successor can take over a server only", number.name)
            return
        if not self._service.ready or self._successor is not None:
            _log.warning("%s: ignored, because this process is starting, stopping or being replaced", number.name)
            return
        if os.getpid() == 1:
            _log.error("%s: ignored, because this is process 1: when it ends, so does its successor", number.name)
            return
        try:
            self._successor = succeed(self._successor_ready, self._successor_ended)
        except (IfserverError, OSError) as error:
            events.report(
                _log, logging.ERROR, Mark.DEPLOY_FAILED, "%s: cannot start a successor: %s", number.name, error
            )
            return
        text = "%s: process %d is starting, and will take over"
        events.report(_log, logging.INFO, Mark.TAKEOVER, text, number.name, self._successor.pid)
        self._successor_timer = self._runtime.reactor.callLater(_SUCCESSOR_S, self._successor_too_slow)

    def successor_took_over(self, number: signal.Signals) -> None:
        """SIGUSR2 to one of several servers: its parent has a successor, who has servers of its own."""
        if not self._stop_requested.is_set():
            events.report(_log, logging.INFO, Mark.TAKEOVER, "%s: others take over: stopping", number.name)
            self._service.succeeded = True
            self._stop_requested_at = self._runtime.loop.time()
            self._stop_requested.set()

    def _successor_ready(self) -> None:
        assert self._successor is not None
        self._successor_timer.cancel()
        if self._stop_requested.is_set():
            self._successor.terminate()
            return
        text = "process %d is ready and takes over: stopping"
        events.report(_log, logging.INFO, Mark.TAKEOVER, text, self._successor.pid)
        self._service.succeeded = True
        self._herald.handed_over(self._successor.pid)
        self._stop_requested_at = self._runtime.loop.time()
        self._stop_requested.set()

    def _successor_ended(self) -> None:
        successor, self._successor = self._successor, None
        if self._successor_timer.active():
            self._successor_timer.cancel()
        if successor is not None and not self._stop_requested.is_set():
            text = "process %d was to take over and has ended (%s): this one goes on"
            events.report(_log, logging.ERROR, Mark.DEPLOY_FAILED, text, successor.pid, successor.ending)

    def _successor_too_slow(self) -> None:
        assert self._successor is not None
        text = "process %d is not ready after %g s: killing it, this one goes on"
        events.report(_log, logging.ERROR, Mark.DEPLOY_FAILED, text, self._successor.pid, _SUCCESSOR_S)
        self._successor.kill()

    # From start to end.

    def _request_stop(self) -> None:
        self._stop_requested.set()
        if self._successor is not None and not self._service.succeeded:
            self._successor.terminate()

    def _ready(self, _: object) -> None:
        if self._stop_requested.is_set():
            return
        if self._control.ready_fd is not None:
            children.report_ready(self._control.ready_fd)
        self._herald.ready()

    async def _run(self) -> None:
        error = None
        try:
            try:
                self.status = await self._start_and_wait()
            except IfserverError as failure:
                error = failure
            self._service.ending = True
            self._herald.stopping()
            await self._service.stop()
            if error is not None:
                # The last line: the operator need not look for it above what was logged meanwhile.
                self.status = failed(error)
        except Exception:
            _log.exception("this is a defect of ifserver")
            self.status = 1
        finally:
            self._herald.stop()
            self._runtime.reactor.stop()

    async def _start_and_wait(self) -> int:
        starting = asyncio.create_task(self._service.start())
        stop_requested = asyncio.create_task(self._stop_requested.wait())
        try:
            await asyncio.wait((starting, stop_requested, self._service.ended), return_when=asyncio.FIRST_COMPLETED)
            if self._service.ended.done():
                return self._service.ended.result()
            if not starting.done():
                return 0
            starting.result()
            await asyncio.wait((self._service.ended, stop_requested), return_when=asyncio.FIRST_COMPLETED)
            return self._service.ended.result() if self._service.ended.done() else 0
        finally:
            starting.cancel()
            stop_requested.cancel()


def has_terminal() -> bool:
    """Whether this process belongs to a terminal: when that is closed, the kernel sends SIGHUP, and it belongs to none
    any more."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def failed(error: IfserverError) -> int:
    """Tell people in one line; the exit code."""
    with contextlib.suppress(OSError):
        print(f"ifserver: error: {error}", file=sys.stderr)
    return 2 if isinstance(error, ConfigurationError) else 3
