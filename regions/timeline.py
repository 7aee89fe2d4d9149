"""What happened to one session, the newest first: from its replicated state, and the journals.

The state says what was decided, in every region and after every restart, mostly without a time: of
those things the journal of the region that admitted them knows when. What has no time stands after
what it must have come after.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from perdure.replication.errors import Refusal
from perdure.replication.hlc import to_wall_ms
from perdure.replication.ids import LaneKey, digest
from perdure.replication.limits import TIMELINE_MESSAGES_MAX
from perdure.replication.message import Message
from perdure.replication.session import Session

Entry = dict[str, Any]
_KEY = re.compile(r"([0-9a-f]{16})\.[0-9]{4}\.[0-9a-f]{8}\Z")
_READING_CHARS = 16
# The order of what is of one moment.
_KINDS = (
    *("sent", "requested", "opened", "claimed", "resumed", "step", "retry", "fenced"),
    *("lapsed", "ended", "cancelled", "deleted"),
)
# Of which the state knows the time itself.
_TIMED = frozenset({"opened", "sent", "requested"})
_FIELDS = ("at_ms", "region", "kind", "message", "run", "epoch", "producer", "detail")


class Placed(NamedTuple):
    """An entry and where it stands, by a reading of the hybrid clock: later ones have greater
    keys."""

    key: str
    reading: int
    entry: Entry


def _entry(
    kind: str,
    message: str,
    lane: LaneKey | None,
    at_ms: int | None = None,
    region: str | None = None,
    **detail: Any,
) -> Entry:
    who = (None, None) if lane is None else (str(lane.epoch), lane.producer)
    return dict(zip(_FIELDS, (at_ms, region, kind, message, None, *who, detail), strict=True))


def of_message(message: Message) -> Iterator[Entry]:
    """What the state says of a message, in an order in which it may have happened."""
    header = message.header
    if header is None:
        return
    region = None if message.opened_at is None else message.opened_at.origin.region
    kind = "sent" if header.entries else "opened"
    about: dict[str, Any] = {"role": header.role, "author": header.author}
    if (run := header.run) is not None:
        kind = "requested"
        about |= {"agent": run.agent, "by": run.by, "input": run.input}
    at_ms = to_wall_ms(header.created)
    yield _entry(kind, message.id, header.lane, at_ms, region, **about)
    chain = {link.lane for link in message.chain}
    claims = {claim.lane: claim for claim in message.claims.all()}
    for lane in sorted(message.lanes, key=lambda lane: lane.epoch):
        if (claim := claims.get(lane)) is not None:
            previous = None if claim.previous is None else str(claim.previous.epoch)
            about = {"base": claim.base, "previous": previous, "counts": lane in chain}
            yield _entry("claimed", message.id, lane, **about)
        if (said := message.turn.said(lane)) is not None:
            yield _entry("step", message.id, lane, state=said.state)
        if message.turn.lapses.get(lane):
            yield _entry("lapsed", message.id, lane)
        held = message.lanes[lane]
        if held.end is not None and not header.entries:
            yield _entry("ended", message.id, lane, status=held.end.status, length=held.count)
    for lane in sorted(message.cancels):
        yield _entry("cancelled", message.id, lane)


def _name(entry: Entry) -> tuple[Any, ...]:
    """What is the same in the state and in a journal."""
    kind = entry["kind"]
    epoch = None if kind in ("cancelled", "deleted") else entry["epoch"]
    said = entry["detail"].get("state") if kind == "step" else None
    return kind, entry["message"], epoch, said


class Journals:
    """What the journals of some regions say of a session."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._by_name: dict[tuple[Any, ...], list[Entry]] = {}
        for entry in entries:
            self._by_name.setdefault(_name(entry), []).append(entry)

    def complete(self, entry: Entry) -> Entry:
        """An entry of the state, with the time and the region of who admitted it; the journal's own
        is then told."""
        found = self._by_name.pop(_name(entry), [])
        if not found or entry["kind"] in _TIMED:
            return entry
        first = min(found, key=lambda one: one["at_ms"])
        detail = {**first["detail"], **entry["detail"]}
        return {**entry, "at_ms": first["at_ms"], "region": first["region"], "detail": detail}

    def rest(self) -> Iterator[Entry]:
        """What the state does not say."""
        for entries in self._by_name.values():
            yield from entries


def _after(at_ms: int | None) -> int:
    """Where something stands of which only the wall time is known: after all of that moment."""
    return min(max(at_ms or 0, 0) << 16 | 0xFFFF, 2**64 - 1)


def _by_time(entry: Entry) -> Placed:
    """Of which a journal knows the time: the same place whether its message is at hand or not."""
    kind = entry["kind"]
    rank = _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
    return _placed(entry, _after(entry["at_ms"]), rank)


def _placed(entry: Entry, reading: int, rank: int) -> Placed:
    name = [str(entry[field]) for field in ("kind", "message", "epoch", "region", "at_ms")]
    tag = digest(4, *name).hex()
    return Placed(f"{reading:016x}.{min(rank, 9_999):04d}.{tag}", reading, entry)


def _place(message: Message, journals: Journals) -> Iterator[Placed]:
    header = message.header
    last = 0 if header is None else header.created
    is_run = header is not None and header.run is not None
    for rank, entry in enumerate(of_message(message)):
        whole = journals.complete(entry)
        whole["run"] = message.id if is_run else None
        if rank and whole["at_ms"] is not None:
            yield (placed := _by_time(whole))
            last = max(last, placed.reading)
        else:
            yield _placed(whole, last, rank)


def checked(entries: object) -> list[Entry]:
    """The entries of a peer's journal; what is none is left out."""
    if not isinstance(entries, list):
        return []
    return [
        {**dict.fromkeys(_FIELDS), **entry}
        for entry in entries
        if isinstance(entry, dict)
        and type(entry.get("at_ms")) is int
        and isinstance(entry.get("kind"), str)
        and isinstance(entry.get("detail"), dict)
    ]


def timeline(
    session: Session | None, journal: Iterable[Entry], before: str | None, limit: int
) -> dict[str, Any]:
    """A page of it, the newest first; ``next`` goes on after it. Raises ``Refusal``
    ``invalid_query`` for a ``before`` that no page has given."""
    if before is not None and _KEY.match(before) is None:
        raise Refusal("invalid_query", "before must be as the last page gave it", field="before")
    journals = Journals(journal)
    found: list[Placed] = []
    floor, more = -1, False
    if session is not None and session.deleted:
        gone = journals.complete(_entry("deleted", "", None) | {"message": None})
        found.append(_by_time(gone))
    elif session is not None:
        serial = None
        if before is not None:
            serial = f"{int(before[:_READING_CHARS], 16) + 1:016x}"
        ids, more = session.messages.page(serial, TIMELINE_MESSAGES_MAX)
        messages = [m for m in map(session.messages.look, ids) if m is not None]
        for message in messages:
            found += _place(message, journals)
        if more and messages and messages[0].header is not None:
            floor = messages[0].header.created
    found += map(_by_time, journals.rest())
    found = [one for one in found if one.reading >= floor and (before is None or one.key < before)]
    found.sort(key=lambda one: one.key, reverse=True)
    page = found[:limit]
    has_more = bool(page) and (more or len(found) > limit)
    return {"entries": [one.entry for one in page], "next": page[-1].key if has_more else None}
