"""What systemd passes to a service and is notified of: sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3).

Any program that speaks that protocol will do: a service manager, a container's init, a test.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from typing import Final, NamedTuple

from ifserver.clock import Clock, Timer
from ifserver.config.networks import unix_address
from ifserver.errors import ConfigurationError

__all__ = ["GivenSocket", "Herald", "Manager", "Notifier", "counted", "encode", "take"]

#: SD_LISTEN_FDS_START: sockets are passed from this descriptor on.
_FIRST_FD: Final = 3
#: How often the status is sent anew if it has changed, in seconds; the watchdog may ask for more.
_STATUS_S: Final = 5.0
#: Messages that wait while the manager reads none. The last ones count.
_MAX_UNSENT: Final = 64

_log = logging.getLogger(__name__)


# What is passed to us.


class GivenSocket(NamedTuple):
    """A socket that the service manager has opened for us, and its name (``FileDescriptorName=``)."""

    fd: int
    name: str


class Manager(NamedTuple):
    """What the service manager has passed to us."""

    #: Where it listens; None: it does not.
    address: str | None = None
    #: It kills us when it has received nothing from us for so long; None: it does not.
    watchdog_s: float | None = None
    sockets: tuple[GivenSocket, ...] = ()

    def environment(self) -> dict[str, str]:
        """The variables that pass the same to another process of this service, but for the sockets."""
        variables = {} if self.address is None else {"NOTIFY_SOCKET": self.address}
        if self.watchdog_s is not None:
            variables["WATCHDOG_USEC"] = str(round(self.watchdog_s * 1_000_000))
        return variables


def take(environ: MutableMapping[str, str], pid: int) -> Manager:
    """What is passed to process `pid`; taken out of `environ`, also what is for another process, so that nothing of it
    is passed on to the processes that we start.

    Raises:
        ConfigurationError: a variable cannot be.
    """
    address = environ.pop("NOTIFY_SOCKET", None) or None
    if address is not None and address[0] not in "/@":
        raise ConfigurationError(f"NOTIFY_SOCKET: expected a path or @NAME, got {address!r}")
    watchdog = {name: environ.pop(name) for name in ("WATCHDOG_PID", "WATCHDOG_USEC") if name in environ}
    listen = {name: environ.pop(name) for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES") if name in environ}
    watchdog_s = None
    # Without WATCHDOG_PID every process is meant; sockets are never for everybody.
    if "WATCHDOG_USEC" in watchdog and _number(watchdog, "WATCHDOG_PID", pid) == pid:
        watchdog_s = _number(watchdog, "WATCHDOG_USEC") / 1_000_000 or None
    sockets: tuple[GivenSocket, ...] = ()
    if "LISTEN_FDS" in listen and _number(listen, "LISTEN_PID", 0) == pid:
        sockets = _sockets(_number(listen, "LISTEN_FDS"), listen.get("LISTEN_FDNAMES", ""))
    return Manager(address, watchdog_s, sockets)


def _number(variables: Mapping[str, str], name: str, default: int = 0) -> int:
    text = variables.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise ConfigurationError(f"{name}: expected a number, got {text!r}")
    return int(text)


def _sockets(count: int, names: str) -> tuple[GivenSocket, ...]:
    given = names.split(":") if names else []
    if given and len(given) != count:
        raise ConfigurationError(f"LISTEN_FDNAMES: {len(given)} names for {count} sockets")
    return tuple(GivenSocket(_FIRST_FD + i, given[i] if given else "unknown") for i in range(count))


# What we send.


def encode(**fields: str | int) -> bytes:
    """A message of ``NAME=value`` lines."""
    return "\n".join(f"{name}={' '.join(str(value).split())}" for name, value in fields.items()).encode()


def counted(counts: Mapping[str, int]) -> str:
    """``{"connections": 12, "workers": 1}`` for people: ``12 connections, 1 worker``."""
    return ", ".join(f"{count} {name if count != 1 else name.removesuffix('s')}" for name, count in counts.items())


class Notifier:
    """Sends to the datagram socket `address`; a leading ``@`` stands for the abstract namespace. None: nowhere.

    Never waits. What the manager has no room for is kept; one that has ended costs a line in the log.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._unsent: deque[bytes] = deque(maxlen=_MAX_UNSENT)
        self._failing = False
        if address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def send(self, **fields: str | int) -> None:
        """Send one message."""
        if self._address is not None:
            self._unsent.append(encode(**fields))
            self.flush()

    def flush(self) -> None:
        """Send what could not be sent before."""
        while self._unsent and self._address is not None:
            try:
                self._socket.sendto(self._unsent[0], unix_address(self._address))
            except BlockingIOError:
                return  # it has not read the last ones yet
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return
                self._failed(error)
            else:
                self._failing = False
            self._unsent.popleft()

    def close(self) -> None:
        """Send nothing more."""
        if self._address is not None:
            self._socket.close()

    def _failed(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            _log.warning("NOTIFY_SOCKET %s: %s", self._address, error.strerror or error)


class Herald:
    """Keeps the manager informed, from `ready` to `stop`.

    The watchdog is fed by a timer of the reactor, and only while `well`: a loop that is blocked feeds nothing.

    Args:
        watchdog_s: within what time it expects a message; None: it does not.
        status: what is going on, in a few words.
        well: whether this process can do what it is there for.
        monotonic_us: the clock CLOCK_MONOTONIC, in microseconds.
    """

    def __init__(
        self,
        notifier: Notifier,
        clock: Clock,
        watchdog_s: float | None,
        status: Callable[[], str],
        well: Callable[[], bool],
        monotonic_us: Callable[[], int],
    ) -> None:
        self._notifier = notifier
        self._clock = clock
        # sd_watchdog_enabled(3): "every half of the time".
        self._every_s = _STATUS_S if watchdog_s is None else min(_STATUS_S, watchdog_s / 2)
        self._watched = watchdog_s is not None
        self._status = status
        self._well = well
        self._monotonic_us = monotonic_us
        self._reported = ""
        self._timer: Timer | None = None

    def ready(self) -> None:
        """The service does what it is there for."""
        self._reported = self._status()
        self._notifier.send(READY=1, STATUS=self._reported)
        if self._timer is None:
            self._tick()

    def reloading(self) -> None:
        """It reads its settings anew; `ready` follows."""
        self._notifier.send(RELOADING=1, MONOTONIC_USEC=self._monotonic_us())

    def stopping(self) -> None:
        """Its end has begun."""
        self._notifier.send(STOPPING=1)

    def handed_over(self, pid: int) -> None:
        """From now on process `pid` is the service. Nothing that happens here concerns the manager any more."""
        self._notifier.send(MAINPID=pid)
        self._notifier.flush()
        self._notifier = Notifier(None)

    def stop(self) -> None:
        """Send nothing more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        with contextlib.suppress(OSError):
            self._notifier.close()

    def _tick(self) -> None:
        self._timer = self._clock.callLater(self._every_s, self._tick)
        self._notifier.flush()
        if self._watched and self._well():
            self._notifier.send(WATCHDOG=1)
        status = self._status()
        if status != self._reported:
            self._reported = status
            self._notifier.send(STATUS=status)
