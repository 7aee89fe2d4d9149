"""A producer: it opens or claims a message, writes, and repeats what is not known to be stable."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.rules.message import END, Claim, Items, Lane, Op, Open, winner
from tests.rules.region import Region

TRIES_MAX = 6
# Answers a request, or None when no answer comes (before or after it was carried out).
Request = Callable[[], object]
Fate = Callable[[Region, Request], object]


@dataclass
class Agent:
    """``base`` is the text that the claim answered with; ``known`` is its sealed header."""

    name: str
    message: str
    lane: Lane
    base: tuple[str, ...] = ()
    known: list[Op] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    stable: int = 0
    accepted: int = 0
    finished: bool = False
    stopped: str = ""
    # A broken producer answers for two texts in one lane.
    broken: bool = False

    @property
    def text(self) -> tuple[str, ...]:
        return (*self.base, *self.tokens)

    def send(self, region: Region, fate: Fate, named: Callable[[Lane, Region], Lane]) -> None:
        """Send the buffer, as often as the answers ask for it."""
        seq = self.stable
        for _ in range(TRIES_MAX):
            items = (*self.tokens[seq:], *([END] if self.finished else []))
            lane = named(self.lane, region)

            def request(
                lane: Lane = lane, seq: int = seq, items: tuple[str, ...] = items
            ) -> object:
                answer = region.append(self.message, lane, seq, items)
                return (*answer, region.stable(self.message, lane))

            answer = fate(region, request)
            if not isinstance(answer, tuple):
                return
            outcome, following, stable = answer
            if outcome == "unknown_epoch":
                answer = fate(region, lambda: region.reopen(self.known))
                if answer in ("conflict", "deleted"):
                    self.stopped = str(answer)
                if answer != "ok":
                    return
            elif outcome == "gap":
                if following < self.stable:
                    return  # It let go of these: they are on two disks, and will come here.
                seq = following
            else:
                if outcome == "ok":
                    self.accepted = max(self.accepted, following)
                    self.stable = max(self.stable, min(stable, len(self.tokens)))
                else:
                    self.stopped = outcome
                return

    def adopt(self, claim: Claim, region: Region) -> None:
        """The answer to a claim: the lane, the text that it continues, the header."""
        ops = region.ops(self.message)
        view = region.view(self.message)
        header = winner(ops)
        assert view is not None and header is not None
        self.lane = claim.lane
        self.base = () if claim.previous is None else view.tokens
        self.known = [
            header,
            *(op for op in ops if isinstance(op, Claim) and op.root == claim.root),
        ]
        if "base_left_to_gossip" not in region.rules:
            # The base is a part of the buffer: its region may be lost before it has told anyone.
            # What is on another disk too will come from there.
            safe = {lane: region.stable(self.message, lane) for lane, _ in view.runs}
            self.known += [
                op
                for op in ops
                if isinstance(op, Items)
                and op.lane in safe
                and op.seq + len(op.items) > safe[op.lane]
            ]


def opener(name: str, op: Open) -> Agent:
    """An agent whose open was answered."""
    return Agent(name, op.message, op.lane, known=[op])
