"""A whole session as the rules see it: operations, what they show, and what a region admits.

Pure Python, no product code. A message is a set of operations and what is shown is a function of
that set. ``rules`` names the rules that are switched to another reading, see ``OTHER_RULES``.
"""

from dataclasses import dataclass, field
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
    "tip_on_short_base_is_fenced",
    "unwritten_claim_fences",
    "entries_cut_at_the_cap",
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


@dataclass
class Region:
    """A region: ``logs`` are on its disk. Reports of peers are volatile."""

    name: str
    rules: Rules
    peers: tuple[str, ...]
    incarnation: int = 0
    alive: bool = True
    lost: bool = False
    clock: int = 0
    logs: dict[Origin, list[Op]] = field(default_factory=dict)
    messages: dict[str, frozenset[Op]] = field(default_factory=dict)
    # Of each message the newest lsn of every origin, and the place of each operation.
    reach: dict[str, Vector] = field(default_factory=dict)
    places: dict[Op, tuple[Origin, int]] = field(default_factory=dict)
    tombstones: dict[str, int] = field(default_factory=dict)
    reports: dict[str, list[Vector]] = field(default_factory=dict)

    def kill(self) -> None:
        self.alive = False

    def restart(self) -> None:
        """Everything but the disk is new."""
        self.alive = True
        self.incarnation += 1
        logs, self.logs = self.logs, {}
        self.messages, self.reach, self.places = {}, {}, {}
        self.tombstones, self.reports = {}, {}
        for origin, ops in logs.items():
            self.receive(origin, 0, ops)

    def vector(self) -> Vector:
        return {origin: len(ops) for origin, ops in self.logs.items()}

    def persist(self, op: Op) -> None:
        origin = (self.name, self.incarnation)
        self.receive(origin, len(self.logs.get(origin, [])), [op])

    def receive(self, origin: Origin, start: int, ops: list[Op]) -> None:
        """Operations of one origin from ``start`` on; known ones are skipped, a gap is refused."""
        log = self.logs.setdefault(origin, [])
        if start > len(log):
            return
        for op in ops[len(log) - start :]:
            log.append(op)
            self._apply(op, (origin, len(log)))

    def _apply(self, op: Op, place: tuple[Origin, int]) -> None:
        known = self.messages.get(op.message, frozenset())
        if isinstance(op, Delete) and op.message not in self.tombstones:
            view = render(known, self.rules)
            self.tombstones[op.message] = content(op.message, view) if view else 0
        if isinstance(op, Open):
            self.clock = max(self.clock, op.created)
        self.messages[op.message] = known | {op}
        self.reach.setdefault(op.message, {})[place[0]] = place[1]
        self.places.setdefault(op, place)

    def hear(self, peer: str, vector: Vector) -> None:
        """A peer says what it has on disk."""
        self.reports.setdefault(peer, []).append(vector)

    def ops(self, message: str) -> frozenset[Op]:
        return self.messages.get(message, frozenset())

    def view(self, message: str) -> View | None:
        return render(self.ops(message), self.rules)

    def visible(self) -> dict[str, View]:
        views = {message: self.view(message) for message in self.messages}
        return {message: view for message, view in views.items() if view is not None}

    def is_settled(self, message: str) -> bool:
        """Every region has on disk all that this one knows of the message, and this one has all
        that each had accepted when it said so. (Other rule: only what ended it counts.)"""
        view = self.view(message)
        if view is None or view.status == "streaming" or not view.whole:
            return False
        needed = self.reach[message]
        if "settled_by_the_end_alone" in self.rules:
            needed = dict([self._end_place(message, view)])
        return all(self._vouched(peer, needed) for peer in self.peers)

    def _end_place(self, message: str, view: View) -> tuple[Origin, int]:
        ending = [
            op
            for op in self.ops(message)
            if (isinstance(op, Items) and op.lane == view.tip and op.items[-1] == END)
            or (isinstance(op, Open) and op.body and op.lane == view.tip)
            or isinstance(op, Cancel)
        ]
        return min(self.places[op] for op in ending)

    def _vouched(self, peer: str, needed: Vector) -> bool:
        return any(
            all(report.get(origin, 0) >= lsn for origin, lsn in needed.items())
            and all(
                len(self.logs.get(origin, ())) >= lsn
                for origin, lsn in report.items()
                if origin[0] == peer
            )
            for report in self.reports.get(peer, ())
        )

    def stable(self, message: str, lane: Lane) -> int:
        """How many items of a lane, from the first on, are on another disk too."""
        count = len(follow(self.ops(message), lane, self.rules).items)
        if "stable_is_accepted" in self.rules:
            return count
        covered: Vector = {}
        for reports in self.reports.values():
            for report in reports:
                for origin, lsn in report.items():
                    covered[origin] = max(lsn, covered.get(origin, 0))
        for op in self.ops(message):
            if isinstance(op, Items) and op.lane == lane:
                origin, lsn = self.places[op]
                if origin[0] == self.name and lsn > covered.get(origin, 0):
                    count = min(count, op.seq)
        return count

    # What clients ask for

    def tick(self, now: int) -> int:
        self.clock = max(self.clock + 1, now)
        return self.clock

    def open(self, op: Open) -> str:
        """A message, new or repeated."""
        if op.message in self.tombstones:
            return "deleted"
        header = winner(self.ops(op.message))
        if header is not None:
            return "ok" if header.ident == op.ident else "conflict"
        self.persist(op)
        return "ok"

    def reopen(self, known: list[Op]) -> str:
        """A sealed header: the operations that it holds are as good as if a peer had sent them."""
        message = known[0].message
        if message in self.tombstones:
            return "deleted"
        header = winner(self.ops(message))
        idents = {op.ident for op in self.ops(message) if isinstance(op, Open)}
        first = known[0]
        assert isinstance(first, Open)
        if (
            "reopening_refused_by_a_rival" in self.rules
            and header is not None
            and first.ident not in idents
        ):
            return "conflict"
        for op in known:
            if op not in self.ops(message):
                self.persist(op)
        return "ok"

    def root_of(self, message: str, lane: Lane) -> Lane | None:
        """The header's lane that a lane belongs to; None: the lane is not known here."""
        for op in self.ops(message):
            if isinstance(op, Open) and op.lane == lane:
                return lane
            if isinstance(op, Claim) and op.lane == lane:
                return op.root
        return None

    def append(self, message: str, lane: Lane, seq: int, items: tuple[str, ...]) -> tuple[str, int]:
        """The acceptance rule: (outcome, next)."""
        if message in self.tombstones:
            return "deleted", 0
        ops, root = self.ops(message), self.root_of(message, lane)
        header = winner(ops)
        if root is None or header is None:
            return "unknown_epoch", 0
        path = follow(ops, lane, self.rules)
        held, count = ((*path.items, END) if path.ended else path.items), len(path.items)
        overlap = min(len(items), max(0, len(held) - seq))
        if root != header.lane or items[:overlap] != held[seq : seq + overlap]:
            return "conflict", count
        fresh = items[overlap:]
        if not fresh:
            return "ok", count
        if path.ended:
            return "ended", count
        if self._fenced(ops, root, lane):
            return "fenced", count
        cancels = [op for op in ops if isinstance(op, Cancel) and op.root == root]
        if any("cancel_marks_an_epoch" not in self.rules or c.lane == lane for c in cancels):
            return "cancelled", count
        if seq > len(held):
            return "gap", count
        if path.forked_at is not None:
            return "conflict", count
        self.persist(Items(message, lane, count, path.digest, fresh))
        return "ok", count + len(fresh) - (fresh[-1] == END)

    def has_base(self, message: str, lane: Lane) -> bool:
        """Whether all that the tip continues is here; its producer is told when not."""
        view = self.view(message)
        return view is None or view.tip != lane or view.whole

    def _fenced(self, ops: frozenset[Op], root: Lane, lane: Lane) -> bool:
        tips = representatives(ops, root)
        if not tips or tips[0].lane == lane:
            return False
        mine = next((op for op in ops if isinstance(op, Claim) and op.lane == lane), None)
        # A twin of one's own claim, made by an answer that was lost, fences nobody.
        return mine is None or mine.tag != tips[0].tag or written(ops, tips[0].lane)

    def claim(self, message: str, producer: str, tag: int, restart: bool) -> Claim | str:
        """A takeover; refused where an end or a cancel is known."""
        view, ops = self.view(message), self.ops(message)
        if view is None:
            return "deleted" if message in self.tombstones else "not_found"
        for known in representatives(ops, view.root):
            if known.tag == tag:
                return known
        if view.status == "complete":
            return "ended"
        if view.status == "cancelled":
            return "cancelled"
        kept = [(lane, count) for lane, count in view.runs if count]
        previous, base = (None, 0) if restart or not kept else kept[-1]
        lanes = [op.lane for op in ops if isinstance(op, Open | Items | Claim)]
        nonce = mix(tag, previous, base)
        lane = Lane(max(lane.counter for lane in lanes) + 1, nonce, producer)
        claim = Claim(message, lane, tag, view.root, previous, base)
        self.persist(claim)
        return claim

    def cancel(self, message: str) -> bool:
        """Whether the message was live here, and now is cancelled."""
        view = self.view(message)
        if view is None or view.status != "streaming":
            return False
        self.persist(Cancel(message, view.tip, view.root))
        return True

    def delete(self, message: str) -> bool:
        if self.view(message) is None:
            return False
        self.persist(Delete(message))
        return True


def content(message: str, view: View) -> int:
    """The digest of what a message shows, of its header and its status."""
    return mix(message, view.ident, view.created, view.tokens, view.status)
