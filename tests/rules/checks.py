"""What is checked against the promises, from what readers were shown and agents were told."""

from tests.rules.agent import Agent
from tests.rules.message import (
    END,
    Items,
    Lane,
    Op,
    Open,
    Rules,
    View,
    follow,
    mix,
    render,
    written,
)
from tests.rules.reader import RANK, Event, Held, Reader, Violation, as_held
from tests.rules.region import Region


def begins(view: View, held: Held) -> bool:
    """Whether the text that is held is the beginning of this."""
    return view.tokens[: len(held.tokens)] == held.tokens


def extends(view: View, held: Held) -> bool:
    """Whether this is what is held, and perhaps more."""
    return begins(view, held) and RANK[held.status] <= RANK[view.status]


class Checks:
    """The checks of a world; what it knows is filled in by the schedule."""

    rule: str
    rules: Rules
    regions: list[Region]
    agents: list[Agent]
    readers: list[Reader]
    bodies: dict[str, set[tuple[str, ...]]]
    cancelled: set[str]
    deleted: set[str]
    forked: set[str]

    def live(self) -> list[Region]:
        return [region for region in self.regions if region.alive]

    def truth(self, message: str) -> View | None:
        """What would be shown, were all that is on a disk known everywhere."""
        ops: frozenset[Op] = frozenset()
        for region in self.regions:
            if not region.lost:
                ops |= region.ops(message)
        return render(ops, self.rules)

    def check_event(
        self, region: Region, event: Event, before: Held | None, reader: Reader, late: bool
    ) -> None:
        if event.kind == "snapshot":
            for message, held in reader.texts.items():
                self.check_written(message, held)
            return
        if event.message in reader.texts:
            self.check_written(event.message, reader.texts[event.message])
        expired = event.reason == "behind" or late
        if event.kind not in ("replace", "message") or before is None or expired:
            if event.kind == "replace" and event.view is not None and before is not None:
                cancelled = event.view.status == "cancelled"
                in_hold = self.rule != "cancel_ends_a_hold"
                if cancelled and not in_hold and len(event.view.tokens) < len(before.tokens):
                    raise Violation("cancel took text back")
            return
        truth = self.truth(event.message)
        if truth is None or event.message in self.forked:
            return
        same = (truth.ident, truth.created) == (before.ident, before.created)
        right = extends(truth, before) and same and not self.rivals(region, event, truth)
        if right and event.view is not None and not begins(event.view, before):
            raise Violation(f"{event.kind} {event.reason} took back what was right: {before}")

    @staticmethod
    def rivals(region: Region, event: Event, truth: View) -> bool:
        """Whether the region shows a claim that is written, and only others know a greater one:
        its readers are told of each in turn, for no region can know of the other's."""
        view, ops = event.view, region.ops(event.message)
        if view is None or view.root != truth.root or not written(ops, view.tip):
            return False
        return region.root_of(event.message, truth.tip) is None

    def check_written(self, message: str, held: Held) -> None:
        """Nothing is shown that nobody wrote."""
        if message in self.forked or not held.tokens:
            return
        texts = [agent.text for agent in self.agents if agent.message == message]
        texts += self.bodies.get(message, set())
        if not any(text[: len(held.tokens)] == held.tokens for text in texts):
            raise Violation(f"nobody wrote {held.tokens}")

    def check_settled(self, region: Region) -> None:
        """What is settled is over: every region shows the same, or has buried it."""
        for message in region.messages:
            if region.is_settled(message):
                view = region.view(message)
                for other in self.regions:
                    if message not in other.tombstones and other.view(message) != view:
                        raise Violation(f"{message} is settled, but {other.name} differs")

    def check_final(self) -> None:
        views = [region.visible() for region in self.live()]
        if any(view != views[0] for view in views):
            raise Violation("regions differ after healing")
        final = views[0]
        if final.keys() & self.deleted - self.lost_only(self.deleted):
            raise Violation("a deleted message is there")
        # A broken producer's branch that is lost with its disk is known to nobody any more, and a
        # cursor names no content: who was shown it cannot be told.
        unsure = self.lost_only(self.forked)
        for reader in self.readers:
            shown = {m: tuple(h) for m, h in reader.texts.items() if m not in unsure}
            right = {m: as_held(v) for m, v in final.items() if m not in unsure}
            if shown != right:
                raise Violation(f"a reader ends with {shown}, not {right}")
        for message, view in final.items():
            self.check_message(message, view)

    def lost_only(self, messages: set[str]) -> set[str]:
        """Those of which the operation may have been on the lost disk alone."""
        return messages if any(region.lost for region in self.regions) else set()

    def check_message(self, message: str, view: View) -> None:
        ops = self.live()[0].ops(message)
        cancelled = message in self.cancelled - self.lost_only(self.cancelled)
        rivals = len({op.ident for op in ops if isinstance(op, Open)}) > 1
        if cancelled and view.status == "streaming" and not rivals:
            raise Violation(f"{message} was cancelled, and streams")
        lanes: dict[str, set[Lane]] = {}
        opens = {(op.ident, op.lane) for op in ops if isinstance(op, Open)}
        if len({ident for ident, _ in opens}) < len(opens):
            raise Violation(f"a second lane was made: {opens}")
        for op in ops:
            if isinstance(op, Items):
                lanes.setdefault(op.lane.producer, set()).add(op.lane)
        if any(len(used) > 1 for used in lanes.values()):
            raise Violation(f"a second lane was made: {lanes}")
        if message in self.forked:
            self.check_branch(ops, view)
            return
        for agent in self.agents:
            if agent.message == message:
                self.check_agent(agent, ops, view)

    def check_branch(self, ops: frozenset[Op], view: View) -> None:
        """A lane with two contents shows one branch, whole, from one hand."""
        for lane, _ in view.runs:
            path = follow(ops, lane, self.rules)
            before = 0
            for seq, item in enumerate((*path.items, *([END] if path.ended else []))):
                pieces = [op for op in ops if isinstance(op, Items) and op.lane == lane]
                pieces += [
                    Items(op.message, lane, 0, 0, (*op.body, END))
                    for op in ops
                    if isinstance(op, Open) and op.lane == lane and op.body
                ]
                if not any(self.has(piece, seq, before, item) for piece in pieces):
                    raise Violation(f"nobody wrote {item} there")
                before = mix(before, item)

    @staticmethod
    def has(op: Items, seq: int, before: int, item: str) -> bool:
        running = op.before
        for index, other in enumerate(op.items):
            if op.seq + index == seq:
                return running == before and other == item
            running = mix(running, other)
        return False

    def check_agent(self, agent: Agent, ops: frozenset[Op], view: View) -> None:
        """What was acknowledged is there; the text of who holds the message is whole."""
        held = follow(ops, agent.lane, self.rules).items
        lost = any(region.lost for region in self.regions)
        kept = agent.stable if lost else agent.accepted
        if held[:kept] != tuple(agent.tokens[:kept]):
            raise Violation(f"{agent.name} was promised {agent.tokens[:kept]}, there is {held}")
        times = {op.created for op in ops if isinstance(op, Open) and op.lane == view.root}
        if agent.lane == view.root and agent.stopped == "conflict" and len(times) == 1 and not lost:
            raise Violation(f"{agent.name} was refused, and its header wins")
        if view.tip == agent.lane and not agent.stopped:
            if view.tokens != agent.text:
                raise Violation(f"{view.tokens} is not what {agent.name} wrote: {agent.text}")
            if agent.finished and view.status != "complete":
                raise Violation(f"{agent.name} ended, and the message is {view.status}")
