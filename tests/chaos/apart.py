"""Two network namespaces with a link between them, which can be down: packets are lost, and nobody is told."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["FAR", "Apart", "may_be_apart"]

#: For each end of the link: its name, its address, and its hardware's.
NEAR = ("near", "10.99.99.1", "02:00:00:00:00:01")
FAR = ("far", "10.99.99.2", "02:00:00:00:00:02")
CLONE_NEWNET = 0x40000000


def may_be_apart() -> bool:
    """Whether network namespaces and links between them are permitted here, and the tools for them installed."""
    if any(shutil.which(tool) is None for tool in ("ip", "nsenter", "unshare", "setpriv")):
        return False
    probe = ["unshare", "--net", "ip", "link", "add", NEAR[0], "type", "veth", "peer", "name", FAR[0]]
    return subprocess.run(probe, capture_output=True).returncode == 0


class Apart:
    """Two network namespaces with a link between them; each is kept by a process that sleeps."""

    def __init__(self, stack: ExitStack) -> None:
        self._near, self._far = (stack.enter_context(_namespace()) for _ in range(2))
        link = ["link", "add", NEAR[0], "address", NEAR[2], "type", "veth", "peer", "name", FAR[0], "address", FAR[2]]
        _ip(self._near, *link, "netns", str(self._far))
        for pid, end, other in ((self._near, NEAR, FAR), (self._far, FAR, NEAR)):
            _ip(pid, "address", "add", f"{end[1]}/30", "dev", end[0])
            _ip(pid, "link", "set", end[0], "up")
            # So that nobody asks in vain where the other one is, and tells.
            _ip(pid, "neighbour", "add", other[1], "lladdr", other[2], "dev", end[0], "nud", "permanent")

    def cut(self) -> None:
        """Drop all packets from now on."""
        _ip(self._far, "link", "set", FAR[0], "down")

    def mend(self) -> None:
        """Let them through again."""
        _ip(self._far, "link", "set", FAR[0], "up")

    @contextmanager
    def near(self) -> Iterator[None]:
        """What is started in the block runs at the near end."""
        with _entered(self._near):
            yield

    @contextmanager
    def far(self) -> Iterator[None]:
        """What is started in the block runs at the far end."""
        with _entered(self._far):
            yield


@contextmanager
def _namespace() -> Iterator[int]:
    """A network namespace as long as the process lives whose id this is."""
    begin = "ip link set lo up && echo ready && exec cat"
    holder = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", begin],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"ready\n"
            yield holder.pid
        finally:
            holder.kill()


def _ip(pid: int, *words: str) -> None:
    subprocess.run(["nsenter", "-t", str(pid), "-n", "ip", *words], check=True)


@contextmanager
def _entered(pid: int) -> Iterator[None]:
    """This very thread, and what it starts, is in the network namespace of `pid`."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home, open(f"/proc/{pid}/ns/net") as there:
        assert libc.setns(there.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
