"""The promises, judged from what clients saw and never from inside.

Each checker is a function of a :class:`History` that gives sentences, one for each breach. Tokens
name their writer and their number, so what is shown tells by itself who wrote it.
"""

import re
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from typing import NamedTuple

from tests.simulation.history import Acked, Asked, Called, Claimed, History, Seen, Shown

Check = Callable[[History], Iterator[str]]
# How long the regions may take to be equal after everything is well again and written.
EQUAL_S_MAX = 60.0
HOLD_S_MIN = 29.0
# How long a reader may be held as a whole, while a change is on its way.
HELD_S_MAX = 1.0
_TOKEN = re.compile(r"([^;.]+-w\d+)\.(\d+)(!?);")


class Run(NamedTuple):
    """Tokens of one writer in a row: numbers from 0 to ``count``. ``odd``: of its other text."""

    writer: str
    count: int
    odd: int


class NotRuns(ValueError):
    """A text that no writers' runs make."""


def runs_of(text: str) -> list[Run]:
    """The runs of a streamed message. Raises ``NotRuns``, with the reason."""
    found = _TOKEN.findall(text)
    if "".join(f"{w}.{n}{odd};" for w, n, odd in found) != text:
        raise NotRuns(f"no tokens of anybody: {text!r}")
    runs = []
    for writer, group in groupby(found, key=lambda token: token[0]):
        tokens = list(group)
        for place, (_, number, _) in enumerate(tokens):
            if int(number) != place:
                raise NotRuns(f"{writer} has token {number} in place {place}")
        odd = [bool(token[2]) for token in tokens]
        if sorted(odd) != odd:
            raise NotRuns(f"two branches of {writer} are mixed")
        runs.append(Run(writer, len(tokens), sum(odd)))
    if len({run.writer for run in runs}) < len(runs):
        raise NotRuns("a writer comes twice")
    return runs


def _runs(text: str) -> list[Run]:
    """The same, for who leaves the fault to :func:`written`."""
    try:
        return runs_of(text)
    except NotRuns:
        return []


def _is_streamed(message: str) -> bool:
    return bool(re.search(r"-m\d+$", message))


def _is_broken(history: History, message: str) -> bool:
    return history.counts[f"broken.{message}"] > 0


def _has_rivals(history: History, message: str) -> bool:
    return sum(w.opens for w in history.writers.values() if w.message == message) > 1


def _asked(history: History, what: str, message: str) -> bool:
    return any(a.what == what and a.message == message for a in history.asked)


def written(history: History) -> Iterator[str]:
    """Whatever anybody is shown was written by somebody, in order, without gap or duplicate."""
    for shown in history.shown:
        if shown.text is not None:
            yield from _written(history, shown.message, shown.text, shown.reader)
    for place, seen in (*history.final.items(), *history.final_readers.items()):
        for message, value in seen.items():
            yield from _written(history, message, value.text, place)


def _written(history: History, message: str, text: str, who: str) -> Iterator[str]:
    if not _is_streamed(message):
        known = history.writers.get(message)
        if known is None or text != known.tokens[0]:
            yield f"{who} shows in {message} what nobody wrote: {text!r}"
        return
    if text == "written after the delete":
        # A deletion that was only accepted may be lost with its disk.
        deletes = [a for a in history.asked if (a.what, a.message) == ("delete", message)]
        if any(_is_kept(history, a) for a in deletes):
            yield f"{who} shows {message}, whose id was given again after a delete"
        return
    try:
        runs = runs_of(text)
    except NotRuns as error:
        yield f"{who} shows in {message}: {error}"
        return
    for run in runs:
        writer = history.writers.get(run.writer)
        if writer is None or writer.message != message or run.count > len(writer.tokens):
            yield f"{who} shows in {message} what nobody wrote: {run}"
        elif run.odd and not _is_broken(history, message):
            yield f"{who} shows in {message} the other text of {run.writer}"


def acknowledged(history: History) -> Iterator[str]:
    """What was acknowledged is in the end there, unless a takeover, a conflict or a delete that the
    history shows excludes it, or it was only ``accepted`` and its disk was lost."""
    final = next(iter(history.final.values()), {})
    for ack in history.acked:
        promised = ack.accepted if history.accepted_holds(ack) else ack.stable
        if not promised:
            continue
        seen = final.get(ack.message)
        if seen is None:
            if not _asked(history, "delete", ack.message):
                yield f"{ack.message} is gone, and {promised} of {ack.writer} were acknowledged"
        elif _is_streamed(ack.message):
            yield from _kept(history, ack, promised, seen)
        elif seen.text != history.writers[ack.message].tokens[0]:
            yield f"{ack.message} has another text"


def _kept(history: History, ack: Acked, promised: int, seen: Seen) -> Iterator[str]:
    if _is_broken(history, ack.message) or _has_rivals(history, ack.message):
        return
    runs = _runs(seen.text)
    held = next((run.count for run in runs if run.writer == ack.writer), 0)
    if held >= promised:
        return
    # Cut short: only a claim can do that, and it must have been made.
    later = any(
        w.mode != "open" and w.message == ack.message and w.name != ack.writer
        for w in history.writers.values()
    ) and _asked(history, "claim", ack.message)
    if not later:
        yield f"{held} of {ack.writer} are shown, {promised} were acknowledged at {ack.at_s:.3f}"
    elif runs and runs[-1].writer == ack.writer and not _fenced_by_silent(history, ack, seen):
        yield f"{ack.writer} holds {ack.message} with {held}, {promised} were acknowledged"


def _fenced_by_silent(history: History, ack: Acked, seen: Seen) -> bool:
    """Whether somebody who has written nothing yet took the message over at just this text."""
    silent = [w.name for w in history.writers.values() if w.message == ack.message]
    return any(c.writer in silent and c.text == seen.text for c in history.claimed) or any(
        a.what == "claim" and a.message == ack.message and not a.acked for a in history.asked
    )


def finished(history: History) -> Iterator[str]:
    """A producer that lived to the end has its whole text shown, and its end."""
    final = next(iter(history.final.values()), {})
    for writer in history.writers.values():
        if not writer.finished or _asked(history, "delete", writer.message):
            continue
        if _is_broken(history, writer.message) or _has_rivals(history, writer.message):
            continue
        seen = final.get(writer.message)
        if seen is None:
            yield f"{writer.message} is gone, and {writer.name} finished it"
        elif _is_streamed(writer.message):
            runs = [run for run in _runs(seen.text) if run.writer == writer.name]
            others = [w for w in history.writers.values() if w.message == writer.message]
            if len(others) == 1 and (not runs or runs[0].count < len(writer.tokens)):
                yield f"{writer.name} finished, and {seen.text!r} is shown"
            if len(others) == 1 and seen.status != "complete":
                yield f"{writer.name} finished, and {writer.message} is {seen.status}"


def forward(history: History) -> Iterator[str]:
    """A reader's position never goes back, except by an announced ``replace`` (or a snapshot with a
    reason), which comes for a cause; an ``append`` goes on from what is held."""
    held: dict[tuple[str, str], Shown] = {}
    for shown in history.shown:
        key = (shown.reader, shown.message)
        before = held.get(key)
        held[key] = shown
        if before is None or before.text is None or shown.text is None:
            continue
        grows = shown.text.startswith(before.text)
        if shown.event in ("append", "end") and not grows:
            yield f"{shown.reader}: {shown.event} of {shown.message} does not go on"
        if not grows:
            yield from _cause(history, before, shown)


def _cause(history: History, before: Shown, shown: Shown) -> Iterator[str]:
    what = f"{shown.reader} lost text of {shown.message} at {shown.at_s:.3f} ({shown.event}"
    what += f" {shown.reason}: {len(before.text or '')} to {len(shown.text or '')} characters)"
    if shown.reason == "behind":
        if shown.at_s - shown.connected_s < HOLD_S_MIN:
            yield f"{what} after {shown.at_s - shown.connected_s:.1f} s"
        return
    claimed = any(
        a.what == "claim" and a.message == shown.message and a.at_s <= shown.at_s
        for a in history.asked
    )
    unusual = _is_broken(history, shown.message) or _has_rivals(history, shown.message)
    if not claimed and not unusual:
        yield f"{what} without a cause"
    elif (before.text or "").startswith(shown.text or "") and shown.event == "snapshot":
        yield f"{what} by an older snapshot"


def in_step(history: History) -> Iterator[str]:
    """No event contradicts what its reader holds."""
    yield from history.out_of_step


def equal(history: History) -> Iterator[str]:
    """After the heal all regions come to show the same, in bounded time, and know that they do."""
    if history.equal_after_s is None:
        views = {place: sorted(seen.items()) for place, seen in history.final.items()}
        yield f"the regions do not come to be equal: {views}"
    elif history.equal_after_s > EQUAL_S_MAX + 90:
        yield f"the regions were equal {history.equal_after_s:.0f} s after the heal"
    if history.counts["unfinished"]:
        yield f"{history.counts['unfinished']} clients cannot finish"
    if history.verified and not history.verified["equal"]:
        yield f"verify says {history.verified}"


def readers(history: History) -> Iterator[str]:
    """Every reader ends with exactly what the regions show: snapshot equals concatenation.

    But for a text of which the only disk was lost, and that a broken producer then wrote otherwise
    under the same numbers: no region has heard of it, and a cursor says numbers.
    """
    final = next(iter(history.final.values()), {})
    for reader, view in history.final_readers.items():
        session = reader.split("-")[0]
        right = {id_: seen for id_, seen in final.items() if id_.startswith(session + "-")}
        told_otherwise = {
            id_
            for id_, seen in view.items()
            if history.lost_disks and _is_broken(history, id_) and id_ in right
            if (seen.status, seen.length) == (right[id_].status, right[id_].length)
        }
        if {**view, **{id_: right[id_] for id_ in told_otherwise}} != right:
            yield f"{reader} ends with {view}, not {right}"


def _is_kept(history: History, asked: Asked) -> bool:
    return asked.acked and history.accepted_holds(asked)


def cancelled(history: History) -> Iterator[str]:
    """A cancel that was acknowledged on a disk that was kept ends the message."""
    final = next(iter(history.final.values()), {})
    for asked in history.asked:
        seen = final.get(asked.message)
        if not _is_kept(history, asked) or seen is None:
            continue
        if asked.what == "delete":
            yield f"{asked.message} was deleted, and is there"
        streams = asked.what == "cancel" and seen.status == "streaming"
        if streams and not _has_rivals(history, asked.message):
            yield f"{asked.message} was cancelled, and streams"


def refused(history: History) -> Iterator[str]:
    """Nobody is refused for good without somebody else who is the cause."""
    for stopped in history.stopped:
        rivals = [w for w in history.writers.values() if w.message == stopped.message]
        unusual = _is_broken(history, stopped.message) or len(rivals) > 1
        causes = {
            "fenced": len(rivals) > 1,
            "conflict": unusual or _asked(history, "delete", stopped.message),
            "cancelled": _asked(history, "cancel", stopped.message),
            "deleted": _asked(history, "delete", stopped.message),
            "ended": unusual,
        }
        if not causes.get(stopped.code, True):
            yield f"{stopped.writer} was refused: {stopped.code}, and nobody is the cause"


def takeovers(history: History) -> Iterator[str]:
    """A takeover that was answered fences who wrote before, and the last one has the message."""
    for message, claims in groupby(
        sorted(history.claimed, key=lambda c: (c.message, c.at_s)), key=lambda c: c.message
    ):
        if _is_broken(history, message) or _has_rivals(history, message):
            continue
        answered = list(claims)
        for claim in answered:
            yield from _undisturbed(history, claim)
        yield from _lost_to_an_older(history, answered)


def _undisturbed(history: History, claim: Claimed) -> Iterator[str]:
    """Fresh tokens of who opened the message, taken by the region that answered a takeover."""
    acks = [a for a in history.acked if a.message == claim.message and a.writer != claim.writer]
    for before, ack in pairwise(a for a in acks if history.writers[a.writer].mode == "open"):
        elsewhere = any(
            c.who == ack.writer and before.at_s <= c.began_s <= ack.at_s for c in history.called
        )
        # What it had made by then it may have sent to others, whose peer this region is.
        is_fresh = ack.accepted > before.made and not elsewhere
        here = before.disk == ack.disk == claim.disk and before.began_s > claim.at_s
        if here and is_fresh:
            yield (
                f"{ack.writer} was acknowledged {ack.accepted} at {ack.at_s:.3f}, and"
                f" {claim.writer} had taken over there at {claim.at_s:.3f}"
            )


def _lost_to_an_older(history: History, answered: list[Claimed]) -> Iterator[str]:
    """The last takeover of all, if the others stand in its text and it has written: what it goes on
    after and what it wrote is the message."""
    last = answered[-1]
    asked = [w for w in history.writers.values() if w.message == last.message and w.mode != "open"]
    known = {run.writer for run in _runs(last.text)} | {last.writer}
    held = [a for a in history.acked if a.writer == last.writer and history.accepted_holds(a)]
    seen = next(iter(history.final.values()), {}).get(last.message)
    if seen is None or not held or not history.accepted_holds(last):
        return
    if not {w.name for w in asked} <= known or not max(a.accepted for a in held):
        return
    rest = seen.text.removeprefix(last.text) if seen.text.startswith(last.text) else None
    if rest is None or {run.writer for run in _runs(rest)} != {last.writer}:
        yield f"{last.writer} took over after {last.text!r} and wrote, and {seen.text!r} is shown"


def remembered(history: History) -> Iterator[str]:
    """What a region has shown, and was stable by then, it shows whenever it answers at all: also
    after it has lost its disk."""
    stable_s: dict[str, float] = {}
    for ack in history.acked:
        if ack.stable and ack.message not in stable_s:
            stable_s[ack.message] = ack.at_s
    known: dict[tuple[str, str], set[str]] = {}
    for looked in history.looked:
        before = known.setdefault((looked.region, looked.session), set())
        for message in sorted(before - looked.seen.keys()):
            if not _asked(history, "delete", message):
                yield f"{looked.region} does not show {message} any more at {looked.at_s:.3f}"
        before |= {m for m in looked.seen if stable_s.get(m, looked.at_s) < looked.at_s}


def elsewhere(history: History) -> Iterator[str]:
    """A cursor works elsewhere: a reader that comes back to a region that lacks a part of one
    message is told the rest at once.

    Not judged where a disk was lost (a reader may have been told what nobody has), where something
    was deleted (a deletion has no name in a cursor), and for producers that contradict each other.
    """
    for waited in history.waited:
        messages = [m for m in history.writers.values() if m.message.startswith(waited.session)]
        unusual = any(
            _asked(history, "delete", w.message)
            or _is_broken(history, w.message)
            or _has_rivals(history, w.message)
            for w in messages
        )
        if waited.held_s > HELD_S_MAX and not unusual and not history.lost_disks:
            yield (
                f"{waited.reader} was told nothing at {waited.region} for {waited.held_s:.1f} s"
                f" until {waited.at_s:.3f}"
            )


def available(history: History) -> Iterator[str]:
    """A region that nothing was wrong with, on a way that nothing was wrong with, answers."""
    for call in history.called:
        if not _excused(history, call):
            yield (
                f"{call.verb} of {call.who} at {call.region} was {call.code} at"
                f" {call.began_s:.3f} to {call.ended_s:.3f}"
            )


def _excused(history: History, call: Called) -> bool:
    places = (call.region, f"{call.who}>{call.region}")
    # A region with an empty disk catches up, however long its peers are out of reach.
    fresh = call.code == "catching_up"
    return fresh or any(
        d.place in places and d.began_s <= call.ended_s and call.began_s <= d.ended_s
        for d in history.disturbed
    )


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        written,
        acknowledged,
        finished,
        forward,
        in_step,
        equal,
        readers,
        cancelled,
        refused,
        takeovers,
        remembered,
        elsewhere,
        available,
    )
}


class TooLittle(AssertionError):
    """Nothing can be judged: too little was seen."""


def evidence(history: History) -> None:
    """Raises ``TooLittle`` for a history that would pass because nothing happened."""
    seen = {
        "acknowledgements": len(history.acked),
        "events of readers": len(history.shown),
        "regions looked at": len(history.final),
        "readers looked at": len(history.final_readers),
        "requests": history.calls,
    }
    lacking = [what for what, count in seen.items() if not count]
    if lacking or len(history.final) < 2:
        raise TooLittle(f"too little was seen to judge: {', '.join(lacking) or 'one region'}")


def judge(history: History) -> list[str]:
    """Every breach, with the name of the check. Raises ``TooLittle``."""
    evidence(history)
    return [f"{name}: {breach}" for name, check in CHECKS.items() for breach in check(history)]
