"""Cursors from readers: a text that is none is refused, and one that is has no other form."""

import base64
from random import Random

from perdure.replication.cursor import Entry, Position, decode, encode
from perdure.replication.errors import Refusal
from perdure.replication.items import STATUSES
from perdure.replication.limits import CURSOR_CHARS_MAX, CURSOR_ENTRIES_HELD_MAX

from tests.fuzz.mutations import damaged
from tests.fuzz.taking import Broken, Target

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_STRANGE = ("=", "+", "/", " ", "\n", "\0", "é", "Ａ", "\ud800", "\U0001f600", "%", "A" * 600)
_LARGE = (0, 1, 2, 127, 128, 2**14, 2**31 - 1)


def position(random: Random) -> Position:
    """A place that a reader may have been told."""
    slots = random.sample(range(2**32), random.choice((0, 1, 1, 3, 16, CURSOR_ENTRIES_HELD_MAX)))
    entries = tuple(
        Entry(
            slot,
            random.randrange(2**32),
            random.choice(_LARGE),
            random.choice(STATUSES),
            random.choice((*_LARGE[:-1], 2_000_000)),
        )
        for slot in slots
    )
    rest = random.choice((*_LARGE, 2**40))
    return Position(random.randrange(2**16), entries, rest, random.randrange(2**40))


class CursorInputs:
    """Cursors whose bytes were damaged, or whose text was; a few are as they were made. As texts
    come in no other form, an input is UTF-8 of it, with what no text is as it is."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __getitem__(self, number: int) -> bytes:
        """An input by its number."""
        random = Random(self._seed * 1_000_000_007 + number)
        text = encode(position(random))
        way = random.random()
        if way < 0.05:
            return text.encode()
        if way < 0.6:
            return self._of_damaged_bytes(random, text)
        if way < 0.85:
            found = bytearray(text.encode())
            for _ in range(random.choice((1, 1, 2, 5))):
                found[random.randrange(len(found))] = random.choice(_ALPHABET)
            return bytes(found)
        at = random.randint(0, len(text))
        told = text[:at] + random.choice(_STRANGE) + text[at + random.randint(0, 2) :]
        return told.encode("utf-8", "surrogatepass")

    @staticmethod
    def _of_damaged_bytes(random: Random, text: str) -> bytes:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return base64.urlsafe_b64encode(damaged(random, raw)).rstrip(b"=")


class CursorTarget(Target):
    """Each input into the decoder; what it takes must be written in no other way."""

    def __init__(self, seed: int) -> None:
        self.inputs = CursorInputs(seed)

    def begin(self) -> None:
        """Nothing is kept from one input to the next."""

    def put(self, data: bytes) -> str:
        """``taken``, or the code of the refusal."""
        text = data.decode("utf-8", "surrogatepass")
        try:
            found = decode(text)
        except Refusal as refusal:
            if refusal.code != "invalid_cursor":
                raise Broken(f"refused as {refusal.code}") from refusal
            return refusal.code
        if encode(found) != text or len(text) > CURSOR_CHARS_MAX:
            raise Broken(f"two texts of one place: {text!r} and {encode(found)!r}")
        return "taken"
