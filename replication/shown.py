"""What a region shows of a message, in the few facts that tell what has changed for a reader."""

from dataclasses import dataclass
from typing import NamedTuple

from perdure.replication.ids import LaneKey


class Run(NamedTuple):
    """Items of one lane that are shown, counted from its first."""

    lane: LaneKey
    generation: int
    take: int


@dataclass(frozen=True)
class Shown:
    """What readers were told of a message: enough to find out what changed since."""

    runs: tuple[Run, ...]
    length: int
    status: str
    header: bytes
    created: int
    # How many entries lost against another branch: readers of any branch are told again.
    forks: int
    # The first shown place (an item, or the end) of which two contents are known.
    forked_at: int | None


class Variant(NamedTuple):
    """What the tag of a cursor names: a lane, under a header and the time a region gave it."""

    lane: LaneKey
    header: bytes
    created: int


def is_prefix(old: tuple[Run, ...], new: tuple[Run, ...]) -> bool:
    """Whether what was shown by ``old`` is the beginning of what ``new`` shows."""
    if len(old) == len(new) == 1:
        # As mostly: one lane, that grows.
        return not old[0].take or (old[0][:2] == new[0][:2] and old[0].take <= new[0].take)
    old = tuple(run for run in old if run.take)
    new = tuple(run for run in new if run.take)
    if len(old) > len(new) or any(a != b for a, b in zip(old[:-1], new, strict=False)):
        return False
    if not old:
        return True
    last, other = old[-1], new[len(old) - 1]
    return last[:2] == other[:2] and last.take <= other.take
