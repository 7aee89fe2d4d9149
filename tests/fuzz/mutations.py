"""Inputs: every one follows from the seed of the campaign and its number alone."""

from collections.abc import Callable, Sequence
from random import Random

from tests.fuzz.making import Maker

TELLING = (0, 1, 2, 4, 7, 8, 10, 0x20, 0x40, 0x7F, 0x80, 0x84, 0xC4, 0xFF)
LONG = (
    b"\xff\xff\xff\xff\x07",
    b"\xff\xff\xff\xff\x0f",
    b"\xff" * 7 + b"\x0f",
    b"\xff" * 9 + b"\x01",
)


def flip(random: Random, data: bytearray) -> None:
    for _ in range(random.choice((1, 1, 2, 4))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def replace(random: Random, data: bytearray) -> None:
    data[random.randrange(len(data))] = random.choice(TELLING)


def step(random: Random, data: bytearray) -> None:
    """A length, a count, a clock or a kind that is off by little."""
    at = random.randrange(len(data))
    data[at] = (data[at] + random.choice((-2, -1, 1, 2))) % 256


def lengthen(random: Random, data: bytearray) -> None:
    """A number that is enormous."""
    at = random.randrange(len(data))
    data[at : at + 1] = random.choice(LONG)


def cut(random: Random, data: bytearray) -> None:
    del data[random.randrange(len(data)) :]


def drop(random: Random, data: bytearray) -> None:
    at = random.randrange(len(data))
    del data[at : at + random.randint(1, 8)]


def repeat(random: Random, data: bytearray) -> None:
    at = random.randrange(len(data))
    piece = data[at : at + random.randint(1, 24)]
    data[at:at] = piece * random.choice((1, 1, 2, 16))


def put(random: Random, data: bytearray) -> None:
    data[(at := random.randint(0, len(data))) : at] = random.randbytes(random.randint(1, 4))


MUTATIONS: Sequence[Callable[[Random, bytearray], None]] = (
    *(flip, flip, replace, step, step, step, lengthen, cut, drop, repeat, put),
)


def damaged(random: Random, data: bytes) -> bytes:
    """The same with one to three mutations."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        if found:
            random.choice(MUTATIONS)(random, found)
    return bytes(found)


class Inputs:
    """The inputs of one campaign; ``state`` is that of the document with content."""

    def __init__(self, seed: int, found: Sequence[bytes], state: dict[int, int]) -> None:
        self._seed = seed
        self._found = found
        self._state = state

    def __getitem__(self, number: int) -> bytes:
        """Half come from real updates, half are made; many of both are then damaged."""
        random = Random(self._seed * 1_000_000_007 + number)
        way = random.random()
        if way < 0.45:
            return damaged(random, random.choice(self._found))
        if way < 0.55:
            one, other = random.choice(self._found), random.choice(self._found)
            return one[: random.randint(0, len(one))] + other[random.randint(0, len(other)) :]
        made = Maker(random, {} if way < 0.7 else self._state).make()
        return damaged(random, made) if random.random() < 0.3 else made
