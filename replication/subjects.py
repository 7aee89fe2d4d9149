"""What is deleted, as storage and the core name it to one another."""

from typing import NamedTuple

from perdure.replication.lane import Place
from perdure.replication.records import Vector


class Subject(NamedTuple):
    """What is deleted: a message or a document of a session, or (both None) the session."""

    session: str
    message: str | None = None
    document: str | None = None


class Deletion(NamedTuple):
    """A subject of which it was told that it is deleted. ``place``: where in an origin log that
    stands, None for a piece of a session, and for what stands in another operation's place.
    ``is_news``: it had no tombstone here until now, ``known_ms`` by the wall clock."""

    subject: Subject
    place: Place | None
    is_news: bool
    known_ms: int


class Erasure(NamedTuple):
    """What is known of the erasure of one subject: since when, by the wall clock (0: since before
    anybody noted that), where it was deleted (see :func:`covers`), and whether it is done here."""

    known_ms: int
    places: Vector
    is_done: bool
