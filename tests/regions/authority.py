"""Who signs the certificates of a test's regions, and what files it writes for them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from perdure.regions.config import PeerFiles

BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
Key = ec.EllipticCurvePrivateKey


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def pem(key: Key, password: bytes | None = None) -> bytes:
    how = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


class Authority:
    """Signs. ``name`` is only for people: two of one name have different keys."""

    def __init__(self, name: str = "perdure test authority") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = named(name)
        basic = x509.BasicConstraints(ca=True, path_length=0)
        # By which certificates know it from another of the same name.
        identifier = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        self.certificate = self._sign(self.name, self.key, [(basic, True), (identifier, False)])

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def _sign(
        self,
        subject: x509.Name,
        key: Key,
        extensions: list[Any],
        days: tuple[float, float] = (-1, 9),
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def issue(
        self,
        directory: Path,
        *names: str,
        days: tuple[float, float] = (-1, 9),
        purposes: tuple[Any, ...] = BOTH,
        ca: bytes | None = None,
    ) -> PeerFiles:
        """Files of a region in a directory, in place of those that were there; ``names`` as they
        stand in the certificate, ``ca``: whom the region believes, itself for None."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        extensions: list[Any] = [(signer, False), *([(alternative, False)] if names else [])]
        if purposes:
            extensions.append((x509.ExtendedKeyUsage(purposes), False))
        certificate = self._sign(named("a region"), key, extensions, days)
        files = PeerFiles(directory / "cert.pem", directory / "key.pem", directory / "ca.pem")
        directory.mkdir(parents=True, exist_ok=True)
        put(files.cert, certificate.public_bytes(Encoding.PEM))
        put(files.key, pem(key))
        put(files.ca, self.pem if ca is None else ca)
        return files


def put(path: Path, raw: bytes) -> None:
    """Write a file anew in the place of another, as those who rotate certificates do."""
    beside = path.with_suffix(".new")
    beside.write_bytes(raw)
    beside.replace(path)
