"""The replicated operations (``docs/PROTOCOL.md`` B.2).

Rule of this file: an operation is immutable and names itself completely. What it *means* is said in
``message.py`` and ``session.py``, and its bytes are made in ``coding.py``.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from perdure.replication.ids import LaneKey, canonical, digest
from perdure.replication.items import (
    DIGEST_BYTES,
    Entry,
    entry_bytes,
)
from perdure.replication.records import Origin

_HLC_MAX = 2**64 - 1


class Request(NamedTuple):
    """A message that an agent is asked for, which makes it a run: who is to write it, who asks, and
    the message that it answers."""

    agent: str
    by: str | None
    input: str | None


@dataclass(frozen=True)
class Header:
    """What a message is, as its author gave it. ``entries`` are those of a complete message."""

    role: str
    author: str | None
    created: int
    lane: LaneKey
    metadata: str
    replaces: str | None
    entries: tuple[Entry, ...] = ()
    run: Request | None = None
    identity: bytes = field(init=False)

    def __post_init__(self) -> None:
        """``identity`` leaves ``created`` out: two regions that carry out the same open give it
        different times, and it is still the same message."""
        parts: tuple[str | bytes, ...] = (
            self.role,
            canonical([self.author, self.replaces]),
            str(self.lane),
            self.metadata,
            *(entry_bytes(entry) for entry in self.entries),
        )
        if self.run is not None:
            parts = ("run", canonical(list(self.run)), *parts)
        object.__setattr__(self, "identity", digest(DIGEST_BYTES, *parts))


@dataclass(frozen=True)
class Create:
    """A session was created, with metadata (canonical JSON)."""

    session: str
    hlc: int
    region: str
    metadata: str


@dataclass(frozen=True)
class Open:
    """A message was opened, or sent complete. ``trace``: of what it is a part, where its author has
    said so (``traces.py``); it is no part of the message."""

    session: str
    message: str
    header: Header
    trace: str | None = None


@dataclass(frozen=True)
class Items:
    """Entries of a lane from ``seq`` on; ``before`` is the lane's digest before the first."""

    session: str
    message: str
    lane: LaneKey
    seq: int
    before: bytes
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Claim:
    """A producer took the message over: ``lane`` continues ``base`` items of ``previous``.

    ``root`` is the lane of the header that was claimed; ``tag`` names the claim itself.
    """

    session: str
    message: str
    lane: LaneKey
    tag: int
    root: LaneKey
    previous: LaneKey | None
    base: int


@dataclass(frozen=True)
class Cancel:
    """Nothing more is admitted from this lane."""

    session: str
    message: str
    lane: LaneKey


@dataclass(frozen=True)
class Delete:
    """The message, or the whole session (``message`` None), is gone for ever."""

    session: str
    message: str | None


@dataclass(frozen=True)
class Metadata:
    """Values of top-level keys of the session's metadata (canonical JSON object)."""

    session: str
    hlc: int
    region: str
    values: str


@dataclass(frozen=True)
class Fork:
    """Two contents of entry ``seq`` of a lane are known; what is shown is one of them."""

    session: str
    message: str
    lane: LaneKey
    seq: int


@dataclass(frozen=True)
class Step:
    """The ``n``-th word of an agent on the state of its run, under a lane; ``detail`` is JSON."""

    session: str
    message: str
    lane: LaneKey
    n: int
    state: str
    detail: str


@dataclass(frozen=True)
class Lapse:
    """The lease of a lane was over when it had so many items, and its agent had said so many words
    on its state."""

    session: str
    message: str
    lane: LaneKey
    items: int
    n: int


@dataclass(frozen=True)
class Input:
    """A message was addressed to a run; ``hlc`` is when."""

    session: str
    message: str
    hlc: int
    input: str


class Keyed(NamedTuple):
    """An append to a document that may be asked for again by its ``key``, also elsewhere: what it
    inserted is the range of a Yjs client, and ``tag`` names the text."""

    key: str
    tag: str
    client: int
    start: int
    end: int


@dataclass(frozen=True)
class Discard:
    """A shared document is gone for ever."""

    session: str
    document: str


@dataclass(frozen=True)
class Edit:
    """A Yjs update of a shared document, as a client or a region made it; ``keyed``: what of it,
    or of what was before it, may be asked for again."""

    session: str
    document: str
    update: bytes
    keyed: tuple[Keyed, ...] = ()


@dataclass(frozen=True)
class Erased:
    """Here stood an operation on what has been deleted: the message, the document, or (both None)
    the session. ``born``: when a message was created that was opened here, for its session is as
    old as that."""

    session: str
    message: str | None
    document: str | None
    born: int | None


OfRun: TypeAlias = Step | Lapse | Input
OfMessage: TypeAlias = Open | Items | Claim | Cancel | Fork | OfRun
OfDocument: TypeAlias = Edit | Discard
Single: TypeAlias = (
    Create | Open | Items | Claim | Cancel | Delete | Metadata | Fork | OfRun | OfDocument | Erased
)


@dataclass(frozen=True)
class Origins:
    """Where the operations of a message stand in the origin logs: the newest lsn of each log that
    told of it, and where its header was first read (None: it has none)."""

    message: str
    reach: tuple[tuple[Origin, int], ...]
    opened_at: tuple[Origin, int] | None


@dataclass(frozen=True)
class Absorb:
    """A piece of a session as another region holds it: operations that say the same as those that
    made it. It stands in no origin log and is never gossiped."""

    session: str
    operations: tuple[Single, ...]
    origins: tuple[Origins, ...]


Operation: TypeAlias = Single | Absorb


def stamped(header: Header, created: int) -> Header:
    """The same header at another time."""
    return replace(header, created=created)
