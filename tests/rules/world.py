"""Schedules over the model: what happens is drawn, step by step, from a seed; then all heals."""

import random
from dataclasses import dataclass, field
from zlib import crc32

from tests.rules.model import (
    Agent,
    Cancel,
    Claim,
    Item,
    Lane,
    Op,
    Open,
    Reader,
    Region,
    Shown,
    branch_hash,
    lane_tokens,
)

BUFFER_TRIES_MAX = 8


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class World:
    """Three regions, agents that take over from one another, and readers that hop."""

    seed: int
    wrong: str | None = None
    broken_producer: bool = False
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.regions = [Region(name, wrong=self.wrong) for name in ("eu", "us", "ap")]
        self.agents: list[Agent] = []
        self.readers = [(Reader(), self.regions[i]) for i in range(2)]
        self.names = 0
        self.cancelled = False
        self.forked = False
        self.known_stable: dict[Lane, int] = {}

    # Steps

    def run(self, steps: int) -> None:
        """So many drawn steps, then heal and check."""
        self.open()
        actions = [
            (10, self.append), (8, self.gossip), (6, self.read), (3, self.hop),
            (2, self.kill), (3, self.revive), (1, self.take_over), (1, self.end),
            (0.3, self.cancel), (1, self.expire), (1, self.zombie),
            (0.5 if self.broken_producer else 0, self.break_producer),
        ]  # fmt: skip
        weights = [weight for weight, _ in actions]
        for _ in range(steps):
            self.rng.choices([action for _, action in actions], weights)[0]()
            self.check_stable()
        self.heal()

    def alive(self) -> list[Region]:
        return [region for region in self.regions if region.alive]

    def mint(self, counter: int, nonce: int, agent: str) -> Lane:
        return Lane(counter, nonce, agent)

    def open(self) -> None:
        """The first agent opens the message; its first answer may be lost, and it repeats."""
        agent = Agent("a")
        nonce = self.rng.getrandbits(48)
        for region in self.rng.sample(self.regions, self.rng.choice([1, 1, 2])):
            if self.wrong == "reopening_mints":
                nonce = self.rng.getrandbits(48)
            agent.lane = self.mint(1, nonce, "a")
            region.disk.add(Open(agent.lane))
        assert agent.lane is not None
        agent.known_at = [Open(agent.lane)]
        self.agents.append(agent)

    def append(self) -> None:
        """The living agent writes some tokens and sends its buffer to a region."""
        agent = self.agents[-1]
        if agent.stopped is None and not agent.ended:
            for _ in range(self.rng.randint(0, 3)):
                self.names += 1
                agent.tokens.append(f"{agent.name}{self.names}")
            self.send(agent)

    def zombie(self) -> None:
        """An agent that was replaced goes on writing."""
        if len(self.agents) > 1:
            agent = self.rng.choice(self.agents[:-1])
            if agent.stopped is None and not agent.ended:
                self.names += 1
                agent.tokens.append(f"{agent.name}{self.names}z")
                self.send(agent)

    def send(self, agent: Agent, region: Region | None = None) -> None:
        """Send everything that is not known to be stable, as often as the answers ask for it."""
        if not self.alive() or agent.stopped is not None or agent.lane is None:
            return
        region = region or self.rng.choice(self.alive())
        seq = agent.stable
        for _ in range(BUFFER_TRIES_MAX):
            lane = self.lane_at(agent.lane, region)
            outcome, held = region.append(lane, seq, agent.tokens[seq:], agent.ended)
            if outcome == "unknown_epoch":
                region.disk.update(agent.known_at)
            elif outcome == "gap" and held >= agent.stable:
                seq = held
            else:
                break
        if outcome in ("fenced", "cancelled", "conflict", "ended"):
            agent.stopped = outcome
        elif outcome == "ok":
            self.acknowledge(agent, held)

    def lane_at(self, lane: Lane, region: Region) -> Lane:
        if self.wrong == "named_by_region":
            lane = Lane(lane.counter, lane.nonce + self.regions.index(region), lane.agent)
            region.disk.add(Open(lane))
        return lane

    def acknowledge(self, agent: Agent, held: int) -> None:
        """Forget what is on two disks; the wrong rule forgets what is on one."""
        assert agent.lane is not None
        counts = [len(lane_tokens(r.disk, agent.lane, self.wrong)) for r in self.regions]
        safe = sorted(counts)[-2] if self.wrong != "buffer_until_accepted" else held
        agent.stable = max(agent.stable, min(safe, len(agent.tokens)))
        self.known_stable[agent.lane] = max(self.known_stable.get(agent.lane, 0), agent.stable)

    def gossip(self) -> None:
        """Some operations of one living region reach another, in any order."""
        if len(self.alive()) > 1:
            source, target = self.rng.sample(self.alive(), 2)
            ops = sorted(source.disk - target.disk, key=repr)
            self.rng.shuffle(ops)
            target.disk.update(ops[: self.rng.randint(0, len(ops))])

    def kill(self) -> None:
        if len(self.alive()) > 1:
            self.rng.choice(self.alive()).alive = False

    def revive(self) -> None:
        for region in self.regions:
            region.alive = region.alive or self.rng.random() < 0.5

    def take_over(self) -> None:
        """A new producer claims the message; the answer of a first region may be lost."""
        if len(self.agents) >= 4 or not self.alive():
            return
        agent = Agent("abcd"[len(self.agents)])
        tag = self.rng.getrandbits(48)
        tries = self.rng.sample(self.alive(), min(len(self.alive()), self.rng.choice([1, 1, 2])))
        for region in tries:
            self.claim_at(agent, tag, region)
        if agent.lane is not None:
            self.agents.append(agent)

    def claim_at(self, agent: Agent, tag: int, region: Region) -> None:
        shown = region.shown()
        if shown is None or shown.status != "streaming":
            return
        known = next((o for o in region.disk if isinstance(o, Claim) and o.tag == tag), None)
        kept = [(lane, count) for lane, count in shown.runs if count]
        restart = self.rng.random() < 0.3 or not kept
        previous, base = (None, 0) if restart else kept[-1]
        counter = max(getattr(op, "lane", op).counter for op in region.disk) + 1
        lane = self.mint(counter, tag ^ crc32(repr((previous, base)).encode()), agent.name)
        claim = known or Claim(lane, tag, previous, base)
        if known is None:
            region.disk.add(claim)
        agent.lane = claim.lane
        agent.base = () if claim.previous is None else shown.tokens
        opens: list[Op] = [op for op in region.disk if isinstance(op, Open)]
        chain: list[Op] = [op for op in region.disk if isinstance(op, Claim)]
        agent.known_at = [*opens, *chain]

    def end(self) -> None:
        agent = self.agents[-1]
        if agent.stopped is None and self.rng.random() < 0.3:
            agent.ended = True
            self.send(agent)

    def cancel(self) -> None:
        region = self.rng.choice(self.regions)
        shown = region.shown()
        if region.alive and shown is not None and shown.status == "streaming":
            region.disk.add(Cancel(shown.runs[-1][0]))
            self.cancelled = True
            after = region.shown()
            if after is None or after.tokens != shown.tokens:
                raise Violation("cancel took text back")

    def break_producer(self) -> None:
        """A broken producer writes another content for a seq, at a region that lacks it."""
        agent = self.agents[-1]
        for region in self.alive():
            assert agent.lane is not None
            held = lane_tokens(region.disk, agent.lane, self.wrong)
            if region.knows(agent.lane) and len(held) < len(agent.tokens):
                before = 0
                for token in held:
                    before = branch_hash(before, token)
                for number in range(2):
                    other = f"x{self.names}.{number}"
                    region.disk.add(Item(agent.lane, len(held) + number, other, before))
                    before = branch_hash(before, other)
                self.forked = True
                return

    # Readers

    def read(self) -> None:
        for reader, region in self.readers:
            if region.alive:
                self.look(reader, region)

    def look(self, reader: Reader, region: Region, *, expired: bool = False) -> None:
        before, announced = reader.text, reader.announced
        reader.look(region, self.wrong, expired=expired)
        if reader.announced == announced and reader.text[: len(before)] != before:
            raise Violation("text was taken back without an announcement")
        self.check_written(reader.text)

    def hop(self) -> None:
        number = self.rng.randrange(len(self.readers))
        if self.alive():
            reader, _ = self.readers[number]
            self.readers[number] = (reader, self.rng.choice(self.alive()))
            self.look(*self.readers[number])

    def expire(self) -> None:
        for reader, region in self.readers:
            if region.alive and reader.holding:
                self.look(reader, region, expired=True)

    # Checks

    def check_written(self, text: tuple[str, ...]) -> None:
        """Nothing is shown that nobody wrote, in an order that nobody wrote."""
        if self.forked:
            return
        if not any(agent.text[: len(text)] == text for agent in self.agents):
            raise Violation(f"nobody wrote {text}")

    def check_stable(self) -> None:
        """What was said to be stable is on two disks."""
        for lane, stable in self.known_stable.items():
            counts = [len(lane_tokens(r.disk, lane, self.wrong)) for r in self.regions]
            if not self.forked and sorted(counts)[-2] < stable:
                raise Violation("stable tokens are on one disk only")

    def heal(self) -> None:
        """Every region comes back; agents repeat their buffers; all is gossiped; readers look."""
        everything: set[Op] = set()
        for region in self.regions:
            region.alive = True
        for agent in self.agents:
            self.send(agent, self.regions[0])
        for region in self.regions:
            everything |= region.disk
        for region in self.regions:
            region.disk |= everything
        for agent in self.agents:
            if agent.stopped is None and not agent.ended:
                # It lives, so it writes; of two answers to its claim it shows which it got.
                agent.tokens.append("last")
            self.send(agent, self.regions[1])
        for region in self.regions:
            region.disk |= self.regions[1].disk
        shown = {region.shown() for region in self.regions}
        if len(shown) != 1:
            raise Violation("regions differ after healing")
        final = self.regions[0].shown()
        assert final is not None
        for number, (reader, _) in enumerate(self.readers):
            self.look(reader, self.regions[number])
            self.look(reader, self.regions[2])
            if reader.text != final.tokens:
                raise Violation(f"a reader ends with {reader.text}, not {final.tokens}")
        self.check_final(final)

    def check_final(self, final: Shown) -> None:
        """The text is that of the agent that holds the message, whole.

        An agent that was told to stop has had its later tokens refused; and a claim whose answer
        was lost fences others as any claim does, so the tip's agent may be none that lives.
        """
        self.check_written(final.tokens)
        self.check_branches()
        tip = final.runs[-1][0]
        owner = next((a for a in self.agents if a.lane == tip), None)
        twins = {
            op.tag: op.lane
            for op in self.regions[0].disk
            if isinstance(op, Claim) and op.lane == tip
        }
        for agent in self.agents if owner is None else []:
            same_claim = any(
                isinstance(op, Claim) and op.lane == agent.lane and twins.get(op.tag) == tip
                for op in self.regions[0].disk
            )
            if same_claim and agent.stopped is None and agent.tokens:
                raise Violation(f"{agent.name} is fenced by a lost answer to its own claim")
        if owner is None or owner.stopped or self.cancelled or self.forked:
            return
        if final.tokens != owner.text:
            raise Violation(f"{final.tokens} is not all that {owner.name} wrote: {owner.text}")

    def check_branches(self) -> None:
        """Each lane shows one branch, from one hand, and no mixture of several."""
        disk = self.regions[0].disk
        for agent in self.agents:
            before = 0
            assert agent.lane is not None
            for seq, token in enumerate(lane_tokens(disk, agent.lane, self.wrong)):
                if Item(agent.lane, seq, token, before) not in disk:
                    raise Violation(f"nobody wrote {token} there")
                before = branch_hash(before, token)
