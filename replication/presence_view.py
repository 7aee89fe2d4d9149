"""One entry of a member's presence, and what is shown of a member that has some."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from perdure.replication.dots import Dot
from perdure.replication.hlc import to_time

# The connection of a member that was put, and how that of an agent's lease begins.
PUT = ""
LEASE = "run/"


class Key(NamedTuple):
    """Through what a member is in a session."""

    session: str
    member: str
    connection: str


class Entry(NamedTuple):
    """A member's presence through one connection. ``data``: JSON, None when none was given;
    ``stamp`` and ``since``: readings of the hybrid clock, when it was born and when the member
    came; ``ttl_s``: how long its lease is, 0 for what is bound to a connection."""

    dot: Dot
    key: Key
    data: str | None
    stamp: int
    since: int
    ttl_s: int

    @property
    def rank(self) -> tuple[int, Dot]:
        """The order in which entries of a member count: the last is the newest."""
        return self.stamp, self.dot


def last_data(entries: Sequence[Entry]) -> str | None:
    """What was given last, through whichever of them; None when nothing was."""
    told = [entry for entry in entries if entry.data is not None]
    return max(told, key=lambda entry: entry.rank).data if told else None


def member_value(member: str, entries: Sequence[Entry]) -> dict[str, Any] | None:
    """A member of whom these entries are shown; None when none are."""
    if not entries:
        return None
    newest = max(entries, key=lambda entry: entry.rank)
    data = last_data(entries)
    return {
        "member": member,
        "data": None if data is None else json.loads(data),
        "region": newest.dot.origin.region,
        "connections": len({entry.key.connection for entry in entries}),
        "since": to_time(min(entry.since for entry in entries)),
    }
