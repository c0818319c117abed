"""A real redis-server for tests, on a Unix socket and a TCP port, in a folder of its own; and real Sentinels.

::

    with RedisServer() as redis:
        redis.command("SET", "key", "value")
        redis.kill()     # SIGKILL
        redis.start()    # on the same data, socket and port

What is waited for is told by the server itself, in its log. It is signalled by its own process id only, and ends with
this process however that ends (where ``setpriv`` is installed).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import hiredis

from ifserver.layers.inbox import WAIT_S

if TYPE_CHECKING:
    from tests.certificates import Certificates

__all__ = ["Monitor", "RedisClient", "RedisServer", "SentinelServer"]

#: How long the server may take to start, to answer or to end, in seconds.
LIMIT_S = 120.0


class RedisClient:
    """A blocking connection, with nothing of the product in it."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(LIMIT_S)
        try:
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise
        self._reader = hiredis.Reader()

    def send(self, *command: str | bytes | int | float) -> None:
        """Send a command; its answer is for `receive`."""
        packed: Any = hiredis.pack_command(command)  # type: ignore[arg-type]  # its types know of tuples of one only
        self._socket.sendall(packed)

    def receive(self) -> Any:
        """The next answer; raises ``hiredis.ReplyError`` if it is one."""
        while (reply := self._reader.gets()) is False:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("Redis has closed the connection")
            self._reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Monitor:
    """Every command that the server carries out from now on (``MONITOR``)."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._client = server.client()
        self._client.send("MONITOR")
        assert self._client.receive() == b"OK"

    def commands(self) -> list[list[str]]:
        """The commands so far, each with its arguments; once, at the end. Those of scripts begin with ``lua``."""
        self._server.command("ECHO", "the end")
        lines: list[list[str]] = []
        while True:
            line = self._client.receive().decode("latin-1")
            # 1700000000.123456 [0 unix:/path] "ECHO" "the end"
            source, _, quoted = line.partition("] ")
            words = [word.strip('"') for word in quoted.split('" "')]
            if words == ["ECHO", "the end"]:
                self._client.close()
                return lines
            lines.append(["lua", *words] if source.endswith(" lua") else words)


class RedisServer:
    """A redis-server that runs from `start` to `stop`.

    Args:
        options: lines of its configuration: ``maxmemory="3mb"``. Nothing is written to disk unless ``SAVE`` is sent or
            an option says so.
        password: is asked of the default user (``requirepass``); `command` gives it.
        certificates: with which it speaks TLS on `tls_port`.
        environment: is added to ours.
    """

    #: What it writes when it can be asked, in lower case.
    _ready = "ready to accept connections"
    #: Arguments behind the configuration.
    _mode: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        password: str | None = None,
        certificates: Certificates | None = None,
        environment: Mapping[str, str] | None = None,
        **options: str,
    ) -> None:
        self._folder = tempfile.mkdtemp(prefix="redis-")  # short: a socket's path has 107 characters at most
        self._environment = {**os.environ, **(environment or {})}
        self._certificates = certificates
        self._options = self._defaults()
        self._options |= {name.replace("_", "-"): value for name, value in options.items()}
        self._password = password
        if password is not None:
            quoted = password.replace("\\", "\\\\").replace('"', '\\"')
            self._options["requirepass"] = f'"{quoted}"'
        self._process: subprocess.Popen[str] | None = None
        self._log: list[str] = []
        self._reading: threading.Thread | None = None
        #: Path of its Unix socket.
        self.path = str(Path(self._folder, "redis.sock"))
        #: Its ports on 127.0.0.1; 0 until it was started.
        self.port = self.tls_port = 0

    def __enter__(self) -> RedisServer:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def _defaults(self) -> dict[str, str]:
        return {"save": "", "appendonly": "no", "enable-debug-command": "local"}

    def _more(self) -> list[str]:
        """Further lines of its configuration."""
        return []

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written since it was started."""
        return "".join(self._log)

    def start(self) -> None:
        """Start it, also again: same data, socket and port. Returns when it answers."""
        assert self._process is None, "it runs"
        # Another process may take the port between its being found free and the server's start.
        ports = [self.port] if self.port else [_free_port() for _ in range(5)]
        for port in ports:
            self.port = port
            if self._certificates is not None:
                self.tls_port = self.tls_port or _free_port()
            if self._started():
                return
        raise RuntimeError(f"redis-server does not start:\n{self.log}")

    def stop(self) -> None:
        """End it in good order (SIGTERM); it saves its data if it was told to save any. Nothing if it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL), frozen or not. Nothing if it does not run."""
        self._end(signal.SIGKILL)

    def remove(self) -> None:
        """End it for good, and remove its folder."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def freeze(self) -> None:
        """Stop its clock (SIGSTOP): it keeps its connections, and the system even accepts new ones for it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> RedisClient:
        """A new connection, logged in."""
        client = RedisClient(self.path)
        try:
            if self._password is not None:
                client.send("AUTH", self._password)
                assert client.receive() == b"OK"
        except BaseException:
            client.close()
            raise
        return client

    def command(self, *command: str | bytes | int | float, database: int = 0) -> Any:
        """Send one command on a connection of its own, and return the answer; raises ``hiredis.ReplyError``."""
        client = self.client()
        try:
            if database:
                client.send("SELECT", database)
                client.receive()
            client.send(*command)
            return client.receive()
        finally:
            client.close()

    def info(self, section: str) -> dict[str, str]:
        """A section of its ``INFO``."""
        lines = self.command("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def last_reads_end(self, others: int = 0) -> None:
        """Wait until the reads of a process that stands still from now on have ended; `others` go on reading.

        To count them is not enough: for a moment, between two reads, one of the others does not read either.
        """
        time.sleep(WAIT_S + 0.2)
        # A command is answered after all those reads have ended whose time is over.
        reads = int(self.info("clients")["blocked_clients"])
        assert reads <= others, f"{reads} reads go on, and should be {others} at most"

    def _started(self) -> bool:
        own = {"port": str(self.port), "bind": "127.0.0.1", "unixsocket": self.path, "dir": self._folder}
        lines = [f"{name} {value}" if value else f'{name} ""' for name, value in (own | self._options).items()]
        file = Path(self._folder, "redis.conf")
        if self._certificates is not None:
            lines += [f"tls-port {self.tls_port}", *self._certificates.of_redis()]
        file.write_text("\n".join([*lines, *self._more()]) + "\n")
        command = ["redis-server", str(file), *self._mode]
        if shutil.which("setpriv") is not None:
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        process = self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
        )
        self._log = []
        ready = threading.Event()
        self._reading = threading.Thread(target=self._read, args=(process, ready), daemon=True)
        self._reading.start()
        if not ready.wait(LIMIT_S) or process.poll() is not None:
            self.kill()
            return False
        return True

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        """Read the server's log to its end, so that it never waits for us."""
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._log.append(line)
                if self._ready in line.lower():
                    ready.set()
        process.wait()
        ready.set()

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            if self._reading is not None:
                self._reading.join(LIMIT_S)
            with contextlib.suppress(FileNotFoundError):
                Path(self.path).unlink()


class SentinelServer(RedisServer):
    """A Sentinel that monitors `primary` as ``main``, and thinks it dead after 0.3 s of silence.

    Args:
        quorum: how many have to think so.
    """

    _ready = "+monitor master"
    _mode = ("--sentinel",)

    def __init__(self, primary: RedisServer, quorum: int = 2, auth: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._auth = auth
        self._primary = primary
        self._quorum = quorum
        #: Until it thinks the primary dead.
        self.down_after_ms = 300

    def _defaults(self) -> dict[str, str]:
        return {}

    def _more(self) -> list[str]:
        tls = self._certificates is not None
        lines = [
            f"sentinel monitor main 127.0.0.1 {self._primary.tls_port if tls else self._primary.port} {self._quorum}",
            f"sentinel down-after-milliseconds main {self.down_after_ms}",
            "sentinel failover-timeout main 3000",
        ]
        lines += ["tls-replication yes"] if tls else []
        return lines + ([f"sentinel auth-pass main {self._auth}"] if self._auth is not None else [])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
