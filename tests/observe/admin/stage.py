"""A server's admin endpoint without sockets: asked by hand, on the clock of the test."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address

from ifserver import channels
from ifserver.observe.admin.endpoint import AdminFactory
from ifserver.observe.admin.subject import ServerSubject
from ifserver.status import Child, Facts, encode, value_of, with_facts
from tests.front.fakes import SUPERVISOR, WORKER, FakeTransport, World, split_response

__all__ = ["Answer", "Stage", "supervisor_facts"]

PEER = IPv4Address("TCP", "192.0.2.1", 50_000)


class Answer(NamedTuple):
    """What an endpoint has answered."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def supervisor_facts(*children: Child, process: str = SUPERVISOR, **more: Any) -> Facts:
    """The facts of a supervisor."""
    return Facts(
        process=process,
        kind="supervisor",
        host="h",
        pid=2,
        version="1",
        node="east",
        started_at=0.0,
        children=children,
        **more,
    )


class Transport(FakeTransport):
    """``twisted.web`` pauses and resumes more often than it has to."""

    def pauseProducing(self) -> None:
        if self.reading:
            super().pauseProducing()

    def resumeProducing(self) -> None:
        if not self.reading:
            super().resumeProducing()


class Stage:
    """A server (`World`), its endpoint, and a supervisor that beats.

    Args:
        names: by which the endpoint may be asked.
        parent: whether the server is the supervisor's parent.
        token: with which groups may be asked for and published in.
        settings: of the world.
    """

    def __init__(
        self, *, names: tuple[str, ...] = (), parent: bool = False, token: str | None = None, **settings: Any
    ) -> None:
        self.world = World(**settings)
        self.listening = True
        self.subject = ServerSubject(self.world.server, lambda: self.listening, parent)
        self.factory = AdminFactory(self.subject, self.world.clock, names, token)
        self.beat(supervisor_facts(Child(pid=3, process=channels.process_of(WORKER), ready=True, free=10)))

    def beat(self, facts: Facts | None, life_s: float = 1e6) -> None:
        """A process beats; None: the supervisor, with no facts."""
        value = value_of([channels.process_of(WORKER)])
        process = SUPERVISOR if facts is None else facts.process
        self.world.node.beat(process, with_facts(value, b"" if facts is None else encode(facts)), life_s)

    def connect(self) -> FakeTransport:
        """A connection to the endpoint."""
        transport = Transport(self.world, PEER, IPv4Address("TCP", "192.0.2.9", 9100))
        transport.protocol = self.factory.buildProtocol(PEER)
        transport.protocol.makeConnection(transport)
        return transport

    def ask(
        self, path: str, method: str = "GET", host: str = "localhost:9100", body: bytes = b"", **headers: str
    ) -> Answer:
        """Ask, and take the answer, which must be there at once."""
        transport = self.connect()
        fields = {"Host": host, "Connection": "close", "Content-Length": str(len(body))} | headers
        lines = [f"{method} {path} HTTP/1.1", *(f"{k.replace('_', '-')}: {v}" for k, v in fields.items())]
        transport.send("\r\n".join([*lines, "", ""]).encode() + body)
        self.world.settle()
        return self.answer(transport)

    def answer(self, transport: FakeTransport) -> Answer:
        """What has come over a connection."""
        status, found, rest = split_response(transport.received())
        return Answer(int(status.split()[1]), {name.lower(): value for name, value in found.items()}, rest)
