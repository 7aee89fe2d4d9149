"""Schedules: what happens is drawn step by step from a seed; then everything heals; then checks."""

import random
from dataclasses import dataclass, field

from tests.rules.agent import Agent, Request, opener
from tests.rules.checks import Checks
from tests.rules.message import Claim, Lane, Op, Open, Rules, Vector, follow, mix
from tests.rules.reader import Connection, Reader
from tests.rules.region import Region

NAMES = ("eu", "us", "ap")
MESSAGES_MAX = 7
AGENTS_MAX = 4
HEAL_ROUNDS = 4


@dataclass
class World(Checks):
    """Three regions with one session, its agents, and readers that hop."""

    seed: int
    rule: str = ""
    broken: bool = False
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.rules: Rules = frozenset({self.rule} if self.rule else ())
        self.regions = [
            Region(name, self.rules, tuple(n for n in NAMES if n != name)) for name in NAMES
        ]
        self.skew = {name: self.rng.choice([0, 0, 40, -40]) for name in NAMES}
        self.now = 100
        self.links_cut: set[frozenset[str]] = set()
        self.mail: list[tuple[Region, Region, list[tuple[object, int, list[Op]]], Vector]] = []
        self.agents: list[Agent] = []
        self.readers = [Reader() for _ in range(3)]
        self.links: list[Connection | None] = [None] * 3
        self.bodies: dict[str, set[tuple[str, ...]]] = {}
        self.cancelled: set[str] = set()
        self.deleted: set[str] = set()
        self.forked: set[str] = set()
        self.names = 0
        self.can_lose = self.rng.random() < 0.25

    # The drawn part

    def run(self, steps: int) -> None:
        """So many steps, then heal and check."""
        actions = [
            (3, self.begin), (12, self.write), (12, self.gossip), (10, self.deliver),
            (12, self.read), (5, self.hop), (2, self.disconnect), (2, self.kill), (4, self.revive),
            (2, self.cut), (3, self.mend), (2, self.take_over), (3, self.finish), (1, self.cancel),
            (0.7, self.delete), (1.5, self.expire), (2, self.zombie),
            (0.3 if self.can_lose else 0, self.lose), (1.5 if self.broken else 0, self.fork),
        ]  # fmt: skip
        weights = [weight for weight, _ in actions]
        self.begin()
        for _ in range(steps):
            self.now += self.rng.choice([0, 1, 1, 20])
            self.rng.choices([action for _, action in actions], weights)[0]()
        self.heal()

    def any_live(self) -> Region:
        return self.rng.choice(self.live())

    def fate(self, region: Region, request: Request) -> object:
        """The answer; or None: killed before, killed after, or the answer was lost."""
        if not region.alive:
            return None
        chance = self.rng.random()
        if chance < 0.03 and len(self.live()) > 1:
            region.kill()
            return None
        answer = request()
        if chance < 0.06 and len(self.live()) > 1:
            region.kill()
            return None
        return None if chance < 0.16 else answer

    def token(self, agent: str) -> str:
        self.names += 1
        return f"{agent}{self.names}"

    def begin(self) -> None:
        """A message: streaming or complete, sometimes under an id that another writer took."""
        number = len(self.bodies)
        rival = self.rng.random() < 0.12 and number > 0
        if number >= MESSAGES_MAX and not rival:
            return
        message = self.rng.choice(sorted(self.bodies)) if rival else f"m{number}"
        name = self.token("w")
        body = (self.token("b"), self.token("b")) if self.rng.random() < 0.35 else ()
        self.bodies.setdefault(message, set())
        nonce = mix(message, name, body)
        answer: Open | None = None
        for region in self.rng.sample(self.live(), min(len(self.live()), self.rng.choice([1, 2]))):
            if "reopening_mints" in self.rules:
                nonce = self.rng.getrandbits(32)
            created = region.tick(self.now + self.skew[region.name])
            op = Open(message, mix(message, name, body), created, Lane(1, nonce, name), body)
            if body:
                self.bodies[message].add(body)
            if self.fate(region, lambda region=region, op=op: region.open(op)) == "ok":
                known = [o for o in region.ops(message) if isinstance(o, Open)]
                answer = next(o for o in known if o.ident == op.ident)
                if self.rng.random() < 0.6:
                    break
        if answer is not None and not body:
            self.agents.append(opener(name, answer))

    def writers(self) -> list[Agent]:
        return [a for a in self.agents if not a.stopped]

    def newest(self, agent: Agent) -> bool:
        return [a for a in self.agents if a.message == agent.message][-1] is agent

    def write(self) -> None:
        """An agent writes some tokens and sends its buffer to some region."""
        if agents := [a for a in self.writers() if self.newest(a)]:
            self.speak(self.rng.choice(agents), self.rng.randint(0, 3))

    def zombie(self) -> None:
        """An agent that was replaced goes on."""
        if agents := [a for a in self.writers() if not self.newest(a)]:
            self.speak(self.rng.choice(agents), self.rng.randint(0, 2))

    def speak(self, agent: Agent, tokens: int) -> None:
        if not agent.finished:
            agent.tokens += [self.token(agent.name[0]) for _ in range(tokens)]
        if agent.tokens or agent.finished:
            agent.send(self.any_live(), self.fate, self.lane_at)

    def lane_at(self, lane: Lane, region: Region) -> Lane:
        if "named_by_region" not in self.rules:
            return lane
        lane = lane._replace(nonce=lane.nonce + NAMES.index(region.name))
        for message, ops in list(region.messages.items()):
            for op in ops:
                is_same = isinstance(op, Open) and op.lane.producer == lane.producer
                if is_same and region.root_of(message, lane) is None:
                    region.persist(op._replace(lane=lane))
        return lane

    def finish(self) -> None:
        if agents := [a for a in self.writers() if self.newest(a) and not a.finished]:
            agent = self.rng.choice(agents)
            agent.finished = True
            self.speak(agent, 0)

    def take_over(self) -> None:
        """A new producer claims a message; the answer of the first region may be lost."""
        region = self.any_live()
        if not region.visible():
            return
        message = self.rng.choice(sorted(region.visible()))
        if sum(agent.message == message for agent in self.agents) >= AGENTS_MAX:
            return
        agent = Agent(self.token("c"), message, Lane(0, 0, ""))
        tag, restart = self.rng.getrandbits(32), self.rng.random() < 0.3
        for at in (region, self.any_live()):
            claim = self.fate(at, lambda at=at: at.claim(message, agent.name, tag, restart))
            if isinstance(claim, Claim) and (at is not region or self.rng.random() < 0.7):
                agent.adopt(claim, at)
                self.agents.append(agent)
                return

    def fork(self) -> None:
        """A broken producer writes another content for a seq, where the first is not known."""
        if agents := [a for a in self.agents if a.tokens]:
            agent, region = self.rng.choice(agents), self.any_live()
            held = follow(region.ops(agent.message), agent.lane, self.rules).items
            if len(held) < agent.accepted:
                other = [self.token("x"), self.token("x")]
                outcome, _ = region.append(agent.message, agent.lane, len(held), tuple(other))
                if outcome == "ok":
                    self.forked.add(agent.message)

    def cancel(self) -> None:
        region = self.any_live()
        if views := region.visible():
            message = self.rng.choice(sorted(views))
            if region.cancel(message):
                self.cancelled.add(message)

    def delete(self) -> None:
        region = self.any_live()
        if views := region.visible():
            message = self.rng.choice(sorted(views))
            if region.delete(message):
                self.deleted.add(message)

    # Regions

    def gossip(self) -> None:
        """A region sends a part of what it has, and its vector, to another: now or later."""
        source, target = self.rng.sample(self.regions, 2)
        if (
            not source.alive
            or target.lost
            or frozenset((source.name, target.name)) in self.links_cut
        ):
            return
        letter: list[tuple[object, int, list[Op]]] = []
        for origin, log in source.logs.items():
            if self.rng.random() < 0.7:
                start = len(target.logs.get(origin, ()))
                start = max(0, min(start, len(log)) - self.rng.choice([0, 0, 1]))
                stop = self.rng.choice([len(log), len(log), self.rng.randint(start, len(log))])
                letter.append((origin, start, log[start:stop]))
        self.mail.append((source, target, letter, source.vector()))
        if self.rng.random() < 0.6:
            self.post(len(self.mail) - 1)

    def deliver(self) -> None:
        if self.mail:
            self.post(self.rng.randrange(len(self.mail)))

    def post(self, number: int) -> None:
        source, target, letter, vector = self.mail[number]
        if self.rng.random() < 0.8:
            del self.mail[number]
        if target.alive:
            for origin, start, ops in letter:
                target.receive(origin, start, ops)  # type: ignore[arg-type]
            target.hear(source.name, vector)

    def cut(self) -> None:
        self.links_cut.add(frozenset(self.rng.sample(NAMES, 2)))

    def mend(self) -> None:
        self.links_cut.discard(frozenset(self.rng.sample(NAMES, 2)))

    def kill(self) -> None:
        if len(self.live()) > 1:
            self.any_live().kill()

    def revive(self) -> None:
        for region in self.regions:
            if not region.alive and not region.lost and self.rng.random() < 0.6:
                region.restart()

    def lose(self) -> None:
        """One region is gone for ever, with its disk."""
        if not any(region.lost for region in self.regions) and len(self.live()) > 1:
            region = self.any_live()
            region.lost, region.alive = True, False

    # Readers

    def read(self) -> None:
        number = self.rng.randrange(len(self.readers))
        link = self.links[number]
        if link is None or not link.region.alive:
            self.hop(number)
        else:
            self.show(number, link)

    def hop(self, number: int | None = None) -> None:
        number = self.rng.randrange(len(self.readers)) if number is None else number
        self.connect(number, self.any_live())

    def connect(self, number: int, region: Region, *, whole: bool = False) -> None:
        link = Connection(region, self.readers[number].cursor)
        self.links[number] = link
        self.show(number, link, whole=whole)

    def disconnect(self) -> None:
        self.links[self.rng.randrange(len(self.readers))] = None

    def expire(self) -> None:
        for number, link in enumerate(self.links):
            if link is not None and link.region.alive:
                self.show(number, link, expired=True)

    def show(
        self, number: int, link: Connection, *, expired: bool = False, whole: bool = False
    ) -> None:
        """Events one by one; the connection may be cut after each of them."""
        self.check_settled(link.region)
        reader = self.readers[number]
        for event in link.expire() if expired else link.pump():
            before = reader.take(event)
            self.check_event(link.region, event, before, reader, expired)
            if not whole and self.rng.random() < 0.06:
                self.links[number] = None
                return

    def heal(self) -> None:
        """All that can come back does; agents repeat; all is gossiped; readers come back."""
        self.links_cut.clear()
        for region in self.regions:
            if not region.alive and not region.lost:
                region.restart()
        self.mail.clear()
        self.exchange()
        for _ in range(HEAL_ROUNDS):
            for agent in self.writers():
                if agent.tokens or agent.finished:
                    agent.send(self.any_live(), lambda _, request: request(), self.lane_at)
            self.exchange()
        for number in range(len(self.readers)):
            region = self.any_live()
            self.connect(number, region, whole=True)
            if (link := self.links[number]) is not None:
                self.show(number, link, expired=True, whole=True)
                self.show(number, link, whole=True)
        self.check_final()

    def exchange(self) -> None:
        for _ in range(2):
            for source in self.live():
                for target in self.live():
                    for origin, log in list(source.logs.items()):
                        target.receive(origin, 0, log)
            for source in self.live():
                for target in self.live():
                    if source is not target:
                        target.hear(source.name, source.vector())
