"""Certificates that are read, read anew, and refused with what is wrong with them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ifserver.errors import ConfigurationError
from ifserver.net.tls import Certificate
from tests.certificates import Certificates


@pytest.fixture
def files() -> Iterator[Certificates]:
    with Certificates() as certificates:
        yield certificates


class Pair:
    """A client and the server, without a network.

    Args:
        ciphers: of the client, which speaks TLS 1.2 then and no more.
    """

    def __init__(self, server: ssl.SSLContext, files: Certificates, ciphers: str = "", name: str = "localhost") -> None:
        context = ssl.create_default_context(cafile=files.path("ca.pem"))
        context.set_alpn_protocols(["h2", "http/1.1"])
        if ciphers:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(to_client, to_server, server_hostname=name)
        self.server = server.wrap_bio(to_server, to_client, server_side=True)

    def shake(self) -> bytes:
        """Shake hands; the certificate that the client has seen."""
        for _ in range(4):
            for each in (self.client, self.server):
                try:
                    each.do_handshake()
                except ssl.SSLWantReadError:
                    pass
        seen = self.client.getpeercert(binary_form=True)
        assert seen is not None
        return seen

    def echoes(self, data: bytes) -> bool:
        """Whether `data` arrives at the server, and comes back."""
        self.client.write(data)
        self.server.write(self.server.read(len(data)))
        return self.client.read(len(data)) == data


def shaken(server: ssl.SSLContext, files: Certificates, ciphers: str = "") -> tuple[ssl.SSLObject, bytes]:
    """The client's end of a handshake, and the certificate that it has seen; the same without a server's name (SNI)."""
    pair, nameless = Pair(server, files, ciphers), Pair(server, files, ciphers, "127.0.0.1")
    seen = pair.shake()
    assert nameless.shake() == seen
    return pair.client, seen


def test_a_handshake(files: Certificates) -> None:
    certificate = Certificate(files.path("server.pem"), files.path("server.key"))
    client, _ = shaken(certificate.context, files)
    assert (client.version(), client.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")


def test_with_1_2_there_is_forward_secrecy_and_less_is_refused(files: Certificates) -> None:
    certificate = Certificate(files.path("server.pem"), files.path("server.key"))
    client, _ = shaken(certificate.context, files, "ALL")
    cipher = client.cipher()
    assert cipher is not None
    assert cipher[0].startswith("ECDHE-")
    assert certificate.context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_one_file_may_hold_both(files: Certificates, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(Path(files.path("server.key")).read_bytes() + Path(files.path("server.pem")).read_bytes())
    shaken(Certificate(str(both), None).context, files)


def kind_of(der: bytes) -> str:
    key = x509.load_der_x509_certificate(der).public_key()
    return "RSA" if isinstance(key, rsa.RSAPublicKey) else "EC"


#: Clients: of TLS 1.3, and of 1.2 that like one kind of key better.
CLIENTS = ("", "ECDHE+ECDSA:ECDHE+aRSA", "ECDHE+aRSA:ECDHE+ECDSA")


@pytest.mark.parametrize("ciphers", CLIENTS)
@pytest.mark.parametrize("kinds", [("EC", "EC"), ("EC", "RSA", "EC"), ("RSA", "EC", "RSA")])
def test_files_that_were_replaced_are_read_anew(kinds: tuple[str, ...], ciphers: str) -> None:
    """Whatever kind of key they hold, that is the only one from then on."""
    with Certificates(kind=kinds[0]) as files:
        certificate = Certificate(files.path("server.pem"), files.path("server.key"))
        listening = certificate.context
        _, before = shaken(listening, files, ciphers)
        assert kind_of(before) == kinds[0]
        for kind in kinds[1:]:
            with Certificates(kind=kind) as newer:
                newer.give(to=files)
            certificate.reload()
            client, after = shaken(listening, files, ciphers)
            assert kind_of(after) == kind
            assert after != before
            assert client.selected_alpn_protocol() == "http/1.1"
            before = after


def test_connections_that_were_there_keep_what_they_have(files: Certificates) -> None:
    certificate = Certificate(files.path("server.pem"), files.path("server.key"))
    pair = Pair(certificate.context, files)
    pair.shake()
    with Certificates(kind="RSA") as newer:
        newer.give(to=files)
    certificate.reload()
    assert pair.echoes(b"still here")


def test_what_cannot_be_read_changes_nothing(files: Certificates) -> None:
    certificate = Certificate(files.path("server.pem"), files.path("server.key"))
    _, before = shaken(certificate.context, files)
    Path(files.path("server.key")).write_text("nonsense")
    with pytest.raises(ConfigurationError, match="in PEM"):
        certificate.reload()
    assert shaken(certificate.context, files)[1] == before


def test_what_is_wrong_is_said(files: Certificates, tmp_path: Path) -> None:
    pem, key = files.path("server.pem"), files.path("server.key")
    with pytest.raises(ConfigurationError, match=r"listen.certfile: '/nothing': No such file"):
        Certificate("/nothing", key)
    with pytest.raises(ConfigurationError, match=r"listen.keyfile: '/nothing': No such file"):
        Certificate(pem, "/nothing")
    with pytest.raises(ConfigurationError, match="the key does not belong to the certificate"):
        Certificate(pem, files.path("client.key"))
    with pytest.raises(ConfigurationError, match=r"listen\.certfile: '.*server\.key': there is no certificate in PEM"):
        Certificate(key, key)
    with pytest.raises(ConfigurationError, match=r"listen\.keyfile: '.*server\.pem': there is no private key"):
        Certificate(pem, pem)
    with pytest.raises(ConfigurationError) as caught:
        Certificate(pem, None)
    assert str(caught.value) == (
        f"listen.certfile: {pem!r}: there is no private key in PEM in it; where the key has a file of its own, "
        "name that with --keyfile"
    )
    damaged = tmp_path / "damaged.pem"
    damaged.write_bytes(Path(pem).read_bytes().replace(b"M", b"N"))
    with pytest.raises(ConfigurationError, match=r"listen\.keyfile: "):
        Certificate(str(damaged), key)


@pytest.mark.parametrize("form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL])
def test_a_key_that_is_encrypted(files: Certificates, tmp_path: Path, form: serialization.PrivateFormat) -> None:
    encrypted = tmp_path / "encrypted.key"
    private = serialization.load_pem_private_key(Path(files.path("server.key")).read_bytes(), None)
    encrypted.write_bytes(
        private.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"secret"))
    )
    with pytest.raises(ConfigurationError, match=r"listen\.keyfile: .* is encrypted, and must not be$"):
        Certificate(files.path("server.pem"), str(encrypted))
