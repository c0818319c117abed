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
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import uvloop

from ifserver.config.configuration import CommandSettings, describe_changes
from ifserver.errors import ConfigurationError, IfserverError
from ifserver.logs import events
from ifserver.logs.events import Mark
from ifserver.process import children, own_process, reactor
from ifserver.process.children import Child
from ifserver.process.systemd import Herald, Manager, Notifier, counted
from ifserver.services.service import Runtime, Service

#: What ends a process; the last one is for servers whose parent gets Ctrl-C in their place.
_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
#: Of two SIGTERMs that come so close together, in seconds, the second is no order of its own: a manager or timeout(1)
#: that signals every process of a group, and this one as well.
_SAME_S: Final = 0.5
#: How long a successor may take until it is ready.
_SUCCESSOR_S: Final = 90.0
#: Nobody manages this process.
_UNMANAGED: Final = Manager()

_log = logging.getLogger(__name__)


class Control(NamedTuple):
    """What may be done to a service while it runs."""

    #: The settings that hold.
    settings: CommandSettings = CommandSettings()
    #: Reads them anew; raises `ConfigurationError`. None: signals do nothing but end it.
    reread: Callable[[], CommandSettings] | None = None
    #: Sets how much is logged, by ``log.verbosity``.
    log_at: Callable[[int], None] = lambda verbosity: None
    #: Starts a successor; its arguments are called when that is ready, and when it has ended. Raises `IfserverError` or
    #: `OSError`.
    succeed: Callable[[Callable[[], None], Callable[[], None]], Child] | None = None
    #: The pipe by which a successor reports to its predecessor that it is ready.
    ready_fd: int | None = None
    #: Whether it was started by another process of ours, which ends it.
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
        """The parent of children has logged it for all."""
        name = "Ctrl-C" if number == signal.SIGINT and self._has_terminal else number.name
        events.report(_log, logging.DEBUG if self._control.is_child else level, Mark.STOPPING, text, name)

    def request_reload(self, number: signal.Signals) -> None:
        """SIGHUP: read the settings anew; but if the terminal is closed from which we were started, end."""
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
            if self._settings.worker is not None:
                text = "%s: the settings stay as they are, and the workers are not replaced: %s"
            events.report(_log, logging.ERROR, Mark.DEPLOY_FAILED, text, number.name, error)
        else:
            live = {"log.verbosity", *self._service.reload(new)}
            texts = describe_changes(self._control.settings, self._settings, new, live)
            changed, self._settings = new != self._settings, new
            self._control.log_at(new.log.verbosity)
            # A parent logs it for all.
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
        """SIGUSR2 to one of several servers: its parent has a successor, with servers of its own."""
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
    """Print the error in one line; the exit code."""
    with contextlib.suppress(OSError):
        print(f"ifserver: error: {error}", file=sys.stderr)
    return 2 if isinstance(error, ConfigurationError) else 3


def run(
    build: Callable[[Runtime], Service], control: Callable[[Runtime], Control], manager: Manager = _UNMANAGED
) -> int:
    """Install the reactor, and run what `build` makes until it ends by itself or by a signal; the exit code."""
    interrupts = own_process.keep_interrupts()
    keeps_freed = own_process.keep_freed(os.environ)
    # What imports have made stays. Each look for garbage among it would take 30 ms, Python's own at the end included.
    gc.freeze()
    gc.enable()
    runtime = install_reactor()
    if keeps_freed:
        own_process.give_back(runtime.reactor)
    service = build(runtime)
    herald = Herald(
        Notifier(manager.address),
        runtime.reactor,
        manager.watchdog_s,
        lambda: counted(service.counts()),
        service.well,
        lambda: time.monotonic_ns() // 1000,
    )
    controlled = control(runtime)
    lifecycle = Lifecycle(service, runtime, herald, controlled)
    handlers = lifecycle.handlers()
    for number, handler in handlers.items():
        # Who has us started by nohup, or in the background of a script, wants these two to do nothing. The others are
        # not left to them: our own parent may need them.
        if number not in (signal.SIGHUP, signal.SIGINT) or signal.getsignal(number) is not signal.SIG_IGN:
            runtime.loop.add_signal_handler(number, handler, number)
        elif number == signal.SIGHUP and not controlled.is_child:
            _log.info("SIGHUP will be ignored, because it was when this process was started: nohup does that")
    runtime.loop.call_soon(lifecycle.begin)
    if interrupts:
        runtime.loop.call_soon(lifecycle.request_stop, signal.SIGINT)
    runtime.reactor.run(installSignalHandlers=False)
    for number in (*handlers, signal.SIGINT):
        # Python's own end puts the default handlers back, by which a late signal would spoil the exit code.
        signal.signal(number, signal.SIG_IGN)
    return lifecycle.status


def install_reactor() -> Runtime:
    """Install the reactor, before anything imports it."""
    loop = uvloop.new_event_loop()
    # For applications that ask for the loop while they are imported.
    asyncio.set_event_loop(loop)
    return Runtime(reactor.install(loop), loop)
