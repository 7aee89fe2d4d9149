"""Promises about runs: each comes to its end, one agent at a time, and what is shown is so."""

from collections.abc import Iterator

from tests.simulation.hands import LEASE_S
from tests.simulation.history import History, Sign
from tests.simulation.presence_checks import calm_since

# For so long before a look nothing may have gone wrong.
CALM_S = 8.0
# An agent that gave a sign so lately is at work, whoever looks.
LATELY_S = 3.0
# A sign is known in every region after so long.
TOLD_S = 1.0
# A lease, the time until its end is noticed, and until it is told.
DEAD_S = LEASE_S + 10.0


def ended(history: History) -> Iterator[str]:
    """Every run that was asked for, of a disk that was kept, comes to its end, the same in every
    region."""
    for region, runs in history.final_runs.items():
        for run, disk in history.requested.items():
            if run not in runs:
                if disk in history.lost_disks:
                    continue
                yield f"{region} does not know {run} in the end"
            elif runs[run]["status"] not in ("complete", "cancelled"):
                yield f"{run} is {runs[run]['status']} in {region} in the end"
    views = list(history.final_runs.values())
    if any(view != views[0] for view in views):
        yield f"the regions show other runs in the end: {views}"


def inputs(history: History) -> Iterator[str]:
    """What was said to a run, and acknowledged on a disk that was kept, is handed on."""
    for run, message, disk in history.inputs:
        if disk in history.lost_disks:
            continue
        for region, runs in history.final_runs.items():
            if run in runs and message not in runs[run]["inputs"]:
                yield f"{region} has not handed {message} on to {run}"


def _signs(history: History, run: str, who: str | None = None) -> list[Sign]:
    return [s for s in history.signs if s.run == run and who in (None, s.who)]


def kept(history: History) -> Iterator[str]:
    """While all is well, nobody takes a run from an agent that is at work."""
    for claim in history.claimed:
        if calm_since(history, claim.at_s) >= claim.began_s - CALM_S:
            continue
        for sign in _signs(history, claim.message):
            at_work = LATELY_S > claim.began_s - sign.at_s > TOLD_S
            if at_work and sign.who != claim.writer:
                yield (
                    f"{claim.writer} was given {claim.message} at {claim.at_s:.3f}, and {sign.who}"
                    f" was at work at {sign.at_s:.3f}"
                )


def seen(history: History) -> Iterator[str]:
    """While all is well, an agent at work is shown so, and one that is silent is not for long."""
    for ran in history.ran:
        calm_s = ran.began_s - calm_since(history, ran.at_s)
        for run, (status, who) in ran.shown.items():
            signs = _signs(history, run, who)
            lately = any(LATELY_S > ran.began_s - s.at_s > TOLD_S for s in signs)
            if status == "interrupted" and lately and calm_s > CALM_S:
                yield f"{ran.region} shows {run} interrupted at {ran.at_s:.3f}, {who} is at work"
            last = max((s.at_s for s in signs if s.at_s <= ran.at_s), default=0.0)
            if status == "running" and ran.began_s - last > DEAD_S and calm_s > CALM_S + DEAD_S:
                yield f"{ran.region} shows {run} running at {ran.at_s:.3f}, {who} fell silent"
