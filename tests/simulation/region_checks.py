"""Promises about the regions: that they agree, that stop works, and that they answer."""

from collections.abc import Iterator

from tests.simulation.history import Asked, Called, History, Stopped
from tests.simulation.runs import (
    asked,
    claimers,
    final_of,
    has_rivals,
    is_kept,
    is_usual,
    silent_claimers,
)
from tests.simulation.text_checks import fresh

# How long the regions may take to be equal after everything is well again; and after the last
# client has said everything.
EQUAL_S_MAX = 150.0
CONVERGED_S_MAX = 20.0
# How long a region with an empty disk may catch up while nothing is in its way.
CATCHING_UP_S_MAX = 30.0
# After so long it has certainly noted that it has caught up.
NOTED_S = 5.0


def equal(history: History) -> Iterator[str]:
    """After the heal all regions come to show the same, in bounded time, and know that they do."""
    views = {place: list(seen.items()) for place, seen in history.final.items()}
    if history.equal_after_s is None:
        yield f"the regions do not come to be equal: {views}"
    elif history.equal_after_s > EQUAL_S_MAX:
        yield f"the regions were equal {history.equal_after_s:.0f} s after the heal"
    if history.converged_s > CONVERGED_S_MAX:
        yield f"the regions were equal {history.converged_s:.0f} s after the last token"
    if history.equal_after_s is not None and len({repr(view) for view in views.values()}) > 1:
        yield f"the regions show different things: {views}"
    if history.counts["unfinished"]:
        yield f"{history.counts['unfinished']} clients cannot finish"
    if history.verified and not history.verified["equal"]:
        yield f"verify says {history.verified}"


def cancelled(history: History) -> Iterator[str]:
    """A cancel that was acknowledged on a disk that was kept ends the message, and a region that
    has acknowledged one takes no more of it."""
    final = final_of(history)
    for what in history.asked:
        seen = final.get(what.message)
        if what.what in ("cancel", "delete") and what.acked:
            yield from _goes_on(history, what.what, what.message, what.disk, what.at_s)
        if not is_kept(history, what) or seen is None:
            continue
        if what.what == "delete":
            yield f"{what.message} was deleted, and is there"
        streams = what.what == "cancel" and seen.status == "streaming"
        if streams and not _is_another(history, what):
            yield f"{what.message} was cancelled, and streams"


def _goes_on(history: History, what: str, message: str, disk: str, at_s: float) -> Iterator[str]:
    if not is_usual(history, message) or claimers(history, message):
        return
    for writer in history.writers.values():
        if writer.message == message:
            for ack in fresh(history, writer.name, disk, at_s):
                yield (
                    f"{writer.name} was acknowledged {ack.accepted} at {ack.at_s:.3f}, after a"
                    f" {what} of {message} there at {at_s:.3f}"
                )


def _is_another(history: History, what: Asked) -> bool:
    """Whether what streams may be of another epoch than what was cancelled: of a rival, or of a
    takeover that another region carried out."""
    claims = [c for c in history.carried_out if c.message == what.message]
    elsewhere = any(c.disk != what.disk for c in claims)
    silent = silent_claimers(history, what.message)
    return has_rivals(history, what.message) or elsewhere or bool(silent)


def refused(history: History) -> Iterator[str]:
    """Nobody is refused for good without somebody else who is the cause."""
    for stopped in history.stopped:
        if not _has_cause(history, stopped):
            yield f"{stopped.writer} was refused: {stopped.code}, and nobody is the cause"


def _has_cause(history: History, stopped: Stopped) -> bool:
    message = stopped.message
    unusual = not is_usual(history, message)
    others = [w for w in history.writers.values() if w.message == message]
    writer = history.writers.get(stopped.writer)
    claims = writer is not None and writer.mode != "open"
    deleted = asked(history, "delete", message, stopped.at_s)
    taken = [n for n in claimers(history, message, stopped.at_s) if n != stopped.writer]
    return {
        "fenced": unusual or bool(taken),
        "conflict": unusual or deleted,
        "cancelled": asked(history, "cancel", message, stopped.at_s),
        "deleted": deleted,
        "held": bool(taken),
        "ended": unusual or len(others) > 1,
        # Who claims may come before the message does; and to where its disk was lost.
        "not_found": claims,
        "clock_ahead": history.counts["fault.clock_jump"] > 0,
    }.get(stopped.code, False)


def alive(history: History) -> Iterator[str]:
    """A process ends when it is told to, and then as it should; but one may not start, or may end,
    where its disk is full."""
    for at_s, region, how in history.deaths:
        full = any(
            d.what == "disk_full" and d.place == region and d.began_s <= at_s <= d.ended_s
            for d in history.disturbed
        )
        if not full:
            yield f"{region} {how}, at {at_s:.3f}"


def available(history: History) -> Iterator[str]:
    """A region that nothing was wrong with, on a way that nothing was wrong with, answers."""
    for call in history.called:
        if not _excused(history, call):
            yield (
                f"{call.verb} of {call.who} at {call.region} was {call.code} at"
                f" {call.began_s:.3f} to {call.ended_s:.3f}"
            )


def _excused(history: History, call: Called) -> bool:
    if call.code == "catching_up":
        return _is_fresh(history, call)
    if call.code == "left":
        # Who asked did not wait.
        return True
    places = (call.region, f"{call.who}>{call.region}")
    return any(
        d.place in places and d.began_s <= call.ended_s and call.began_s <= d.ended_s
        for d in history.disturbed
    )


def _is_fresh(history: History, call: Called) -> bool:
    """A region with an empty disk catches up, however long its peers are out of reach; one that has
    answered for a while on its disk (which it notes there) does not."""
    lost = [at for disk, at in history.lost_disks.items() if disk.split("/")[0] == call.region]
    late = [d.began_s for d in history.disturbed if d.place == call.region and d.what == "late"]
    began = max(at for at in (0.0, *lost, *late) if at <= call.ended_s)
    last = max((d.ended_s for d in history.disturbed), default=0.0)
    full = any(d.place == call.region and d.what == "disk_full" for d in history.disturbed)
    caught_up = not full and _has_answered(history, call.region, began, call.began_s)
    return call.began_s <= max(began, last) + CATCHING_UP_S_MAX and not caught_up


def _has_answered(history: History, region: str, since_s: float, until_s: float) -> bool:
    """Whether it did in this time for ``NOTED_S`` without a fault, long enough to note it."""
    answers = sorted(
        what.at_s
        for what in (*history.acked, *history.claimed, *history.looked)
        if what.disk.split("/")[0] == region and since_s < what.at_s < until_s
    )
    faults = [(d.began_s, d.ended_s) for d in history.disturbed if d.place == region]
    for first in answers:
        after = next((at for at in answers if at > first + NOTED_S), None)
        if after is not None and not any(b <= after and first <= e for b, e in faults):
            return True
    return False
