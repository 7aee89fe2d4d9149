"""What is known of a run besides its message (``docs/PROTOCOL.md`` B.5).

Rule of this file: every part is a join of what was ever said: for each lane the greatest word of
its agent, the lapses that no other exceeds, and a set of inputs. So it does not matter in which
order, or how often, it is heard.
"""

from collections.abc import Iterator
from typing import NamedTuple

from perdure.replication.coding import fields
from perdure.replication.ids import LaneKey, canonical
from perdure.replication.operations import Input, Lapse, OfRun, Step


class Said(NamedTuple):
    """An agent's word on the state of its run; the text breaks a tie that only a broken agent
    makes."""

    n: int
    state: str
    detail: str


class Turn:
    """What is known of one run."""

    def __init__(self) -> None:
        self.steps: dict[LaneKey, Said] = {}
        self.lapses: dict[LaneKey, set[tuple[int, int]]] = {}
        # When each was addressed to the run, the earliest that is known.
        self.inputs: dict[str, int] = {}

    def apply(self, op: OfRun) -> None:
        """One more operation."""
        match op:
            case Step():
                said = Said(op.n, op.state, op.detail)
                self.steps[op.lane] = max(said, self.steps.get(op.lane, said))
            case Lapse():
                self._lapse(op.lane, (op.items, op.n))
            case Input():
                self.inputs[op.input] = min(op.hlc, self.inputs.get(op.input, op.hlc))

    def _lapse(self, lane: LaneKey, at: tuple[int, int]) -> None:
        known = self.lapses.setdefault(lane, set())
        if not any(_covers(other, at) for other in known):
            self.lapses[lane] = {other for other in known if not _covers(at, other)} | {at}

    def said(self, lane: LaneKey) -> Said | None:
        """The last word of a lane's agent."""
        return self.steps.get(lane)

    def has_lapsed(self, lane: LaneKey, items: int) -> bool:
        """Whether the lease of a lane was over, and its agent has done nothing since."""
        said = self.steps.get(lane)
        at = (items, said.n if said else 0)
        return any(_covers(lapse, at) for lapse in self.lapses.get(lane, ()))

    def ordered_inputs(self) -> list[str]:
        """The inputs in the order in which they were addressed."""
        return sorted(self.inputs, key=lambda id_: (self.inputs[id_], id_))

    def operations(self, session: str, message: str) -> Iterator[OfRun]:
        """Operations that say all this."""
        for lane, said in sorted(self.steps.items()):
            yield Step(session, message, lane, *said)
        for lane, lapses in sorted(self.lapses.items()):
            for items, n in sorted(lapses):
                yield Lapse(session, message, lane, items, n)
        for id_ in self.ordered_inputs():
            yield Input(session, message, self.inputs[id_], id_)

    def parts(self) -> list[str]:
        """What regions must agree on, for a digest."""
        return [canonical(fields(op)) for op in self.operations("-", "-")]


def _covers(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] >= other[0] and one[1] >= other[1]
