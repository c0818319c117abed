"""Connections with TLS on the event loop's own transports: who is believed, and that nothing else is different."""

from __future__ import annotations

import gc
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography.hazmat.primitives import serialization
from twisted.internet import error
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IProtocolFactory

from ifserver.config.node_urls import TlsSettings
from ifserver.errors import ConfigurationError
from ifserver.net import tls
from ifserver.net.endpoints import LoopTransport, SocketEndpoint, StreamClientEndpoint, tls_context
from ifserver.net.sockets import bind_tcp
from ifserver.net.tls import TlsTransport
from tests.certificates import Certificates
from tests.layers.helpers import LOOP, async_test, error_of, eventually, turn, within
from tests.net.test_endpoints import MIB, Recorder, Recorders


class Place:
    """A server that speaks TLS, and its clients."""

    def __init__(self) -> None:
        self.files = Certificates("localhost")
        self.served = Recorders()
        self.clients = Recorders()

    async def listen(self, client_certificates: bool = False, tls: bool = True) -> int:
        """Its port."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.files.path("server.pem"), self.files.path("server.key"))
        if client_certificates:
            context.load_verify_locations(self.files.path("ca.pem"))
            context.verify_mode = ssl.CERT_REQUIRED
        (sock,) = bind_tcp("127.0.0.1", 0)

        def transport(factory: IProtocolFactory) -> LoopTransport:
            return TlsTransport(factory, context) if tls else LoopTransport(factory)

        self._port: Any = await within(SocketEndpoint(LOOP, sock, transport=transport).listen(self.served))
        port: int = self._port.getHost().port
        return port

    def endpoint(self, port: int, host: str = "localhost", timeout_s: float = 5.0, **tls: str) -> StreamClientEndpoint:
        settings = TlsSettings(**{"ca": self.files.path("ca.pem")} | tls)
        return StreamClientEndpoint(LOOP, (host, port), timeout_s=timeout_s, tls=tls_context(settings))

    async def pair(self) -> tuple[Any, Any]:
        """Both ends of a connection."""
        client = await within(self.endpoint(await self.listen()).connect(self.clients))
        await eventually(lambda: self.served.built, "the other end")
        return client, self.served.built[0]

    async def close(self) -> None:
        await within(self._port.stopListening())
        protocols = [*self.served.built, *self.clients.built]
        for protocol in protocols:
            protocol.transport.abortConnection()
        await eventually(lambda: all(protocol.reason is not None for protocol in protocols), "the end of connections")
        self.files.remove()


@pytest_twisted.async_yield_fixture
async def place() -> AsyncIterator[Place]:
    seen: list[Any] = []
    LOOP.set_exception_handler(lambda loop, context: seen.append(context))
    place = Place()
    yield place
    await place.close()
    gc.collect(0)
    LOOP.set_exception_handler(None)
    assert seen == []


@async_test
async def test_bytes_go_both_ways(place: Place) -> None:
    client, server = await place.pair()
    client.transport.write(b"a" * MIB)
    client.transport.writeSequence([b"b", b"c"])
    server.transport.write(b"d" * MIB)
    await eventually(lambda: len(server.data) == MIB + 2 and len(client.data) == MIB)
    assert server.data[-3:] == b"abc"
    assert client.transport.getPeer() == server.transport.getHost()
    assert server.transport.getPeer() == client.transport.getHost()
    assert client.transport.getHost().host == "127.0.0.1"
    client.transport.setTcpNoDelay(True)
    assert client.transport.getTcpNoDelay()


@async_test
async def test_both_sides_can_end_it(place: Place) -> None:
    client, server = await place.pair()
    client.transport.write(b"last")
    client.transport.loseConnection()
    await eventually(lambda: client.reason is not None and server.reason is not None)
    assert server.data == b"last"
    assert client.reason.check(error.ConnectionDone)


@async_test
async def test_the_other_side_ends_it(place: Place) -> None:
    client, server = await place.pair()
    server.transport.write(b"last")
    server.transport.loseConnection()
    await eventually(lambda: client.reason is not None and server.reason is not None)
    assert client.data == b"last"


@async_test
async def test_it_can_be_aborted(place: Place) -> None:
    client, server = await place.pair()
    client.transport.abortConnection()
    await eventually(lambda: client.reason is not None and server.reason is not None)
    assert client.reason.check(error.ConnectionAborted)


@async_test
async def test_reading_can_be_paused(place: Place) -> None:
    client, server = await place.pair()
    client.transport.pauseProducing()
    server.transport.write(b"x" * 8 * MIB)
    await turn(0.05)
    before = len(client.data)
    assert before < 8 * MIB
    client.transport.resumeProducing()
    await eventually(lambda: len(client.data) == 8 * MIB)


@async_test
async def test_a_certificate_for_another_name_is_not_believed(place: Place) -> None:
    found = await error_of(place.endpoint(await place.listen(), "127.0.0.1").connect(place.clients))
    assert isinstance(found, error.ConnectError)
    assert "TLS: IP address mismatch, certificate is not valid for '127.0.0.1'" in str(found)
    assert place.clients.built == []


@async_test
async def test_a_certificate_of_an_unknown_authority_is_not_believed(place: Place) -> None:
    port = await place.listen()
    with Certificates("localhost") as others:
        for tls in ({"ca": others.path("ca.pem")}, {}):
            context = tls_context(TlsSettings(**tls))  # without a file: the system's authorities
            endpoint = StreamClientEndpoint(LOOP, ("localhost", port), tls=context)
            found = await error_of(endpoint.connect(place.clients))
            assert isinstance(found, error.ConnectError)
            assert "TLS: " in str(found)
            assert isinstance(found.__cause__, ssl.SSLCertVerificationError)


@async_test
async def test_a_certificate_that_is_asked_for_is_shown(place: Place) -> None:
    port = await place.listen(client_certificates=True)
    files = place.files
    client = await within(
        place.endpoint(port, cert=files.path("client.pem"), key=files.path("client.key")).connect(place.clients)
    )
    client.transport.write(b"hello")
    await eventually(lambda: place.served.built and place.served.built[0].data == b"hello")
    without = await within(place.endpoint(port).connect(place.clients))  # TLS 1.3: it is told later
    await eventually(lambda: without.reason is not None)
    refused = place.served.built[1]
    await eventually(lambda: refused.reason is not None)
    assert refused.reason.check(error.ConnectionLost)
    assert client.reason is None


# A server's connection counts from the first, whatever becomes of its handshake.


async def silent(place: Place) -> tuple[socket.socket, Any]:
    """A client that has not begun its handshake, and its protocol at the server."""
    client = socket.create_connection(("127.0.0.1", await place.listen()))
    await eventually(lambda: place.served.built, "the other end")
    return client, place.served.built[0]


@async_test
async def test_a_handshake_has_a_few_seconds(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tls._HANDSHAKE_S < 10
    monkeypatch.setattr(tls, "_HANDSHAKE_S", 0.1)
    client, server = await silent(place)
    with client:
        await eventually(lambda: server.reason is not None, "the end of a connection without a handshake")
    assert server.data == b""


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n\r\n"])
@async_test
async def test_a_handshake_that_fails_is_the_end_of_a_connection(place: Place, data: bytes) -> None:
    client, server = await silent(place)
    with client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        await eventually(lambda: server.reason is not None, "the end of a connection without a handshake")
    assert server.data == b""
    assert server.reason.check(error.ConnectionLost)


@pytest.mark.parametrize("name", ["loseConnection", "abortConnection"])
@async_test
async def test_the_server_may_end_it_during_its_handshake(place: Place, name: str) -> None:
    client, server = await silent(place)
    with client:
        getattr(server.transport, name)()
        await eventually(lambda: server.reason is not None, "its end")
    server.transport.write(b"nobody gets this")


@async_test
async def test_what_is_written_first_waits_for_the_handshake(place: Place) -> None:
    class Greeter(Recorder):
        def connectionMade(self) -> None:
            self.transport.write(b"to the ")
            self.transport.writeSequence([b"cli", b"ent"])
            self.transport.loseWriteConnection()

    place.served.build = Greeter
    client, server = await place.pair()
    client.transport.write(b"to the server")
    await eventually(lambda: (client.data, server.data) == (b"to the client", b"to the server"))


@async_test
async def test_of_a_handshake_nothing_reaches_the_protocol(place: Place) -> None:
    """What the client sends first may be there when the connection is accepted."""
    port = await place.listen()
    for _ in range(50):
        client = await within(place.endpoint(port).connect(place.clients))
        client.transport.write(b"x")
    await eventually(lambda: all(each.data == b"x" for each in place.served.built), "what they sent")


# What is not believed.


@async_test
async def test_one_that_speaks_no_tls_is_given_up(place: Place) -> None:
    port = await place.listen(tls=False)
    attempt = place.endpoint(port, timeout_s=0.1).connect(place.clients)
    assert isinstance(await error_of(attempt), error.TimeoutError)
    attempt = place.endpoint(port).connect(place.clients)
    await eventually(lambda: len(place.served.built) == 2, "the other end")
    place.served.built[1].transport.write(b"-ERR what is that?\r\n")
    found = await error_of(attempt)
    assert isinstance(found, error.ConnectError)
    assert "TLS: " in str(found)
    attempt = place.endpoint(port).connect(place.clients)
    await eventually(lambda: len(place.served.built) == 3, "the other end")
    attempt.cancel()
    assert isinstance(await error_of(attempt), CancelledError)
    assert place.clients.built == []


def test_certificates_and_names_are_always_verified() -> None:
    with Certificates() as files:
        for settings in (TlsSettings(), TlsSettings(ca=files.path("ca.pem"))):
            context = tls_context(settings)
            assert context.verify_mode is ssl.CERT_REQUIRED
            assert context.check_hostname
            assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
        assert len(tls_context(TlsSettings(ca=files.path("ca.pem"))).get_ca_certs()) == 1


def test_files_that_will_not_do(tmp_path: Path) -> None:
    with Certificates() as files, Certificates() as others:
        ca, cert, key = (files.path(name) for name in ("ca.pem", "client.pem", "client.key"))
        locked = tmp_path / "locked.key"
        private = serialization.load_pem_private_key(Path(key).read_bytes(), None)
        encryption = serialization.BestAvailableEncryption(b"geheim")
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        locked.write_bytes(private.private_bytes(pem, form, encryption))
        for settings, problem in (
            (TlsSettings(ca="/nowhere"), "TLS: ca='/nowhere': No such file or directory"),
            (TlsSettings(ca=key), f"TLS: ca={key!r}: not what is expected, in PEM"),
            (TlsSettings(ca=ca, cert=cert, key="/nowhere"), f"TLS: cert={cert!r}, key='/nowhere': No such file"),
            (TlsSettings(ca=ca, cert=cert, key=others.path("client.key")), f"TLS: cert={cert!r}, key="),
            (TlsSettings(ca=ca, cert=cert, key=str(locked)), f"TLS: cert={cert!r}, key={str(locked)!r}: not what is"),
        ):
            with pytest.raises(ConfigurationError) as caught:
                tls_context(settings)
            assert str(caught.value).startswith(problem)
