"""Resume: what a region tells a reader, and what the reader makes of it.

``Connection`` is the region's side; it knows of its reader what the cursor said, and nothing more.
``Reader`` is the client's side and checks every event against what it holds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

from tests.rules.message import Claim, Lane, View, content, mix, representatives
from tests.rules.message import Open as OpenOp
from tests.rules.message import written as is_written
from tests.rules.region import Region

ENTRIES_MAX = 4
GHOSTS_MAX = 4
CHUNK = 2
ENDLESS = 1 << 60
RANK = {"streaming": 0, "cancelled": 1, "complete": 2}


class Violation(AssertionError):
    """A promise was broken."""


class Entry(NamedTuple):
    """What a reader was told of one message."""

    tag: int
    counter: int
    length: int
    status: str


class Cursor(NamedTuple):
    """Explicit entries, and the count and digest of the rest."""

    entries: tuple[tuple[str, Entry], ...]
    rest: int
    digest: int


class Event(NamedTuple):
    """One event and the cursor after it; ``told`` is how much of ``View`` it brings."""

    kind: str
    cursor: Cursor
    message: str = ""
    view: View | None = None
    start: int = 0
    stop: int = 0
    reason: str = ""
    session: tuple[tuple[str, View], ...] = ()


def buried(message: str) -> int:
    """What a tombstone adds to the digest of the rest."""
    return mix(message, "deleted")


@dataclass
class Connection:
    """What a region knows of one reader: ``told`` of each message, and the forks it announced."""

    region: Region
    cursor: Cursor | None
    told: dict[str, Entry] = field(default_factory=dict)
    forks: dict[str, int] = field(default_factory=dict)
    graves: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    waiting: bool = True

    def _has(self, rule: str) -> bool:
        return rule in self.region.rules

    def tag(self, lane: Lane, ident: int, created: int) -> int:
        """A lane's name in cursors. It covers the header, so that no change of it is missed."""
        return mix(lane) if self._has("tag_without_header") else mix(lane, ident, created)

    def entry(self, view: View, length: int | None = None, status: str | None = None) -> Entry:
        tag = self.tag(view.tip, view.ident, view.created)
        length = len(view.tokens) if length is None else length
        return Entry(tag, view.tip.counter, length, view.status if status is None else status)

    def position(self) -> Cursor:
        """The cursor of what was told so far. What differs from the region is always explicit."""
        entries: list[tuple[str, Entry]] = []
        same: list[tuple[int, str, View]] = []
        count = total = 0
        for message, told in self.told.items():
            view = self.region.view(message)
            if view is not None and self._has("ids_shared_in_a_hold") and message in self.held:
                told = self.entry(view)
            if view is None or told != self.entry(view):
                entries.append((message, told))
            else:
                same.append((view.created, message, view))
        for _, message, view in sorted(same, reverse=True):
            if len(entries) < ENTRIES_MAX and not self.region.is_settled(message):
                entries.append((message, self.told[message]))
            else:
                count, total = count + 1, total + content(message, view)
        if not self._has("tombstones_outside_the_rest"):
            count, total = count + len(self.graves), total + sum(map(buried, self.graves))
        return Cursor(tuple(entries), count, total)

    # Resuming

    def pump(self) -> Iterator[Event]:
        """Everything that the region would send now, each event with its cursor."""
        if self.cursor is None:
            yield self._snapshot("")
        if self.waiting and not self._match():
            if not self._has("older_snapshot_at_once"):
                return
            yield self._snapshot("")
        for message in sorted(self.told.keys() & self.region.tombstones.keys()):
            del self.told[message]
            self.held.discard(message)
            self.graves.add(message)
            yield Event("delete", self.position(), message)
        self.graves |= self.region.tombstones.keys()
        views = self.region.visible()
        for message in sorted(self.told):
            view = views.get(message)
            if view is None or self._judge(message, view) == "hold":
                self.held.add(message)
            else:
                self.held.discard(message)
                yield from self._tell(message, view)
        for _, message in sorted((v.created, m) for m, v in views.items() if m not in self.told):
            yield self._whole("message", message, views[message])

    def expire(self) -> Iterator[Event]:
        """The holds have lasted long enough: what is held here is said."""
        views = self.region.visible()
        if self.waiting or any(message not in views for message in self.held):
            yield self._snapshot("behind")
        for message in sorted(self.held):
            self.held.discard(message)
            view, named = views[message], self._tags(message).get(self.told[message].tag)
            known = named is not None and named[1:] == (view.ident, view.created)
            known = known or self._has("unknown_header_gets_replace")
            kind, reason = ("replace", "behind") if known else ("message", "")
            yield self._whole(kind, message, views[message], reason)

    def _whole(self, kind: str, message: str, view: View, reason: str = "") -> Event:
        self.told[message] = self.entry(view)
        self.forks[message] = view.forks
        length = len(view.tokens)
        return Event(kind, self.position(), message, view, 0, length, reason)

    def _snapshot(self, reason: str) -> Event:
        views = self.region.visible()
        self.cursor, self.waiting = Cursor((), 0, 0), False
        self.told = {message: self.entry(view) for message, view in views.items()}
        self.forks = {message: view.forks for message, view in views.items()}
        self.graves = set(self.region.tombstones)
        self.held = set()
        return Event("snapshot", self.position(), reason=reason, session=tuple(views.items()))

    def _match(self) -> bool:
        """Whether the reader has this region's rest but for its newest messages and deletions."""
        assert self.cursor is not None
        named = dict(self.cursor.entries)
        views = {m: v for m, v in self.region.visible().items() if m not in named}
        order = sorted(views, key=lambda m: (views[m].created, m))
        graves = [m for m in self.region.tombstones if m not in named]
        outside = self._has("tombstones_outside_the_rest")
        for young in range(min(len(graves), GHOSTS_MAX) + 1):
            old, late = graves[: len(graves) - young], graves[len(graves) - young :]
            for picks in product((True, False), repeat=young):
                ghosts = [m for m, pick in zip(late, picks, strict=True) if pick]
                if not all(self.region.tombstones[m] for m in ghosts):
                    continue
                count = len(ghosts) + (0 if outside else len(old))
                total = sum(self.region.tombstones[m] for m in ghosts)
                total += 0 if outside else sum(map(buried, old))
                kept = self.cursor.rest - count
                if not 0 <= kept <= len(order):
                    continue
                total += sum(content(m, views[m]) for m in order[:kept])
                if total == self.cursor.digest:
                    self.waiting = False
                    self.told = dict(named)
                    self.told |= {m: self.entry(views[m]) for m in order[:kept]}
                    self.told |= {m: Entry(0, 0, 0, "streaming") for m in ghosts}
                    self.forks |= {m: views[m].forks for m in order[:kept]}
                    self.graves = set(old)
                    return True
        return False

    # One message

    def _tell(self, message: str, view: View) -> Iterator[Event]:
        told, verdict = self.told[message], self._judge(message, view)
        if verdict == "message":
            yield self._whole("message", message, view)
        elif verdict != "grow":
            yield self._whole("replace", message, view, verdict)
        elif told != self.entry(view):
            at = told.length
            while at < len(view.tokens):
                start, at = at, min(at + CHUNK, len(view.tokens))
                self.told[message] = self.entry(view, at, told.status)
                yield Event("append", self.position(), message, view, start, at)
            self.told[message] = self.entry(view)
            self.forks[message] = view.forks
            if view.status != told.status or (told.length < at and view.status != "streaming"):
                yield Event("end", self.position(), message, view)

    def _judge(self, message: str, view: View) -> str:
        """``grow``, ``hold``, ``message``, or the reason of a ``replace``."""
        told, ops = self.told[message], self.region.ops(message)
        forked = view.forked_at is not None and view.forked_at < told.length
        claims = {op.lane: op for op in ops if isinstance(op, Claim)}
        by_tag = self._tags(message)
        if told.tag not in by_tag:
            # Also for a lower epoch: it may belong to a header that is not known here and wins.
            lower = told.counter < view.tip.counter and is_written(ops, view.tip)
            at_once = lower and self._has("lower_unknown_epoch_is_fenced")
            return "message" if at_once else "hold"
        lane, ident, created = by_tag[told.tag]
        if forked and self.forks.get(message) != view.forks:
            return "conflict" if (ident, created) == (view.ident, view.created) else "message"
        verdict = self._judge_lane(message, lane, told, view, claims)
        if not self._has("tag_without_header") and (ident, created) != (view.ident, view.created):
            return "hold" if verdict == "hold" and ident == view.ident else "message"
        if self._has("tag_without_header") and lane not in view.chain:
            claim = claims.get(lane)
            if (claim.root if claim else lane) != view.root:
                return "message"
        return verdict

    def _tags(self, message: str) -> dict[int, tuple[Lane, int, int]]:
        """Every tag that this region can name: (lane, header, created)."""
        ops = self.region.ops(message)
        by_tag: dict[int, tuple[Lane, int, int]] = {}
        for ident, created, root in {
            (op.ident, op.created, op.lane) for op in ops if isinstance(op, OpenOp)
        }:
            lanes = [root, *(op.lane for op in ops if isinstance(op, Claim) and op.root == root)]
            by_tag |= {self.tag(lane, ident, created): (lane, ident, created) for lane in lanes}
        return by_tag

    def _judge_lane(
        self, message: str, lane: Lane, told: Entry, view: View, claims: dict[Lane, Claim]
    ) -> str:
        length, status = told.length, told.status
        if status == "cancelled" and view.status == "streaming":
            return "hold"  # A cancel is for ever: what does not know it is behind.
        shown = [run for run, _ in view.runs]
        if lane == view.tip:
            return self._judge_length(length, status, view)
        if lane not in shown and self._has("diverging_lanes_are_fenced"):
            return "fenced"
        mine, theirs = _chain(lane, claims), _chain(view.tip, claims)
        if mine is None or theirs is None or self._waits(lane, view, claims):
            return "hold"
        if length > _shared(mine, theirs):
            # A claim without items may be the answer that was lost: it takes no text back yet.
            ops = self.region.ops(message)
            empty = view.tip in claims and not is_written(ops, view.tip)
            return "hold" if empty and not self._has("unwritten_claim_fences") else "fenced"
        if length > len(view.tokens):
            return "hold"
        return "fenced" if status == "complete" else "grow"

    def _judge_length(self, length: int, status: str, view: View) -> str:
        """For a reader of the lane that this region shows too."""
        behind = length > len(view.tokens)
        if behind and self._has("no_hold"):
            return "grow"
        if view.status != "streaming" and self._has("cancel_ends_a_hold"):
            return "behind" if behind else "grow"
        if behind and view.status == "complete":
            return "conflict"
        return "hold" if behind or RANK[status] > RANK[view.status] else "grow"

    def _waits(self, lane: Lane, view: View, claims: dict[Lane, Claim]) -> bool:
        """Whether the lane would be the tip, were all that it continues here."""
        if lane not in claims:
            return False
        ops = self.region.ops(claims[lane].message)
        tips = [claim.lane for claim in representatives(ops, view.root)]
        return lane in tips[: tips.index(view.tip) if view.tip in tips else len(tips)]


def _chain(lane: Lane, claims: dict[Lane, Claim]) -> list[tuple[Lane, int]] | None:
    """(lane, base) from the first lane on, the last without limit; None: a link is missing."""
    links = [(lane, ENDLESS)]
    claim = claims.get(lane)
    while claim is not None and claim.previous is not None:
        links.append((claim.previous, claim.base))
        if claim.previous == claim.root:
            break
        claim = claims.get(claim.previous)
        if claim is None:
            return None
    return links[::-1]


def _shared(mine: list[tuple[Lane, int]], theirs: list[tuple[Lane, int]]) -> int:
    """How many items two chains have in common, whatever of them is here."""
    total = 0
    for (lane, take), (other, their_take) in zip(mine, theirs, strict=False):
        if lane != other:
            break
        total += min(take, their_take)
        if take != their_take:
            break
    return total


class Held(NamedTuple):
    """One message as a reader shows it."""

    ident: int
    created: int
    tokens: tuple[str, ...]
    status: str


@dataclass
class Reader:
    """A client: what it shows, and the id of the last event that it saw."""

    cursor: Cursor | None = None
    texts: dict[str, Held] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def take(self, event: Event) -> Held | None:
        """Apply one event; the answer is what was held of its message before."""
        self.cursor = event.cursor
        name = event.kind + (":" + event.reason if event.reason else "")
        self.counts[name] = self.counts.get(name, 0) + 1
        before = self.texts.get(event.message)
        view = event.view
        match event.kind:
            case "snapshot":
                self.texts = {m: as_held(v) for m, v in event.session}
                if event.reason == "behind":
                    self.deleted.clear()
            case "delete":
                self.texts.pop(event.message, None)
                self.deleted.add(event.message)
            case "append":
                assert view is not None
                if before is None or event.start != len(before.tokens):
                    raise Violation(f"append from {event.start} to a reader with {before}")
                tokens = before.tokens + view.tokens[event.start : event.stop]
                self.texts[event.message] = before._replace(tokens=tokens)
            case "end":
                assert view is not None and before is not None
                if RANK[view.status] < RANK[before.status]:
                    raise Violation(f"{before.status} became {view.status} unannounced")
                self.texts[event.message] = before._replace(status=view.status)
            case "replace":
                # A replace carries text and status; author, role and serial stay as they were.
                assert view is not None
                if before is None:
                    raise Violation("a replace of a message that the reader does not have")
                fresh = before._replace(tokens=view.tokens, status=view.status)
                self.texts[event.message] = fresh
            case _:
                assert view is not None
                self.texts[event.message] = as_held(view)
        if self.deleted & self.texts.keys():
            raise Violation(f"deleted messages came back: {self.deleted & self.texts.keys()}")
        return before


def as_held(view: View) -> Held:
    """What a reader holds that was told all of it."""
    return Held(view.ident, view.created, view.tokens, view.status)
