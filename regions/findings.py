"""What an operator should see first of a region, in words: from what it says of itself.

Rule of this file: each finding is something that somebody may have to do something about, says what
is so and not what to feel, and has a code that the operating guide explains.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from perdure.regions.tables import span

# From here on it is told.
CLOCKS_APART_MS = 500
BEHIND_S = 5
DISK_FREE_BYTES = 1_073_741_824

_STATES = {
    "starting": "it is starting",
    "draining": "it is draining: it takes no writes, and its clients are sent elsewhere",
    "storage_failed": "its disk has failed",
    "catching_up": "it is catching up with the others and is not ready yet",
    "name_in_use": "another live node has its name",
}


class Finding(NamedTuple):
    """One of them."""

    code: str
    text: str

    def value(self) -> dict[str, str]:
        """As the view shows it."""
        return {"code": self.code, "text": self.text}


def of_region(view: dict[str, Any], *, not_erased: int, damaged: int) -> Iterator[Finding]:
    """What there is to say of a region by its own view, the worst first."""
    if (state := view["state"]) is not None:
        yield Finding(state, _STATES.get(state, f"it is {state}"))
    free = view["disk_free_bytes"]
    if free is not None and free < DISK_FREE_BYTES:
        yield Finding("disk_nearly_full", f"{free / 2**20:,.0f} MiB are free on its disk")
    for seen in view["sees"]:
        yield from _of_link(seen)
    if damaged:
        yield Finding("damaged", f"{damaged} records or images were damaged since its start")
    if not_erased:
        yield Finding("not_erased", "some of what was deleted is not gone from its disk yet")


def _of_link(seen: dict[str, Any]) -> Iterator[Finding]:
    name, behind_s = seen["region"], seen["behind_s"]
    if seen["state"] == "down":
        yield Finding("link_down", f"it does not hear {name}")
    elif seen["state"] == "suspect":
        yield Finding("link_suspect", f"its link with {name} is interrupted")
    if behind_s is not None and behind_s >= BEHIND_S:
        count = seen["behind_operations"]
        what = f"{count:,} operation{'s' if count != 1 else ''}"
        yield Finding("behind", f"{name} lacks {what} of it, the oldest for {behind_s:,.0f} s")
    offset_ms = seen["clock_offset_ms"]
    if offset_ms is not None and abs(offset_ms) > CLOCKS_APART_MS:
        way = "ahead of" if offset_ms > 0 else "behind"
        yield Finding(
            "clocks_apart", f"the clock of {name} is {span(abs(offset_ms) / 1000)} {way} its"
        )
    if seen["digests"] == "different":
        yield Finding("different", f"it holds something else than {name}, with the same logs")
    if seen["wire"] == 1:
        yield Finding("old_wire", f"its link with {name} speaks version 1 of the wire")


def of_silence(name: str, state: str, age_ms: int | None) -> Finding:
    """A region that does not answer where one asks."""
    age = "" if age_ms is None else f"; this is what it said {age_ms / 1000:,.0f} s ago"
    how = "is down" if state == "down" else "does not answer"
    return Finding("unreachable", f"{name} {how}{age}")
