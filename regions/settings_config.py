"""From the settings to what a region takes: texts are read, secrets are fetched, and all that
cannot be is told, one by one."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from perdure.regions import config as configs
from perdure.regions.allowances import DEFAULTS
from perdure.regions.config import JWT_SECRET, PEER_SECRET, STORAGE_KEY, Config, ConfigError
from perdure.regions.settings import Settings

# Only known where nothing listens outside this machine (``--dev-no-auth``).
DEV_SECRET = b"perdure development secret, loopback only"
# The secrets, which are no settings: only the files that hold them are.
SECRETS = {"peer_secret": PEER_SECRET, "jwt_secret": JWT_SECRET, "storage_key": STORAGE_KEY}
T = TypeVar("T")
Urls = dict[str, str]


def made(settings: Settings, environment: Mapping[str, str], faults: list[str]) -> Config:
    """The settings as a region takes them. What is wrong is added to ``faults``; in its place there
    is something that causes no other faults, so it is not to be used then."""
    reading = _Reading(faults)
    jwt_secrets, peer_secrets = _secrets(settings, _named(settings, environment), reading)
    allow = reading.each(
        lambda texts: configs.parse_allowances(texts, no_auth=settings.dev_no_auth), settings.limits
    )
    proxies = reading.each(configs.parse_trusted_proxies, settings.trusted_proxies)
    s, tried = settings, reading.tried
    return Config(
        region=s.region,
        data=s.data,
        port=s.port,
        peer_port=s.peer_port,
        host=s.host,
        peer_host=s.peer_host,
        public_url=s.public_url,
        ops_port=s.ops_port,
        ops_host=s.ops_host,
        otlp=s.otlp,
        peers=reading.urls(configs.parse_peers, s.peers),
        peers_file=s.peers_file,
        peer_secret=peer_secrets[0] if peer_secrets else b"",
        peer_secrets_accepted=peer_secrets[1:],
        peer_files=tried(
            lambda: configs.parse_peer_files(s.peer_cert, s.peer_key, s.peer_ca), None
        ),
        peer_insecure=s.peer_insecure,
        tls=tried(lambda: configs.parse_tls(s.tls_cert, s.tls_key), None),
        behind_proxy=s.behind_proxy,
        jwt_secrets=jwt_secrets,
        jwks=None if s.dev_no_auth else s.jwks,
        jwt_audience=s.jwt_audience,
        jwt_issuer=s.jwt_issuer,
        jwt_leeway_s=s.jwt_leeway_s,
        cut_off_grant_age_s=s.cut_off_grant_age_s,
        storage_keys=tried(lambda: configs.read_storage_keys(_named(s, environment)), ()),
        cors_origins=s.cors_origins,
        bootstrap=s.bootstrap,
        log_bytes_max=s.log_bytes_max,
        log_age_s_max=s.log_age_s_max,
        evict_idle_s=s.evict_idle_s,
        demo_page=reading.urls(configs.parse_demo_page, s.demo_pages),
        allowed=tried(lambda: configs.parse_allowances(allow, no_auth=s.dev_no_auth), DEFAULTS),
        proxies=tried(lambda: configs.parse_trusted_proxies(proxies), ()),
    )


class _Reading:
    """Reads texts, and keeps what is wrong with them."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults

    def tried(self, read: Callable[[], T], otherwise: T) -> T:
        """What is read; ``otherwise`` where it is wrong."""
        try:
            return read()
        except ConfigError as error:
            self.faults.append(str(error))
            return otherwise

    def each(self, read: Callable[[list[str]], object], texts: tuple[str, ...]) -> list[str]:
        """Those of the texts that can be read, each by itself, so that every wrong one is told."""
        return [text for text in texts if self._is_read(read, text)]

    def _is_read(self, read: Callable[[list[str]], object], text: str) -> bool:
        before = len(self.faults)
        self.tried(lambda: read([text]), None)
        return len(self.faults) == before

    def urls(self, read: Callable[[list[str]], Urls], texts: tuple[str, ...]) -> Urls:
        """Names and URLs."""
        good = self.each(read, texts)
        nothing: Urls = {}
        return self.tried(lambda: read(good), nothing)


def _named(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, with the files of secrets that the settings name."""
    files = {variable: getattr(settings, f"{name}_file") for name, variable in SECRETS.items()}
    named = {f"{variable}_FILE": str(path) for variable, path in files.items() if path is not None}
    return {**environment, **named}


def _secrets(
    settings: Settings, environment: Mapping[str, str], reading: _Reading
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """The secrets of grants, and those of the peers."""
    stand_in: tuple[bytes, ...] = (DEV_SECRET,)
    jwt = reading.tried(lambda: configs.read_secrets(JWT_SECRET, environment), stand_in)
    peer = reading.tried(lambda: configs.read_secrets(PEER_SECRET, environment), stand_in)
    if settings.dev_no_auth:
        return (), peer or stand_in
    if not jwt and settings.jwks is None:
        reading.faults.append(
            f"set {JWT_SECRET} (32 bytes or more) or give --jwks, or use --dev-no-auth on loopback"
        )
        jwt = stand_in
    return jwt, peer
