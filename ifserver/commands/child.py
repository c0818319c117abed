"""``ifserver child ROLE FD``: a process that another one of ours has started (`ifserver.process`)."""

from __future__ import annotations

from collections.abc import Sequence

from ifserver.errors import ConfigurationError
from ifserver.process import children

__all__ = ["main"]


def main(words: Sequence[str]) -> int:
    """Be what the role says; the exit code.

    Raises:
        ConfigurationError: it was started by somebody else.
    """
    if len(words) != 2 or not words[1].isdecimal():
        raise ConfigurationError("'child' is what ifserver itself starts")
    role, fd = words[0], int(words[1])
    if role == "server":
        from ifserver.commands import serve

        return serve.serve_as_child(fd)
    # First of all, it ends with its parent. Imports take long.
    launch = None if role == "fork-server" else children.become_child(fd)
    from ifserver.commands import processes
    from ifserver.process import fork_server

    return processes.work(fork_server.become(fd) if launch is None else launch)
