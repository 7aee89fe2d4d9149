"""The other regions from a file that is read again while the region runs."""

from dataclasses import replace
from pathlib import Path

from perdure.regions.config import Config, ConfigError, check_peers, parse_peers
from perdure.replication.limits import PEERS_FILE_BYTES_MAX


def read_peers_file(path: Path) -> dict[str, str]:
    """``NAME=URL``, one a line; empty lines, and those that begin with ``#``, say nothing. Raises
    ``ConfigError``."""
    try:
        with path.open("rb") as file:
            raw = file.read(PEERS_FILE_BYTES_MAX + 1)
        if len(raw) > PEERS_FILE_BYTES_MAX:
            raise ConfigError(f"--peers-file {path} is longer than {PEERS_FILE_BYTES_MAX} bytes")
        lines = [line.strip() for line in raw.decode().splitlines()]
    except OSError as error:
        raise ConfigError(f"--peers-file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--peers-file {path} is not UTF-8") from error
    try:
        return parse_peers([line for line in lines if line and not line.startswith("#")])
    except ConfigError as error:
        raise ConfigError(f"--peers-file {path}: {error}") from error


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
