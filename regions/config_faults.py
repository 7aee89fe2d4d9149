"""Which settings of a region do not go together, in the operator's words."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from perdure.regions.config import (
    JWT_LEEWAY_S_MAX,
    LOOPBACK,
    PEER_SECRET,
    PORT_MAX,
    Config,
    ConfigError,
    is_loopback,
)
from perdure.replication.frames import SECRET_BYTES_MIN
from perdure.replication.ids import is_id
from perdure.replication.limits import PEER_SECRETS_MAX, PEERS_MAX

_WEB = ("http", "https")


def check(config: Config) -> None:
    """Raises ``ConfigError`` for the first of the settings that do not go together."""
    for fault in faults(config):
        raise ConfigError(fault)


def faults(config: Config) -> Iterator[str]:
    """All that does not go together, each in the operator's words."""
    if not is_id(config.region):
        yield f"--region {config.region!r} must be 1 to 128 of A-Z a-z 0-9 . _ ~ -"
    yield from _ports_faults(config)
    limits = {
        "--log-bytes-max": config.log_bytes_max,
        "--log-age-s-max": config.log_age_s_max,
        "--evict-idle-s": config.evict_idle_s,
    }
    for name, number in limits.items():
        if number < 1:
            yield f"{name} {number} must be 1 or more"
    yield from _grants_faults(config)
    if config.no_auth and not is_loopback(config.host):
        yield (
            f"--dev-no-auth serves anybody, so it listens on loopback only, not on {config.host}"
        )
    if config.no_auth and not is_loopback(config.peer_host):
        yield (
            "--dev-no-auth may use a secret that everybody knows, so peers are taken on loopback"
            f" only, not on {config.peer_host}"
        )
    if config.allowed.off and not is_loopback(config.host):
        yield f"--limit off is for loopback only, not for {config.host}"
    if config.otlp is not None and urlsplit(config.otlp).scheme not in _WEB:
        yield f"--otlp {config.otlp} must be a URL, as http://localhost:4318/v1/traces"
    if config.public_url is not None and urlsplit(config.public_url).scheme not in _WEB:
        yield f"--public-url {config.public_url} must be a URL, as https://eu.example.com"
    yield from _origin_faults(config)
    yield from peers_faults(config)
    yield from _links_faults(config)
    yield from _clients_faults(config)
    if config.demo_page and not is_loopback(config.host):
        yield "--demo-page gives grants to who asks: it is served on loopback only"
    if not config.peer_secret:
        yield (
            f"set {PEER_SECRET} (or {PEER_SECRET}_FILE) to the same secret in every region,"
            f" {SECRET_BYTES_MIN} bytes or more"
        )
    if (count := 1 + len(config.peer_secrets_accepted)) > PEER_SECRETS_MAX:
        yield f"{PEER_SECRET} holds {count} secrets; {PEER_SECRETS_MAX} is the most"


def _ports_faults(config: Config) -> Iterator[str]:
    ports = {"--port": config.port, "--peer-port": config.peer_port}
    if config.ops_port is not None:
        ports["--ops-port"] = config.ops_port
    known: dict[int, str] = {}
    for name, port in ports.items():
        if not 0 < port <= PORT_MAX:
            yield f"{name} {port} must be 1 to {PORT_MAX}"
        elif port in known:
            yield f"{known[port]} and {name} are both {port}; they must differ"
        known[port] = name


def _origin_faults(config: Config) -> Iterator[str]:
    for origin in config.cors_origins:
        parts = urlsplit(origin)
        is_one = parts.scheme in _WEB and f"{parts.scheme}://{parts.netloc}" == origin
        if origin not in (LOOPBACK, "*", "null") and not (is_one and parts.netloc):
            yield (
                f"--cors-origin {origin} must be as a browser names a page's origin, as"
                f" https://chat.example.com, or {LOOPBACK}"
            )


def _grants_faults(config: Config) -> Iterator[str]:
    if not 0 <= config.jwt_leeway_s <= JWT_LEEWAY_S_MAX:
        yield f"--jwt-leeway-s {config.jwt_leeway_s} must be 0 to {JWT_LEEWAY_S_MAX}"
    if config.cut_off_grant_age_s is not None and config.cut_off_grant_age_s < 1:
        yield f"--cut-off-grant-age-s {config.cut_off_grant_age_s} must be 1 or more"
    if config.jwks is None or not config.jwks.startswith("http://"):
        return
    host = urlsplit(config.jwks).hostname
    if host is None or not is_loopback(host):
        yield f"--jwks {config.jwks}: keys come over https, but from loopback"


def _clients_faults(config: Config) -> Iterator[str]:
    if config.tls is not None and config.behind_proxy:
        yield "--behind-proxy says that TLS ends in front; there is --tls-cert"
    if not (is_loopback(config.host) or config.tls or config.behind_proxy):
        yield (
            f"clients would be served on {config.host} in clear text: give --tls-cert and"
            " --tls-key; or --behind-proxy, where TLS ends in front"
        )


def check_peers(config: Config) -> None:
    """Raises ``ConfigError`` for the first of the peers that cannot be, or are not to be reached as
    it is said."""
    for fault in peers_faults(config):
        raise ConfigError(fault)


def peers_faults(config: Config) -> Iterator[str]:
    """Peers that cannot be, or are not to be reached as it is said: over certificates, or on this
    machine, or where a flag says otherwise."""
    if config.region in config.peers:
        yield f"--peer {config.region} is this region itself"
    if len(config.peers) > PEERS_MAX:
        yield f"there are {len(config.peers)} peers; {PEERS_MAX} is the most"
    has_files = config.peer_files is not None
    for name, url in config.peers.items():
        parts = urlsplit(url)
        is_tls = parts.scheme in ("https", "wss")
        if parts.username is not None:
            # It would be sent as a grant, which opens nothing there; and is not to be quoted here.
            yield f"--peer {name}: the URL of a peer has no user and no password"
            continue
        if has_files and not is_tls:
            yield f"--peer {name}={url}: with --peer-cert, give https:// or wss://"
        if has_files or config.peer_insecure:
            continue
        if is_tls:
            yield (
                f"--peer {name}={url} needs --peer-cert, --peer-key and --peer-ca; or"
                " --peer-insecure, where a proxy before the peer ends TLS"
            )
        if not is_loopback(parts.hostname or ""):
            yield (
                f"--peer {name}={url} would be reached in clear text: give --peer-cert, --peer-key"
                " and --peer-ca, and https://; or --peer-insecure on a network that is your own"
            )


def _links_faults(config: Config) -> Iterator[str]:
    has_files = config.peer_files is not None
    if has_files and config.peer_insecure:
        yield "--peer-insecure is for links without certificates; there is --peer-cert"
    if not has_files and not config.peer_insecure and not is_loopback(config.peer_host):
        yield (
            f"peers would be taken on {config.peer_host} in clear text: give --peer-cert,"
            " --peer-key and --peer-ca; or --peer-insecure on a network that is your own"
        )
