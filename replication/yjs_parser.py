"""Yjs updates (format V1) and state vectors from outside: looked at whole before pycrdt sees them.

Rule of this file: every byte sequence either is an update that a Yjs client could have made, and is
then described by an :class:`Update`, or raises :class:`YjsError`; nothing else is ever raised. What
pycrdt does not read as Yjs does (hooks, links, moves), sub-documents, and what no client writes
(empty runs, a client twice, references to itself) is refused.

What the bytes alone cannot tell, and pycrdt needs to be told apart, is for the caller:
- whether what an update refers to is there (:func:`missing`), what lies under which type and how
  deep: ``yjs_outline.py`` knows. Without it pycrdt can stop in the middle of an update (a parent
  that is no type), read for ever (a string with a character of two UTF-16 units in what is read as
  an Array), end the process (types some thousands deep), or hand out empty strings, which confuse
  Yjs (a place between the halves of such a character).
- that a client id belongs to who sends it: two writers with one id diverge silently.
- what it costs to put items among many concurrent ones: into a document of n structs each takes up
  to n steps of some 100 ns, so that one update of :data:`YJS_STRUCTS_MAX` can take 1.6 s. Bound
  the size of documents, and part with who makes updates that take long.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

from perdure.replication.lib0 import Reader, YjsError
from perdure.replication.limits import DOCUMENT_UPDATE_BYTES_MAX

YJS_UPDATE_BYTES_MAX = DOCUMENT_UPDATE_BYTES_MAX
YJS_CLIENTS_MAX = 1_024
YJS_STRUCTS_MAX = 8_192
YJS_DELETES_MAX = 16_384
YJS_VECTOR_CLIENTS_MAX = 65_536
YJS_NAME_BYTES_MAX = 4_096
# pycrdt counts in 32 bits, and in places with a sign.
YJS_CLOCK_MAX = 2**31 - 1

Id = tuple[int, int]  # client, clock

_HAS_LEFT, _HAS_RIGHT, _HAS_KEY = 0x80, 0x40, 0x20
_KIND_MASK = 0x1F
_STRUCT_BYTES_MIN = 2
_BLOCK_BYTES_MIN = 3 + _STRUCT_BYTES_MIN
_RANGE_BYTES_MIN = 2
_DELETES_BYTES_MIN = 2 + _RANGE_BYTES_MIN
_VECTOR_BYTES_EACH = 2


class Kind(IntEnum):
    """What a struct holds. Not taken: 2 (JSON, of old versions of Yjs; pycrdt reads one string too
    many), 9 (sub-documents) and 11 (moves)."""

    GC = 0
    DELETED = 1
    BINARY = 3
    STRING = 4
    EMBED = 5
    FORMAT = 6
    TYPE = 7
    ANY = 8
    SKIP = 10


class Type(IntEnum):
    """The shared types; 5 (XML hooks) and everything above 6 is not taken."""

    ARRAY = 0
    MAP = 1
    TEXT = 2
    XML_ELEMENT = 3
    XML_FRAGMENT = 4
    XML_TEXT = 6


_KINDS: dict[int, Kind] = {kind.value: kind for kind in Kind}
_TYPES: dict[int, Type] = {type_.value: type_ for type_ in Type}


class Struct(NamedTuple):
    """A run of clocks of one client, and where it lies.

    ``parent`` is the name of a root or the id of a type; it and ``key`` are None where the
    neighbours tell them.
    """

    clock: int
    length: int
    kind: Kind
    left: Id | None = None
    right: Id | None = None
    parent: str | Id | None = None
    key: str | None = None
    type: Type | None = None
    # The clocks of the second halves of characters that take two.
    halves: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """The clock after the last one."""
        return self.clock + self.length


class Block(NamedTuple):
    """All structs of one client, without a gap between them (a gap is a ``SKIP``)."""

    client: int
    structs: tuple[Struct, ...]

    @property
    def start(self) -> int:
        """The first clock that the update says anything of."""
        return self.structs[0].clock

    @property
    def end(self) -> int:
        """The clock after the last one."""
        return self.structs[-1].end


class Deletes(NamedTuple):
    """What of one client is deleted: (clock, length), in order and apart from each other."""

    client: int
    ranges: tuple[Id, ...]


class Update(NamedTuple):
    """What an update says, without its content."""

    blocks: tuple[Block, ...]
    deletes: tuple[Deletes, ...]
    content_bytes: int
    values: int
    roots: frozenset[str]

    @property
    def clients(self) -> frozenset[int]:
        """Who wrote the structs; what others wrote an update can only delete."""
        return frozenset(block.client for block in self.blocks)

    @property
    def structs(self) -> int:
        """How many structs there are."""
        return sum(len(block.structs) for block in self.blocks)

    @property
    def kinds(self) -> frozenset[Kind]:
        """What kinds of content there are."""
        return frozenset(struct.kind for block in self.blocks for struct in block.structs)


def parse_update(data: bytes) -> Update:
    """The update that these bytes are, or ``YjsError``."""
    if len(data) > YJS_UPDATE_BYTES_MAX:
        raise YjsError("too_long", f"{len(data)} bytes, at most {YJS_UPDATE_BYTES_MAX}")
    return _parse(_UpdateReader(data))


def parse_logged(data: bytes) -> Update:
    """The same of what a region has logged or stored: as strict, but without limits on how much
    it is. The sides of a split may have made a document larger than one of them would."""
    return _parse(_LoggedReader(data))


def _parse(reader: "_UpdateReader") -> Update:
    blocks = reader.blocks()
    deletes = reader.deletes()
    reader.finish()
    return Update(blocks, deletes, reader.content_bytes, reader.values, frozenset(reader.roots))


def parse_vector(data: bytes) -> dict[int, int]:
    """The state vector that these bytes are, client to next clock, or ``YjsError``."""
    reader = Reader(data)
    vector: dict[int, int] = {}
    for _ in range(reader.count(_VECTOR_BYTES_EACH, YJS_VECTOR_CLIENTS_MAX)):
        client = reader.uint()
        if client in vector:
            raise YjsError("client", "a client twice")
        vector[client] = reader.uint(YJS_CLOCK_MAX)
    reader.finish()
    return vector


def missing(update: Update, vector: Mapping[int, int]) -> dict[int, int]:
    """What must be known before the update can be applied without gaps: client to clock after it.

    Empty when ``vector`` has everything. Until then pycrdt would park the update, or a part of it,
    outside of its state and without a limit.
    """
    needs: dict[int, int] = {}
    ends = {block.client: max(block.end, vector.get(block.client, 0)) for block in update.blocks}

    def need(client: int, end: int, known: int) -> None:
        if end > known:
            needs[client] = max(end, needs.get(client, 0))

    for client, structs in update.blocks:
        known = vector.get(client, 0)
        need(client, structs[0].clock, known)
        for struct in structs:
            if struct.end <= known:
                continue
            if struct.kind is Kind.SKIP:
                need(client, struct.end, known)
            for id_ in (struct.left, struct.right, struct.parent):
                if isinstance(id_, tuple):
                    need(id_[0], id_[1] + 1, ends.get(id_[0], vector.get(id_[0], 0)))
    for client, ranges in update.deletes:
        clock, length = ranges[-1]
        need(client, clock + length, ends.get(client, vector.get(client, 0)))
    return needs


class _UpdateReader(Reader):
    """Reads the two halves of an update."""

    __slots__ = ("content_bytes", "roots")
    clients_max = YJS_CLIENTS_MAX
    structs_max = YJS_STRUCTS_MAX
    deletes_max = YJS_DELETES_MAX

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.content_bytes = 0
        self.roots: set[str] = set()

    def blocks(self) -> tuple[Block, ...]:
        """The structs of every client."""
        blocks: list[Block] = []
        clients: set[int] = set()
        structs_left = self.structs_max
        for _ in range(self.count(_BLOCK_BYTES_MIN, self.clients_max)):
            number = self.count(_STRUCT_BYTES_MIN, structs_left)
            if number == 0:
                raise YjsError("empty", "a client without structs")
            structs_left -= number
            client, clock = self._client(clients), self.uint(YJS_CLOCK_MAX)
            structs: list[Struct] = []
            for _ in range(number):
                struct = self._struct(client, clock)
                if struct.length == 0:
                    raise YjsError("empty", f"a struct of kind {struct.kind} without content")
                clock = struct.end
                if clock > YJS_CLOCK_MAX:
                    raise YjsError("clock")
                structs.append(struct)
            blocks.append(Block(client, tuple(structs)))
        return tuple(blocks)

    def deletes(self) -> tuple[Deletes, ...]:
        """The delete set."""
        deletes: list[Deletes] = []
        clients: set[int] = set()
        ranges_left = self.deletes_max
        for _ in range(self.count(_DELETES_BYTES_MIN, self.clients_max)):
            client = self._client(clients)
            number = self.count(_RANGE_BYTES_MIN, ranges_left)
            if number == 0:
                raise YjsError("empty", "nothing deleted of a client")
            ranges_left -= number
            ranges: list[Id] = []
            edge = 0
            for _ in range(number):
                clock, length = self.uint(YJS_CLOCK_MAX), self.uint(YJS_CLOCK_MAX)
                if length == 0 or clock < edge:
                    raise YjsError("deletes", "ranges that are empty or in disorder")
                edge = clock + length
                if edge > YJS_CLOCK_MAX:
                    raise YjsError("clock")
                ranges.append((clock, length))
            deletes.append(Deletes(client, tuple(ranges)))
        return tuple(deletes)

    def _client(self, clients: set[int]) -> int:
        client = self.uint()
        if client in clients:
            raise YjsError("client", "a client twice")
        clients.add(client)
        return client

    def _struct(self, client: int, clock: int) -> Struct:
        info = self.byte()
        kind = _KINDS.get(info & _KIND_MASK)
        if kind is None:
            raise YjsError("kind", f"{info & _KIND_MASK}")
        if kind is Kind.GC or kind is Kind.SKIP:
            if info != kind:
                raise YjsError("kind", "flags where none can be")
            return Struct(clock, self.uint(YJS_CLOCK_MAX), kind)
        left = self._before(client, clock) if info & _HAS_LEFT else None
        right = self._before(client, clock) if info & _HAS_RIGHT else None
        parent: str | Id | None = None
        key: str | None = None
        if left is None and right is None:
            parent = self._parent(client, clock)
            if info & _HAS_KEY:
                key = self.text(YJS_NAME_BYTES_MAX)
        before = self.at
        type_: Type | None = None
        halves: tuple[int, ...] = ()
        if kind is Kind.STRING:
            length, halves = _measure(self.text(), clock)
        elif kind is Kind.TYPE:
            length, type_ = 1, self._type()
        else:
            length = self._content(kind)
        self.content_bytes += self.at - before
        return Struct(clock, length, kind, left, right, parent, key, type_, halves)

    def _before(self, client: int, clock: int) -> Id:
        """The id of something written earlier, as far as one client's own clock can tell."""
        id_ = (self.uint(), self.uint(YJS_CLOCK_MAX - 1))
        if id_[0] == client and id_[1] >= clock:
            raise YjsError("reference", "to what comes later")
        return id_

    def _parent(self, client: int, clock: int) -> str | Id:
        named = self.uint()
        if named == 0:
            return self._before(client, clock)
        if named != 1:
            raise YjsError("parent", "neither a root nor an id")
        name = self.text(YJS_NAME_BYTES_MAX)
        self.roots.add(name)
        return name

    def _content(self, kind: Kind) -> int:
        """The length of the content in clocks."""
        if kind is Kind.ANY:
            number = self.count(1, YJS_CLOCK_MAX)
            for _ in range(number):
                self.pass_any()
            return number
        if kind is Kind.DELETED:
            return self.uint(YJS_CLOCK_MAX)
        if kind is Kind.BINARY:
            self.octets()
        else:
            if kind is Kind.FORMAT:
                self.text(YJS_NAME_BYTES_MAX)
            self.json_of(self.text())
        return 1

    def _type(self) -> Type:
        number = self.uint()
        type_ = _TYPES.get(number)
        if type_ is None:
            raise YjsError("type", f"{number}")
        if type_ is Type.XML_ELEMENT:
            self.text(YJS_NAME_BYTES_MAX)
        return type_


class _LoggedReader(_UpdateReader):
    """What was admitted once is read however much it is."""

    __slots__ = ()
    clients_max = structs_max = deletes_max = values_max = YJS_CLOCK_MAX


def _measure(text: str, clock: int) -> tuple[int, tuple[int, ...]]:
    """The length in UTF-16 units, which clocks count, and the clocks of second halves."""
    if text.isascii() or not any(character > "\uffff" for character in text):
        return len(text), ()
    halves: list[int] = []
    for index, character in enumerate(text):
        if character > "\uffff":
            halves.append(clock + index + len(halves) + 1)
    return len(text) + len(halves), tuple(halves)
