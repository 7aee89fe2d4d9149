"""A region of the model: what is on its disk, what it admits, what it says to be settled."""

from dataclasses import dataclass, field

from tests.rules.message import (
    END,
    Cancel,
    Claim,
    Delete,
    Items,
    Lane,
    Op,
    Open,
    Origin,
    Rules,
    Vector,
    View,
    content,
    follow,
    mix,
    render,
    representatives,
    winner,
    written,
)


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
