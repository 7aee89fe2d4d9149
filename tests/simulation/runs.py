"""What the checkers are made of: texts as runs of writers, and what a history says of a message."""

import re
from itertools import groupby
from math import inf
from typing import NamedTuple

from tests.simulation.history import Asked, Claimed, History, Seen

# What takes a message over.
CLAIMS = ("claim", "claim_run")
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


def runs_in(text: str) -> list[Run]:
    """The same, for who leaves the fault to ``written``."""
    try:
        return runs_of(text)
    except NotRuns:
        return []


def count_in(text: str, writer: str) -> int:
    """How many tokens of a writer a text has."""
    return next((run.count for run in runs_in(text) if run.writer == writer), 0)


def final_of(history: History) -> dict[str, Seen]:
    """What the regions show in the end; see ``equal``."""
    return next(iter(history.final.values()), {})


def is_streamed(message: str) -> bool:
    """Whether the message came token by token."""
    return bool(re.search(r"-m\d+$", message))


def is_broken(history: History, message: str) -> bool:
    """Whether its producer says two things under one number."""
    return history.counts[f"broken.{message}"] > 0


def has_rivals(history: History, message: str) -> bool:
    """Whether two open it."""
    return sum(w.opens for w in history.writers.values() if w.message == message) > 1


def is_usual(history: History, message: str) -> bool:
    """Whether its producers keep to the rules."""
    return not is_broken(history, message) and not has_rivals(history, message)


def opened_apart(history: History, message: str, by_s: float) -> bool:
    """Whether one open of it may have been carried out by then on two disks: on each under a serial
    of its own, of which one wins."""
    writers = {w.name for w in history.writers.values() if w.message == message and w.opens}
    disks = {o.disk for o in history.opened if o.message == message and o.began_s <= by_s}
    regions = {disk.split("/")[0] for disk in disks}
    lost = {
        c.region
        for c in history.called
        if c.who in writers and c.verb == "open" and c.code in LOST and c.began_s <= by_s
    }
    return len(disks) + len(lost - regions) > 1


def asked(history: History, what: str, message: str, by_s: float = inf) -> bool:
    """Whether somebody asked for it by then, and was not refused."""
    return any(a.what == what and a.message == message and a.at_s <= by_s for a in history.asked)


def is_kept(history: History, what: Asked) -> bool:
    """Whether it was acknowledged on a disk that was not lost since."""
    return what.acked and history.accepted_holds(what)


def claims_of(history: History, message: str) -> list[Claimed]:
    """The takeovers that were answered, in order."""
    found = [claim for claim in history.claimed if claim.message == message]
    return sorted(found, key=lambda claim: claim.at_s)


def attempts(history: History, writer: str) -> int:
    """How often a takeover may have been carried out: answers, and requests without one."""
    answered = sum(c.writer == writer for c in history.carried_out)
    lost = sum(c.who == writer and c.verb in CLAIMS and c.code in LOST for c in history.called)
    return answered + lost


# Codes of requests that may have been carried out all the same.
LOST = frozenset({"lost", "left", "storage_failed"})


def claimers(history: History, message: str, by_s: float = inf) -> list[str]:
    """Who may have taken the message over by then."""
    return [
        w.name
        for w in history.writers.values()
        if w.message == message and w.mode != "open" and attempted_s(history, w.name) <= by_s
        if attempts(history, w.name)
    ]


def silent_claimers(history: History, message: str) -> list[str]:
    """Those of them of whom it is not known after which text they go on: of a takeover that was
    carried out twice that one counts which the writer was told of, once it has written."""
    answered = {claim.writer for claim in claims_of(history, message)}
    wrote = {a.writer for a in history.acked if a.accepted and history.accepted_holds(a)}
    return [
        name
        for name in claimers(history, message)
        if name not in answered or (attempts(history, name) > 1 and name not in wrote)
    ]


def attempted_s(history: History, writer: str) -> float:
    """When a takeover may first have been carried out for a writer."""
    times = [c.began_s for c in history.carried_out if c.writer == writer]
    times += [
        c.began_s for c in history.called if c.who == writer and c.verb in CLAIMS and c.code in LOST
    ]
    return min(times, default=inf)
