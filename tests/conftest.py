"""What must be there before any test module is imported: the reactor that the product runs on, and signals."""

from __future__ import annotations

import gc
import signal
from collections.abc import Generator

import hypothesis
import pytest
import uvloop

from ifserver.net.lean_imports import be_lean

# As the command does.
be_lean()

# isort: split
from ifserver.process import reactor  # noqa: E402
from tests.completeness import Completeness  # noqa: E402

# pytest-twisted's `--reactor=asyncio` then takes it as it is, since it is of the right kind.
reactor.install(uvloop.new_event_loop())

# However the tests were started: nohup, and shells that put something into the background, have these ignored by all
# that comes after them.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# What takes long on a busy machine is no defect.
hypothesis.settings.register_profile("ours", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("ours")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays, 9,000 tests in each process: nobody looks for garbage there, a quarter of a second each
    time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """The process that the user started says in the end what was not run; xdist's workers do not."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Completeness(config), "completeness")
