"""A small model of the rules: one message, several regions, agents and readers.

It shares no code with the product. A region is a set of operations on a disk; what it shows is a
pure function of that set (``render``). Wrong rules can be switched on by name, to show that the
checks would notice.
"""

from dataclasses import dataclass, field
from typing import NamedTuple
from zlib import crc32

WRONG_RULES = (
    "named_by_region",
    "shared_cursor_in_hold",
    "no_hold",
    "reopening_mints",
    "fork_item_by_item",
    "twin_claims_by_epoch",
    "buffer_until_accepted",
    "base_forgotten",
    "cancel_takes_text_back",
)


class Lane(NamedTuple):
    """A lane's name; ``counter`` first, so that lanes order as epochs do."""

    counter: int
    nonce: int
    agent: str


@dataclass(frozen=True)
class Open:
    lane: Lane


@dataclass(frozen=True)
class Item:
    lane: Lane
    seq: int
    token: str
    # What stood before it in the mind of who wrote it: names a branch when a lane forks.
    before: int


@dataclass(frozen=True)
class End:
    lane: Lane
    seq: int


@dataclass(frozen=True)
class Claim:
    lane: Lane
    tag: int
    previous: Lane | None
    base: int


@dataclass(frozen=True)
class Cancel:
    lane: Lane


Op = Open | Item | End | Claim | Cancel


class Shown(NamedTuple):
    """What a region shows: tokens, how many of them each lane of the chain gave, the status."""

    tokens: tuple[str, ...]
    runs: tuple[tuple[Lane, int], ...]
    status: str


def branch_hash(before: int, token: str) -> int:
    """The running digest of a lane's branch."""
    return crc32(f"{before}/{token}".encode())


def is_forked(ops: set[Op], lane: Lane, below: int) -> bool:
    """Whether two contents of one seq below this are known."""
    seqs = [op.seq for op in ops if isinstance(op, Item) and op.lane == lane]
    return any(seqs.count(seq) > 1 for seq in range(max(0, below)))


def lane_tokens(ops: set[Op], lane: Lane, wrong: str | None) -> tuple[str, ...]:
    """The path through the lane's tree: at every branching the smaller hash wins."""
    tokens: list[str] = []
    before = 0
    while True:
        here = [op for op in ops if isinstance(op, Item) and op.lane == lane]
        here = [op for op in here if op.seq == len(tokens)]
        if wrong != "fork_item_by_item":
            here = [op for op in here if op.before == before]
        if not here:
            return tuple(tokens)
        winner = min(here, key=lambda op: branch_hash(7, op.token))
        before = branch_hash(before, winner.token)
        tokens.append(winner.token)


def tips(ops: set[Op], wrong: str | None) -> list[Claim]:
    """The claims that count, the winner first: one for each tag, written ones before empty ones."""
    best: dict[int, tuple[tuple[bool, Lane], Claim]] = {}
    for op in ops:
        if isinstance(op, Claim):
            written = any(isinstance(o, Item | End) and o.lane == op.lane for o in ops)
            rank = (written and wrong != "twin_claims_by_epoch", op.lane)
            if op.tag not in best or rank > best[op.tag][0]:
                best[op.tag] = (rank, op)
    return sorted((claim for _, claim in best.values()), key=lambda c: c.lane, reverse=True)


def render(ops: set[Op], wrong: str | None = None) -> Shown | None:
    """What these operations show; None while no open is among them."""
    opens = [op.lane for op in ops if isinstance(op, Open)]
    if not opens:
        return None
    root = min(opens)
    by_lane = {op.lane: op for op in ops if isinstance(op, Claim)}
    chain: list[tuple[Lane, int | None]] = [(root, None)]
    for claim in tips(ops, wrong):
        links: list[tuple[Lane, int | None]] = [(claim.lane, None)]
        at: Claim | None = claim
        while at is not None and at.previous is not None:
            base = None if wrong == "base_forgotten" else at.base
            links.append((at.previous, base))
            if at.previous == root:
                break
            at = by_lane.get(at.previous)
        if at is not None:
            chain = links[::-1]
            break
    tokens: list[str] = []
    runs: list[tuple[Lane, int]] = []
    for lane, take in chain:
        held = lane_tokens(ops, lane, wrong)
        used = held if take is None else held[:take]
        tokens += used
        runs.append((lane, len(used)))
        if take is not None and len(used) < take and not is_forked(ops, lane, take):
            return Shown(tuple(tokens), tuple(runs), "streaming")
    tip = chain[-1][0]
    status = "streaming"
    if Cancel(tip) in ops:
        status = "cancelled"
        if wrong == "cancel_takes_text_back":
            tokens, runs = [], [(tip, 0)]
    if any(isinstance(op, End) and op.lane == tip and op.seq == runs[-1][1] for op in ops):
        status = "complete"
    return Shown(tuple(tokens), tuple(runs), status)


@dataclass
class Region:
    """A region: ``disk`` survives a kill; nothing else does."""

    name: str
    disk: set[Op] = field(default_factory=set)
    alive: bool = True
    wrong: str | None = None

    def shown(self) -> Shown | None:
        return render(self.disk, self.wrong)

    def knows(self, lane: Lane) -> bool:
        return any(isinstance(op, Open | Claim) and op.lane == lane for op in self.disk)

    def fenced(self, lane: Lane) -> bool:
        claims = tips(self.disk, self.wrong)
        if not claims or claims[0].lane == lane:
            return False
        mine = next((op for op in self.disk if isinstance(op, Claim) and op.lane == lane), None)
        if mine is not None and mine.tag == claims[0].tag:
            winner = claims[0].lane
            return any(isinstance(op, Item | End) and op.lane == winner for op in self.disk)
        return True

    def forked(self, lane: Lane, below: int) -> bool:
        """Whether the reader may have another content than this region."""
        return is_forked(self.disk, lane, below)

    def append(self, lane: Lane, seq: int, tokens: list[str], end: bool) -> tuple[str, int]:
        """The acceptance rule of the protocol: (outcome, next)."""
        if not self.knows(lane):
            return "unknown_epoch", 0
        held = lane_tokens(self.disk, lane, self.wrong)
        ended = any(isinstance(op, End) and op.lane == lane for op in self.disk)
        overlap = tokens[: max(0, len(held) - seq)]
        if tuple(overlap) != held[seq : seq + len(overlap)]:
            return "conflict", len(held)
        fresh = tokens[len(overlap) :]
        finish = end and not ended
        if not fresh and not finish:
            return "ok", len(held)
        if ended:
            return "ended", len(held)
        if self.fenced(lane):
            return "fenced", len(held)
        if Cancel(lane) in self.disk:
            return "cancelled", len(held)
        if seq + len(overlap) > len(held):
            return "gap", len(held)
        before = 0
        for token in held:
            before = branch_hash(before, token)
        for token in fresh:
            self.disk.add(Item(lane, len(held), token, before))
            before = branch_hash(before, token)
            held += (token,)
        if finish:
            self.disk.add(End(lane, len(held)))
        return "ok", len(held)


@dataclass
class Agent:
    """A producer. ``base`` is the text that its claim answered with."""

    name: str
    lane: Lane | None = None
    base: tuple[str, ...] = ()
    tokens: list[str] = field(default_factory=list)
    stable: int = 0
    ended: bool = False
    stopped: str | None = None
    known_at: list[Op] = field(default_factory=list)

    @property
    def text(self) -> tuple[str, ...]:
        return (*self.base, *self.tokens)


class Cursor(NamedTuple):
    """Where a reader stands: ``length`` tokens shown, the last lane, the status it was told."""

    lane: Lane
    length: int
    status: str


@dataclass
class Reader:
    """A reader and what it has been shown."""

    cursor: Cursor | None = None
    text: tuple[str, ...] = ()
    announced: int = 0
    holding: bool = False

    def look(self, region: Region, wrong: str | None, *, expired: bool = False) -> None:
        """Everything that the region would send now (resume, or live: it is the same rule)."""
        shown = region.shown()
        if self.cursor is None:
            if shown is not None:
                self._take(shown.tokens, shown, announced=False)
            return
        verdict = judge(region, shown, self.cursor, wrong)
        self.holding = verdict == "hold"
        if verdict == "hold":
            if wrong == "shared_cursor_in_hold" and shown is not None:
                status = shown.status
                self.cursor = Cursor(shown.runs[-1][0], len(shown.tokens), status)
            if expired and shown is not None:
                self._take(shown.tokens, shown, announced=True)
            return
        assert shown is not None
        if verdict == "grow":
            grown = self.text + shown.tokens[self.cursor.length :]
            self._take(grown, shown, announced=False)
        else:
            self._take(shown.tokens, shown, announced=True)

    def _take(self, text: tuple[str, ...], shown: Shown, *, announced: bool) -> None:
        self.announced += announced
        self.text = text
        self.cursor = Cursor(shown.runs[-1][0], len(shown.tokens), shown.status)


def judge(region: Region, shown: Shown | None, cursor: Cursor, wrong: str | None) -> str:
    """``grow``, ``hold`` or ``replace``: the resume rule for one message."""
    if shown is None:
        return "hold"
    offset = 0
    for lane, count in shown.runs:
        if region.forked(lane, cursor.length - offset):
            return "replace"
        offset += count
    offset = 0
    for index, (lane, count) in enumerate(shown.runs):
        if lane == cursor.lane:
            if index + 1 < len(shown.runs):
                fits = cursor.length <= offset + count and cursor.status == "streaming"
                return "grow" if fits else "replace"
            if cursor.length > len(shown.tokens):
                if wrong == "no_hold":
                    return "grow"
                return "hold" if shown.status == "streaming" else "replace"
            behind = cursor.status != "streaming" and shown.status == "streaming"
            return "hold" if behind else "grow"
        offset += count
    tip = shown.runs[-1]
    if region.knows(cursor.lane):
        # A claim that would win, and that cannot be shown yet: what it continues is not here.
        waiting = [claim.lane for claim in tips(region.disk, wrong)]
        winner = waiting.index(tip[0]) if tip[0] in waiting else len(waiting)
        return "hold" if cursor.lane in waiting[:winner] else "replace"
    return "replace" if tip[0].counter > cursor.lane.counter and tip[1] else "hold"
