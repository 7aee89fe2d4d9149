"""The files of mutual TLS between regions: read, and found fit for it, in the operator's words.

What is checked here is this region's own; whether a peer's certificate is good is decided by TLS,
and whose it is by ``transport_tls.py``.
"""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from perdure.regions.config import ConfigError, PeerFiles
from perdure.replication.limits import CERTIFICATE_FILE_BYTES_MAX

# A certificate of the region ``eu`` names ``eu.perdure``: a host that is called eu, and has one of
# the same authority, is no region.
SUFFIX = ".perdure"
# A certificate is told to be at its end while so much of its life is left, and no more.
ENDING_SHARE = 0.1
_PURPOSES = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
}
Stamp: TypeAlias = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Contexts:
    """What links are opened with, and how they are taken in."""

    dialing: ssl.SSLContext
    accepting: ssl.SSLContext


def stamp(files: PeerFiles) -> Stamp | None:
    """What differs when one of the files has changed; None when one cannot be looked at."""
    try:
        found = [path.stat() for path in (files.cert, files.key, files.ca)]
    except OSError:
        return None
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)


def load(files: PeerFiles, region: str) -> Contexts:
    """TLS of these files, for either side. Raises ``ConfigError`` when they do not do."""
    chain = _certificates("--peer-cert", files.cert)
    _check_key(files, chain[0])
    _check_region(files, chain[0], region)
    _check_purposes(files, chain[0])
    for authority in _certificates("--peer-ca", files.ca):
        _check_authority(files, authority)
    return Contexts(
        _context(ssl.PROTOCOL_TLS_CLIENT, files), _context(ssl.PROTOCOL_TLS_SERVER, files)
    )


def warnings(files: PeerFiles, now_ms: int) -> list[str]:
    """What is wrong with the dates of the certificates, or soon will be. It stops nothing here: the
    clock may be what is wrong, and who refuses an expired certificate is the peer."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    found = []
    for flag, path in (("--peer-cert", files.cert), ("--peer-ca", files.ca)):
        for one in _certificates(flag, path):
            begin, end = one.not_valid_before_utc, one.not_valid_after_utc
            if now < begin:
                found.append(f"{flag} {path} is not valid before {begin:%Y-%m-%d %H:%M} UTC")
            elif now > end:
                found.append(f"{flag} {path} has expired, on {end:%Y-%m-%d %H:%M} UTC")
            elif now > end - (end - begin) * ENDING_SHARE:
                found.append(f"{flag} {path} expires on {end:%Y-%m-%d %H:%M} UTC")
    return found


def regions_of(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """The regions that a certificate names, of its form in ``SSLObject.getpeercert``: exactly, in
    upper and lower case, and a wildcard is no name."""
    names: Sequence[tuple[str, str]] = (certificate or {}).get("subjectAltName", ())
    return frozenset(
        name.removesuffix(SUFFIX) for kind, name in names if kind == "DNS" and name.endswith(SUFFIX)
    )


def _context(protocol: int, files: PeerFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The certificate names a region and not a host: see regions_of.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        # A resumed link would bring a certificate that was looked at some time ago.
        context.num_tickets = 0
    try:
        context.load_cert_chain(files.cert, files.key, password=_refuse_password)
        context.load_verify_locations(files.ca)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--peer-cert, --peer-key, --peer-ca: {error}") from error
    return context


def _refuse_password() -> str:
    """Else OpenSSL asks the terminal."""
    raise ValueError("the key is encrypted")


def _read(flag: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(CERTIFICATE_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{flag}: cannot read {path}: {error.strerror}") from error
    if len(raw) > CERTIFICATE_FILE_BYTES_MAX:
        raise ConfigError(f"{flag} {path} is longer than {CERTIFICATE_FILE_BYTES_MAX:,} bytes")
    return raw


def _certificates(flag: str, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(flag, path))
    except ValueError as error:
        raise ConfigError(f"{flag} {path} holds no certificates in PEM") from error


def _check_key(files: PeerFiles, certificate: x509.Certificate) -> None:
    try:
        key = load_pem_private_key(_read("--peer-key", files.key), password=None)
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        signed = certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
    except TypeError as error:
        raise ConfigError(f"--peer-key {files.key} is encrypted; give one that is not") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"--peer-key {files.key} holds no key in PEM that is known") from error
    if public != signed:
        raise ConfigError(f"--peer-key {files.key} is not the key of --peer-cert {files.cert}")


def _check_region(files: PeerFiles, certificate: x509.Certificate, region: str) -> None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = names.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):
        found = []
    if f"{region}{SUFFIX}" not in found:
        raise ConfigError(
            f"--peer-cert {files.cert} does not name {region}{SUFFIX} (DNS, subjectAltName);"
            f" it names {', '.join(map(ascii, found)) or 'nothing'}"
        )


def _check_purposes(files: PeerFiles, certificate: x509.Certificate) -> None:
    """A region dials and is dialled, with one certificate."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return
    for purpose, name in _PURPOSES.items():
        if purpose not in usage:
            raise ConfigError(
                f"--peer-cert {files.cert} is not for {name} (extendedKeyUsage); it needs both"
                " serverAuth and clientAuth, or no such list"
            )


def _check_authority(files: PeerFiles, certificate: x509.Certificate) -> None:
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        is_authority = basic.ca
    except (x509.ExtensionNotFound, ValueError):
        is_authority = False
    if not is_authority:
        name = ascii(certificate.subject.rfc4514_string())
        raise ConfigError(f"--peer-ca {files.ca}: {name} is no authority (basicConstraints CA)")


def endings(flag: str, path: Path) -> list[datetime]:
    """When the certificates of a file end. Raises ``ConfigError`` where it holds none."""
    return [one.not_valid_after_utc for one in _certificates(flag, path)]
