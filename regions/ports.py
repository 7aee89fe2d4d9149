"""The ports of a node: what it asks of its surroundings.

Everything that is not computation comes in through these, so a whole region can run on a virtual
clock, with simulated disk and network, from a seed.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from perdure.replication.records import Origin, Record, Vector


class StorageError(Exception):
    """The disk did not do what was asked."""


class StorageLocked(StorageError):
    """Another process owns the data directory."""


class StorageFull(StorageError):
    """No room; nothing of the batch was kept, and it may be tried again."""


class StorageFailed(StorageError):
    """The disk can no longer be trusted: fail-stop, every later write raises this too."""


class Clock(Protocol):
    """Time. Wall time may jump; monotonic time never goes back. Both in milliseconds."""

    def wall_ms(self) -> int: ...

    def monotonic_ms(self) -> int: ...


class Entropy(Protocol):
    """Randomness that is fit for names and secrets."""

    def token(self, bits: int) -> int: ...

    def uniform(self) -> float: ...


class Storage(Protocol):
    """The origin logs on disk. One process owns them."""

    damaged: int

    def open(self) -> None: ...

    def replay(self) -> Iterator[Record]: ...

    def vector(self) -> Vector: ...

    async def commit(self, records: Sequence[Record]) -> None: ...

    async def read(self, origin: Origin, after_lsn: int, bytes_max: int) -> list[Record]: ...

    def close(self) -> None: ...
