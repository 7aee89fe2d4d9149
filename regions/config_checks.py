"""What only a look at the machine tells of settings: files, certificates, ports, the disk."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from perdure.regions import certificates, database_checks
from perdure.regions.config import Config, ConfigError
from perdure.regions.peers_file import with_peers

# A certificate that ends sooner is told of: an operator needs some days for another.
ENDING_DAYS = 30


@dataclass
class Found:
    """What is wrong, and what soon will be."""

    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def look(config: Config, now_ms: int, *, ports: bool = True) -> Found:
    """Look at everything that the settings name. Nothing is changed, nothing stays open.
    ``ports``: also whether they are free, which they are not while the region runs."""
    found = Found()
    if config.peer_files is not None:
        try:
            certificates.load(config.peer_files, config.region)
        except ConfigError as error:
            found.faults.append(str(error))
    _look_at_dates(config, now_ms, found)
    if config.jwks is not None and "://" not in config.jwks:
        found.faults += _unreadable("--jwks", Path(config.jwks))
    found.faults += _data_faults(config.data)
    if os.access(config.data, os.R_OK | os.X_OK):
        found.faults += database_checks.faults(config.data, config.storage_keys)
        found.faults += database_checks.strangers(config.data, config.region)
    try:
        config = with_peers(config)
    except ConfigError as error:
        found.faults.append(str(error))
    found.warnings += _doubled(config)
    if ports:
        # A region that runs has its ports, and is to be checked before it is started again.
        into = found.warnings if _is_at_work(config.data) else found.faults
        into += _port_faults("--port", config.host, config.port)
        into += _port_faults("--peer-port", config.peer_host, config.peer_port)
        if config.ops_port is not None:
            into += _port_faults("--ops-port", config.ops_host, config.ops_port)
    return found


def ending(flag: str, path: Path, now_ms: int, found: Found) -> None:
    """Whether the certificates of a file have ended, or soon will."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    try:
        ends = certificates.endings(flag, path)
    except ConfigError as error:
        if str(error) not in found.faults:
            found.faults.append(str(error))
        return
    for end in ends:
        if end <= now:
            found.faults.append(f"{flag} {path} has expired, on {end:%Y-%m-%d %H:%M} UTC")
        elif end <= now + timedelta(days=ENDING_DAYS):
            days = (end - now).days
            found.warnings.append(f"{flag} {path} expires in {days} days, on {end:%Y-%m-%d} UTC")


def _look_at_dates(config: Config, now_ms: int, found: Found) -> None:
    if config.peer_files is not None:
        ending("--peer-cert", config.peer_files.cert, now_ms, found)
        ending("--peer-ca", config.peer_files.ca, now_ms, found)
    if config.tls is not None:
        ending("--tls-cert", config.tls[0], now_ms, found)


def _unreadable(flag: str, path: Path) -> Iterator[str]:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        yield f"{flag}: cannot read {path}: {error.strerror}"


def _doubled(config: Config) -> Iterator[str]:
    """Peers of two names at one address: one of them is never reached."""
    by_url: dict[str, str] = {}
    for name, url in config.peers.items():
        if (other := by_url.setdefault(url.rstrip("/"), name)) != name:
            yield f"--peer {other} and --peer {name} have one URL, {url}"


def _data_faults(data: Path) -> Iterator[str]:
    """The data directory, or where it would be made, can be written."""
    place = data
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        yield f"--data {data}: {place} is no directory"
    elif not os.access(place, os.W_OK | os.X_OK):
        yield f"--data {data}: {place} cannot be written by this user"


def _is_at_work(data: Path) -> bool:
    """Whether a region has the data directory now."""
    try:
        with (data / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _port_faults(flag: str, host: str, port: int) -> Iterator[str]:
    """A port that somebody listens on already, and an address that this machine does not have."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        yield f"the address {host} of {flag} {port} is not known: {error.strerror}"
        return
    with socket.socket(family, kind) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                yield (
                    f"{flag} {port} of {host} is taken: another process listens there already"
                    " (this region itself, if it runs)"
                )
            else:
                yield f"{flag} {port}: cannot listen on {host}: {error.strerror}"
