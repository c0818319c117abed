"""What every command that runs a service does: its settings, the reactor, and signals until its end."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

import uvloop

from ifserver import logs
from ifserver.config import arguments, flags
from ifserver.config.pools import POOLS, without_rules
from ifserver.config.rereading import Reading
from ifserver.config.schema import Settings
from ifserver.config.settings import ListenSettings, LogSettings
from ifserver.errors import ConfigurationError
from ifserver.net.tls import Certificate
from ifserver.process import addresses, own_process, reactor
from ifserver.process.addresses import Addresses
from ifserver.process.children import Child
from ifserver.process.systemd import Herald, Manager, Notifier, counted
from ifserver.services.lifecycle import Control, Lifecycle, Runtime, Service

__all__ = ["certificate_of", "install_reactor", "log_settings", "rereading", "run", "run_command", "settings_of"]

#: Nobody manages this process.
_NOBODY: Final = Manager()

_log = logging.getLogger(__name__)

# Settings.


def settings_of(given: argparse.Namespace) -> Reading:
    """The sections that the command uses."""
    read: dict[str, Callable[[argparse.Namespace], Settings]] = {
        "listen": arguments.bind_of,
        "front": arguments.front_settings,
        "layer": arguments.layer_settings,
        "worker": arguments.worker_settings,
        "log": log_settings,
    }
    sections = flags.COMMANDS[given.command]
    pools = arguments.pools(given) if {"front", "worker"} & set(sections) else ()
    if "front" not in sections:
        pools = tuple(map(without_rules, pools))
    return {
        **{section: read[section](given) for section in sections},
        **{f"{POOLS}.{pool.name}": pool for pool in pools},
    }


def log_settings(given: argparse.Namespace) -> LogSettings:
    """The settings of the log."""
    log: LogSettings = given.configuration.make(LogSettings)
    return log


def rereading(words: Sequence[str]) -> Callable[[], Reading]:
    """Reads the settings anew, by the same command line."""

    def reread() -> Reading:
        try:
            return settings_of(arguments.parse(words))
        except SystemExit as error:
            raise ConfigurationError("the command line is not understood any more") from error

    return reread


def certificate_of(listen: ListenSettings) -> Certificate | None:
    """The certificate for TLS, if there is to be any."""
    return None if listen.certfile is None else Certificate(listen.certfile, listen.keyfile)


# The reactor.


def run_command(
    build: Callable[[Runtime], Service], given: argparse.Namespace | None = None, opened: Addresses | None = None
) -> int:
    """Run what `build` makes, for an operator; the exit code.

    Args:
        given: the command line, where signals do more than end it.
        opened: what a successor takes over.
    """
    if given is None:
        return run(build, lambda runtime: Control())
    manager: Manager = given.manager

    def control(runtime: Runtime) -> Control:
        def succeed(ready: Callable[[], None], ended: Callable[[], None]) -> Child:
            assert opened is not None

            def is_ready() -> None:
                opened.given_away()
                ready()

            return addresses.start_successor(opened.handover(), manager.environment(), runtime.loop, is_ready, ended)

        if given.configuration.file is not None:
            _log.info("settings from %s", os.path.abspath(given.configuration.file))
        ready_fd = None if given.handed is None else given.handed.ready_fd
        return Control(
            settings_of(given), rereading(given.words), logs.at, None if opened is None else succeed, ready_fd
        )

    return run(build, control, manager)


def run(build: Callable[[Runtime], Service], control: Callable[[Runtime], Control], manager: Manager = _NOBODY) -> int:
    """Install the reactor, and run what `build` makes until it ends or is told to; the exit code."""
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
        # not left to whoever that was: our own parent may need them.
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
