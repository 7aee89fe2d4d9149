"""What a region accepts from its clients, and as which operations.

Rule of this file: it looks at a session and never changes it. Each function either raises
``Refusal`` or says which operations are to be logged; an empty list means that everything is here
already (a retry). What has been admitted in the same batch and is not yet on disk is given as
``Pending``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

from perdure.replication.errors import Refusal
from perdure.replication.hlc import HybridClock, check_after
from perdure.replication.ids import (
    NO_PRODUCER,
    LaneKey,
    canonical,
    check_claim_id,
    check_id,
    check_role,
    claim_epoch,
    claim_tag,
    complete_epoch,
    derived_message_id,
    open_epoch,
)
from perdure.replication.items import End, Entry, chain_digest, entry_bytes, make_items
from perdure.replication.limits import ITEMS_BYTES_TARGET, METADATA_BYTES_MAX, METADATA_KEYS_MAX
from perdure.replication.message import Message
from perdure.replication.operations import (
    Cancel,
    Claim,
    Create,
    Delete,
    Header,
    Items,
    Metadata,
    Open,
    Operation,
    stamped,
)
from perdure.replication.session import Session

_UNKNOWN_EPOCH = (
    "this region does not know the message or the epoch: repeat the open (or claim) with its header"
)


@dataclass(frozen=True)
class Draft:
    """A message as a client asks for it; ``text`` None opens a streaming one."""

    role: str
    id: str | None = None
    text: str | None = None
    author: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    after: str | None = None
    replaces: str | None = None
    producer: str | None = None
    claim_id: str | None = None
    idempotency_key: str | None = None
    # The run that it is addressed to.
    run: str | None = None


class Admission(NamedTuple):
    """What to log, and what it is about."""

    operations: list[Operation]
    message: str
    lane: LaneKey
    duplicates: int = 0


# Entries admitted in this batch and not yet on disk, by (message, lane).
Pending = dict[tuple[str, LaneKey], tuple[Entry, ...]]


class Site(NamedTuple):
    """Where something is admitted: the region's name, its clock, and the wall time."""

    region: str
    clock: HybridClock
    now_ms: int


def check_metadata(values: dict[str, Any], field_name: str = "metadata") -> str:
    """The canonical text of metadata within its limits."""
    text = canonical(values)
    if len(values) > METADATA_KEYS_MAX:
        raise Refusal(
            "too_large", "too many metadata keys", field=field_name, limit_items=METADATA_KEYS_MAX
        )
    if len(text.encode()) > METADATA_BYTES_MAX:
        raise Refusal(
            "too_large", "metadata is too large", field=field_name, limit_bytes=METADATA_BYTES_MAX
        )
    return text


def check_live(session: Session, message: str | None = None) -> None:
    """``Refusal`` ``deleted`` when the session or the message is gone."""
    if session.deleted:
        raise Refusal("deleted", "this session was deleted")
    if message is not None and session.messages.is_buried(message):
        raise Refusal("deleted", "this message was deleted")


def admit_create(session: Session, metadata: dict[str, Any], site: Site) -> list[Operation]:
    """Create the session; nothing when it exists."""
    check_live(session)
    text = check_metadata(metadata)
    if session.exists:
        return []
    return [Create(session.id, site.clock.tick(site.now_ms), site.region, text)]


def admit_metadata(session: Session, patch: dict[str, Any], site: Site) -> list[Operation]:
    """Set keys of the metadata; ``null`` deletes. The whole must stay within its limits."""
    check_live(session)
    text = check_metadata(patch)
    merged = {**session.metadata(), **patch}
    check_metadata({key: value for key, value in merged.items() if value is not None})
    if not patch:
        return []
    return [Metadata(session.id, site.clock.tick(site.now_ms), site.region, text)]


def admit_delete(session: Session, message: str | None) -> list[Operation]:
    """Delete the message, or the session."""
    check_live(session, message)
    return [Delete(session.id, message)]


def admit_message(session: Session, draft: Draft, site: Site) -> Admission:
    """A complete message, or a streaming one to be opened (PROTOCOL A.4)."""
    id_ = named(session, draft.id, draft.idempotency_key, "message")
    check_live(session, id_)
    metadata = check_metadata(draft.metadata)
    after = 0 if draft.after is None else check_after(draft.after, site.now_ms)
    entries = () if draft.text is None else (*make_items([draft.text], "text"), End("complete"))
    lane = _lane_of(session, draft, id_, metadata)
    header = Header(
        role=check_role(draft.role),
        author=None if draft.author is None else check_id(draft.author, "author"),
        created=0,
        lane=lane,
        metadata=metadata,
        replaces=None if draft.replaces is None else check_id(draft.replaces, "replaces"),
        entries=entries,
    )
    known = session.messages.get(id_)
    if known is not None and known.header is not None:
        if known.header.identity != header.identity:
            raise Refusal("conflict", f"message {id_} exists with another body")
        return Admission([], id_, lane)
    header = stamped(header, site.clock.tick(site.now_ms, after))
    return Admission([Open(session.id, id_, header)], id_, lane)


def named(session: Session, id_: str | None, key: str | None, what: str) -> str:
    """The id that a client gave, or one that is derived from its ``Idempotency-Key``."""
    if id_ is not None:
        return check_id(id_, "id")
    if key is None:
        detail = f"give the {what} an id, or send an Idempotency-Key"
        raise Refusal("idempotency_key_required", detail)
    return derived_message_id(session.id, check_claim_id(key, "Idempotency-Key"))


def _lane_of(session: Session, draft: Draft, id_: str, metadata: str) -> LaneKey:
    if draft.text is not None:
        if draft.producer is not None or draft.claim_id is not None:
            raise Refusal(
                "invalid_body",
                "producer and claim_id open a streaming message; this one has text",
                field="producer" if draft.producer is not None else "claim_id",
            )
        body = canonical([draft.role, draft.author, draft.text, metadata, draft.replaces])
        return LaneKey(NO_PRODUCER, complete_epoch(session.id, id_, body))
    for name, value in (("producer", draft.producer), ("claim_id", draft.claim_id)):
        if value is None:
            raise Refusal("invalid_body", f"a streaming message needs {name}", field=name)
    producer = check_id(draft.producer, "producer")
    claim_id = check_claim_id(draft.claim_id)
    return LaneKey(producer, open_epoch(session.id, id_, producer, claim_id))


def admit_reopening(
    session: Session, operations: Sequence[Open | Claim | Items]
) -> Sequence[Operation]:
    """The operations of a sealed header that are not known here. They are as good as if a peer had
    sent them: also a header that this region knows a rival of is taken, for it may win."""
    first = operations[0]
    assert isinstance(first, Open)
    check_live(session, first.message)
    message = session.messages.get(first.message)
    return operations if message is None else [op for op in operations if not message.has(op)]


def admit_claim(
    session: Session, message_id: str, producer: str, claim_id: str, mode: str
) -> Admission:
    """Take a message over; ``not_found``, ``ended``, ``cancelled`` and ``deleted`` refuse it."""
    check_id(producer, "producer")
    check_claim_id(claim_id)
    if mode not in ("continue", "restart"):
        raise Refusal("invalid_body", "mode must be continue or restart", field="mode")
    check_live(session, message_id)
    message = session.visible(message_id)
    if message is None:
        raise Refusal("not_found", f"this region knows no message {message_id}")
    known = message.claim_of(producer, claim_id)
    if known is not None:
        return Admission([], message_id, known.lane)
    _check_claimable(message)
    return _make_claim(session, message, producer, claim_id, mode)


def _check_claimable(message: Message) -> None:
    shown, tip = message.shown, message.tip
    assert shown is not None and tip is not None
    end = message.lane(tip).end
    if end is not None:
        raise Refusal("ended", f"the message has ended ({end.status})")
    if message.is_cancelled(tip):
        raise Refusal("cancelled", "the message was cancelled")


def _make_claim(
    session: Session, message: Message, producer: str, claim_id: str, mode: str
) -> Admission:
    assert message.header is not None and message.shown is not None
    previous: LaneKey | None = None
    base = 0
    if mode == "continue":
        # What is contiguous here: the last run that shows something, and how much of it.
        for run in message.shown.runs:
            if run.take:
                previous, base = run.lane, run.take
    tag = claim_tag(session.id, message.id, producer, claim_id)
    lane = LaneKey(producer, claim_epoch(message.counter() + 1, tag, previous, base))
    claim = Claim(session.id, message.id, lane, tag, message.header.lane, previous, base)
    return Admission([claim], message.id, lane)


def admit_append(
    session: Session,
    message_id: str,
    lane: LaneKey,
    seq: int,
    entries: tuple[Entry, ...],
    pending: Pending,
) -> Admission:
    """Items, and perhaps the end, of a lane (the pseudo-code of PROTOCOL A.4)."""
    check_live(session, message_id)
    message = session.messages.get(message_id)
    held = message.lanes.get(lane) if message is not None else None
    if message is None or held is None or not message.knows_lane(lane):
        raise Refusal("unknown_epoch", _UNKNOWN_EPOCH)
    if message.lost_header(lane):
        raise Refusal("conflict", "another message won this id")
    waiting = pending.get((message_id, lane), ())
    try:
        admitted = held.admit(seq, entries, waiting)
    except Refusal as refusal:
        if refusal.code == "gap":
            _check_writable(message, lane)
        raise
    if not admitted.fresh:
        return Admission([], message_id, lane, admitted.duplicates)
    _check_writable(message, lane)
    before = held.digest_after(waiting)
    pending[(message_id, lane)] = waiting + admitted.fresh
    operations: list[Operation] = []
    seq = admitted.seq
    for entries in _cut(admitted.fresh):
        operations.append(Items(session.id, message_id, lane, seq, before, entries))
        if len(entries) < len(admitted.fresh):
            before = reduce(chain_digest, entries, before)
        seq += len(entries)
    return Admission(operations, message_id, lane, admitted.duplicates)


def _cut(entries: tuple[Entry, ...]) -> Iterator[tuple[Entry, ...]]:
    """Entries in pieces that a slow link can carry: about ``ITEMS_BYTES_TARGET``, at least one."""
    start = size = 0
    for at, entry in enumerate(entries):
        length = len(entry_bytes(entry))
        if at > start and size + length > ITEMS_BYTES_TARGET:
            yield entries[start:at]
            start, size = at, 0
        size += length
    yield entries[start:]


def _check_writable(message: Message, lane: LaneKey) -> None:
    if message.is_fenced(lane):
        raise Refusal("fenced", "a later claim took this message over")
    if message.is_cancelled(lane):
        raise Refusal("cancelled", "the message was cancelled")


def admit_cancel(session: Session, message_id: str) -> list[Operation]:
    """Mark the message cancelled; nothing when it has ended or is cancelled."""
    check_live(session, message_id)
    message = session.visible(message_id)
    if message is None:
        raise Refusal("not_found", f"this region knows no message {message_id}")
    assert message.shown is not None and message.header is not None
    if message.shown.status != "streaming":
        return []
    return [Cancel(session.id, message_id, message.header.lane)]
