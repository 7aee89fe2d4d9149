"""The ports of a node: what it asks of its surroundings.

Everything that is not computation comes in through these, so a whole region can run on a virtual
clock, with simulated disk and network, from a seed.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from perdure.replication.records import Origin, Record, Vector
from perdure.replication.rows import Archive, Image
from perdure.replication.subjects import Deletion, Erasure, Subject
from perdure.replication.tenants import Range


class StorageError(Exception):
    """The disk did not do what was asked."""


class StorageLocked(StorageError):
    """Another process owns the data directory."""


class StorageKeyWrong(StorageError):
    """The keys that were given are not those of the database; nothing was changed."""


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


class Stored(NamedTuple):
    """A session as it is stored. ``head`` None: it is damaged, and its messages are what is left;
    ``term``: what it adds to the sum of its bucket."""

    archive: Archive
    head: bytes | None
    term: int
    present: bool


class Mark(NamedTuple):
    """A place in the log: all records up to ``position`` have been applied, and gave ``vector``.
    ``log_bytes``: how much has ever been logged by then, in bytes of bodies; ``hlc``: the greatest
    reading of the hybrid clock."""

    position: int
    vector: Vector
    wall_ms: int
    log_bytes: int
    hlc: int


class OriginLog(NamedTuple):
    """How long the log of an origin is, in records and, about, in bytes of bodies."""

    origin: Origin
    records: int
    bytes: int


class Measures(NamedTuple):
    """How much is stored: the logs, and the files of the database; ``encrypted``: with a
    key."""

    logs: list[OriginLog]
    database_bytes: int
    wal_bytes: int
    encrypted: bool
    last_backup_ms: int | None


class Storage(Protocol):
    """What a region keeps on disk: the origin logs, and the images of sessions. One process owns
    it. What is not async is answered at once, from the event loop."""

    # The last position and byte of the log.
    position: int
    log_bytes: int
    # The reading of the hybrid clock at the watermark.
    hlc: int

    @property
    def damaged(self) -> int:
        """How many records and images were not what was written."""

    def open(self) -> None:
        """Own the directory. Raises ``StorageLocked``, ``StorageKeyWrong``, ``StorageFailed``."""

    def replay(self) -> Iterator[Record]:
        """The records that the images may not have, in order of arrival; ``position`` follows."""

    def vector(self) -> Vector:
        """The greatest lsn of each origin up to which everything is known here."""

    def floors(self) -> Vector:
        """The lsn of each origin up to which its log is no longer here."""

    def absorbed(self) -> int:
        """How many pieces of sessions this region has ever absorbed: the last lsn of ``ABSORBED``,
        as :meth:`replay` found it."""

    async def commit(self, records: Sequence[Record], deletions: Sequence[Deletion] = ()) -> None:
        """Log records, and note what they delete: all is on disk when this returns, else none."""

    async def read(self, origin: Origin, after_lsn: int, bytes_max: int) -> list[Record]:
        """Records of an origin, without a gap."""

    async def jump(self, vector: Vector) -> None:
        """What these lsns say is known here, though not from the logs."""

    # Images

    def session(self, id_: str) -> Stored | None:
        """A session that has been stored."""

    def sessions(self, among: Range, limit: int) -> list[tuple[str, bytes]]:
        """Names and summaries of stored sessions that exist, by name."""

    def active(self) -> list[str]:
        """The stored sessions of which some run is not over."""

    def tenants(self) -> dict[str, int]:
        """How many stored sessions of people exist, of each tenant ("": of none)."""

    def bucket_sums(self) -> list[int]:
        """The sum of the stored sessions' terms in each bucket."""

    def in_buckets(self, numbers: Sequence[int]) -> dict[str, bytes]:
        """The digests of the stored sessions of some buckets."""

    def take_damaged(self) -> set[str]:
        """The sessions of which something was found damaged since this was last asked."""

    async def scrub(self, after: int, sessions: int) -> int:
        """Compare some stored sessions with their checksums; where to go on, 0 at the end."""

    async def save(self, images: Sequence[Image], mark: Mark | None) -> None:
        """Store images; what was logged up to ``mark`` is in images then. All or nothing."""

    async def truncate(self, upto: Vector) -> int:
        """Let go of a part of the logs that is in images, up to these lsns; how many records."""

    # Erasing

    def waiting(self, limit: int) -> list[Subject]:
        """Some of what is deleted and not gone yet."""

    def placeless(self, known_ms: int, limit: int) -> list[Subject]:
        """Some of what was known to be deleted by then, by nothing that stands in a log."""

    def erasure(self, subject: Subject) -> Erasure | None:
        """What is known of one subject; None: it was never deleted here."""

    async def erase(self, subjects: Sequence[Subject]) -> bool:
        """Take these out of the logs, and what is stored no more out of all files; False: not now,
        try again."""

    async def erased(self, subjects: Sequence[Subject], vector: Vector | None) -> None:
        """They are gone; with a vector, so is whatever is deleted up to there: it is noted."""

    def notes(self) -> dict[str, str]:
        """Small things to be remembered, by name."""

    async def note(self, name: str, text: str) -> None:
        """Remember one; an empty text forgets it."""

    # How much there is

    async def measure(self) -> Measures:
        """How much is stored."""

    async def sizes(self, ids: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Of each of these sessions how many bytes its messages take, as they are stored, and the
        greatest serial ("": nothing is shown)."""

    def free_bytes(self) -> int | None:
        """How much room is left on the disk; None where that is not known."""

    def check(self) -> None:
        """Raises ``StorageFailed`` when what is on disk is no longer what was opened."""

    def close(self) -> None:
        """Finish what is under way, and let go."""
