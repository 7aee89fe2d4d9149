"""A live message as a Yjs document: one Array of entries, with producer-named item ids.

The id of an entry is (client, clock) = (53-bit hash of (producer, epoch), seq); its left origin is
the producer's own previous entry, for the first of an epoch the last item of its base (I1). Updates
are built here from validated entries, in the Yjs update format v1 (lib0 encoding); bytes from
outside never reach pycrdt. Tokens are strings; marks and the end are objects of one string, because
numbers would come back as floats.

Encoded: ``1 client-block: number of structs, client, clock, struct, then an empty delete set``.
"""

from perdure.replication.ids import LaneKey, client_id
from perdure.replication.items import End, Entry, Mark
from pycrdt import Array, Doc

ROOT = "items"
_CONTENT_ANY = 8
_HAS_LEFT_ORIGIN = 0x80
_ANY_STRING = 119
_ANY_OBJECT = 118
# The client id of our own Doc, which never writes; lanes never get it (their ids come from a hash,
# and are refused below when they collide).
_SILENT_CLIENT = 1


_SMALL = tuple(bytes([number]) for number in range(0x80))


def _varint(number: int) -> bytes:
    if number <= 0x7F:
        return _SMALL[number]
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | (number & 0x7F))
        number >>= 7
    out.append(number)
    return bytes(out)


def _string(text: str) -> bytes:
    raw = text.encode()
    return _varint(len(raw)) + raw


def _any(entry: Entry) -> bytes:
    if isinstance(entry, str):
        return bytes([_ANY_STRING]) + _string(entry)
    key, value = ("mark", entry.text) if isinstance(entry, Mark) else ("end", entry.status)
    head = bytes([_ANY_OBJECT]) + _varint(1) + _string(key)
    return head + bytes([_ANY_STRING]) + _string(value)


def encode_update(
    client: int, clock: int, entries: tuple[Entry, ...], origin: tuple[int, int] | None
) -> bytes:
    """The update that inserts ``entries`` at (client, clock), right of ``origin``.

    ``origin`` is the (client, clock) of the entry to the left, or None at the start of the array.
    The bytes are those that a Yjs client would have sent for the same insertion.
    """
    if origin is None:
        place = bytes([_CONTENT_ANY]) + _varint(1) + _string(ROOT)
    else:
        place = bytes([_CONTENT_ANY | _HAS_LEFT_ORIGIN]) + _varint(origin[0]) + _varint(origin[1])
    head = _varint(1) + _varint(1) + _varint(client) + _varint(clock)
    content = b"".join(map(_any, entries))
    return head + place + _varint(len(entries)) + content + b"\x00"


def decode_value(value: object) -> Entry:
    """The entry of a value read from the Array; ``ValueError`` for what we never write."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(text := value.get("mark"), str):
        return Mark(text)
    if isinstance(value, dict) and isinstance(text := value.get("end"), str):
        return End(text)
    raise ValueError("not an entry")


class ClientCollision(Exception):
    """Two lanes of one message have one 53-bit client id; merging them would diverge silently."""


class LiveDocument:
    """The pycrdt ``Doc`` of one live message."""

    def __init__(self) -> None:
        self._doc: Doc[Array[object]] = Doc(client_id=_SILENT_CLIENT)
        self._array: Array[object] = self._doc.get(ROOT, type=Array)
        self._lanes: dict[int, LaneKey] = {}

    def insert(
        self,
        lane: LaneKey,
        seq: int,
        entries: tuple[Entry, ...],
        base: tuple[LaneKey, int] | None = None,
    ) -> None:
        """Merge entries of a lane; idempotent.

        ``base`` is (previous lane, number of its items kept), for lanes that continue another.
        Raises :class:`ClientCollision` when the lane's client id belongs to another lane.
        """
        client = client_id(lane)
        if self._lanes.setdefault(client, lane) != lane or client == _SILENT_CLIENT:
            raise ClientCollision(str(lane))
        origin = None
        if seq > 0:
            origin = (client, seq - 1)
        elif base is not None and base[1] > 0:
            origin = (client_id(base[0]), base[1] - 1)
        self._doc.apply_update(encode_update(client, seq, entries, origin))

    def entries(self) -> list[Entry]:
        """Everything in the sequence, in its order, also what fenced lanes hold beyond a base."""
        return [decode_value(value) for value in self._array.to_py() or []]

    def update(self) -> bytes:
        """The whole document as one update, for Yjs clients."""
        return self._doc.get_update()
