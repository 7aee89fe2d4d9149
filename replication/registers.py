"""The metadata of a session: one last-writer-wins register for each top-level key.

Shapiro et al., "A comprehensive study of Convergent and Commutative Replicated Data Types", 2011,
3.2.1. The stamp is a reading of the hybrid clock; ties go to the greater region.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from perdure.replication.ids import canonical


class Register(NamedTuple):
    """One value with its stamp; the text breaks a tie that only a broken region makes."""

    hlc: int
    region: str
    text: str


class Registers:
    """The registers of one session, by key."""

    def __init__(self) -> None:
        self._held: dict[str, Register] = {}

    def merge(self, hlc: int, region: str, values: str) -> bool:
        """Take in what somebody set, as the JSON text of an object; whether anything is news."""
        changed = False
        for key, value in json.loads(values).items():
            stamped = Register(hlc, region, canonical(value))
            known = self._held.get(key)
            if known is None or stamped > known:
                self._held[key], changed = stamped, True
        return changed

    def restore(self, stored: Mapping[str, Iterable[Any]]) -> None:
        """Take back what :meth:`stored` gave."""
        for key, register in stored.items():
            self._held[key] = Register(*register)

    def stored(self) -> dict[str, list[Any]]:
        """What is to be stored."""
        return {key: list(register) for key, register in sorted(self._held.items())}

    def clear(self) -> None:
        """The session is deleted."""
        self._held.clear()

    def all(self) -> list[tuple[str, Register]]:
        """Every register, deleted keys too, by key."""
        return sorted(self._held.items())

    def values(self) -> dict[str, Any]:
        """What is shown; a deleted key, whose value is null, is absent."""
        values = {key: json.loads(register.text) for key, register in self.all()}
        return {key: value for key, value in values.items() if value is not None}
