"""Certificates for tests, made on the spot: an authority, and what it has signed for a server and for a client."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

__all__ = ["Certificates"]

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Certificates:
    """An authority of its own, and two certificates: ``server`` for the given names, ``client`` for nobody's name.

    As a context manager it removes its folder in the end.

    Args:
        kind: of the server's key, ``EC`` or ``RSA``; the others' are EC.
    """

    def __init__(self, *names: str, kind: str = "EC") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tls-"))
        key = ec.generate_private_key(ec.SECP256R1())
        authority = _certificate("authority", key, None)
        self._write("ca.pem", authority)
        for name, valid_for in (("server", names or ("localhost", "127.0.0.1")), ("client", ())):
            own: _Key = ec.generate_private_key(ec.SECP256R1())
            if (name, kind) == ("server", "RSA"):
                own = rsa.generate_private_key(65_537, 2048)
            self._write(f"{name}.pem", _certificate(name, own, (authority, key), valid_for))
            self._write(f"{name}.key", own)

    def __enter__(self) -> Certificates:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name: str) -> str:
        """The file ``ca.pem``, ``server.pem``, ``server.key``, ``client.pem`` or ``client.key``."""
        return str(self.folder / name)

    def give(self, to: Certificates) -> None:
        """Put the authority's and the server's files in the place of the other's."""
        for name in ("ca.pem", "server.pem", "server.key"):
            shutil.copyfile(self.path(name), to.path(name))

    def of_redis(self) -> list[str]:
        """The lines of a Redis' configuration that name them."""
        return [
            f"tls-cert-file {self.path('server.pem')}",
            f"tls-key-file {self.path('server.key')}",
            f"tls-ca-cert-file {self.path('ca.pem')}",
        ]

    def _write(self, name: str, what: x509.Certificate | _Key) -> None:
        pem = serialization.Encoding.PEM
        if isinstance(what, x509.Certificate):
            data = what.public_bytes(pem)
        else:
            data = what.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self.folder / name).write_bytes(data)


def _certificate(
    name: str, key: _Key, issuer: tuple[x509.Certificate, _Key] | None, valid_for: tuple[str, ...] = ()
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    authority = key if issuer is None else issuer[1]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        # RFC 5280 4.2.1.1 to 4.2.1.3, on which Python 3.13 and later insist.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .add_extension(_usage(signs_certificates=issuer is None), critical=True)
    )
    if valid_for:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_general_name, valid_for))), False)
    return builder.sign(authority, hashes.SHA256())


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    nothing = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_encipherment=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        **nothing,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
