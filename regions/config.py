"""What a region is told from outside: flags, environment, files; checked before anything starts."""

import base64
import binascii
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from perdure.regions.allowances import (
    DEFAULTS,
    NOTHING,
    Allowances,
    Network,
    parse_limits,
    parse_proxies,
)
from perdure.replication.frames import SECRET_BYTES_MIN
from perdure.replication.ids import is_id
from perdure.replication.limits import (
    EVICT_IDLE_S,
    LOG_AGE_S_MAX,
    LOG_BYTES_MAX,
    STORAGE_KEYS_MAX,
)

# S105: names of variables, not what is in them
PEER_SECRET = "PERDURE_PEER_SECRET"  # noqa: S105
JWT_SECRET = "PERDURE_JWT_SECRET"  # noqa: S105
STORAGE_KEY = "PERDURE_STORAGE_KEY"
STORAGE_KEY_BYTES = 32
PORT_MAX = 65_535
# Clocks of issuers and regions may differ by so much.
JWT_LEEWAY_S = 30
JWT_LEEWAY_S_MAX = 60
# Among the origins: any of this machine.
LOOPBACK = "loopback"
LOOPBACK_ORIGINS = r"(https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?)|null"


class ConfigError(Exception):
    """A wrong setting, in the operator's words."""


@dataclass(frozen=True)
class PeerFiles:
    """The files of mutual TLS with the peers: this region's certificate, its key, and who signs."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True)
class Config:
    """One region's settings."""

    region: str
    data: Path
    port: int
    peer_port: int
    host: str = "127.0.0.1"
    peer_host: str = "127.0.0.1"
    # Where clients find it, for other regions' operators.
    public_url: str | None = None
    # A port for scrapers and probes, without grants; None: there is none.
    ops_port: int | None = None
    ops_host: str = "127.0.0.1"
    # Where spans of traces are sent; None: they are not made.
    otlp: str | None = None
    peers: Mapping[str, str] = field(default_factory=dict)
    # More of them, in a file that is read again on SIGHUP.
    peers_file: Path | None = None
    peer_secret: bytes = b""
    # Secrets that peers may prove themselves with besides, while the secret is replaced.
    peer_secrets_accepted: tuple[bytes, ...] = ()
    peer_files: PeerFiles | None = None
    # Links without certificates, also beyond this machine.
    peer_insecure: bool = False
    # The certificate and key of the clients' port; or, beyond this machine, a proxy that has them.
    tls: tuple[Path, Path] | None = None
    behind_proxy: bool = False
    # The secrets of grants: the first mints, all are good.
    jwt_secrets: tuple[bytes, ...] = ()
    # A key set that checks grants: a file or a URL.
    jwks: str | None = None
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    jwt_leeway_s: int = JWT_LEEWAY_S
    # While another region cannot be heard, older grants are refused. None: they are not.
    cut_off_grant_age_s: int | None = None
    # What the disk is encrypted with, the first for what is written; none for not at all.
    storage_keys: tuple[bytes, ...] = field(default=(), repr=False)
    cors_origins: tuple[str, ...] = ()
    # The first region of its cluster: with an empty disk it does not wait for its peers.
    bootstrap: bool = False
    # How much of a log is kept for a peer that lacks it, and for how long.
    log_bytes_max: int = LOG_BYTES_MAX
    log_age_s_max: int = LOG_AGE_S_MAX
    # When a session that nobody uses leaves memory.
    evict_idle_s: int = EVICT_IDLE_S
    # What callers may ask for, and the proxies whose word for an address is taken.
    allowed: Allowances = DEFAULTS
    proxies: tuple[Network, ...] = ()
    # The page of the demo is served where this is not empty: all regions, and their clients' URLs.
    demo_page: Mapping[str, str] = field(default_factory=dict)

    @property
    def no_auth(self) -> bool:
        """Whether clients need no grant."""
        return not self.jwt_secrets and self.jwks is None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def read_secrets(name: str, environment: Mapping[str, str] | None = None) -> tuple[bytes, ...]:
    """The secrets of a variable, one a line, or of the file that ``NAME_FILE`` names. The first is
    the one to sign with, the others are accepted too.

    Raises ``ConfigError`` for one that is too short or cannot be read.
    """
    text = _read(name, os.environ if environment is None else environment)
    secrets = () if text is None else tuple(filter(None, map(str.strip, text.splitlines())))
    return tuple(_checked(name, secret) for secret in secrets)


def _read(name: str, environment: Mapping[str, str]) -> str | None:
    value = environment.get(name)
    # An empty variable is not set, where a file is named: it does not hide that.
    if not value and (path := environment.get(f"{name}_FILE")):
        try:
            value = Path(path).read_text().strip()
        except OSError as error:
            raise ConfigError(f"{name}_FILE: cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{name}_FILE: {path} is not UTF-8; write it in hex") from error
    return value


def _checked(name: str, value: str) -> bytes:
    try:
        secret = value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name} is not UTF-8; write it in hex") from error
    if len(secret) < SECRET_BYTES_MIN:
        raise ConfigError(f"{name} must have at least {SECRET_BYTES_MIN} bytes")
    return secret


def read_storage_keys(environment: Mapping[str, str] | None = None) -> tuple[bytes, ...]:
    """The keys of the disk, from the environment or a file, as :func:`read_secrets`: 32 bytes each
    in hex or base64, one a line, the first for what is written. None where nothing is set.

    Raises ``ConfigError``, which tells the line and never the key. One that is set and empty is
    refused: somebody believes that the disk is encrypted.
    """
    environment = os.environ if environment is None else environment
    text = _read(STORAGE_KEY, environment)
    if text is None:
        if f"{STORAGE_KEY}_FILE" in environment:
            raise ConfigError(f"{STORAGE_KEY}_FILE is set, and names no file")
        return ()
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    keys = [_storage_key(number, line) for number, line in lines if line]
    if not keys:
        raise ConfigError(f"{STORAGE_KEY} is set, and holds no key")
    if len(keys) > STORAGE_KEYS_MAX:
        raise ConfigError(f"{STORAGE_KEY} holds {len(keys)} keys; {STORAGE_KEYS_MAX} is the most")
    if len(set(keys)) < len(keys):
        raise ConfigError(f"{STORAGE_KEY} holds a key twice")
    return tuple(keys)


def _storage_key(number: int, line: str) -> bytes:
    try:
        if len(line) == 2 * STORAGE_KEY_BYTES:
            key = bytes.fromhex(line)
        else:
            plain = line.rstrip("=").translate(str.maketrans("-_", "+/"))
            key = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != STORAGE_KEY_BYTES:
        raise ConfigError(
            f"{STORAGE_KEY}, line {number}: must be {STORAGE_KEY_BYTES} bytes in hex or base64"
            " (openssl rand -hex 32)"
        )
    return key


def parse_peer_files(cert: Path | None, key: Path | None, ca: Path | None) -> PeerFiles | None:
    """The three files of mutual TLS, or none; ``ConfigError`` for only some of them."""
    given = {"--peer-cert": cert, "--peer-key": key, "--peer-ca": ca}
    missing = [flag for flag, path in given.items() if path is None]
    if cert is None or key is None or ca is None:
        if len(missing) < len(given):
            raise ConfigError(
                "--peer-cert, --peer-key and --peer-ca go together;"
                f" {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
            )
        return None
    return PeerFiles(cert, key, ca)


def parse_peers(texts: list[str]) -> dict[str, str]:
    """``NAME=URL`` texts as a mapping; ``ConfigError`` names the wrong one."""
    return _parse_urls("--peer", texts, "the URL of its peer port")


def parse_demo_page(texts: list[str]) -> dict[str, str]:
    """The same for the regions that the page of the demo offers.

    The URLs go into a policy of what the page may connect to: nothing but a scheme and a host.
    """
    regions = _parse_urls("--demo-page", texts, "the URL of its clients' port")
    for name, url in regions.items():
        if not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+", url):
            raise ConfigError(f"--demo-page {name}={url}: give http:// or https://, and a host")
    return regions


def parse_allowances(texts: list[str], *, no_auth: bool) -> Allowances:
    """The texts of ``--limit``. Where anybody may call, nothing is limited that is not named."""
    try:
        return parse_limits(texts, NOTHING if no_auth else DEFAULTS)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def parse_trusted_proxies(texts: list[str]) -> tuple[Network, ...]:
    """The texts of ``--trusted-proxy``."""
    try:
        return parse_proxies(texts)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _parse_urls(flag: str, texts: list[str], what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, _, url = text.partition("=")
        try:
            parts = urlsplit(url)
            is_url = parts.scheme in ("http", "https", "ws", "wss") and parts.port != 0
        except ValueError:
            is_url = False
        if not is_id(name) or not is_url:
            raise ConfigError(f"{flag} {text!r} must be NAME=URL, {what}")
        if not parts.hostname:
            raise ConfigError(f"{flag} {text!r}: the URL names no host")
        if name in found:
            raise ConfigError(f"{flag} {name} is given twice")
        found[name] = url
    return found


def parse_tls(cert: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """The two files of the clients' port, or none; ``ConfigError`` for one of them, and for what
    cannot be read or does not belong together."""
    if cert is None or key is None:
        if cert is not key:
            raise ConfigError("--tls-cert and --tls-key go together; one is missing")
        return None
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key)
    except OSError as error:
        detail = error.strerror or str(error)
        raise ConfigError(f"--tls-cert {cert}, --tls-key {key}: {detail}") from error
    return cert, key
