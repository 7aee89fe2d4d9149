"""What the head of a session says of all its messages together."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from perdure.replication.ids import grave_hash
from perdure.replication.limits import CURSOR_ENTRIES_MAX
from perdure.replication.rows import Archive

# The newest deletions, of which a returning reader may not have been told.
GRAVES_AT_HAND = 32
# How far back a session that comes to memory reaches for messages that cursors name.
UNSETTLED_ROWS_MAX = 256
_PAGE_ROWS = 256
_SERIAL_PREFIX_CHARS = 17


class Totals(NamedTuple):
    """What a head says of all messages together: number and sums of the shown ones' contents and
    of everybody's whole; the deleted ones, and the newest of those; how many have arrived."""

    shown: int = 0
    contents: int = 0
    wholes: int = 0
    graves: int = 0
    graves_sum: int = 0
    newest_graves: tuple[tuple[str, int], ...] = ()
    arrivals: int = 0
    window: int = 0


def totals_of(head: Mapping[str, Any]) -> Totals:
    """The totals of a stored head. Raises what a head that is none makes it raise."""
    shown, contents, wholes, graves, graves_sum, newest, arrivals, *_ = head["totals"]
    buried = tuple((id_, content) for id_, content in newest)
    # Older versions neither say a window nor read one.
    window = int(head.get("window", 0))
    return Totals(shown, contents, wholes, graves, graves_sum, buried, arrivals, window)


def recount(archive: Archive) -> Totals:
    """The totals of what is stored and intact, from every row."""
    shown = contents = wholes = graves = graves_sum = arrivals = 0
    newest: list[tuple[str, int]] = []
    unsettled: list[int] = []
    after = ""
    while rows := archive.after(after, _PAGE_ROWS):
        after = rows[-1].serial
        for row in rows:
            wholes += row.whole
            arrivals = max(arrivals, row.arrived)
            if row.is_shown:
                if not row.settled:
                    unsettled.append(shown)
                shown += 1
                contents += row.content
            elif row.is_buried:
                graves += 1
                graves_sum += grave_hash(row.id)
                newest.append((row.id, row.content))
    return Totals(
        shown,
        contents,
        wholes,
        graves,
        graves_sum,
        tuple(newest[-GRAVES_AT_HAND:]),
        arrivals,
        window_of(range(shown), unsettled),
    )


def window_of(order: Sequence[Any], unsettled: Sequence[Any]) -> int:
    """How many of the newest in the order must be at hand for cursors to name what is not settled;
    what lies further back than ``UNSETTLED_ROWS_MAX`` is left."""
    newest = unsettled[-CURSOR_ENTRIES_MAX:]
    reaches = [len(order) - bisect_left(order, place) for place in newest]
    return max((reach for reach in reaches if reach <= UNSETTLED_ROWS_MAX), default=0)


def id_of(serial: str) -> str:
    """The message of a serial."""
    return serial[_SERIAL_PREFIX_CHARS:]
