"""A chain of records: each says the hash of the one before, so none can be changed, taken out or
put in without that being seen by who knows a later one.

A record is an object; ``prev`` and ``hash`` in it are hexadecimal BLAKE2b-256.
"""

from collections.abc import Iterable
from typing import Any

from perdure.replication.ids import canonical, digest

HASH_BYTES = 32
START = "0" * (2 * HASH_BYTES)
# The action of a record that says where chains begin whose older records are gone: its ``anchors``
# are {region: [the last number that is gone, its hash]}.
CUT = "audit.cut"


def linked(record: dict[str, Any], prev: str) -> dict[str, Any]:
    """The record as the next one of a chain whose last hash is ``prev``."""
    whole = {**record, "prev": prev}
    return {**whole, "hash": _hash(whole)}


def _hash(record: dict[str, Any]) -> str:
    return digest(HASH_BYTES, "chain", canonical(record)).hex()


def is_whole(record: dict[str, Any]) -> bool:
    """Whether a record says what it said when it was hashed."""
    rest = {name: value for name, value in record.items() if name != "hash"}
    return record.get("hash") == _hash(rest)


class Checker:
    """Follows the chains of several regions, which may be mixed, each in its own order."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, str]] = {}
        # Where each chain begins, and where it was said to: (the entry before, its hash).
        self._begins: dict[str, tuple[int, str]] = {}
        self._anchors: dict[str, tuple[int, str]] = {}

    def fault(self, record: dict[str, Any]) -> str | None:
        """What is wrong with the next record; None where nothing is."""
        region, n = str(record.get("region")), record.get("n")
        if not is_whole(record) or type(n) is not int:
            return f"record {n} of {region} was changed"
        before = self._last.get(region)
        self._last[region] = (n, record["hash"])
        if before is None:
            self._begins[region] = (n - 1, record.get("prev", ""))
        if record.get("action") == CUT:
            # The later one knows of all that were cut before.
            for name, (last, hash_) in dict(record.get("anchors", {})).items():
                self._anchors[name] = max(self._anchors.get(name, (0, "")), (last, hash_))
        if before is None or (n, record["prev"]) == (before[0] + 1, before[1]):
            return None
        return f"record {n} of {region} does not follow record {before[0]}"

    def unanchored(self) -> list[str]:
        """Of chains that were followed from their beginning on: which of them begin elsewhere than
        at their first record, and where the newest anchor says."""
        return [
            f"the records of {region} begin after record {n}, and no anchor says so"
            for region, (n, hash_) in sorted(self._begins.items())
            if n and self._anchors.get(region) != (n, hash_)
        ]


def faults(records: Iterable[dict[str, Any]]) -> list[str]:
    """What is wrong with chains of several regions; empty where nothing is."""
    checker = Checker()
    return [fault for record in records if (fault := checker.fault(record)) is not None]
