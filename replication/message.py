"""A message: headers, lanes, claims, cancels; and from them what it shows.

Rule of this file: what is shown is a pure function of the set of operations that have been applied.

- Of several headers the smallest (created, identity) wins; equal identities keep the smaller time.
- Only claims of the winning header's lane count. Of the epochs of one claim (one tag), one that has
  entries wins over one that has none: the other is the answer of a region that died before telling
  anyone. Of different claims the greater epoch wins.
- The tip's chain of bases is what is shown: ``previous[:base] + this``. A chain with a missing link
  is not shown; a base that is not all here is shown as far as it is contiguous.
- An end in the tip's lane gives the status; else a cancel mark on it; else it is streaming.
"""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from perdure.replication.hlc import serial, to_time
from perdure.replication.ids import LaneKey, claim_tag, digest, lane_tag
from perdure.replication.items import DIGEST_BYTES, End, Item
from perdure.replication.lane import Lane, Piece, Place, root_digest
from perdure.replication.operations import Cancel, Claim, Header, Items, Open
from perdure.replication.parts import Assembly
from perdure.replication.yjs import ClientCollision, LiveDocument

_DIGEST40_BYTES = 5


class Link(NamedTuple):
    """One lane of the chain; ``take`` items of it are kept, None for all (the tip)."""

    lane: LaneKey
    take: int | None


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
    # How many branches lost, and how many times the message was given: what a reader of any of
    # them must be told again.
    forks: int
    stamps: int


class Message:
    """All that is known of one message."""

    def __init__(self, session: str, id_: str) -> None:
        self.session = session
        self.id = id_
        self.header: Header | None = None
        self.lanes: dict[LaneKey, Lane] = {}
        self.claims: dict[LaneKey, Claim] = {}
        self.cancels: set[LaneKey] = set()
        # The lane that was ended or cancelled, and the place of the first operation that did it:
        # when that is on disk everywhere, the message is settled.
        self.ended_at: tuple[LaneKey, Place] | None = None
        self.opened_at: Place | None = None
        self.shown: Shown | None = None
        self._headers: dict[bytes, Header] = {}
        # The times that regions gave to one header: more than one when an open was repeated at
        # another region before the first had told it.
        self._stamps: dict[bytes, set[int]] = {}
        self._chain: tuple[Link, ...] = ()
        self._assembly = Assembly()
        self._document: LiveDocument | None = None

    # Applying operations

    def apply_open(self, op: Open, place: Place) -> None:
        """Another header, or the same with another time."""
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
        self._note_end(header.lane, place)

    def apply_items(self, op: Items, place: Place, *, own: bool) -> None:
        """Entries of a lane; ``own`` when this region was the first to accept them."""
        lane = self.lane(op.lane)
        if own:
            lane.own(op.seq, place)
        generation, held = lane.generation, len(lane.entries)
        lane.merge(Piece(op.seq, op.before, op.entries))
        self._mirror(lane, held if lane.generation == generation else None)
        if op.entries and isinstance(op.entries[-1], End):
            self._note_end(op.lane, place)

    def apply_claim(self, op: Claim) -> None:
        """A producer took over. The epoch names all fields, so one epoch is one claim."""
        self.claims.setdefault(op.lane, op)
        self.lane(op.lane)

    def apply_cancel(self, op: Cancel, place: Place) -> None:
        """A mark on a lane; grows only."""
        self.cancels.add(op.lane)
        self._note_end(op.lane, place)

    def _note_end(self, lane: LaneKey, place: Place) -> None:
        ended = lane in self.cancels or self.lane(lane).end is not None
        if ended and (self.ended_at is None or self.ended_at[0] != lane):
            self.ended_at = (lane, place)

    def lane(self, key: LaneKey) -> Lane:
        """The lane of this key, made when it is new."""
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(self.session, self.id, key)
        return lane

    # What is shown

    @property
    def tip(self) -> LaneKey | None:
        """The lane that may grow the message, as :meth:`refresh` found it."""
        return self._chain[-1].lane if self._chain else None

    def fence(self) -> Claim | None:
        """The greatest claim that counts, also one whose chain is not all here."""
        claims = self._representatives()
        return max(claims, key=lambda claim: claim.lane.epoch, default=None)

    def counter(self) -> int:
        """The greatest epoch counter known of this message."""
        return max((key.epoch.counter for key in self.lanes), default=0)

    def claim_of(self, producer: str, claim_id: str) -> Claim | None:
        """The claim that this ``claim_id`` already made here."""
        tag = claim_tag(self.session, self.id, producer, claim_id)
        return next((claim for claim in self._representatives() if claim.tag == tag), None)

    def is_fenced(self, lane: LaneKey) -> bool:
        """Whether a later claim excludes new entries of the lane.

        A lane whose own claim was carried out twice is not fenced by its twin while neither has
        entries: the producer knows only one of them, and shows which by writing.
        """
        fence = self.fence()
        if fence is None or fence.lane == lane:
            return False
        mine = self.claims.get(lane)
        if mine is not None and mine.tag == fence.tag:
            twin = self.lanes.get(fence.lane)
            return twin is not None and bool(twin.entries)
        return True

    def knows(self, header: Header) -> bool:
        """Whether this header, whatever its time, has been applied."""
        return header.identity in self._headers

    def knows_lane(self, lane: LaneKey) -> bool:
        """Whether the lane was opened or claimed here; items alone do not make it known."""
        return lane in self.claims or any(h.lane == lane for h in self._headers.values())

    def waits(self, lane: LaneKey) -> bool:
        """Whether the lane's claim would be the tip, were its chain all here."""
        tip = self._chain[-1].lane if self._chain else None
        claims = [claim.lane for claim in self._representatives()]
        return lane in claims and lane != tip and (tip not in claims or tip.epoch < lane.epoch)

    def lost_header(self, lane: LaneKey) -> bool:
        """Whether the lane was opened by a header that lost, or claimed from one."""
        if self.header is None or lane == self.header.lane:
            return False
        claim = self.claims.get(lane)
        root = claim.root if claim else lane
        return root != self.header.lane and any(h.lane == root for h in self._headers.values())

    def _representatives(self) -> list[Claim]:
        """One claim for each tag, of those that continue the winning header."""
        root = self.header.lane if self.header else None
        best: dict[int, Claim] = {}
        for claim in self.claims.values():
            if claim.root == root:
                known = best.get(claim.tag)
                if known is None or self._claim_rank(claim) > self._claim_rank(known):
                    best[claim.tag] = claim
        return list(best.values())

    def _claim_rank(self, claim: Claim) -> tuple[bool, tuple[int, int]]:
        lane = self.lanes.get(claim.lane)
        return bool(lane and lane.entries), claim.lane.epoch

    def _find_chain(self) -> tuple[Link, ...]:
        if self.header is None:
            return ()
        claims = sorted(self._representatives(), key=lambda c: c.lane.epoch, reverse=True)
        for claim in claims:
            chain = self._chain_of(claim)
            if chain is not None:
                return chain
        return (Link(self.header.lane, None),)

    def _chain_of(self, tip: Claim) -> tuple[Link, ...] | None:
        """The chain down to the root; None while a link is missing."""
        links = [Link(tip.lane, None)]
        claim: Claim | None = tip
        while claim is not None and claim.previous is not None:
            links.append(Link(claim.previous, claim.base))
            if claim.previous == claim.root:
                break
            # Counters rise along a chain, so this walk ends; a forged cycle is cut here.
            before, claim = claim, self.claims.get(claim.previous)
            if claim is None or claim.lane.epoch.counter >= before.lane.epoch.counter:
                return None
        return tuple(reversed(links))

    def _runs(self) -> tuple[Run, ...]:
        runs: list[Run] = []
        for link in self._chain:
            lane = self.lane(link.lane)
            count = lane.count if link.take is None else min(lane.count, link.take)
            runs.append(Run(link.lane, lane.generation, count))
            # What is missing of a base will arrive; but a lane with two contents may have lost
            # the branch that was claimed, and then the rest of the base never comes.
            if link.take is not None and count < link.take and not lane.forked:
                break
        return tuple(runs)

    def _status(self, runs: tuple[Run, ...]) -> str:
        if len(runs) < len(self._chain):
            return "streaming"
        tip = self._chain[-1].lane
        end = self.lane(tip).end
        if end is not None:
            return end.status
        return "cancelled" if tip in self.cancels else "streaming"

    def refresh(self) -> tuple[Shown | None, Shown | None]:
        """Bring what is shown up to date; (before, now). None: no header is known."""
        before = self.shown
        self._chain = self._find_chain()
        if self.header is None:
            return before, None
        runs = self._runs()
        if before is None or not is_prefix(before.runs, runs):
            self._assembly = Assembly()
        for item in self._items_from(runs, self._assembly.length):
            self._assembly.push(item)
        self.shown = Shown(
            runs=runs,
            length=self._assembly.length,
            status=self._status(runs),
            header=self.header.identity,
            created=self.header.created,
            forks=sum(self.lane(run.lane).quarantined for run in runs),
            stamps=len(self._stamps[self.header.identity]),
        )
        if self.shown.status != "streaming":
            self._document = None
        return before, self.shown

    def _items_from(self, runs: tuple[Run, ...], start: int) -> list[Item]:
        items: list[Item] = []
        offset = 0
        for run in runs:
            entries = self.lane(run.lane).entries[max(0, start - offset) : run.take]
            items += [entry for entry in entries if not isinstance(entry, End)]
            offset += run.take
        return items

    def items(self, start: int) -> list[Item]:
        """The shown items from ``start`` on."""
        return self._items_from(self.shown.runs, start) if self.shown else []

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
        """The tip's 32-bit name in cursors."""
        return lane_tag(self._chain[-1].lane)

    def content(self) -> bytes:
        """A digest of what is shown and its status, by content and never by form."""
        assert self.shown is not None
        parts = [self.lane(run.lane).digest_at(run.take) for run in self.shown.runs if run.take]
        created = str(self.shown.created)
        return digest(_DIGEST40_BYTES, self.id, self.shown.status, created, *parts)

    def whole(self) -> bytes:
        """A digest of everything that regions must agree on, for ``verify``."""
        assert self.header is not None
        return digest(DIGEST_BYTES, self.header.identity, self.content())

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
            "metadata": _parse(self.header.metadata),
        }
        if self.header.replaces is not None:
            value["replaces"] = self.header.replaces
        return value

    def reopening(self) -> list[Open | Claim]:
        """The operations that make another region know this message and its tip: its header's
        open and the claims of the chain."""
        assert self.header is not None
        operations: list[Open | Claim] = [Open(self.session, self.id, self.header)]
        operations += [self.claims[link.lane] for link in self._chain if link.lane in self.claims]
        return operations

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
        entries = tuple(lane.entries[start:])
        claim = self.claims.get(lane.key)
        base = (claim.previous, claim.base) if claim and claim.previous else None
        if entries:
            document.insert(lane.key, start, entries, base)


def is_prefix(old: tuple[Run, ...], new: tuple[Run, ...]) -> bool:
    """Whether what was shown by ``old`` is the beginning of what ``new`` shows."""
    old = tuple(run for run in old if run.take)
    new = tuple(run for run in new if run.take)
    if len(old) > len(new) or any(a != b for a, b in zip(old[:-1], new, strict=False)):
        return False
    if not old:
        return True
    last, other = old[-1], new[len(old) - 1]
    return last[:2] == other[:2] and last.take <= other.take


def _parse(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    return value
