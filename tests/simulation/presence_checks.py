"""Promises about presence: who is here is shown, who is not is not, and nobody comes back."""

from collections.abc import Iterator
from itertools import pairwise
from math import inf
from typing import NamedTuple

from tests.simulation.history import Act, Announced, History, Met
from tests.simulation.meeting import LEASE_S

# What somebody did is known in every connected region after so long.
KNOWN_S = 3.0
# An absence that nobody may see: a second less than the grace.
UNSEEN_S = 4.0
# A keep-alive, by which the simulated server finds out that a client has gone; the grace, or a
# lease that a region took over when it started anew; and a second or two.
GONE_S = 20.0
# A request that was lost may be carried out for so long.
LOST_S = 8.0
# What was true at the other end of a link when it broke is known by then.
STALE_S = 12.0


class Stay(NamedTuple):
    """Somebody was here: certainly in the one time, and perhaps in the other. ``unseen_s``: how
    long an absence after it nobody may see."""

    sure: tuple[float, float]
    perhaps: tuple[float, float]
    left: bool
    unseen_s: float


def calm_since(history: History, at_s: float) -> float:
    """Since when nothing has gone wrong by this time; infinite where something does."""
    since = 0.0
    for fault in history.disturbed:
        if fault.began_s <= at_s:
            since = max(since, fault.ended_s if fault.ended_s < at_s else inf)
    return since


def acts_of(history: History, who: str) -> list[Act]:
    return [act for act in history.acts if act.who == who]


def stays_of(history: History, who: str) -> list[Stay]:
    """When somebody was here, as far as its own acts tell."""
    stays: list[Stay] = []
    acts = acts_of(history, who)
    for number, act in enumerate(acts):
        if act.what != "comes":
            continue
        rest = acts[number + 1 :]
        following = next((a.at_s for a in rest if a.what == "comes"), inf)
        mine = [a for a in rest if a.at_s <= following]
        drops = next((a.at_s for a in mine if a.what == "drops"), None)
        first = next((a.at_s for a in mine if a.what in ("here", "put")), inf)
        left = next((a.at_s for a in rest if a.what == "left"), None)
        asked = next((a.at_s for a in rest if a.what == "leaves"), inf)
        leased = any(a.what == "put" for a in mine) or (drops is None and first == inf)
        if leased:
            until = perhaps = act.at_s + LEASE_S
            perhaps = (first if first < inf else act.at_s + LOST_S) + LEASE_S
        else:
            until = perhaps = inf if drops is None else drops
        sure = (first, min(until, asked))
        leaves = left is not None and left <= perhaps + 1
        whole = (act.at_s, left if left is not None and leaves else perhaps)
        stays.append(Stay(sure, whole, leaves, 0.0 if leased else UNSEEN_S))
    return stays


def sure_times(stays: list[Stay]) -> list[tuple[float, float]]:
    """The times in which somebody was certainly here, but for absences that nobody may see."""
    times: list[tuple[float, float]] = []
    unseen_s = 0.0
    for stay in sorted(stays):
        began, ended = stay.sure
        if began >= ended:
            continue
        last = times[-1][1] if times else -inf
        if began - last <= unseen_s and not _left_between(stays, last, began):
            times[-1] = (times[-1][0], max(last, ended))
        else:
            times.append((began, ended))
        unseen_s = stay.unseen_s
    return times


def _left_between(stays: list[Stay], from_s: float, to_s: float) -> bool:
    return any(stay.left and from_s <= stay.perhaps[1] <= to_s for stay in stays)


def people(history: History) -> list[str]:
    return sorted({act.who for act in history.acts})


def missing(history: History) -> Iterator[str]:
    """While all is well, who is certainly here is shown in every region."""
    for who in people(history):
        times = sure_times(stays_of(history, who))
        session = acts_of(history, who)[0].session
        for met in _looks(history, session):
            here = any(a + KNOWN_S <= met.began_s and met.at_s <= b for a, b in times)
            if here and who not in met.names and calm_since(history, met.at_s) < met.began_s - 8:
                yield f"{who} is in {session}, and {met.region} did not show it at {met.at_s:.3f}"


def ghosts(history: History) -> Iterator[str]:
    """While all is well, who has been away for a while is shown nowhere."""
    for who in people(history):
        stays = stays_of(history, who)
        session = acts_of(history, who)[0].session
        for met in _looks(history, session):
            calm_s = calm_since(history, met.at_s)
            if who not in met.names or calm_s >= met.began_s:
                continue
            before = [stay for stay in stays if stay.perhaps[0] <= met.at_s]
            last = max((stay.perhaps[1] for stay in before), default=0.0)
            quick = before and before[-1].left and calm_s < before[-1].perhaps[0] - KNOWN_S
            bound = KNOWN_S if quick else GONE_S
            if met.began_s - max(last, calm_s) > bound:
                yield (
                    f"{who} has been away from {session} since {last:.3f}, and {met.region} showed"
                    f" it at {met.at_s:.3f}"
                )


def _looks(history: History, session: str) -> list[Met]:
    return [met for met in history.met if met.session == session]


def gone(history: History) -> Iterator[str]:
    """Who has left is never announced again to who was told that it is away."""
    for who in people(history):
        acts = acts_of(history, who)
        told: dict[tuple[str, float], list[Announced]] = {}
        for a in history.announced:
            if a.who == who:
                told.setdefault((a.reader, a.connected_s), []).append(a)
        for changes in told.values():
            for first, (_, again) in zip(changes, pairwise(changes[1:]), strict=False):
                if first.here and again.here and _left_by(acts, first.at_s, again.at_s):
                    yield (
                        f"{who} had left, and was announced to {again.reader} again at"
                        f" {again.at_s:.3f}"
                    )


def _left_by(acts: list[Act], first_s: float, again_s: float) -> bool:
    """Whether all that was here when it was first told had left, where it was, well before; and
    did not come again."""
    before = [act for act in acts if act.at_s <= again_s]
    comings = [act for act in before if act.what == "comes"]
    left = [act for act in before if act.what == "left" and act.at_s < again_s - STALE_S]
    if not comings or not left or comings[-1].at_s > first_s:
        return False
    lately = [act for act in comings if act.at_s > comings[-1].at_s - 60]
    return left[-1].at_s > comings[-1].at_s and {a.region for a in lately} == {left[-1].region}


def settled(history: History) -> Iterator[str]:
    """In the end those are here who stayed, in every region, and nobody else."""
    for met in history.final_met:
        prefix = f"{met.session}-"
        stay = {who for who in history.stay if who.startswith(prefix)}
        if met.names != stay:
            yield f"{met.region} shows {sorted(met.names)} in the end, and {sorted(stay)} are here"
    for region, count in history.final_present.items():
        if count != len(history.stay):
            yield f"{region} holds {count} entries in the end, for {len(history.stay)} people"
