"""Tests against the real thing: ifserver with your application, in processes of its own (docs/howto/testing.rst).

The pytest plugin is `ifserver.testing.plugin`; every run of pytest loads it, so here nothing is imported until it is
asked for. Test cases for Django are in `ifserver.django`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ifserver.testing.processes import ServerError
    from ifserver.testing.server import Server

__all__ = ["Server", "ServerError"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ifserver.testing import server

    return getattr(server, name)
