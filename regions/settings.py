"""The settings of a region: each stands here once, with its help, its unit and its bounds.

Flags, variables of the environment (``PERDURE_`` and the name), keys of the file and the manual are
all made from this. Each source is asked by itself, so that of every value it is known where it is
from. Only ``serve`` and ``config`` load this module: it takes as long to load as all of a command.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from perdure.regions.config import JWT_LEEWAY_S, JWT_LEEWAY_S_MAX, PORT_MAX
from perdure.replication.limits import EVICT_IDLE_S, LOG_AGE_S_MAX, LOG_BYTES_MAX
from pydantic import BeforeValidator, Field
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

PREFIX = "PERDURE_"
_NUMBER_MAX = 2**53 - 1


def _texts(value: Any) -> Any:
    """Several texts: a list, a table of names and texts, or one text with spaces between them."""
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, Mapping):
        if any(not isinstance(text, str) for text in value.values()):
            raise ValueError("must be a table of names and texts")
        return tuple(f"{name}={text}" for name, text in value.items())
    return value


Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_texts)]


def _set(
    text: str,
    default: Any = ...,
    *,
    unit: str | None = None,
    flag: str | None = None,
    least: int | None = None,
    most: int | None = None,
) -> Any:
    """One setting. ``unit``: what stands for the value in the help. ``flag``: its name where it is
    given once for each of several, and not called as they are."""
    extra = {"unit": unit, "flag": flag}
    return Field(default, description=text, ge=least, le=most, json_schema_extra=extra)  # type: ignore[arg-type]


def _file(text: str, unit: str = "FILE") -> Any:
    return _set(text, None, unit=unit)


class Settings(BaseSettings):
    """What an operator can say of a region."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid")

    region: str = _set("the name of this region", unit="NAME")
    port: int = _set("clients' port", 7101, unit="PORT", least=1, most=PORT_MAX)
    peer_port: int = _set("peers' port", 7201, unit="PORT", least=1, most=PORT_MAX)
    host: str = _set("address for clients", "127.0.0.1", unit="ADDRESS")
    peer_host: str = _set("address for peers", "127.0.0.1", unit="ADDRESS")
    public_url: str | None = _set(
        "where clients find this region, for the links of the operators' page", None, unit="URL"
    )
    ops_port: int | None = _set(
        "port for /metrics, /livez and /readyz without grants, on a private address",
        None,
        unit="PORT",
        least=1,
        most=PORT_MAX,
    )
    ops_host: str = _set("address for these", "127.0.0.1", unit="ADDRESS")
    otlp: str | None = _set(
        "where to send spans of traces, by OTLP over HTTP (perdure[otel])", None, unit="URL"
    )
    data: Path = _set("data directory", unit="DIR")
    peers: Texts = _set(
        "another region and the URL of its peer port; once for each",
        (),
        unit="NAME=URL",
        flag="--peer",
    )
    peers_file: Path | None = _file("more regions, one NAME=URL a line; read again on SIGHUP")
    peer_secret_file: Path | None = _file("what the regions know each other by, a secret a line")
    peer_cert: Path | None = _file("this region's certificate (PEM), which names it NAME.perdure")
    peer_key: Path | None = _file("the key of the certificate (PEM, not encrypted)")
    peer_ca: Path | None = _file(
        "the certificates (PEM) of who signs the regions' certificates",
    )
    peer_insecure: bool = _set("link regions without certificates, also beyond this machine", False)
    cors_origins: Texts = _set(
        "a browser page's origin that may call; loopback: any page of this machine",
        (),
        unit="ORIGIN",
        flag="--cors-origin",
    )
    tls_cert: Path | None = _file(
        "the certificate (PEM, with what it is signed by) of the clients' port"
    )
    tls_key: Path | None = _file("its key")
    behind_proxy: bool = _set(
        "serve clients in clear text beyond loopback: TLS ends at a proxy in front", False
    )
    jwt_secret_file: Path | None = _file("what signs and checks grants, a secret a line")
    jwks: str | None = _file(
        "a JWK set whose keys check grants (EdDSA, ES256, RS256)", unit="FILE|URL"
    )
    jwt_audience: str | None = _set("what aud of grants must be", None, unit="NAME")
    jwt_issuer: str | None = _set("what iss of grants must be", None, unit="NAME")
    jwt_leeway_s: int = _set(
        "how far clocks of issuers may be off",
        JWT_LEEWAY_S,
        unit="SECONDS",
        least=0,
        most=JWT_LEEWAY_S_MAX,
    )
    cut_off_grant_age_s: int | None = _set(
        "refuse older grants while another region, which may have revoked them, is not heard",
        None,
        unit="SECONDS",
        least=1,
        most=_NUMBER_MAX,
    )
    storage_key_file: Path | None = _file("what the data is encrypted with, a key a line")
    bootstrap: bool = _set(
        "with an empty disk, be ready without having caught up with a peer", False
    )
    log_bytes_max: int = _set(
        "of a log is kept for peers that lack it",
        LOG_BYTES_MAX,
        unit="BYTES",
        least=1,
        most=_NUMBER_MAX,
    )
    log_age_s_max: int = _set(
        "that long it is kept for them", LOG_AGE_S_MAX, unit="SECONDS", least=1, most=_NUMBER_MAX
    )
    evict_idle_s: int = _set(
        "until an unused session leaves memory",
        EVICT_IDLE_S,
        unit="SECONDS",
        least=1,
        most=_NUMBER_MAX,
    )
    dev_no_auth: bool = _set("serve anybody, on loopback only", False)
    demo_pages: Texts = _set(
        "serve the page of the demo at /demo/chat; once for each region, itself too",
        (),
        unit="NAME=URL",
        flag="--demo-page",
    )
    limits: Texts = _set(
        "what callers may ask for (PROTOCOL A.10), or WHAT=off",
        (),
        unit="WHAT=N/s,burst=N",
        flag="--limit",
    )
    trusted_proxies: Texts = _set(
        "a proxy whose X-Forwarded-For is believed", (), unit="CIDR", flag="--trusted-proxy"
    )
    verbose: bool = _set("log more", False)
    log_format: Literal["json", "text"] | None = _set(
        "of standard error: json, an object a line, or text (json where no terminal is)", None
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what it is made with: the sources are asked one by one, and put together there."""
        return (init_settings,)


def from_environment() -> dict[str, Any]:
    """What the environment says, by the names of settings."""
    return dict(EnvSettingsSource(Settings)())


def from_file(path: Path) -> dict[str, Any]:
    """What the file says, by its keys, also those that no setting has.

    Raises ``OSError``, ``UnicodeDecodeError`` and ``tomllib.TOMLDecodeError``."""
    return dict(TomlConfigSettingsSource(Settings, path).toml_data)


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return str(_extra(name)["flag"] or f"--{name.replace('_', '-')}")


def variable_of(name: str) -> str:
    """The variable of the environment of a setting."""
    return f"{PREFIX}{name.upper()}"


def unit_of(name: str) -> str | None:
    """What stands for its value in the help; None: it is a switch, or one of a few words."""
    unit = _extra(name)["unit"]
    return None if unit is None else str(unit)


def _extra(name: str) -> Mapping[str, Any]:
    extra = Settings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return extra
