"""What has changed, what readers were told of it, and where one of them differs from the others."""

from dataclasses import dataclass, field
from typing import NamedTuple

from perdure.replication.cursor import Entry
from perdure.replication.shown import Shown


class Change(NamedTuple):
    """What happened to one message, or to the session (``message`` empty)."""

    message: str
    before: Shown | None
    now: Shown | None


class Told(NamedTuple):
    """Overrides what a cursor says of one message: it was told so far only this much."""

    message: str
    length: int
    status: str


@dataclass
class Belief:
    """Where a reader differs from what this region shows: ``overrides`` by slot (it was told other
    than is shown), ``absent`` (shown here, never told), ``ghosts`` (deleted here; the reader still
    has it among its rest), ``graves`` (deleted here; the reader knows neither of it nor of that).
    """

    overrides: dict[int, Entry] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    ghosts: set[str] = field(default_factory=set)
    graves: set[str] = field(default_factory=set)
