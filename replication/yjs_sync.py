"""The messages of y-websocket (y-protocols: sync, awareness, auth), read from bytes and written.

Rule of this file, as of the parser's: every byte sequence either is a message, looked at whole, or
raises :class:`YjsError`; nothing else is ever raised. The caller owns the socket, and says who may
speak for which client id.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

from perdure.replication.lib0 import (
    Reader,
    YjsError,
    encode_octets,
    encode_text,
    encode_uint,
    encode_uints,
)
from perdure.replication.yjs_parser import (
    YJS_CLOCK_MAX,
    YJS_UPDATE_BYTES_MAX,
    Update,
    parse_update,
    parse_vector,
)

# A message holds at most one update, its length, and what kind of message it is.
YJS_MESSAGE_BYTES_MAX = YJS_UPDATE_BYTES_MAX + 16
YJS_AWARENESS_CLIENTS_MAX = 1_024
YJS_AWARENESS_STATE_BYTES_MAX = 16_384
YJS_REASON_BYTES_MAX = 1_024
_ENTRY_BYTES_MIN = 3


class _Channel(IntEnum):
    SYNC = 0
    AWARENESS = 1
    AUTH = 2
    QUERY_AWARENESS = 3


class _Sync(IntEnum):
    STEP_1 = 0
    STEP_2 = 1
    UPDATE = 2


_PERMISSION_DENIED = 0


class Presence(NamedTuple):
    """What one client tells of itself: ``state`` is the JSON of an object, None when it left."""

    client: int
    clock: int
    state: str | None


class SyncStep1(NamedTuple):
    """The sender has this much, and asks for the rest."""

    vector: dict[int, int]


class SyncStep2(NamedTuple):
    """The answer to a step 1: the bytes, and what they say."""

    data: bytes
    update: Update


class SyncUpdate(NamedTuple):
    """An edit, as it happened: the bytes, and what they say."""

    data: bytes
    update: Update


class AwarenessUpdate(NamedTuple):
    """Who is here, and who is no more."""

    entries: tuple[Presence, ...]


class PermissionDenied(NamedTuple):
    """The sender refuses to go on; a region only sends this."""

    reason: str


class QueryAwareness(NamedTuple):
    """The sender asks who is here."""


Message = SyncStep1 | SyncStep2 | SyncUpdate | AwarenessUpdate | PermissionDenied | QueryAwareness


def decode_message(data: bytes) -> Message:
    """The message that these bytes are, or ``YjsError``."""
    if len(data) > YJS_MESSAGE_BYTES_MAX:
        raise YjsError("too_long", f"{len(data)} bytes, at most {YJS_MESSAGE_BYTES_MAX}")
    reader = Reader(data)
    message = _decode(reader)
    reader.finish()
    return message


def _decode(reader: Reader) -> Message:
    channel = reader.uint()
    if channel == _Channel.SYNC:
        step, content = reader.uint(), reader.octets()
        if step == _Sync.STEP_1:
            return SyncStep1(parse_vector(content))
        if step == _Sync.STEP_2:
            return SyncStep2(content, parse_update(content))
        if step == _Sync.UPDATE:
            return SyncUpdate(content, parse_update(content))
        raise YjsError("message", f"type {step} of sync")
    if channel == _Channel.AWARENESS:
        return AwarenessUpdate(decode_awareness(reader.octets()))
    if channel == _Channel.AUTH:
        if (kind := reader.uint()) != _PERMISSION_DENIED:
            raise YjsError("message", f"type {kind} of auth")
        return PermissionDenied(reader.text(YJS_REASON_BYTES_MAX))
    if channel == _Channel.QUERY_AWARENESS:
        return QueryAwareness()
    raise YjsError("message", f"type {channel}")


def decode_awareness(data: bytes) -> tuple[Presence, ...]:
    """The entries of an awareness update, or ``YjsError``."""
    reader = Reader(data)
    entries: dict[int, Presence] = {}
    for _ in range(reader.count(_ENTRY_BYTES_MIN, YJS_AWARENESS_CLIENTS_MAX)):
        client, clock = reader.uint(), reader.uint(YJS_CLOCK_MAX)
        if client in entries:
            raise YjsError("client", "a client twice")
        text = reader.text(YJS_AWARENESS_STATE_BYTES_MAX)
        value = reader.json_of(text)
        if value is not None and not isinstance(value, dict):
            raise YjsError("awareness", "a state is an object or null")
        entries[client] = Presence(client, clock, None if value is None else text)
    reader.finish()
    return tuple(entries.values())


def encode_vector(vector: Mapping[int, int]) -> bytes:
    """A state vector."""
    pairs = (number for pair in vector.items() for number in pair)
    return encode_uint(len(vector)) + encode_uints(pairs)


def encode_step_1(vector: Mapping[int, int]) -> bytes:
    """The message that asks for what is not in ``vector``."""
    return encode_uints((_Channel.SYNC, _Sync.STEP_1)) + encode_octets(encode_vector(vector))


def encode_step_2(update: bytes) -> bytes:
    """The message that answers a step 1."""
    return encode_uints((_Channel.SYNC, _Sync.STEP_2)) + encode_octets(update)


def encode_sync_update(update: bytes) -> bytes:
    """The message that tells of an edit."""
    return encode_uints((_Channel.SYNC, _Sync.UPDATE)) + encode_octets(update)


def encode_awareness(entries: Iterable[Presence]) -> bytes:
    """An awareness update."""
    parts = [
        encode_uints((client, clock)) + encode_text("null" if state is None else state)
        for client, clock, state in entries
    ]
    return encode_uint(len(parts)) + b"".join(parts)


def encode_awareness_message(entries: Iterable[Presence]) -> bytes:
    """The message that tells who is here."""
    return encode_uint(_Channel.AWARENESS) + encode_octets(encode_awareness(entries))


def encode_permission_denied(reason: str) -> bytes:
    """The message that refuses to go on."""
    return encode_uints((_Channel.AUTH, _PERMISSION_DENIED)) + encode_text(reason)


def encode_query_awareness() -> bytes:
    """The message that asks who is here."""
    return encode_uint(_Channel.QUERY_AWARENESS)


class Moved(NamedTuple):
    """The clients of whom something has changed: ``renewed`` ones only said that they live."""

    added: tuple[int, ...] = ()
    updated: tuple[int, ...] = ()
    renewed: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()


class Awareness:
    """Who is here at one document, by the rules of y-protocols: the higher clock wins, and at the
    same clock only the end. Of who has left the clock is kept, while there is room."""

    def __init__(self) -> None:
        self._entries: dict[int, Presence] = {}

    def __len__(self) -> int:
        """How many are here."""
        return sum(entry.state is not None for entry in self._entries.values())

    def entries(self, clients: Iterable[int] | None = None) -> tuple[Presence, ...]:
        """What is known of these clients; without ``clients``, of all who are here."""
        if clients is None:
            return tuple(entry for entry in self._entries.values() if entry.state is not None)
        return tuple(self._entries[client] for client in clients if client in self._entries)

    def apply(self, entries: Iterable[Presence]) -> Moved:
        """Take in what others tell; ``YjsError``, and nothing taken, when there is no room."""
        news = [entry for entry in entries if self._is_news(entry)]
        self._make_room([entry.client for entry in news if entry.client not in self._entries])
        lists: dict[str, list[int]] = {name: [] for name in Moved._fields}
        for entry in news:
            before = self._entries.pop(entry.client, None)
            self._entries[entry.client] = entry
            here = before is not None and before.state is not None
            if entry.state is None:
                if here:
                    lists["removed"].append(entry.client)
            elif not here:
                lists["added"].append(entry.client)
            else:
                same = before is not None and before.state == entry.state
                lists["renewed" if same else "updated"].append(entry.client)
        return Moved(**{name: tuple(clients) for name, clients in lists.items()})

    def remove(self, clients: Iterable[int]) -> Moved:
        """Their connection ended, or they were silent for too long."""
        present = [entry for entry in self.entries(clients) if entry.state is not None]
        return self.apply([entry._replace(state=None) for entry in present])

    def _is_news(self, entry: Presence) -> bool:
        before = self._entries.get(entry.client)
        if before is None:
            return entry.clock > 0  # a first state, of clock 0, is nobody's wish in y-protocols
        ends = entry.state is None and before.state is not None
        return entry.clock > before.clock or (entry.clock == before.clock and ends)

    def _make_room(self, newcomers: list[int]) -> None:
        """Forget those who left longest ago."""
        over = len(self._entries) + len(newcomers) - YJS_AWARENESS_CLIENTS_MAX
        if over <= 0:
            return
        gone = [client for client, entry in self._entries.items() if entry.state is None]
        if len(gone) < over:
            raise YjsError("too_many", f"more than {YJS_AWARENESS_CLIENTS_MAX} are here")
        for client in gone[:over]:
            del self._entries[client]
