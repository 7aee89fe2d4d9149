"""A whole session as the rules see it: operations, and what they show.

Pure Python, no product code. A message is a set of operations and what is shown is a function of
that set. ``rules`` names the rules that are switched to another reading, see ``OTHER_RULES``.
"""

from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

END = "\0end"

# Rules that were written or thought of in another way. Each breaks a promise; tests show which.
OTHER_RULES = (
    # readings of the rules that look right, and that the model refuted
    "cancel_marks_an_epoch",
    "cancel_ends_a_hold",
    "settled_by_the_end_alone",
    "tag_without_header",
    "tombstones_outside_the_rest",
    "reopening_refused_by_a_rival",
    "unwritten_claim_fences",
    "lower_unknown_epoch_is_fenced",
    "unknown_header_gets_replace",
    "diverging_lanes_are_fenced",
    "base_left_to_gossip",
    # plain mistakes
    "named_by_region",
    "reopening_mints",
    "fork_item_by_item",
    "ids_shared_in_a_hold",
    "no_hold",
    "older_snapshot_at_once",
    "stable_is_accepted",
    "base_forgotten",
)
Rules = frozenset[str]


class Lane(NamedTuple):
    """A lane's name; ``counter`` first, so that lanes order as epochs do."""

    counter: int
    nonce: int
    producer: str


class Open(NamedTuple):
    """``ident`` names the header without its time; ``body`` is that of a complete message."""

    message: str
    ident: int
    created: int
    lane: Lane
    body: tuple[str, ...]


class Items(NamedTuple):
    message: str
    lane: Lane
    seq: int
    before: int
    items: tuple[str, ...]


class Claim(NamedTuple):
    message: str
    lane: Lane
    tag: int
    root: Lane
    previous: Lane | None
    base: int


class Cancel(NamedTuple):
    message: str
    lane: Lane
    root: Lane


class Delete(NamedTuple):
    message: str


Op = Open | Items | Claim | Cancel | Delete
Origin = tuple[str, int]
Vector = dict[Origin, int]


def mix(*parts: object) -> int:
    """A hash that is the same in every region."""
    return crc32(repr(parts).encode())


class View(NamedTuple):
    """What a message shows. ``runs``: how many items each lane of the chain gives."""

    ident: int
    created: int
    root: Lane
    chain: tuple[Lane, ...]
    runs: tuple[tuple[Lane, int], ...]
    tokens: tuple[str, ...]
    status: str
    forked_at: int | None
    forks: int

    @property
    def tip(self) -> Lane:
        return self.chain[-1]

    @property
    def whole(self) -> bool:
        """Whether the tip's bases are all here."""
        return len(self.runs) == len(self.chain)


class Path(NamedTuple):
    """One lane as it is shown: ``forked_at`` is the first seq with two contents."""

    items: tuple[str, ...]
    ended: bool
    forked_at: int | None
    forks: int
    digest: int


@lru_cache(maxsize=50_000)
def follow(ops: frozenset[Op], lane: Lane, rules: Rules) -> Path:
    """The path through a lane's tree: where it forks, the smaller item hash wins."""
    nodes: dict[tuple[int, int], set[str]] = {}
    for op in ops:
        if isinstance(op, Open) and op.lane == lane and op.body:
            op = Items(op.message, lane, 0, 0, (*op.body, END))
        if isinstance(op, Items) and op.lane == lane:
            running = op.before
            for index, item in enumerate(op.items):
                key = (op.seq + index, -1 if "fork_item_by_item" in rules else running)
                nodes.setdefault(key, set()).add(item)
                running = mix(running, item)
    items: list[str] = []
    forked_at, forks, running = None, 0, 0
    while True:
        here = nodes.get((len(items), -1 if "fork_item_by_item" in rules else running))
        if not here:
            return Path(tuple(items), False, forked_at, forks, running)
        if len(here) > 1:
            forks += len(here) - 1
            forked_at = len(items) if forked_at is None else forked_at
        item = min(here, key=lambda text: mix("rank", text))
        running = mix(running, item)
        if item == END:
            return Path(tuple(items), True, forked_at, forks, running)
        items.append(item)


def written(ops: frozenset[Op], lane: Lane) -> bool:
    return any(isinstance(op, Items) and op.lane == lane for op in ops)


@lru_cache(maxsize=50_000)
def representatives(ops: frozenset[Op], root: Lane) -> tuple[Claim, ...]:
    """The claims that count, greatest first: one a tag, written ones before empty twins."""
    best: dict[int, tuple[tuple[bool, Lane], Claim]] = {}
    for op in ops:
        if isinstance(op, Claim) and op.root == root:
            rank = (written(ops, op.lane), op.lane)
            if op.tag not in best or rank > best[op.tag][0]:
                best[op.tag] = (rank, op)
    return tuple(sorted((c for _, c in best.values()), key=lambda c: c.lane, reverse=True))


def winner(ops: frozenset[Op]) -> Open | None:
    """The header that counts: the smallest (created, identity)."""
    opens = [op for op in ops if isinstance(op, Open)]
    return min(opens, key=lambda op: (op.created, op.ident)) if opens else None


@lru_cache(maxsize=50_000)
def render(ops: frozenset[Op], rules: Rules = frozenset()) -> View | None:
    """What these operations show; None: deleted, or no header is known."""
    header = winner(ops)
    if header is None or any(isinstance(op, Delete) for op in ops):
        return None
    claims = {op.lane: op for op in ops if isinstance(op, Claim)}
    links: list[tuple[Lane, int | None]] = [(header.lane, None)]
    for tip in representatives(ops, header.lane):
        found: list[tuple[Lane, int | None]] = [(tip.lane, None)]
        at: Claim | None = tip
        while at is not None and at.previous is not None:
            found.append((at.previous, None if "base_forgotten" in rules else at.base))
            if at.previous == at.root:
                break
            at = claims.get(at.previous)
        if at is not None:
            links = found[::-1]
            break
    tokens: list[str] = []
    runs: list[tuple[Lane, int]] = []
    forked_at, forks = None, 0
    for lane, take in links:
        path = follow(ops, lane, rules)
        used = path.items if take is None else path.items[:take]
        if path.forked_at is not None and forked_at is None and path.forked_at <= len(used):
            forked_at = len(tokens) + path.forked_at
        forks += path.forks
        tokens += used
        runs.append((lane, len(used)))
        if take is not None and len(used) < take and path.forked_at is None:
            break
    chain = tuple(lane for lane, _ in links)
    marks = [op for op in ops if isinstance(op, Cancel) and op.root == header.lane]
    if "cancel_marks_an_epoch" in rules:
        marks = [op for op in marks if op.lane == chain[-1]]
    status = "cancelled" if marks else "streaming"
    if len(runs) == len(chain) and follow(ops, chain[-1], rules).ended:
        status = "complete"
    return View(
        header.ident, header.created, header.lane, chain, tuple(runs), tuple(tokens), status,
        forked_at, forks,
    )  # fmt: skip


def content(message: str, view: View) -> int:
    """The digest of what a message shows, of its header and its status; and of its fork, so that
    a count that was made before the fork was known matches no more."""
    return mix(message, view.ident, view.created, view.tokens, view.status, view.forked_at)
