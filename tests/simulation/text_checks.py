"""Promises about what is written: who wrote it, that it is all there, and who may end it."""

from collections.abc import Iterator
from itertools import pairwise

from tests.simulation.history import Acked, Claimed, History, Looked, Seen, Writer
from tests.simulation.runs import (
    NotRuns,
    asked,
    attempts,
    claimers,
    claims_of,
    count_in,
    final_of,
    has_rivals,
    is_broken,
    is_kept,
    is_streamed,
    is_usual,
    runs_in,
    runs_of,
    silent_claimers,
)


def written(history: History) -> Iterator[str]:
    """Whatever anybody is shown was written by somebody, in order, without gap or duplicate."""
    for shown in history.shown:
        if shown.text is not None:
            yield from _written(history, shown.message, shown.text, shown.reader)
    for place, seen in (*history.final.items(), *history.final_readers.items()):
        for message, value in seen.items():
            yield from _written(history, message, value.text, place)


def _written(history: History, message: str, text: str, who: str) -> Iterator[str]:
    if not is_streamed(message):
        known = history.writers.get(message)
        if known is None or text != known.tokens[0]:
            yield f"{who} shows in {message} what nobody wrote: {text!r}"
        return
    if text == "written after the delete":
        # A deletion that was only accepted may be lost with its disk.
        deletes = [a for a in history.asked if (a.what, a.message) == ("delete", message)]
        if any(is_kept(history, a) for a in deletes):
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
        elif run.odd and not is_broken(history, message):
            yield f"{who} shows in {message} the other text of {run.writer}"


def acknowledged(history: History) -> Iterator[str]:
    """What was acknowledged is in the end there, unless a takeover, a conflict or a delete that the
    history shows excludes it, or it was only ``accepted`` and its disk was lost."""
    final = final_of(history)
    for ack in history.acked:
        promised = ack.accepted if history.accepted_holds(ack) else ack.stable
        if not promised:
            continue
        seen = final.get(ack.message)
        if seen is None:
            if not asked(history, "delete", ack.message):
                yield f"{ack.message} is gone, and {promised} of {ack.writer} were acknowledged"
        elif is_streamed(ack.message):
            yield from _kept(history, ack, promised, seen)
        elif seen.text != history.writers[ack.message].tokens[0]:
            yield f"{ack.message} has another text"


def _kept(history: History, ack: Acked, promised: int, seen: Seen) -> Iterator[str]:
    """All that was promised; or just as much as is in the text that a takeover goes on after."""
    message, others = ack.message, set(claimers(history, ack.message)) - {ack.writer}
    held = count_in(seen.text, ack.writer)
    if held >= promised or seen.text == "written after the delete":
        return
    if is_broken(history, message):
        if not seen.text and not others:
            yield f"nothing of {message} is shown, and {promised} were acknowledged"
        return
    if has_rivals(history, message) and (others or (not held and _rival_won(history, ack, seen))):
        return
    if others & set(silent_claimers(history, message)):
        return
    texts = [
        c.text
        for c in claims_of(history, message)
        if c.writer in others and not _must_have(history, c, ack)
    ]
    if not any(count_in(text, ack.writer) == held for text in texts):
        yield f"{held} of {ack.writer} are shown, {promised} were acknowledged at {ack.at_s:.3f}"


def _must_have(history: History, claim: Claimed, ack: Acked) -> bool:
    """A takeover at the region that had acknowledged it goes on after all of it."""
    later = claim.disk == ack.disk and claim.began_s > ack.at_s
    return later and claim.mode == "continue" and attempts(history, claim.writer) == 1


def _rival_won(history: History, ack: Acked, seen: Seen) -> bool:
    """Another one opened the message, and it is that one's."""
    runs = runs_in(seen.text)
    if runs:
        return runs[0].writer != ack.writer
    openers = {w.name for w in history.writers.values() if w.opens and w.message == ack.message}
    return bool(openers - {a.writer for a in history.acked if a.accepted} - {ack.writer})


def finished(history: History) -> Iterator[str]:
    """A producer that lived to the end has its whole text shown, and its end, unless another one
    has taken the message over."""
    final = final_of(history)
    for writer in history.writers.values():
        message = writer.message
        if not writer.finished or asked(history, "delete", message):
            continue
        seen = final.get(message)
        if seen is None and is_usual(history, message):
            yield f"{message} is gone, and {writer.name} finished it"
        elif seen is not None and is_streamed(message) and is_usual(history, message):
            yield from _finished(history, writer, seen)


def _finished(history: History, writer: Writer, seen: Seen) -> Iterator[str]:
    others = set(claimers(history, writer.message)) - {writer.name}
    runs = runs_in(seen.text)
    if others and (not runs or runs[-1].writer != writer.name):
        return
    count = runs[-1].count if runs else 0
    cut = any(
        count_in(c.text, writer.name) == count
        for c in claims_of(history, writer.message)
        if c.writer in others
    )
    if cut or others & set(silent_claimers(history, writer.message)):
        return
    if count < len(writer.tokens):
        yield f"{writer.name} finished, and {seen.text!r} is shown"
    if seen.status != "complete":
        yield f"{writer.name} finished, and {writer.message} is {seen.status}"


def takeovers(history: History) -> Iterator[str]:
    """A takeover that was answered goes on after all that its region knew, fences who wrote before,
    and the last one has the message."""
    for message in sorted({claim.message for claim in history.claimed}):
        if not is_usual(history, message) or asked(history, "delete", message):
            continue
        answered = claims_of(history, message)
        for claim in answered:
            yield from _goes_on(history, claim)
            yield from _undisturbed(history, claim)
        yield from _lost_to_an_older(history, answered)


def _goes_on(history: History, claim: Claimed) -> Iterator[str]:
    """A takeover that was asked for once, by the only region that has carried out any before."""
    others = set(claimers(history, claim.message, claim.at_s)) - {claim.writer}
    # Who is fenced before the answer comes is told what the message is then.
    if claim.mode == "restart" and claim.text and not others:
        yield f"{claim.writer} starts anew, and was given {claim.text!r}"
    before = [c for c in claims_of(history, claim.message) if c.writer in others]
    here = all(c.disk == claim.disk and c.at_s < claim.began_s for c in before)
    once = all(attempts(history, name) == 1 for name in (*others, claim.writer))
    if not (here and once and len(before) == len(others)):
        return
    opener = next(
        w.name for w in history.writers.values() if w.message == claim.message and w.opens
    )
    holder = before[-1].writer if before else opener
    since_s = before[-1].at_s if before else 0.0
    for ack in history.acked:
        known = ack.disk == claim.disk and since_s <= ack.at_s < claim.began_s
        if not known or ack.writer != holder:
            continue
        held = count_in(claim.text, holder)
        if claim.mode == "continue" and held < ack.accepted:
            yield (
                f"{claim.writer} was given {held} of {holder} to go on after, and"
                f" {ack.accepted} were acknowledged there at {ack.at_s:.3f}"
            )
        if ack.ended:
            yield f"{claim.writer} took {claim.message} over, and its end was acknowledged there"


def _undisturbed(history: History, claim: Claimed) -> Iterator[str]:
    """Who opened the message is acknowledged nothing fresh where a takeover was answered."""
    who = [w.name for w in history.writers.values() if w.message == claim.message and w.opens]
    for ack in fresh(history, who[0], claim.disk, claim.at_s):
        yield (
            f"{ack.writer} was acknowledged {ack.accepted} at {ack.at_s:.3f}, and"
            f" {claim.writer} had taken over there at {claim.at_s:.3f}"
        )


def fresh(history: History, writer: str, disk: str, since_s: float) -> Iterator[Acked]:
    """Acknowledgements on a disk, asked for later, of tokens that the writer had not made when it
    was acknowledged there before: nobody else can have brought them."""
    for before, ack in pairwise(a for a in history.acked if a.writer == writer):
        elsewhere = any(
            c.who == writer and before.at_s <= c.began_s <= ack.at_s for c in history.called
        )
        here = before.disk == ack.disk == disk and before.began_s > since_s
        if here and ack.accepted > before.made and not elsewhere:
            yield ack


def _lost_to_an_older(history: History, answered: list[Claimed]) -> Iterator[str]:
    """The last takeover of all, if the others stand in its text and it has written: what it goes on
    after and what it wrote is the message."""
    last = answered[-1]
    known = {run.writer for run in runs_in(last.text)} | {last.writer}
    held = [a for a in history.acked if a.writer == last.writer and history.accepted_holds(a)]
    seen = final_of(history).get(last.message)
    if seen is None or not held or not history.accepted_holds(last):
        return
    asking = [w for w in history.writers.values() if w.message == last.message and w.mode != "open"]
    if not {w.name for w in asking} <= known or not max(a.accepted for a in held):
        return
    rest = seen.text.removeprefix(last.text) if seen.text.startswith(last.text) else None
    if rest is None or {run.writer for run in runs_in(rest)} != {last.writer}:
        yield f"{last.writer} took over after {last.text!r} and wrote, and {seen.text!r} is shown"


def remembered(history: History) -> Iterator[str]:
    """What a region has shown, and was stable by then, it shows whenever it answers at all: also
    after it has lost its disk, where it can reach the others. (Not on an old copy of it, which may
    lack what it had.)"""
    known: dict[tuple[str, str], dict[str, tuple[int, float]]] = {}
    for looked in history.looked:
        if looked.disk in history.old_disks:
            continue
        before = known.setdefault((looked.region, looked.session), {})
        for message, (stable, at_s) in sorted(before.items()):
            if asked(history, "delete", message) or _may_lack(history, looked, at_s):
                continue
            seen = looked.seen.get(message)
            claimed = claimers(history, message, looked.at_s)
            fixed = is_usual(history, message) and not claimed
            if seen is None or (fixed and seen.length < stable):
                left = "nothing" if seen is None else seen.length
                yield (
                    f"{looked.region} shows {left} of {message} at {looked.at_s:.3f}, and has"
                    f" shown {stable} that were stable"
                )
        for ack in history.acked:
            seen = looked.seen.get(ack.message)
            if seen is not None and ack.stable and ack.at_s < looked.at_s:
                held = max(min(ack.stable, seen.length), before.get(ack.message, (0, 0.0))[0])
                # The disk may have been lost while the answer was on its way.
                before[ack.message] = held, looked.began_s


def _may_lack(history: History, looked: Looked, since_s: float) -> bool:
    """Whether it has lost its disk since, and could not ask all the others what they hold."""
    lost = [
        at_s
        for disk, at_s in history.lost_disks.items()
        if disk.split("/")[0] == looked.region and since_s < at_s <= looked.at_s
    ]
    return bool(lost) and any(
        d.place != looked.region and d.began_s <= looked.at_s and d.ended_s >= min(lost)
        for d in history.disturbed
    )


def answers(history: History) -> Iterator[str]:
    """What an answer says of a lane can be: no more is stable than accepted, and no more accepted
    than was made; and one disk does not say less than it has said."""
    said: dict[tuple[str, str], int] = {}
    for ack in history.acked:
        if not is_streamed(ack.message):
            continue
        key = (ack.writer, ack.disk)
        most = max(ack.made or ack.accepted, said.get(key, 0))
        if not ack.stable <= ack.accepted <= most:
            counts = f"{ack.stable} of {ack.accepted} of {ack.made}"
            yield f"{ack.writer} was told {counts} at {ack.at_s:.3f}"
        if ack.accepted < said.get(key, 0):
            yield f"{ack.writer} was told {said[key]} by {ack.disk}, and then {ack.accepted}"
        said[key] = max(ack.accepted, said.get(key, 0))


def consistent(history: History) -> Iterator[str]:
    """What is said of a message in the end fits its text."""
    for place, seen in (*history.final.items(), *history.final_readers.items()):
        for message, value in seen.items():
            if value.status not in ("streaming", "complete", "cancelled"):
                yield f"{place} says that {message} is {value.status}"
            runs = runs_in(value.text)
            if not is_streamed(message) or not runs or not is_usual(history, message):
                continue
            if value.length != sum(run.count for run in runs):
                yield f"{place} says that {message} has {value.length} items: {value.text!r}"
            writer = history.writers.get(runs[-1].writer)
            whole = writer is not None and runs[-1].count == len(writer.tokens)
            if value.status == "complete" and not whole:
                yield f"{place} says that {message} is complete: {value.text!r}"
