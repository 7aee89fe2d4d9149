"""Yjs updates put together by hand: what no library writes, and what every library does."""

from collections.abc import Sequence
from random import Random
from typing import Any

from perdure.replication.lib0 import encode_octets, encode_text, encode_uint, encode_uints
from perdure.replication.yjs_parser import Id

Block = tuple[int, int, Sequence[bytes]]  # client, clock, structs
NONE, TRUE = b"\x7e", b"\x78"


def update(*blocks: Block, deletes: bytes = b"\x00") -> bytes:
    """An update of these structs."""
    parts = [encode_uint(len(blocks))]
    for client, clock, structs in blocks:
        parts += [encode_uints((len(structs), client, clock)), *structs]
    return b"".join(parts) + deletes


def deleting(*clients: tuple[int, Sequence[Id]]) -> bytes:
    """A delete set of these ranges."""
    parts = [encode_uint(len(clients))]
    for client, ranges in clients:
        parts.append(encode_uints((client, len(ranges))))
        parts += [encode_uints(pair) for pair in ranges]
    return b"".join(parts)


def item(
    kind: int,
    content: bytes,
    left: Id | None = None,
    right: Id | None = None,
    parent: str | Id = "x",
    key: str | None = None,
) -> bytes:
    """An item; ``parent`` counts, as in every update, only without neighbours."""
    flags = (0x80 if left else 0) | (0x40 if right else 0) | (0x20 if key is not None else 0)
    parts = [bytes([kind | flags])]
    parts += [encode_uints(id_) for id_ in (left, right) if id_]
    if not left and not right:
        named = isinstance(parent, str)
        where = encode_text(parent) if isinstance(parent, str) else encode_uints(parent)
        parts += [b"\x01" if named else b"\x00", where]
        if key is not None:
            parts.append(encode_text(key))
    return b"".join(parts) + content


def gc(length: int) -> bytes:
    return b"\x00" + encode_uint(length)


def skip(length: int) -> bytes:
    return b"\x0a" + encode_uint(length)


def deleted(length: int, **where: Any) -> bytes:
    return item(1, encode_uint(length), **where)


def json(*texts: str, **where: Any) -> bytes:
    return item(2, encode_uint(len(texts)) + b"".join(map(encode_text, texts)), **where)


def binary(raw: bytes, **where: Any) -> bytes:
    return item(3, encode_octets(raw), **where)


def string(text: str, **where: Any) -> bytes:
    return item(4, encode_text(text), **where)


def embed(text: str, **where: Any) -> bytes:
    return item(5, encode_text(text), **where)


def format_(name: str, value: str, **where: Any) -> bytes:
    return item(6, encode_text(name) + encode_text(value), **where)


def type_(number: int, **where: Any) -> bytes:
    named = number in (3, 5)
    return item(7, encode_uint(number) + (encode_text("p") if named else b""), **where)


def values(*encoded: bytes, **where: Any) -> bytes:
    return item(8, encode_uint(len(encoded)) + b"".join(encoded), **where)


class Maker:
    """Draws updates that go on from a state, and mostly fit: all kinds, all places."""

    TEXTS = ("a", "bc", "é", "日本", "a😀b", "😀", "\n", "x" * 40)
    JSONS = ("null", "true", "1.5", '"s"', '{"a":[1,{"b":null}]}', "[]")
    NAMES = ("t", "a", "m", "x")

    def __init__(self, random: Random, state: dict[int, int]) -> None:
        self._random = random
        self._state = dict(state)
        self._types: list[Id] = []

    def make(self) -> bytes:
        """An update of some clients' structs, and deletions."""
        random = self._random
        clients = random.sample(sorted({*self._state, 13, 2**32 - 1}), random.randint(1, 2))
        blocks: list[Block] = []
        for client in clients:
            clock = self._state.get(client, 0)
            if random.random() < 0.05:
                clock += random.randint(-2, 2) if clock > 2 else random.randint(0, 2)
            structs, end = self._structs(client, clock)
            self._state[client] = end
            blocks.append((client, clock, structs))
        if random.random() < 0.3:
            random.shuffle(blocks)
        return update(*blocks, deletes=self._deletes() if random.random() < 0.5 else b"\x00")

    def _structs(self, client: int, clock: int) -> tuple[list[bytes], int]:
        structs = []
        for _ in range(self._random.choice((1, 1, 2, 3, 5, 12))):
            self._state[client] = clock
            struct, length, is_type = self._struct(self._where(client))
            if is_type:
                self._types.append((client, clock))
            structs.append(struct)
            clock += length
        return structs, clock

    def _where(self, client: int) -> dict[str, Any]:
        random = self._random
        where: dict[str, Any] = {}
        if random.random() < 0.6:
            if random.random() < 0.8 and (id_ := self._id(client)):
                where["left"] = id_
            if random.random() < 0.4 and (id_ := self._id(client)):
                where["right"] = id_
        if self._types and random.random() < 0.5:
            where["parent"] = random.choice(self._types)
        elif random.random() < 0.1 and (id_ := self._id(client)):
            where["parent"] = id_
        else:
            where["parent"] = random.choice(self.NAMES)
        if where["parent"] == "m" or random.random() < 0.15:
            where["key"] = random.choice(("a", "b", ""))
        return where

    def _id(self, client: int) -> Id | None:
        random = self._random
        other = client if random.random() < 0.6 else random.choice([*self._state])
        end = self._state.get(other, 0)
        if random.random() < 0.02:
            return (other, random.randint(0, end + 3))
        if end == 0:
            return None
        return (
            other,
            max(0, end - random.randint(1, 3)) if random.random() < 0.5 else random.randrange(end),
        )

    def _struct(self, where: dict[str, Any]) -> tuple[bytes, int, bool]:
        random = self._random
        name = where.get("parent")
        kinds = {
            "t": (4, 4, 4, 5, 6, 7, 1),
            "a": (8, 8, 3, 7, 1),
            "m": (8, 8, 3, 7, 1),
            "x": (7, 7, 1),
        }
        kind = random.choice(kinds.get(str(name), (1, 3, 4, 4, 5, 6, 7, 7, 8, 8)))
        if random.random() < 0.05:
            return (
                (gc if random.random() < 0.9 else skip)(length := random.randint(1, 9)),
                length,
                False,
            )
        if kind == 4:
            text = random.choice(self.TEXTS)
            return string(text, **where), len(text.encode("utf-16-le")) // 2, False
        if kind == 8:
            many = [self._value(0) for _ in range(random.choice((1, 1, 2, 4)))]
            return values(*many, **where), len(many), False
        if kind == 1:
            length = random.randint(1, 9)
            return deleted(length, **where), length, False
        if kind == 7:
            return type_(random.choice((0, 1, 2, 3, 4, 6)), **where), 1, True
        if kind == 6:
            return format_(random.choice("bi"), random.choice(self.JSONS), **where), 1, False
        if kind == 5:
            return embed(random.choice(self.JSONS), **where), 1, False
        return binary(random.randbytes(random.randint(0, 5)), **where), 1, False

    def _value(self, depth: int) -> bytes:
        random = self._random
        choice = random.randrange(9 if depth < 3 else 6)
        if choice == 0:
            return bytes([random.choice((127, 126, 121, 120))])
        if choice == 1:
            return b"\x7d" + random.choice((b"\x00", b"\x41", b"\xbf\x7f", b"\x40"))
        if choice == 2:
            return b"\x7c" + random.randbytes(4)
        if choice == 3:
            return random.choice((b"\x7b", b"\x7a")) + random.randbytes(8)
        if choice == 4:
            return b"\x77" + encode_text(random.choice(self.TEXTS))
        if choice == 5:
            return b"\x74" + encode_octets(random.randbytes(random.randint(0, 4)))
        many = [self._value(depth + 1) for _ in range(random.randint(0, 3))]
        if choice == 6:
            return (
                b"\x76"
                + encode_uint(len(many))
                + b"".join(encode_text(f"k{number}") + value for number, value in enumerate(many))
            )
        return b"\x75" + encode_uint(len(many)) + b"".join(many)

    def _deletes(self) -> bytes:
        random = self._random
        clients = []
        for client, end in random.sample(
            [*self._state.items()], min(len(self._state), random.randint(0, 2))
        ):
            edges = sorted(random.sample(range(end + 1), min(end + 1, random.choice((2, 2, 4)))))
            pairs = [(a, b - a) for a, b in zip(edges[::2], edges[1::2], strict=False)]
            if pairs:
                clients.append((client, pairs))
        return deleting(*clients)
