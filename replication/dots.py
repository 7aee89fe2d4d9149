"""Dots, the birth marks of operations, and which of them are known.

Almeida, Shoker, Baquero, "Delta State Replicated Data Types" (2018), section 7: a causal context is
a vector and a cloud. Here it is kept for one origin after the other.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from perdure.replication.errors import Malformed
from perdure.replication.records import Origin

DOT_MAX = 2**53 - 1
_MASK = 2**64 - 1

# First and last of a run of numbers, both in it.
Range = tuple[int, int]


class Dot(NamedTuple):
    """The ``n``-th operation of an origin, counted from 1."""

    origin: Origin
    n: int


class Seen:
    """The numbers of one origin that are known: all up to ``n``, and a cloud beyond."""

    __slots__ = ("beyond", "n")

    def __init__(self, n: int = 0, ranges: Iterable[Range] = ()) -> None:
        self.n = n
        self.beyond: set[int] = set()
        for first, last in ranges:
            self.add_range(first, last)

    def __contains__(self, number: int) -> bool:
        return number <= self.n or number in self.beyond

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seen) and (self.n, self.beyond) == (other.n, other.beyond)

    __hash__ = None  # type: ignore[assignment]

    def add(self, number: int) -> None:
        """One more."""
        if number == self.n + 1:
            self.n = number
            self._close_up()
        elif number > self.n:
            self.beyond.add(number)

    def add_range(self, first: int, last: int) -> None:
        """All from ``first`` to ``last``."""
        if first > self.n + 1:
            self.beyond.update(range(first, last + 1))
        elif last > self.n:
            self.n = last
            self.beyond = {number for number in self.beyond if number > last}
            self._close_up()

    def _close_up(self) -> None:
        while self.n + 1 in self.beyond:
            self.n += 1
            self.beyond.discard(self.n)

    def ranges(self) -> list[Range]:
        """What is known beyond ``n``, as ranges."""
        return ranges_of(self.beyond)


def ranges_of(numbers: Iterable[int]) -> list[Range]:
    """Numbers as ranges, in order."""
    found: list[Range] = []
    for number in sorted(numbers):
        if found and found[-1][1] + 1 == number:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def numbers_in(ranges: Iterable[Range]) -> Iterator[int]:
    """Every number of some ranges."""
    for first, last in ranges:
        yield from range(first, last + 1)


def check_ranges(value: object, numbers_max: int) -> list[Range]:
    """Ranges as they came from outside, in order and apart; ``Malformed`` for anything else, and
    for more than ``numbers_max`` numbers."""
    if not isinstance(value, list):
        raise Malformed("ranges are a list")
    found: list[Range] = []
    least = 1
    for pair in value:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise Malformed("a range is a pair")
        first, last = check_number(pair[0]), check_number(pair[1])
        if not least <= first <= last:
            raise Malformed("ranges are in order and do not overlap")
        numbers_max -= last - first + 1
        if numbers_max < 0:
            raise Malformed("too many dots")
        found.append((first, last))
        least = last + 1
    return found


def check_number(value: object) -> int:
    """A count of an origin, or ``Malformed``."""
    if type(value) is not int or not 0 <= value <= DOT_MAX:
        raise Malformed("a count is out of range")
    return value


def mixed(number: int) -> int:
    """A number spread over 64 bits, for sums that differ where sets do (splitmix64; Steele, Lea,
    Flood, "Fast splittable pseudorandom number generators", 2014)."""
    z = (number * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
