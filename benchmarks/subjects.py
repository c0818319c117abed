"""The servers that are measured: ourselves in two ways, and peers, each from the package index in a virtual environment
of its own, or from the system's packages."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from benchmarks.machine import tree

__all__ = [
    "BACKEND",
    "BARE",
    "NAMES",
    "PEERS",
    "Ours",
    "Subject",
    "end_in_order",
    "free_port",
    "is_reference",
    "plays",
    "program",
    "subject_named",
    "versions_of",
    "wait_for",
]

ROOT = Path(__file__).resolve().parent.parent
APPLICATION = "benchmarks.application:app"
_START_S = 30.0
_OUR_LAYER = "ifserver.django.ChannelLayer"
#: Of the admin endpoint, which asks for one before it publishes.
_TOKEN = "benchmark"
_ENVIRONMENTS = ROOT / ".venv-peers"

#: Not a server: the least that one could cost.
BARE = "bare loop"
#: The role of what a peer needs behind it, and is not counted as its own.
BACKEND = "backend"
_PUBLISHER = ("-m", "benchmarks.publisher")
_UVICORN_PACKAGES = ("uvicorn", "uvloop", "httptools", "websockets")
#: The same room, by Django Channels.
_CHANNELS = "benchmarks.channels_application:app"
_UVICORN = ("-m", "uvicorn", APPLICATION, "--port", "{port}", "--no-access-log", "--log-level", "warning")
#: What is installed for a peer, and how it serves on a port.
PEERS: Mapping[str, tuple[tuple[str, ...], Sequence[str]]] = {
    "uvicorn": (_UVICORN_PACKAGES, _UVICORN),
    # Its first implementation of WebSockets, by the asyncio server of `websockets`.
    "uvicorn-websockets": (_UVICORN_PACKAGES, (*_UVICORN, "--ws", "websockets")),
    "daphne": (("daphne",), ("-m", "daphne", "-p", "{port}", "-v", "0", APPLICATION)),
    "hypercorn": (("hypercorn", "uvloop"), ("-m", "hypercorn", "-k", "uvloop", "-b", "127.0.0.1:{port}", APPLICATION)),
    "granian": (
        ("granian",),
        ("-m", "granian", "--interface", "asgi", "--port", "{port}", "--workers", "1", "--no-log", APPLICATION),
    ),
    "channels": ((*_UVICORN_PACKAGES, "channels", "channels_redis"), (*_UVICORN[:2], _CHANNELS, *_UVICORN[3:])),
    "gunicorn": (
        ("gunicorn", "uvicorn", "uvicorn-worker", "uvloop", "httptools", "websockets"),
        ("-m", "gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-w", "1", "-b", "127.0.0.1:{port}", APPLICATION),
    ),
}


class Subject:
    """One server, as a context manager; on leaving it is ended with all that it started."""

    name: str

    def __init__(self) -> None:
        self.port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []

    def roles(self) -> Mapping[str, list[int]]:
        """Process ids of what serves: ``front``, and where there are such, ``worker`` and ``node``."""
        raise NotImplementedError

    def publisher(self) -> subprocess.Popen[bytes]:
        """Start `benchmarks.publisher`, the way that one publishes here; the server ends it as it ends itself."""
        return self._spawn([sys.executable, *_PUBLISHER, "request", str(self.port)], pipes=True)

    def __enter__(self) -> Subject:
        try:
            self.start()
            wait_for(self.port)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the processes."""
        raise NotImplementedError

    def stop(self) -> None:
        """End them, the last first."""
        try:
            while self._processes:
                process = self._processes[-1]
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                self._processes.pop()
        finally:
            # Somebody waits no longer: what is left ends at once.
            for process in self._processes:
                process.kill()

    def _spawn(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, pipes: bool = False
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            bufsize=0,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        return process


class Ours(Subject):
    """ifserver: ``run`` (the embedded broker), or ``serve`` and ``worker`` with Redis between them.

    Args:
        broker: ``redis`` or ``embedded``.
        fronts: server processes, which share the port.
        nodes: Redis servers of the one cluster.
        channels: the application is that of Django Channels, with our channel layer.
    """

    def __init__(
        self, broker: str = "redis", workers: int = 1, fronts: int = 1, nodes: int = 1, channels: bool = False
    ) -> None:
        super().__init__()
        several = [f"{fronts} servers"] * (fronts > 1) + [f"{workers} workers"] * (workers > 1)
        self._layer = {"CHANNEL_LAYER": _OUR_LAYER}
        self._admin = free_port()
        self.name = f"ifserver ({', '.join([broker, *['Channels'] * channels, *several])})"
        self._application = _CHANNELS if channels else APPLICATION
        self._broker = broker
        self._workers = workers
        self._fronts = fronts
        self._nodes = nodes

    def start(self) -> None:
        ours = [sys.executable, "-m", "ifserver"]
        worker = [self._application, "--app-dir", str(ROOT), "--processes", str(self._workers)]
        where = ["-b", "127.0.0.1", "-p", str(self.port), "-v", "0"]
        if self._broker == "embedded":
            admin = ["--admin", f"127.0.0.1:{self._admin}"]
            self._spawn([*ours, "run", *worker, *where, *admin], self._layer | {"IFSERVER_FRONT_ADMIN_TOKEN": _TOKEN})
            wait_for(self._admin)
            return
        ports = [free_port() for _ in range(self._nodes)]
        for port in ports:
            self._spawn(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""])
            wait_for(port)
        nodes = "main=" + ",".join(f"redis://127.0.0.1:{port}" for port in ports)
        self._layer["IFSERVER_LAYER_CLUSTERS"] = nodes
        cluster = ["--cluster", nodes]
        several = ["--processes", str(self._fronts)] if self._fronts > 1 else []
        self._spawn([*ours, "serve", *cluster, *where, *several])
        self._spawn([*ours, "worker", *worker, *cluster, "-v", "0"], self._layer)

    def roles(self) -> Mapping[str, list[int]]:
        if self._broker == "embedded":
            front = self._processes[0].pid
            return {"front": [front], "worker": [pid for pid in tree(front) if pid != front]}
        *nodes, front, worker = (process.pid for process in self._processes)
        return {"front": tree(front), "worker": tree(worker), "node": nodes}

    def publisher(self) -> subprocess.Popen[bytes]:
        if self._broker != "embedded":
            how = ["layer" if self._application == _CHANNELS else "nodes"]
        elif self._application != _CHANNELS:
            # Only its own workers reach the embedded broker; others publish so (docs/howto/groups.rst).
            how = ["admin", str(self._admin), _TOKEN]
        else:
            return super().publisher()
        return self._spawn([sys.executable, *_PUBLISHER, *how], self._layer, pipes=True)


class Peer(Subject):
    """A server from the package index, which runs the application in its own process."""

    def __init__(self, name: str, *more: str) -> None:
        super().__init__()
        self.name = name
        self._more = more

    def start(self) -> None:
        _, arguments = PEERS[self.name]
        words = [word.format(port=self.port) for word in arguments]
        self._spawn([str(environment_of(self.name)), *words, *self._more])

    def roles(self) -> Mapping[str, list[int]]:
        return {"front": tree(self._processes[0].pid)}


class Channels(Peer):
    """Django Channels with channels_redis, in uvicorn."""

    def start(self) -> None:
        port = free_port()
        self._spawn(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""])
        wait_for(port)
        words = [word.format(port=self.port) for word in PEERS[self.name][1]]
        self._layer = {
            "CHANNEL_LAYER": "channels_redis.core.RedisChannelLayer",
            "CHANNEL_REDIS": f"redis://127.0.0.1:{port}",
        }
        self._spawn([str(environment_of(self.name)), *words], self._layer)

    def roles(self) -> Mapping[str, list[int]]:
        node, front = (process.pid for process in self._processes)
        return {"front": tree(front), "node": [node]}

    def publisher(self) -> subprocess.Popen[bytes]:
        return self._spawn([str(environment_of(self.name)), *_PUBLISHER, "layer"], self._layer, pipes=True)


class BareRoom(Subject):
    """What nobody can do without: writes on the bare event loop."""

    name = BARE

    def start(self) -> None:
        self._spawn([sys.executable, "-m", "benchmarks.bare_room", str(self.port)])

    def roles(self) -> Mapping[str, list[int]]:
        return {"front": [self._processes[0].pid]}


class Behind(Subject):
    """Some other server in front of peers; it is configured by files in a folder of its own."""

    def __init__(self, name: str, peer: str, count: int) -> None:
        super().__init__()
        self.name = name
        self._peers = [Peer(peer) for _ in range(count)]
        self._folder = tempfile.TemporaryDirectory(prefix="benchmark-")

    def start(self) -> None:
        for peer in self._peers:
            peer.start()
        for peer in self._peers:
            wait_for(peer.port)
        self.start_front(Path(self._folder.name), [peer.port for peer in self._peers])

    def start_front(self, folder: Path, ports: Sequence[int]) -> None:
        """Start what is in front of the peers on `ports`."""
        raise NotImplementedError

    def stop(self) -> None:
        super().stop()
        for peer in self._peers:
            peer.stop()
        self._folder.cleanup()

    def _of_peers(self) -> list[int]:
        return [pid for peer in self._peers for pid in peer.roles()["front"]]


class Balanced(Behind):
    """HAProxy, which gives each request to the next of so many peers."""

    def __init__(self, peer: str, count: int) -> None:
        super().__init__(f"{peer} ({count}, HAProxy)", peer, count)

    def start_front(self, folder: Path, ports: Sequence[int]) -> None:
        servers = "".join(f"  server s{port} 127.0.0.1:{port}\n" for port in ports)
        configuration = folder / "haproxy.cfg"
        configuration.write_text(_HAPROXY.format(port=self.port, servers=servers))
        self._spawn([str(program("haproxy")), "-db", "-f", str(configuration)])

    def roles(self) -> Mapping[str, list[int]]:
        return {"front": [self._processes[0].pid], "worker": self._of_peers()}


_HAPROXY = """\
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen all
  bind 127.0.0.1:{port}
  balance roundrobin
{servers}"""


class Pushpin(Behind):
    """Pushpin, which has the application behind it in uvicorn."""

    def __init__(self) -> None:
        super().__init__("pushpin", "uvicorn", 1)

    def start_front(self, folder: Path, ports: Sequence[int]) -> None:
        (folder / "routes").write_text(f"* 127.0.0.1:{ports[0]}\n")
        configuration = folder / "pushpin.conf"
        configuration.write_text(_PUSHPIN.format(port=self.port, folder=folder, publish=free_port()))
        self._spawn(["pushpin", "--config", str(configuration)])

    def roles(self) -> Mapping[str, list[int]]:
        return {"front": tree(self._processes[0].pid), BACKEND: self._of_peers()}


#: Debian's own, with a folder of ours, and zurl as one of its processes in place of the system's.
_PUSHPIN = """\
[global]
include=/usr/lib/pushpin/internal.conf
rundir={folder}
ipc_prefix=benchmark-
[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:{port}
logdir={folder}
log_level=1
client_buffer_size=8192
client_maxconn=50000
condure_bin=condure
zurl_bin=zurl
[proxy]
routesfile=routes
updates_check=off
zurl_out_specs=ipc://{{rundir}}/{{ipc_prefix}}zurl-in
zurl_out_stream_specs=ipc://{{rundir}}/{{ipc_prefix}}zurl-in-stream
zurl_in_specs=ipc://{{rundir}}/{{ipc_prefix}}zurl-out
[handler]
command_spec=ipc://{{rundir}}/{{ipc_prefix}}command
push_in_http_addr=127.0.0.1
push_in_http_port={publish}
message_rate=1000000
"""


def environment_of(name: str) -> Path:
    """The Python that has a peer installed; made the first time."""
    folder = _ENVIRONMENTS / name
    python = folder / "bin" / "python"
    if not (folder / ".made").exists():
        print(f"installing {name} into {folder.relative_to(ROOT)}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        packages = PEERS[name][0]
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", *packages], check=True)
        (folder / ".made").touch()
    return python


def versions_of(name: str) -> str:
    """What a peer is at present: its packages and their versions."""
    if name == "pushpin":
        return subprocess.run(["pushpin", "--version"], capture_output=True, text=True).stdout.strip()
    code = (
        "import sys; from importlib.metadata import version;"
        "print(*(f'{name} {version(name)}' for name in sys.argv[1:]), sep=', ')"
    )
    found = subprocess.run([environment_of(name), "-c", code, *PEERS[name][0]], capture_output=True, text=True)
    return found.stdout.strip()


#: All that can be measured: ourselves in two ways, and the peers; and ourselves in ways that matter to groups alone.
NAMES = ("redis", "embedded", *PEERS, "pushpin", "redis-2", "redis-channels", "embedded-channels", BARE)
#: Which do nothing but send to groups.
_FOR_GROUPS = ("channels", "redis-2", "redis-channels", "embedded-channels", BARE)
#: Which can do that, beside these.
_WITH_GROUPS = ("redis", "embedded", "uvicorn", "daphne")
#: Which of them can run an application in several processes that share the requests.
_SHARING = ("redis", "embedded", "uvicorn")
#: Which differ from another one by their WebSockets only.
_FOR_WEBSOCKETS = ("uvicorn-websockets",)
#: Whom the others are measured against.
_REFERENCE = "uvicorn"


def end_in_order() -> None:
    """Let SIGTERM end this process as Ctrl-C does, with all that it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def program(name: str) -> str | None:
    """Where a program is; None: nowhere."""
    # Debian has some where only root looks.
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def plays(name: str, workers: int, websockets: bool, groups: bool) -> bool:
    """Whether it is measured where the application runs in so many processes, with WebSockets or without, or sends to
    groups."""
    if groups or name in _FOR_GROUPS:
        return groups and name in _FOR_GROUPS + _WITH_GROUPS
    return (workers == 1 or name in _SHARING) and (websockets or name not in _FOR_WEBSOCKETS)


def is_reference(subject: str) -> bool:
    """Whether ratios are to this one, by its `Subject.name`."""
    return subject == _REFERENCE or subject.startswith(f"{_REFERENCE} (")


def subject_named(name: str, workers: int = 1) -> Subject:
    """A subject that is not started, one of `NAMES`."""
    if name in ("redis", "embedded"):
        return Ours(name, workers)
    if name == "redis-2":
        return Ours("redis", fronts=2)
    if name in ("redis-channels", "embedded-channels"):
        return Ours(name.partition("-")[0], channels=True)
    if name == "channels":
        return Channels(name)
    if name == BARE:
        return BareRoom()
    if name == "pushpin":
        return Pushpin()
    return Peer(name) if workers == 1 else Balanced(name, workers)


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    """Wait until somebody listens on a port.

    Raises:
        TimeoutError: nobody does within 30 s.
    """
    end = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise TimeoutError(f"nobody listens on port {port} after {_START_S:g} s") from None
            time.sleep(0.05)
