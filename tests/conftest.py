"""What must be there before any test module is imported: the reactor that the product runs on."""

from __future__ import annotations

import uvloop
from twisted.internet import asyncioreactor

# pytest-twisted's `--reactor=asyncio` then takes it as it is, since it is of the right kind.
asyncioreactor.install(uvloop.new_event_loop())
