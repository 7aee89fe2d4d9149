"""A message: headers, lanes, claims, cancels; and from them what it shows.

Rule of this file: what is shown is a pure function of the set of operations that have been applied.

- Of several headers the smallest (created, identity) wins; equal identities keep the smaller time.
- A cancel marks the header, and so every lane that hangs from it: also one that was claimed where
  the cancel was not yet known.
- Only claims of the winning header's lane count; which of them is said in ``claims.py``.
- The tip's chain of bases is what is shown: ``previous[:base] + this``. A chain with a missing link
  is not shown; a base that is not all here is shown as far as it is contiguous.
- An end in the tip's lane gives the status; else a cancel mark; else it is streaming.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from perdure.replication.claims import Chain, Claims, Link
from perdure.replication.hlc import serial, to_time
from perdure.replication.ids import LaneKey, claim_tag, digest, reader_tag, slot
from perdure.replication.items import DIGEST_BYTES, End, Item, entry_bytes
from perdure.replication.lane import Lane, Piece, Place, root_digest
from perdure.replication.limits import REOPENING_BASE_BYTES_MAX
from perdure.replication.operations import Cancel, Claim, Fork, Header, Items, OfRun, Open
from perdure.replication.parts import Assembly
from perdure.replication.records import Origin, Vector
from perdure.replication.shown import Run, Shown, Variant, is_prefix
from perdure.replication.turn import Turn
from perdure.replication.yjs import ClientCollision, LiveDocument

_DIGEST40_BYTES = 5


class Message:
    """All that is known of one message."""

    def __init__(self, session: str, id_: str) -> None:
        self.session = session
        self.id = id_
        self.slot = slot(id_)
        self.header: Header | None = None
        self.lanes = lanes = dict[LaneKey, Lane]()
        self.turn = turn = Turn()
        # By the lanes and not by a method of this object: without a cycle it is freed at once when
        # it leaves memory.
        self.claims = Claims(
            lambda key: key in turn.steps or (key in lanes and bool(lanes[key].entries))
        )
        # The first lanes of the headers that were cancelled.
        self.cancels: set[LaneKey] = set()
        # The newest lsn of each origin that told of this message: when all of them are on disk
        # everywhere, and the message is over, it is settled.
        self.reach: dict[Origin, int] = {}
        self.opened_at: Place | None = None
        self.shown: Shown | None = None
        self._headers: dict[bytes, Header] = {}
        # The times that regions gave to one header: more than one when an open was repeated at
        # another region before the first had told it.
        self._stamps: dict[bytes, set[int]] = {}
        self._chain: Chain = ()
        self._tag = 0
        self._assembly = Assembly()
        self._document: LiveDocument | None = None

    # Applying operations

    def apply_open(self, op: Open, place: Place | None) -> None:
        """Another header, or the same with another time."""
        self._reached(place)
        header = op.header
        self.opened_at = self.opened_at or place
        self._stamps.setdefault(header.identity, set()).add(header.created)
        known = self._headers.get(header.identity)
        if known is None or header.created < known.created:
            self._headers[header.identity] = header
        winner = min(self._headers.values(), key=lambda h: (h.created, h.identity))
        self.header = winner
        if header.entries:
            lane = self.lane(header.lane)
            before = root_digest(self.session, self.id, header.lane)
            lane.merge(Piece(0, before, header.entries))

    def apply_items(self, op: Items, place: Place | None, *, own: bool) -> None:
        """Entries of a lane; ``own`` when this region was the first to accept them."""
        self._reached(place)
        lane = self.lane(op.lane)
        if own and place is not None:
            lane.own(op.seq, place)
        generation, held = lane.generation, len(lane.entries)
        lane.merge(Piece(op.seq, op.before, op.entries))
        self._mirror(lane, held if lane.generation == generation else None)

    def apply_claim(self, op: Claim, place: Place | None) -> None:
        """A producer took over."""
        self._reached(place)
        self.claims.add(op)
        self.lane(op.lane)

    def apply_cancel(self, op: Cancel, place: Place | None) -> None:
        """A mark on a header, by its first lane; grows only."""
        self._reached(place)
        self.cancels.add(op.lane)

    def apply_fork(self, op: Fork) -> None:
        """Another region met two contents of one entry."""
        self.lane(op.lane).mark_fork(op.seq)

    def apply_of_run(self, op: OfRun, place: Place | None) -> None:
        """Something was said of the run that this message is."""
        self._reached(place)
        self.turn.apply(op)

    def stands(self, reach: Iterable[tuple[Origin, int]], opened_at: Place | None) -> None:
        """Where the operations stand that another region told this one of."""
        for origin, lsn in reach:
            self._reached(Place(origin, lsn))
        self.opened_at = self.opened_at or opened_at

    def _reached(self, place: Place | None) -> None:
        if place is not None and place.lsn > self.reach.get(place.origin, 0):
            self.reach[place.origin] = place.lsn

    def lane(self, key: LaneKey) -> Lane:
        """The lane of this key, made when it is new."""
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(self.session, self.id, key)
        return lane

    # What is shown

    @property
    def chain(self) -> Chain:
        """The lanes that make up the message, as :meth:`refresh` found them."""
        return self._chain

    @property
    def tip(self) -> LaneKey | None:
        """The lane that may grow the message, as :meth:`refresh` found it."""
        return self._chain[-1].lane if self._chain else None

    def counter(self) -> int:
        """The greatest epoch counter known of this message."""
        return max((key.epoch.counter for key in self.lanes), default=0)

    def claim_of(self, producer: str, claim_id: str) -> Claim | None:
        """The claim that this ``claim_id`` already made here."""
        assert self.header is not None
        tag = claim_tag(self.session, self.id, producer, claim_id)
        return self.claims.of_tag(self.header.lane, tag)

    def is_fenced(self, lane: LaneKey) -> bool:
        """Whether a later claim excludes new entries of the lane."""
        return self.header is not None and self.claims.fences(self.header.lane, lane)

    def has(self, op: Open | Claim | Items) -> bool:
        """Whether everything that the operation says is known."""
        match op:
            case Open():
                return op.header.created in self._stamps.get(op.header.identity, ())
            case Claim():
                return op.lane in self.claims
            case Items():
                lane = self.lanes.get(op.lane)
                return lane is not None and lane.holds(Piece(op.seq, op.before, op.entries))

    def knows_lane(self, lane: LaneKey) -> bool:
        """Whether the lane was opened or claimed here; items alone do not make it known."""
        return lane in self.claims or any(h.lane == lane for h in self._headers.values())

    def is_cancelled(self, lane: LaneKey) -> bool:
        """Whether the header that the lane hangs from was cancelled."""
        return self.claims.root_of(lane) in self.cancels

    def lost_header(self, lane: LaneKey) -> bool:
        """Whether the lane was opened by a header that lost, or claimed from one."""
        root = self.claims.root_of(lane)
        if self.header is None or root == self.header.lane:
            return False
        return any(header.lane == root for header in self._headers.values())

    def runs_of(self, chain: Chain) -> tuple[Run, ...]:
        """What is here of the items of a chain."""
        runs: list[Run] = []
        for link in chain:
            lane = self.lane(link.lane)
            count = lane.count if link.take is None else min(lane.count, link.take)
            runs.append(Run(link.lane, lane.generation, count))
            # What is missing of a base will arrive; but a lane with two contents may have lost
            # the branch that was claimed, and then the rest of the base never comes.
            if link.take is not None and count < link.take and not lane.forked:
                break
        return tuple(runs)

    def status_of(self, chain: Chain, runs: tuple[Run, ...]) -> str:
        """The status under the winning header, for a chain of which so much is here."""
        assert self.header is not None
        end = self.lane(chain[-1].lane).end
        if end is not None and len(runs) == len(chain):
            return end.status
        return "cancelled" if self.header.lane in self.cancels else "streaming"

    def _forked_at(self, runs: tuple[Run, ...]) -> int | None:
        offset = 0
        for run in runs:
            forked_at = self.lane(run.lane).forked_at
            if forked_at is not None and forked_at <= run.take:
                return offset + forked_at
            offset += run.take
        return None

    def refresh(self) -> tuple[Shown | None, Shown | None]:
        """Bring what is shown up to date; (before, now). None: no header is known."""
        before = self.shown
        if self.header is None:
            return before, None
        self._chain = self.claims.chain(self.header.lane)
        runs = self.runs_of(self._chain)
        if before is None or not is_prefix(before.runs, runs):
            self._assembly = Assembly()
        for item in self.items_of(runs, self._assembly.length):
            self._assembly.push(item)
        self.shown = Shown(
            runs=runs,
            length=self._assembly.length,
            status=self.status_of(self._chain, runs),
            header=self.header.identity,
            created=self.header.created,
            forks=sum(self.lane(run.lane).quarantined for run in runs),
            forked_at=self._forked_at(runs),
        )
        self._tag = reader_tag(self._chain[-1].lane, self.shown.header, self.shown.created)
        if self.shown.status != "streaming":
            self._document = None
        return before, self.shown

    def items_of(self, runs: tuple[Run, ...], start: int) -> list[Item]:
        """Those items, from the ``start``-th on."""
        items: list[Item] = []
        offset = 0
        for run in runs:
            entries = self.lane(run.lane).entries[max(0, start - offset) : run.take]
            items += [entry for entry in entries if not isinstance(entry, End)]
            offset += run.take
        return items

    def items(self, start: int) -> list[Item]:
        """The shown items from ``start`` on."""
        return self.items_of(self.shown.runs, start) if self.shown else []

    @property
    def is_over(self) -> bool:
        """Whether nothing more is expected: ended or cancelled, and all of its base is here."""
        shown = self.shown
        whole = shown is not None and len(shown.runs) == len(self._chain)
        return whole and shown is not None and shown.status != "streaming"

    @property
    def has_end(self) -> bool:
        """Whether an end is shown (and not a cancel mark alone)."""
        return self.is_over and self.lane(self._chain[-1].lane).end is not None

    @property
    def is_open_run(self) -> bool:
        """Whether it is a run that is not over."""
        is_run = self.header is not None and self.header.run is not None
        return is_run and self.shown is not None and self.shown.status == "streaming"

    @property
    def assembly(self) -> Assembly:
        """The shown items as parts."""
        return self._assembly

    # Names and values

    @property
    def serial(self) -> str:
        """The sort key; only messages with a header have one."""
        assert self.header is not None
        return serial(self.header.created, self.id)

    def tag(self) -> int:
        """The 32-bit name, in cursors, of what is shown now."""
        return self._tag

    def variants(self) -> dict[int, Variant]:
        """Everything that a cursor's tag may name here."""
        found: dict[int, Variant] = {}
        for header in self._headers.values():
            claimed = self.claims.lanes_of(header.lane)
            for created in self._stamps[header.identity]:
                for lane in (header.lane, *claimed):
                    variant = Variant(lane, header.identity, created)
                    found[reader_tag(*variant)] = variant
        return found

    def content(self) -> bytes:
        """A digest of what is shown, by content and never by form. It covers where the message
        forked, so that a sum made before the fork was known matches no more."""
        return digest(_DIGEST40_BYTES, *self._content())

    def headers(self) -> list[tuple[Header, list[int]]]:
        """Every header that is known, with the times that regions gave to it."""
        return [(header, sorted(self._stamps[id_])) for id_, header in self._headers.items()]

    def whole(self) -> bytes:
        """A digest of everything that regions must agree on, shown or not: equal digests mean that
        no operation is known to one region alone (but for the branch that lost of a lane with two
        contents)."""
        parts = [f"{h.identity.hex()} {stamps}" for h, stamps in self.headers()]
        parts += [str(claim.lane) for claim in self.claims.all()]
        parts += [f"cancel {lane}" for lane in self.cancels]
        parts += self.turn.parts()
        for key, lane in self.lanes.items():
            if count := len(lane.entries):
                parts.append(f"{key} {count} {lane.digest_at(count).hex()} {lane.forked_at}")
            # Of a lane with two contents, what waits may stand on the branch that lost.
            if not lane.forked:
                parts += [f"{key} waits {piece.digest().hex()}" for piece in lane.pieces_parked]
        return digest(DIGEST_BYTES, self.id, *sorted(parts))

    def _content(self) -> list[str | bytes]:
        shown = self.shown
        assert shown is not None
        parts = [self.lane(run.lane).digest_at(run.take) for run in shown.runs if run.take]
        numbers = f"{shown.created} {shown.forked_at}"
        return [self.id, shown.header, shown.status, numbers, *parts]

    def value(self) -> dict[str, Any]:
        """The message as PROTOCOL A.3 shows it."""
        assert self.header is not None and self.shown is not None
        value: dict[str, Any] = {
            "id": self.id,
            "serial": self.serial,
            "role": self.header.role,
            "author": self.header.author,
            "status": self.shown.status,
            "text": self._assembly.text(),
            "parts": self._assembly.parts(),
            "length": self.shown.length,
            "created": to_time(self.header.created),
            "metadata": json.loads(self.header.metadata),
        }
        if self.header.replaces is not None:
            value["replaces"] = self.header.replaces
        return value

    def reopening(self, lane: LaneKey, stable: Vector) -> list[Open | Claim | Items]:
        """The operations that make another region know this message and a lane of it: its header's
        open, the claims of its chain, and what of the base may be on no other disk yet. (The base
        is no part of the claiming producer's own buffer, so else nobody could repeat it.)"""
        assert self.header is not None
        root = self.claims.root_of(lane)
        headers = (header for header in self._headers.values() if header.lane == root)
        operations: list[Open | Claim | Items]
        operations = [Open(self.session, self.id, next(headers, self.header))]
        chain = self.claims.chain_of(lane) or (Link(lane, None),)
        operations += [self.claims[link.lane] for link in chain if link.lane in self.claims]
        base = list(self._unstable_base(chain, stable))
        size = sum(len(entry_bytes(entry)) for items in base for entry in items.entries)
        return [*operations, *base] if size <= REOPENING_BASE_BYTES_MAX else operations

    def _unstable_base(self, chain: Chain, stable: Vector) -> Iterator[Items]:
        for link in chain[:-1]:
            lane = self.lane(link.lane)
            start, stop = lane.stable_entries(stable), min(link.take or 0, lane.count)
            if entries := tuple(lane.entries[start:stop]):
                before = lane.digest_at(start)
                yield Items(self.session, self.id, link.lane, start, before, entries)

    # The sequence as a Yjs document

    def document(self) -> LiveDocument:
        """The message as a Yjs document; kept while it is live, rebuilt from the lanes else.

        Raises :class:`ClientCollision` when two lanes cannot stand in one document.
        """
        if self._document is None:
            document = LiveDocument()
            for lane in sorted(self.lanes.values(), key=lambda lane: lane.key.epoch):
                self._insert(document, lane, 0)
            self._document = document
        return self._document

    def _mirror(self, lane: Lane, start: int | None) -> None:
        """Keep the live document in step; ``start`` None: entries were replaced, begin anew."""
        if start is None or self._document is None:
            self._document = None
            start = len(lane.entries)
        try:
            self._insert(self.document(), lane, start)
        except ClientCollision:
            # 2^-53 a pair of lanes. Reading never depends on the document.
            self._document = None

    def _insert(self, document: LiveDocument, lane: Lane, start: int) -> None:
        claim = self.claims.get(lane.key)
        base = (claim.previous, claim.base) if claim and claim.previous else None
        if entries := tuple(lane.entries[start:]):
            document.insert(lane.key, start, entries, base)
