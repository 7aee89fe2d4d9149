"""The messages of a session as a Yjs document that is only read (``docs/PROTOCOL.md`` A.8).

Rule of this file: it is derived, the same in every region. Every Yjs item has an id that follows
from what it stands for, and a place that never changes, so what two regions derive, at whatever
time, is of one document, and a client that carries it from region to region merges it. Nothing is
ever brought back: what is deleted here has lost for good, by the rules for messages.

Root ``messages``, a ``Y.Array``, has a ``Y.Map`` for each message: ``id``, and ``shown``, an array
of one ``Y.Map``: ``role``, ``author``, ``serial``, ``status`` (an array, empty while it streams)
and ``text``. Where somebody else goes on with a message, or another header wins, that one is
deleted, and there is another.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from perdure.replication.ids import LaneKey, canonical, digest, hash64
from perdure.replication.items import DIGEST_BYTES, Item
from perdure.replication.lib0 import encode_text, encode_uint, encode_uints
from perdure.replication.limits import SNAPSHOT_MESSAGES_MAX
from perdure.replication.message import Message
from perdure.replication.session import Session

MESSAGES_DOCUMENT = "~messages"
ROOT = "messages"
_STRING, _TYPE, _ANY = 4, 7, 8
_KEYED, _AFTER = 0x20, 0x80
_ARRAY, _MAP, _TEXT = b"\0", b"\1", b"\2"
_ANY_STRING, _ANY_NULL = b"\x77", b"\x7e"
_CLIENT_BITS = 53
_SHOWN, _STATUS_AT, _TEXT_AT = 2, 4, 5

Id = tuple[int, int]


class Piece(NamedTuple):
    """Items of one Yjs client from ``clock`` on: ``text``, or one item, encoded in ``content``.
    ``after`` is the item before it; else it lies under ``parent`` (None: the root), at ``key``."""

    client: int
    clock: int
    length: int
    parent: Id | None
    key: str | None = None
    kind: int = _STRING
    content: bytes = b""
    text: str = ""
    after: Id | None = None


class Projected(NamedTuple):
    """What is derived of a message: items, and those that are deleted wherever they are known."""

    pieces: list[Piece]
    gone: list[Id]


def buried(session: str, id_: str) -> Projected:
    """A message that was deleted."""
    return Projected([], [(_client(session, id_), 0)])


class Reading(NamedTuple):
    """What is read of a message: that of the newest agent that has written something. One that has
    only claimed may be a lost answer, and give way to an earlier one."""

    tip: LaneKey
    lanes: tuple[LaneKey, ...]
    items: list[Item]
    status: str


def reading(message: Message) -> Reading:
    """The message, which must be shown, as it is read."""
    assert message.header is not None
    root = message.header.lane
    tip = max(message.claims.written(root), key=lambda lane: lane.epoch, default=root)
    chain = message.claims.chain_of(tip)
    assert chain is not None
    runs = message.runs_of(chain)
    lanes = tuple(run.lane for run in runs)
    return Reading(tip, lanes, message.items_of(runs, 0), message.status_of(chain, runs))


def project(message: Message) -> Projected:
    """A message that is shown."""
    assert message.header is not None
    read = reading(message)
    outer = _client(message.session, message.id)
    pieces = [
        Piece(outer, 0, 1, None, kind=_TYPE, content=_MAP),
        _entry(outer, 1, "id", _any(message.id)),
        _entry(outer, _SHOWN, "shown", _ARRAY, _TYPE),
    ]
    inner = _inner(message, read)
    pieces += [
        Piece(inner, 0, 1, (outer, _SHOWN), kind=_TYPE, content=_MAP),
        _entry(inner, 1, "role", _any(message.header.role)),
        _entry(inner, 2, "author", _any(message.header.author)),
        _entry(inner, 3, "serial", _any(message.serial)),
        _entry(inner, _STATUS_AT, "status", _ARRAY, _TYPE),
        _entry(inner, _TEXT_AT, "text", _TEXT, _TYPE),
    ]
    if text := text_of(read.items):
        pieces.append(Piece(inner, _TEXT_AT + 1, _units(text), (inner, _TEXT_AT), text=text))
    gone = [(lost, 0) for lost in _lost(message, read.tip) if lost != inner]
    if read.status != "streaming":
        by, at = _client(str(inner), read.status), (inner, _STATUS_AT)
        pieces.append(Piece(by, 0, 1, at, kind=_ANY, content=_any(read.status)))
        if read.status != "cancelled":
            # What was cancelled may yet be told to have ended.
            gone.append((_client(str(inner), "cancelled"), 0))
    return Projected(pieces, gone)


def text_of(items: list[Item]) -> str:
    """The tokens of parts that are text when they come."""
    texts: list[str] = []
    in_text = True
    for item in items:
        if isinstance(item, str):
            texts += [item] if in_text else []
        elif "part" in item.value:
            in_text = item.value["part"].get("type") == "text"
    return "".join(texts)


def _inner(message: Message, read: Reading) -> int:
    """Names what is read: a tip under a header. Where a producer contradicted itself, its content
    too, for without that two regions would name two texts alike."""
    assert message.header is not None
    forks: list[str | bytes] = []
    for key in read.lanes:
        lane = message.lane(key)
        if lane.forked_at is not None and lane.forked_at < len(lane.entries):
            forks += [str(key), lane.digest_at(lane.forked_at + 1)]
    header = (message.header.identity, str(message.header.created))
    return _named(message, *header, read.tip, *forks)


def _named(message: Message, header: bytes, created: str, tip: LaneKey, *forks: str | bytes) -> int:
    where = (tip.producer, str(tip.epoch))
    return _client(message.session, message.id, header, created, *where, *forks)


def _lost(message: Message, tip: LaneKey) -> Iterator[int]:
    """What may have been read of the message somewhere, and never will be again."""
    assert message.header is not None
    winner = (message.header.identity, message.header.created)
    for header, stamps in message.headers():
        root = header.lane
        for created in stamps:
            for lane in (root, *message.claims.lanes_of(root)):
                # Under the header that wins, the first lane is below all claims; and the tip is
                # named here as it was before it was known that its producer contradicted itself.
                is_lost = lane in (root, tip) or lane.epoch < tip.epoch
                if (header.identity, created) != winner or is_lost:
                    yield _named(message, header.identity, str(created), lane)


def _client(*parts: str | bytes) -> int:
    return (hash64("projection", *parts) >> (64 - _CLIENT_BITS)) or 1


def _entry(client: int, clock: int, key: str, content: bytes, kind: int = _ANY) -> Piece:
    return Piece(client, clock, 1, (client, 0), key=key, kind=kind, content=content)


def _any(value: str | None) -> bytes:
    return _ANY_NULL if value is None else _ANY_STRING + encode_text(value)


def _units(text: str) -> int:
    """How much Yjs counts: units of UTF-16."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


# As an update


def encode(projections: Iterable[Projected], known: Mapping[int, int]) -> bytes:
    """The Yjs update (V1) of what somebody lacks whose state vector is ``known``."""
    blocks: dict[int, list[Piece]] = {}
    gone: dict[int, set[int]] = {}
    for projected in projections:
        for piece in projected.pieces:
            if piece.clock + piece.length > known.get(piece.client, 0):
                blocks.setdefault(piece.client, []).append(piece)
        for client, clock in projected.gone:
            # Who never heard of it need not hear that it is gone.
            if known.get(client, 0) > clock:
                gone.setdefault(client, set()).add(clock)
    out = [encode_uint(len(blocks))]
    for client in sorted(blocks, reverse=True):
        structs = [_cut(piece, known.get(client, 0)) for piece in blocks[client]]
        out.append(encode_uints((len(structs), client, structs[0].clock)))
        out += map(_struct, structs)
    out.append(encode_uint(len(gone)))
    for client in sorted(gone, reverse=True):
        out.append(encode_uints((client, len(gone[client]))))
        out += [encode_uints((clock, 1)) for clock in sorted(gone[client])]
    return b"".join(out)


def vector_of(projections: Iterable[Projected]) -> dict[int, int]:
    """The state vector of who has all of it."""
    found: dict[int, int] = {}
    for projected in projections:
        for piece in projected.pieces:
            end = piece.clock + piece.length
            found[piece.client] = max(end, found.get(piece.client, 0))
    return found


def _cut(piece: Piece, known: int) -> Piece:
    """What of it comes after so many clocks; a character of two units is not torn."""
    skip = known - piece.clock
    if skip <= 0 or piece.kind != _STRING:
        return piece
    if piece.text.isascii():
        text = piece.text[skip:]
    else:
        raw = piece.text.encode("utf-16-le")
        if 0xDC <= raw[2 * skip + 1] <= 0xDF:
            skip -= 1
        text = raw[2 * skip :].decode("utf-16-le")
    if skip == 0:
        return piece
    clock = piece.clock + skip
    after = (piece.client, clock - 1)
    return piece._replace(clock=clock, length=piece.length - skip, after=after, text=text)


def _struct(piece: Piece) -> bytes:
    content = encode_text(piece.text) if piece.kind == _STRING else piece.content
    if piece.kind == _ANY:
        content = encode_uint(1) + content
    if piece.after is not None:
        return bytes([piece.kind | _AFTER]) + encode_uints(piece.after) + content
    flags = piece.kind | (_KEYED if piece.key is not None else 0)
    if piece.parent is None:
        place = encode_uint(1) + encode_text(ROOT)
    else:
        place = encode_uint(0) + encode_uints(piece.parent)
    key = b"" if piece.key is None else encode_text(piece.key)
    return bytes([flags]) + place + key + content


def projected(session: Session, ids: Iterable[str]) -> list[Projected]:
    """What is derived of these messages, as far as they are shown or deleted."""
    found: list[Projected] = []
    for id_ in ids:
        if session.messages.is_buried(id_):
            found.append(buried(session.id, id_))
        elif (message := session.messages.look(id_)) is not None and message.shown is not None:
            found.append(project(message))
    return found


def newest(session: Session) -> list[str]:
    """The messages that a client is told of that comes: the newest, and those deleted lately."""
    ids, _ = session.messages.page(None, SNAPSHOT_MESSAGES_MAX)
    return [*session.messages.graves, *session.messages.tombstones, *ids]


def value(session: Session) -> dict[str, Any]:
    """The newest messages as a document is shown: as text, and as JSON."""
    ids, more = session.messages.page(None, SNAPSHOT_MESSAGES_MAX)
    looked = (session.messages.look(id_) for id_ in ids)
    messages = [_value(message) for message in looked if message is not None and message.shown]
    shown = {"messages": messages, "more": more}
    return {
        "id": MESSAGES_DOCUMENT,
        "text": "\n\n".join(f"{one['role']}: {one['text']}" for one in messages),
        "json": shown,
        "version": digest(DIGEST_BYTES, session.id, canonical(shown)).hex(),
    }


def _value(message: Message) -> dict[str, Any]:
    assert message.header is not None
    read = reading(message)
    return {
        "id": message.id,
        "role": message.header.role,
        "author": message.header.author,
        "serial": message.serial,
        "status": read.status,
        "text": text_of(read.items),
    }
