"""Promises about what readers are told, wherever they come back."""

from collections.abc import Iterator

from tests.simulation.history import History, Shown, Waited
from tests.simulation.runs import (
    asked,
    attempted_s,
    claimers,
    final_of,
    is_broken,
    is_usual,
    opened_apart,
)

HOLD_S_MIN = 29.0
# How long a reader may be held as a whole, while a change is on its way.
HELD_S_MAX = 1.0


def forward(history: History) -> Iterator[str]:
    """A reader's position never goes back, except by an announced ``replace`` (or a snapshot with a
    reason), which comes for a cause; an ``append`` goes on from what is held."""
    held: dict[tuple[str, str], Shown] = {}
    for shown in history.shown:
        key = (shown.reader, shown.message)
        before = held.get(key)
        held[key] = shown
        if before is None or before.text is None:
            continue
        if shown.text is None:
            yield from _taken(history, before, shown)
            continue
        grows = shown.text.startswith(before.text)
        if shown.event in ("append", "end") and not grows:
            yield f"{shown.reader}: {shown.event} of {shown.message} does not go on"
        if not grows:
            yield from _cause(history, before, shown)


def _taken(history: History, before: Shown, shown: Shown) -> Iterator[str]:
    """A message that is not there any more."""
    behind = shown.reason == "behind" and shown.at_s - shown.connected_s >= HOLD_S_MIN
    if not behind and not asked(history, "delete", shown.message, shown.at_s):
        yield (
            f"{shown.reader} lost {shown.message} at {shown.at_s:.3f} ({shown.event}), of which it"
            f" had {len(before.text or '')} characters, and nobody has deleted it"
        )


def _cause(history: History, before: Shown, shown: Shown) -> Iterator[str]:
    what = f"{shown.reader} lost text of {shown.message} at {shown.at_s:.3f} ({shown.event}"
    what += f" {shown.reason}: {len(before.text or '')} to {len(shown.text or '')} characters)"
    if shown.reason == "behind":
        if shown.at_s - shown.connected_s < HOLD_S_MIN:
            yield f"{what} after {shown.at_s - shown.connected_s:.1f} s"
        return
    claimed = any(
        attempted_s(history, name) <= shown.at_s for name in claimers(history, shown.message)
    )
    # An id may be given again when its deletion was lost with its disk.
    unusual = not is_usual(history, shown.message) or asked(history, "delete", shown.message)
    # Under another serial it comes as another message, also where a takeover took text back.
    moved = shown.event == "message" and opened_apart(history, shown.message, shown.at_s)
    if not unusual and (not claimed or (shown.reason == "conflict" and not moved)):
        yield f"{what} without a cause"
    elif (before.text or "").startswith(shown.text or "") and shown.event == "snapshot":
        yield f"{what} by an older snapshot"


def in_step(history: History) -> Iterator[str]:
    """No event contradicts what its reader holds."""
    yield from history.out_of_step


def readers(history: History) -> Iterator[str]:
    """Every reader ends with exactly what the regions show: snapshot equals concatenation.

    But for a text of which the only disk was lost, and that a broken producer then wrote otherwise
    under the same numbers: no region has heard of it, and a cursor says numbers.
    """
    final = final_of(history)
    for reader, view in history.final_readers.items():
        session = reader.split("-")[0]
        right = {id_: seen for id_, seen in final.items() if id_.startswith(session + "-")}
        told_otherwise = {
            id_
            for id_, seen in view.items()
            if history.lost_disks and is_broken(history, id_) and id_ in right
            if (seen.status, seen.length) == (right[id_].status, right[id_].length)
        }
        held = {**view, **{id_: right[id_] for id_ in told_otherwise}}
        if list(held.items()) != list(right.items()):
            yield f"{reader} ends with {view}, not {right}"


def elsewhere(history: History) -> Iterator[str]:
    """A cursor works elsewhere: a reader that comes back to a region that lacks a part of one
    message is told the rest at once.

    Not judged where a disk was lost that the session was written to before (its reader may have
    been told what nobody has), or the region's own (it may have got an old copy), where something
    was deleted (a deletion has no name in a cursor), and for producers that contradict each other.
    """
    for waited in history.waited:
        if waited.held_s > HELD_S_MAX and not _may_wait(history, waited):
            yield (
                f"{waited.reader} was told nothing at {waited.region} for {waited.held_s:.1f} s"
                f" until {waited.at_s:.3f}"
            )


def _may_wait(history: History, waited: Waited) -> bool:
    prefix = f"{waited.session}-"
    messages = {w.message for w in history.writers.values() if w.message.startswith(prefix)}
    if any(asked(history, "delete", m) or not is_usual(history, m) for m in messages):
        return True
    lost = {disk for disk, at_s in history.lost_disks.items() if at_s <= waited.at_s}
    used = [*history.acked, *history.asked, *history.claimed, *history.carried_out]
    return any(disk.split("/")[0] == waited.region for disk in lost) or any(
        what.disk in lost for what in used if what.message in messages
    )
