"""How this server speaks TLS to its clients, where it does so itself: ``certfile`` and ``keyfile``."""

from __future__ import annotations

import asyncio
import re
import ssl
import types
from collections.abc import Coroutine, Generator, Iterable
from typing import Any, Final

from twisted.internet.interfaces import IProtocolFactory, ISSLTransport
from zope.interface import classImplements

from ifserver.errors import ConfigurationError
from ifserver.net.endpoints import LoopTransport

__all__ = ["Certificate", "TlsTransport"]

#: For TLS 1.2; 1.3 has nothing else. RFC 9325 4.2: forward secrecy and authenticated encryption only.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: RFC 7301; clients that offer no choice get the same.
_PROTOCOLS: Final = ["http/1.1"]
#: How long a handshake may take: two round trips, and time for a packet of each to be sent again. Apache's manual
#: suggests as much (mod_reqtimeout).
_HANDSHAKE_S: Final = 5.0


class Certificate:
    """A certificate and its key, in files that may be replaced while the server runs.

    Args:
        certfile: the certificate and, behind it, the intermediate certificates; in PEM.
        keyfile: its private key, in PEM and not encrypted. None: `certfile` holds it as well.

    Raises:
        ConfigurationError: a file cannot be read, or they are not what they should be.
    """

    def __init__(self, certfile: str, keyfile: str | None) -> None:
        self._files = certfile, keyfile
        #: For all connections, also those that come after a `reload`.
        self.context = self._current = self._make()
        # OpenSSL calls it for each handshake, whether the client has named a server or not.
        self.context.sni_callback = self._choose

    def reload(self) -> None:
        """Read the files anew: connections that come from now on get what they hold. Others keep what they have.

        A client that resumes an earlier session (RFC 8446 2.2) is shown no certificate.

        Raises:
            ConfigurationError: as above; nothing has changed then.
        """
        # Not into the same context: that keeps one certificate for each type of key, and serves the old one to clients
        # that like its type better.
        self._current = self._make()

    def transport(self, factory: IProtocolFactory) -> TlsTransport:
        """The transport of a connection that was accepted."""
        return TlsTransport(factory, self.context)

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Let a connection, which is about to be made, have the certificate that counts now."""
        connection.context = self._current

    def _make(self) -> ssl.SSLContext:
        # RFC 9325 3.1.1: 1.2 at least. Renegotiation, which costs a server more than a client, is not offered.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_ciphers(_CIPHERS)
        context.set_alpn_protocols(_PROTOCOLS)
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        certfile, keyfile = self._files
        for name, path in (("certfile", certfile), ("keyfile", keyfile)):
            if path is not None:
                try:
                    with open(path, "rb"):
                        pass
                except OSError as error:
                    raise ConfigurationError(f"listen.{name}: {path!r}: {error.strerror}") from error
        try:
            # Without a password a key that is encrypted is an error; without the argument OpenSSL asks a terminal.
            context.load_cert_chain(certfile, keyfile, password="")
        except ssl.SSLError as error:
            raise ConfigurationError(_wrong(certfile, keyfile, error.reason or "")) from error


class TlsTransport(LoopTransport):
    """The same over TLS, which the loop speaks.

    There is a connection from the first, so that one whose handshake is not complete counts as any other. What is
    written waits for the handshake.
    """

    def __init__(self, factory: IProtocolFactory, tls: ssl.SSLContext) -> None:
        super().__init__(factory)
        self._tls = tls
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.disconnecting:
            return  # refused
        starting = asyncio.get_running_loop().start_tls(
            self._loop_transport, self, self._tls, server_side=True, ssl_handshake_timeout=_HANDSHAKE_S
        )
        # Now, not in the first step of a task: by then the loop could have read what is OpenSSL's, and given it to us.
        first: Any = starting.send(None)
        self._handshake = asyncio.ensure_future(self._shake_hands(_continued(starting, first)))

    def connection_lost(self, exc: Exception | None) -> None:
        # Of a handshake that fails uvloop tells once, twice or not at all.
        if not self._lost:
            super().connection_lost(exc)

    def eof_received(self) -> bool:
        return False  # the loop knows of no TLS connection that is closed one way

    def loseWriteConnection(self) -> None:
        """As above."""

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if self._early:
            self._end()  # it is closed behind the handshake
        else:
            super().loseConnection()

    def _open(self) -> None:
        self.write = self._early.append

    async def _shake_hands(self, started: Any) -> None:
        try:
            transport = await started
        except OSError as problem:  # OpenSSL's are such errors, too
            self.connection_lost(problem)
            return
        if transport.get_extra_info("ssl_object") is None:
            self.connection_lost(None)  # it was closed meanwhile, by us
            return
        self._loop_transport = transport
        transport.writelines(self._early)
        self._early.clear()
        if self.disconnecting:
            transport.close()
        else:
            super()._open()

    def getPeerCertificate(self) -> bytes | None:
        """The client's certificate in DER; None: it has shown none."""
        certificate: bytes | None = self._loop_transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return certificate


@types.coroutine
def _continued(coroutine: Coroutine[Any, Any, Any], first: Any) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that waits for `first`."""
    yield first
    return (yield from coroutine)


# Out of a checker's sight: ITCPTransport says that its addresses are never those of Unix sockets.
_implements: Any = classImplements
_implements(TlsTransport, ISSLTransport)


def _wrong(certfile: str, keyfile: str | None, reason: str) -> str:
    """What is wrong with files that OpenSSL has refused for `reason`."""
    key = f"listen.certfile: {certfile!r}" if keyfile is None else f"listen.keyfile: {keyfile!r}"
    key_path = certfile if keyfile is None else keyfile
    if "MISMATCH" in reason:
        return f"{key}: the key does not belong to the certificate in {certfile!r}"
    if not _holds(certfile, b"CERTIFICATE"):
        return f"listen.certfile: {certfile!r}: there is no certificate in PEM in it"
    if not _holds(key_path, b"PRIVATE KEY"):
        elsewhere = "; where the key has a file of its own, name that with --keyfile" if keyfile is None else ""
        return f"{key}: there is no private key in PEM in it{elsewhere}"
    if _holds(key_path, b"ENCRYPTED PRIVATE KEY") or _holds(key_path, b"PRIVATE KEY", b"\\s+Proc-Type: 4,ENCRYPTED"):
        return f"{key}: the private key is encrypted, and must not be"
    return f"{key}: {reason.replace('_', ' ').lower() or 'the certificate or its key is damaged'}"


def _holds(path: str, kind: bytes, behind: bytes = b"") -> bool:
    """Whether a file has something of that kind in PEM (RFC 7468): ``-----BEGIN CERTIFICATE-----``."""
    with open(path, "rb") as file:
        return re.search(rb"-----BEGIN [A-Z0-9 ]*" + kind + b"-----" + behind, file.read()) is not None
