"""The other regions from a file that is read again while the region runs."""

import tomllib
from dataclasses import replace
from pathlib import Path

from perdure.regions.config import Config, ConfigError, parse_peers
from perdure.regions.config_faults import check_peers
from perdure.replication.limits import PEERS_FILE_BYTES_MAX


def read_peers_file(path: Path) -> dict[str, str]:
    """``NAME=URL``, one a line; empty lines, and those that begin with ``#``, say nothing. Of a
    file whose name ends with ``.toml``, as that of the settings, the table ``peers``. Raises
    ``ConfigError``."""
    try:
        with path.open("rb") as file:
            raw = file.read(PEERS_FILE_BYTES_MAX + 1)
        if len(raw) > PEERS_FILE_BYTES_MAX:
            raise ConfigError(f"--peers-file {path} is longer than {PEERS_FILE_BYTES_MAX} bytes")
        lines = _table(path, raw) if path.suffix == ".toml" else raw.decode().splitlines()
        lines = [line.strip() for line in lines]
    except OSError as error:
        raise ConfigError(f"--peers-file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--peers-file {path} is not UTF-8") from error
    try:
        return parse_peers([line for line in lines if line and not line.startswith("#")])
    except ConfigError as error:
        raise ConfigError(f"--peers-file {path}: {error}") from error


def _table(path: Path, raw: bytes) -> list[str]:
    try:
        peers = tomllib.loads(raw.decode()).get("peers", {})
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error
    if isinstance(peers, list):
        return [str(peer) for peer in peers]
    if not isinstance(peers, dict):
        raise ConfigError(f"{path}: peers must be a table of names and URLs")
    return [f"{name}={url}" for name, url in peers.items()]


def with_peers(config: Config) -> Config:
    """The settings with the other regions as they are configured now: those of the flags, and
    those of the file as it stands. Raises ``ConfigError`` where they do not do."""
    if config.peers_file is None:
        return config
    found = read_peers_file(config.peers_file)
    if twice := sorted(found.keys() & config.peers.keys()):
        raise ConfigError(f"--peer {twice[0]} stands in {config.peers_file} as well")
    config = replace(config, peers={**config.peers, **found})
    check_peers(config)
    return config
