"""Certificates that are read, read anew, and refused with what is wrong with them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from ifserver.errors import ConfigurationError
from ifserver.tls import Certificate
from tests.certificates import Certificates


@pytest.fixture
def files() -> Iterator[Certificates]:
    with Certificates() as certificates:
        yield certificates


def shaken(server: ssl.SSLContext, files: Certificates, **limits: ssl.TLSVersion) -> tuple[ssl.SSLObject, bytes]:
    """The client's end of a handshake without a network, and the certificate that it has seen."""
    context = ssl.create_default_context(cafile=files.path("ca.pem"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    for name, value in limits.items():
        setattr(context, name, value)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname="localhost")
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for each in (client, other):
            try:
                each.do_handshake()
            except ssl.SSLWantReadError:
                pass
    seen = client.getpeercert(binary_form=True)
    assert seen is not None
    return client, seen


def test_a_handshake(files: Certificates) -> None:
    certificate = Certificate(files.path("server.pem"), files.path("server.key"))
    client, _ = shaken(certificate.context, files)
    assert (client.version(), client.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")


def test_with_1_2_there_is_forward_secrecy_and_less_is_refused(files: Certificates) -> None:
    certificate = Certificate(files.path("server.pem"), files.path("server.key"))
    client, _ = shaken(certificate.context, files, maximum_version=ssl.TLSVersion.TLSv1_2)
    cipher = client.cipher()
    assert cipher is not None
    assert cipher[0].startswith("ECDHE-")
    assert certificate.context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_one_file_may_hold_both(files: Certificates, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(Path(files.path("server.key")).read_bytes() + Path(files.path("server.pem")).read_bytes())
    shaken(Certificate(str(both), None).context, files)


def test_files_that_were_replaced_are_read_anew(files: Certificates) -> None:
    certificate = Certificate(files.path("server.pem"), files.path("server.key"))
    _, before = shaken(certificate.context, files)
    with Certificates() as newer:
        for name in ("ca.pem", "server.pem", "server.key"):
            Path(files.path(name)).write_bytes(Path(newer.path(name)).read_bytes())
    certificate.reload()
    _, after = shaken(certificate.context, files)
    assert after != before


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
    with pytest.raises(ConfigurationError, match="in PEM"):
        Certificate(key, key)
    encrypted = tmp_path / "encrypted.key"
    private = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    encrypted.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigurationError, match=r"listen\.certfile, listen\.keyfile"):
        Certificate(pem, str(encrypted))
