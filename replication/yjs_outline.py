"""What a shared document consists of, without its content: enough to tell whether an update fits.

Fed with the summary of every update that is applied, in the order of application, it knows for each
clock of each client under which parent it lies, which ids are types and how deep, and what kinds of
content each root has. The parser refuses what no document can take; this refuses what this one
cannot: see the list in ``yjs_parser.py``.

An outline that is made anew from a snapshot no longer knows what deleted structs were; they may
have been types, and what goes under them is taken (pycrdt drops it). An outline that still knows
refuses what goes under a deleted string. No honest client tells the two apart.
"""

from bisect import bisect_right
from collections.abc import Mapping
from enum import IntFlag
from heapq import heappop, heappush
from typing import NamedTuple

from perdure.replication.lib0 import YjsError
from perdure.replication.yjs_parser import Block, Id, Kind, Struct, Type, Update

# Reading recurses once a type; at some hundred pycrdt's to_py raises, at some thousand the stack
# of the process ends.
YJS_TYPES_DEPTH_MAX = 64


class Holds(IntFlag):
    """What has been put into a root, deleted or not."""

    TEXT = 1  # strings, formats, embeds: to be read as Text, never as Array
    VALUES = 2  # to be read as Array
    TYPES = 4
    KEYS = 8  # entries of a Map, or attributes


_NOTHING = Holds(0)
_HOLDS = {
    Kind.STRING: Holds.TEXT,
    Kind.FORMAT: Holds.TEXT,
    Kind.EMBED: Holds.TEXT,
    Kind.ANY: Holds.VALUES,
    Kind.BINARY: Holds.VALUES,
    Kind.TYPE: Holds.TYPES,
}
_IN_SEQUENCE = {
    Type.ARRAY: Holds.VALUES | Holds.TYPES,
    Type.MAP: _NOTHING,
    Type.TEXT: Holds.TEXT | Holds.TYPES,
    Type.XML_ELEMENT: Holds.TYPES,
    Type.XML_FRAGMENT: Holds.TYPES,
    Type.XML_TEXT: Holds.TEXT | Holds.TYPES,
}


class _Place(NamedTuple):
    """Where a run lies: under which parent (None: nowhere any more), by key or in the sequence.
    ``dead`` is what an earlier deletion left, which may have been anything."""

    parent: str | Id | None
    keyed: bool
    dead: bool


_NOWHERE = _Place(None, False, True)


class _Runs:
    """The places of one client's clocks; neighbours in one place are one run. ``halves`` are the
    clocks before which nothing can be put, the second halves of characters that take two above
    all."""

    __slots__ = ("_places", "_starts", "end", "halves")

    def __init__(self, end: int = 0) -> None:
        self.end = end
        self.halves: set[int] = set()
        self._starts: list[int] = []
        self._places: list[_Place] = []

    def add(self, end: int, place: _Place) -> None:
        if not self._places or self._places[-1] != place:
            self._starts.append(self.end)
            self._places.append(place)
        self.end = end

    def at(self, clock: int) -> _Place:
        return self._places[bisect_right(self._starts, clock) - 1]

    def take(self, later: "_Runs") -> None:
        """Append the runs that go on where these end."""
        for start, place in zip(later._starts, later._places, strict=True):
            if not self._places or self._places[-1] != place:
                self._starts.append(start)
                self._places.append(place)
        self.halves |= later.halves
        self.end = later.end


class Fitting(NamedTuple):
    """What an update adds to the outline that found it fitting."""

    runs: Mapping[int, _Runs]
    types: Mapping[Id, tuple[Type, int]]
    roots: Mapping[str, Holds]


class Outline:
    """The outline of one document."""

    def __init__(self) -> None:
        self._runs: dict[int, _Runs] = {}
        self._types: dict[Id, tuple[Type, int]] = {}
        self._roots: dict[str, Holds] = {}

    @property
    def state(self) -> dict[int, int]:
        """The state vector of the document."""
        return {client: runs.end for client, runs in self._runs.items()}

    @property
    def roots(self) -> Mapping[str, Holds]:
        """The roots, and what they hold."""
        return dict(self._roots)

    def fit(self, update: Update, admitted: bool = False) -> Fitting:
        """What the update adds, or ``YjsError``: then pycrdt must not see it. Changes nothing.

        What another region has ``admitted`` may make text and values meet in one root, when each
        side of a split took one of them; such a root can still be read as Text. Code ``gap`` says
        that something before it is still to come (:func:`yjs_parser.missing` says what); it may
        fit later. Everything else never fits.
        """
        return _Attempt(self._runs, self._types, self._roots, admitted).go(update)

    def add(self, fitting: Fitting) -> None:
        """Take over what :meth:`fit` has found, with nothing added in between."""
        for client, runs in fitting.runs.items():
            self._runs.setdefault(client, _Runs()).take(runs)
        self._types.update(fitting.types)
        self._roots.update(fitting.roots)


class _Attempt:
    """Places the structs of one update, each after all that it refers to."""

    def __init__(
        self,
        runs: Mapping[int, _Runs],
        types: Mapping[Id, tuple[Type, int]],
        roots: Mapping[str, Holds],
        admitted: bool,
    ) -> None:
        self._admitted = admitted
        self._old_runs, self._old_types, self._old_roots = runs, types, roots
        self._runs: dict[int, _Runs] = {}
        self._types: dict[Id, tuple[Type, int]] = {}
        self._roots: dict[str, Holds] = {}
        # What was put into roots.
        self._put: set[tuple[str, Holds]] = set()
        # Who waits for whom, by the clock that has to be reached.
        self._waiting: dict[int, list[tuple[int, int]]] = {}

    def go(self, update: Update) -> Fitting:
        structs = {block.client: self._unknown(block) for block in update.blocks}
        ready = [client for client, queue in structs.items() if queue]
        while ready:
            client = ready.pop()
            self._place_all(client, structs[client])
            waiting = self._waiting.get(client, [])
            while waiting and waiting[0][0] <= self._end(client):
                ready.append(heappop(waiting)[1])
        if any(structs.values()):
            raise YjsError("gap", "something before it is missing, or refers in a circle")
        for client, ranges in update.deletes:
            if ranges[-1][0] + ranges[-1][1] > self._end(client):
                raise YjsError("gap", "what it deletes is missing")
            for clock, length in ranges:
                self._between(client, clock)
                self._between(client, clock + length)
        return Fitting(self._runs, self._types, self._roots)

    def _unknown(self, block: Block) -> list[Struct]:
        """The structs that are new, the next one last."""
        known = self._end(block.client)
        new = [struct for struct in reversed(block.structs) if struct.end > known]
        if any(struct.kind is Kind.SKIP for struct in new) or (new and new[-1].clock > known):
            raise YjsError("gap", "earlier structs of the same client are missing")
        if new:
            self._runs[block.client] = _Runs(known)
        return new

    def _place_all(self, client: int, queue: list[Struct]) -> None:
        """Place structs of one client up to the first that has to wait."""
        runs = self._runs[client]
        while queue:
            struct = queue[-1]
            for id_ in (struct.left, struct.right, struct.parent):
                if isinstance(id_, tuple) and id_[1] >= self._end(id_[0]):
                    heappush(self._waiting.setdefault(id_[0], []), (id_[1] + 1, client))
                    return
            queue.pop()
            if struct.left is not None:
                self._between(struct.left[0], struct.left[1] + 1)
            if struct.right is not None:
                self._between(*struct.right)
            runs.halves.update(struct.halves)
            self._between(client, runs.end)
            known = self._at((client, runs.end - 1)) if struct.clock < runs.end else _NOWHERE
            place = self._place(struct, known)
            if struct.type is not None and place.parent is not None:
                self._types[client, struct.clock] = (struct.type, self._depth(place.parent))
            if place.keyed and not place.dead:
                # Several values of one key, one after the other: pycrdt loses count of which of
                # them is the last when something is put between.
                runs.halves.update(range(struct.clock + 1, struct.end))
            runs.add(struct.end, place)

    def _place(self, struct: Struct, known: _Place) -> _Place:
        """Where a struct goes, the beginning of which may be ``known`` to lie somewhere."""
        if struct.kind is Kind.GC:
            return _NOWHERE
        parent, keyed = self._parent(struct)
        if known.parent is not None:
            if parent is not None and (parent, keyed) != known[:2]:
                raise YjsError("overlap", "two structs with the same ids")
            parent, keyed = known[:2]
        if parent is None:
            return _NOWHERE
        holds = _HOLDS.get(struct.kind, _NOTHING)
        if keyed and holds is Holds.TEXT:
            raise YjsError("content", "a part of a text as the value of a key")
        if isinstance(parent, str):
            self._into_root(parent, Holds.KEYS if keyed else holds)
        elif not keyed and holds & ~_IN_SEQUENCE[self._type(parent)[0]]:
            raise YjsError("content", f"{struct.kind.name} in {self._type(parent)[0].name}")
        return _Place(parent, keyed, struct.kind is Kind.DELETED)

    def _parent(self, struct: Struct) -> tuple[str | Id | None, bool]:
        """Under which parent the struct goes, and whether by key."""
        parent = struct.parent
        if parent is None:
            return self._between_neighbours(struct)
        if isinstance(parent, tuple) and not self._known(parent):
            if not self._at(parent).dead:
                raise YjsError("parent", "under what is no type")
            return None, False
        return parent, struct.key is not None

    def _between_neighbours(self, struct: Struct) -> tuple[str | Id | None, bool]:
        """The place of its neighbours, of which earlier deletions may have left none."""
        found: tuple[str | Id | None, bool] = (None, False)
        for id_ in (struct.left, struct.right):
            place = _NOWHERE if id_ is None else self._at(id_)
            if place.parent is None:
                continue
            if found[0] is not None and found != place[:2]:
                raise YjsError("neighbours", "between two that lie in different places")
            found = place[:2]
        return found

    def _into_root(self, name: str, holds: Holds) -> None:
        # Nearly all structs go where others like them are, and flags are slow.
        if (name, holds) in self._put:
            return
        self._put.add((name, holds))
        before = self._roots.get(name, self._old_roots.get(name, _NOTHING))
        both = before | holds
        if both & Holds.TEXT and both & Holds.VALUES and not self._admitted:
            raise YjsError("content", "text and values in one root")
        self._roots[name] = both

    def _depth(self, parent: str | Id) -> int:
        depth = 1 if isinstance(parent, str) else self._type(parent)[1] + 1
        if depth > YJS_TYPES_DEPTH_MAX:
            raise YjsError("too_deep", f"types deeper than {YJS_TYPES_DEPTH_MAX}")
        return depth

    def _between(self, client: int, clock: int) -> None:
        """Something is to be put, or to end, before this clock."""
        for runs in (self._runs.get(client), self._old_runs.get(client)):
            if runs is not None and clock in runs.halves:
                raise YjsError("half", "in the middle of a character, or of what belongs together")

    def _known(self, id_: Id) -> bool:
        return id_ in self._types or id_ in self._old_types

    def _type(self, id_: Id) -> tuple[Type, int]:
        return self._types.get(id_) or self._old_types[id_]

    def _end(self, client: int) -> int:
        runs = self._runs.get(client) or self._old_runs.get(client)
        return runs.end if runs is not None else 0

    def _at(self, id_: Id) -> _Place:
        new, old = self._runs.get(id_[0]), self._old_runs.get(id_[0])
        if old is not None and id_[1] < old.end:
            return old.at(id_[1])
        assert new is not None, "what is referred to has been placed"
        return new.at(id_[1])
