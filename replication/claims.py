"""The claims of a message: who took it over, which claim counts, and the chain of lanes it makes.

Rule of this file: everything is a function of the set of claims, the lane of the winning header
(``root``), and which lanes have been written to: entries, or a word on the state of a run. Of the
epochs of one claim (one tag), one that has been wins over one that has not: the other is the answer
of a region that died before telling anyone.
Of different claims the greater epoch wins.
"""

from collections.abc import Callable
from typing import NamedTuple

from perdure.replication.ids import LaneKey
from perdure.replication.operations import Claim


class Link(NamedTuple):
    """One lane of a chain; ``take`` items of it are kept, None for all (the tip)."""

    lane: LaneKey
    take: int | None


Chain = tuple[Link, ...]


class Claims:
    """All claims that are known of one message. ``written``: whether a lane has been written to."""

    def __init__(self, written: Callable[[LaneKey], bool]) -> None:
        self._written = written
        self._claims: dict[LaneKey, Claim] = {}

    def __contains__(self, lane: LaneKey) -> bool:
        return lane in self._claims

    def __getitem__(self, lane: LaneKey) -> Claim:
        return self._claims[lane]

    def add(self, claim: Claim) -> None:
        """One more. The epoch names all fields, so one epoch is one claim."""
        self._claims.setdefault(claim.lane, claim)

    def all(self) -> list[Claim]:
        """Every claim."""
        return list(self._claims.values())

    def get(self, lane: LaneKey) -> Claim | None:
        """The claim that made this lane; None for a lane that was opened, or is not known."""
        return self._claims.get(lane)

    def root_of(self, lane: LaneKey) -> LaneKey:
        """The first lane of the header that the lane hangs from."""
        claim = self._claims.get(lane)
        return claim.root if claim else lane

    def lanes_of(self, root: LaneKey) -> list[LaneKey]:
        """The claimed lanes that hang from a header's lane."""
        return [claim.lane for claim in self._claims.values() if claim.root == root]

    def written(self, root: LaneKey) -> list[LaneKey]:
        """The claimed lanes that hang from a header's lane and have been written to, whose chains
        are known. Which of them has the greatest epoch never changes back."""
        lanes = [lane for lane in self.lanes_of(root) if self._written(lane)]
        return [lane for lane in lanes if self.chain_of(lane) is not None]

    def that_count(self, root: LaneKey) -> list[Claim]:
        """One claim for each tag, the greatest first."""
        best: dict[int, Claim] = {}
        for claim in self._claims.values():
            if claim.root == root:
                known = best.get(claim.tag)
                if known is None or self._rank(claim) > self._rank(known):
                    best[claim.tag] = claim
        return sorted(best.values(), key=lambda claim: claim.lane.epoch, reverse=True)

    def _rank(self, claim: Claim) -> tuple[bool, tuple[int, int]]:
        return self._written(claim.lane), claim.lane.epoch

    def of_tag(self, root: LaneKey, tag: int) -> Claim | None:
        """The claim of this name that counts."""
        return next((claim for claim in self.that_count(root) if claim.tag == tag), None)

    def fences(self, root: LaneKey, lane: LaneKey) -> bool:
        """Whether a claim excludes new entries of the lane.

        A lane whose own claim was carried out twice is not fenced by its twin while neither has
        entries: the producer knows only one of them, and shows which by writing.
        """
        claims = self.that_count(root)
        if not claims or claims[0].lane == lane:
            return False
        mine = self._claims.get(lane)
        if mine is not None and mine.tag == claims[0].tag:
            return self._written(claims[0].lane)
        return True

    def chain(self, root: LaneKey) -> Chain:
        """The chain of the greatest claim of which no link is missing."""
        for claim in self.that_count(root):
            found = self.chain_of(claim.lane)
            if found is not None:
                return found
        return (Link(root, None),)

    def chain_of(self, tip: LaneKey) -> Chain | None:
        """The chain of a lane down to its root; None while a link is missing."""
        links = [Link(tip, None)]
        claim = self._claims.get(tip)
        while claim is not None and claim.previous is not None:
            links.append(Link(claim.previous, claim.base))
            if claim.previous == claim.root:
                break
            # Counters rise along a chain, so this walk ends; a forged cycle is cut here.
            before, claim = claim, self._claims.get(claim.previous)
            if claim is None or claim.lane.epoch.counter >= before.lane.epoch.counter:
                return None
        return tuple(reversed(links))

    def waits(self, root: LaneKey, lane: LaneKey, tip: LaneKey) -> bool:
        """Whether the lane would be the tip instead, were its chain all here."""
        lanes = [claim.lane for claim in self.that_count(root)]
        return lane in lanes and lane != tip and (tip not in lanes or tip.epoch < lane.epoch)


def shared_items(one: Chain, other: Chain) -> int:
    """How many items two chains of different tips have in common, whatever of them is here."""
    total = 0
    for (lane, take), (lane_, take_) in zip(one, other, strict=False):
        if lane != lane_:
            return total
        if take != take_:
            return total + min(n for n in (take, take_) if n is not None)
        total += take or 0
    return total
