"""When the certificates of a region end, as its operators should be told in time."""

from collections.abc import Mapping
from pathlib import Path

from perdure.regions import certificates
from perdure.regions.config import Config, ConfigError


class Expiry:
    """Of the files that a region uses, by port: ``clients``, ``peers``."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        # What a file was like when it was read, and what was in it.
        self._read: dict[Path, tuple[tuple[int, int], float | None]] = {}

    def ends_s(self) -> dict[str, float | None]:
        """When the first certificate of each file ends, in seconds since 1970; None for a file that
        cannot be read. A file is read again when it has changed."""
        return {port: self._end_s(path) for port, path in self._files.items()}

    def _end_s(self, path: Path) -> float | None:
        try:
            stat = path.stat()
        except OSError:
            return None
        stamp = (stat.st_mtime_ns, stat.st_size)
        known = self._read.get(path)
        if known is None or known[0] != stamp:
            known = self._read[path] = (stamp, _first_end_s(path))
        return known[1]


def _first_end_s(path: Path) -> float | None:
    try:
        return min(end.timestamp() for end in certificates.endings(str(path), path))
    except (ConfigError, ValueError):
        return None


def expiry_of(config: Config) -> Expiry:
    """Of a region's settings."""
    files: dict[str, Path] = {}
    if config.tls is not None:
        files["clients"] = config.tls[0]
    if config.peer_files is not None:
        files["peers"] = config.peer_files.cert
    return Expiry(files)
