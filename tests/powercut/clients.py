"""Clients of one region, who write down what they ask for before they ask, and what they were told
when the answer reaches them: an answer of a machine without power reaches nobody."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, NamedTuple

from perdure.regions.node import Node
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal
from perdure.replication.limits import CLAIM_ID_CHARS_MIN

from tests.powercut.ledger import Ledger, Text

SESSIONS = 3
MESSAGES_OPEN_MAX = 3
LONG_TOKEN_BYTES = 10_000


class Habits(NamedTuple):
    """How the clients of a round write: the greatest token in bytes, how many tokens an append has,
    how many appends are on the way at once, how long they rest between two (ms, the least and the
    most; now and then a long one), and how often each writes in one life."""

    token_bytes: int
    append_tokens: int
    at_once: int
    rest_ms: tuple[int, int]
    long_rest: float
    writes: int


def habits(random: Random) -> Habits:
    """Some: of long tokens fewer, but enough to make the WAL grow until it is written back."""
    token_bytes = random.choice((20, 20, 400, 3_000, 60_000))
    long = token_bytes >= LONG_TOKEN_BYTES
    return Habits(
        token_bytes,
        4 if long else random.choice((1, 4, 12)),
        1 if long else random.choice((1, 1, 3)),
        random.choice(((0, 2), (0, 30), (5, 400))),
        random.choice((0.0, 0.02, 0.1)),
        60 if long else 100,
    )


class Client:
    """One producer. ``heard`` says whether an answer that has just come still reaches it."""

    def __init__(self, name: str, ledger: Ledger, random: Random, habits: Habits) -> None:
        self.name = name
        self._ledger = ledger
        self._random = random
        self._habits = habits
        self._texts: list[Text] = []
        self._count = 0
        self._claims = 0
        self._node: Node | None = None
        self._heard: Callable[[], bool] = lambda: True

    def reach(self, node: Node, heard: Callable[[], bool]) -> None:
        """From now on the region is this node."""
        self._node, self._heard = node, heard

    @property
    def node(self) -> Node:
        """The region."""
        assert self._node is not None
        return self._node

    def _acked(self, what: str) -> bool:
        if not self._heard():
            return False
        self._ledger.acked[what] += 1
        return True

    def _is_home(self, text: Text) -> bool:
        return text.home is None or text.home == self.node.origin

    # Going on after a start

    async def finish(self) -> None:
        """Ask again for everything that has no answer, as a client library does."""
        for text in self._texts:
            if text.deleted is not None:
                await self._delete(text)
            elif text.opened is not True:
                await self._open(text)
            if text.deleted is None and text.streams:
                await self._finish_stream(text)
        for (session, key), (_, asked) in list(self._ledger.metadata.items()):
            if asked and key == self.name:
                await self._patch(session, asked[-1])
        for session, acked in list(self._ledger.deleted.items()):
            if not acked and session.startswith(self.name):
                await self._delete_session(session)

    async def _finish_stream(self, text: Text) -> None:
        if text.claiming is not None:
            await self._claim(text)
        if not text.is_over and len(text.tokens) > text.acked:
            await self._send_tokens(text, text.acked, len(text.tokens))
        if text.ended is False:
            await self._end(text)
        if text.cancelled is False:
            await self._cancel(text)

    # Writing

    async def run(self) -> None:
        """Write and rest, until that is enough or somebody stops it."""
        await self.finish()
        for _ in range(self._habits.writes):
            await self._step()
            least, most = self._habits.rest_ms
            rest_ms = self._random.uniform(least, most)
            if self._random.random() < self._habits.long_rest:
                rest_ms += self._random.uniform(500, 12_000)
            await asyncio.sleep(rest_ms / 1000)

    async def _step(self) -> None:
        streaming = [text for text in self._texts if text.streams and not text.is_over]
        roll = self._random.random()
        if not streaming or (roll < 0.08 and len(streaming) < MESSAGES_OPEN_MAX):
            await self._open(self._new(streams=True))
        elif roll < 0.14:
            await self._open(self._new(streams=False))
        elif roll < 0.18:
            await self._patch(self._session(), f"{self.name}-{self._next()}")
        elif roll < 0.20 and self._texts:
            await self._delete(self._random.choice(self._texts))
        elif roll < 0.21:
            await self._delete_session(await self._short_lived())
        else:
            await self._write(self._random.choice(streaming), self._random.random())

    async def _write(self, text: Text, roll: float) -> None:
        if roll < 0.04:
            await self._end(text)
        elif roll < 0.06:
            await self._cancel(text)
        elif roll < 0.08:
            await self._claim(text)
        else:
            await self._append(text)

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _session(self) -> str:
        return f"s{self._random.randrange(SESSIONS)}"

    def _token(self, text: Text, number: int) -> str:
        size = self._random.randint(0, self._habits.token_bytes)
        return f"<{text.id}.{number}>" + "x" * size

    def _new(self, *, streams: bool, session: str | None = None) -> Text:
        id_ = f"{self.name}-m{self._next()}"
        text = Text(session or self._session(), id_, self.name, self._claim_id(), streams)
        if self.node.region != "eu":
            text.home = self.node.origin
        if not streams:
            text.tokens.append(self._token(text, 0))
        self._texts.append(text)
        self._ledger.texts.append(text)
        return text

    def _claim_id(self) -> str:
        self._claims += 1
        return f"{self.name}-claim-{self._claims}".rjust(CLAIM_ID_CHARS_MIN, "0")

    def _reached(self, text: Text) -> None:
        if text.home is not None:
            text.reached.append((self.node.gossip.vector.get(text.home, 0), text.acked))

    async def _open(self, text: Text) -> None:
        text.opened = text.opened or False
        if text.streams:
            draft = Draft("assistant", text.id, producer=text.producer, claim_id=text.claim_id)
            text.epoch = (await self.node.open(text.session, draft)).epoch
        else:
            await self.node.send(text.session, Draft("user", text.id, text=text.tokens[0]))
        if self._acked("open"):
            text.opened = True
            text.acked = 0 if text.streams else 1
            self._reached(text)

    async def _append(self, text: Text) -> None:
        writes: list[Awaitable[None]] = []
        for _ in range(self._random.randint(1, self._habits.at_once)):
            first = len(text.tokens)
            for number in range(self._random.randint(1, self._habits.append_tokens)):
                text.tokens.append(self._token(text, first + number))
            writes.append(self._send_tokens(text, first, len(text.tokens)))
        await _all(writes)

    async def _send_tokens(self, text: Text, first: int, upto: int) -> None:
        seq, tokens = first - text.base, text.tokens[first:upto]
        ack = await self.node.append(text.session, text.id, text.producer, text.epoch, seq, tokens)
        if self._acked("append"):
            assert text.base + ack.accepted >= upto, (ack, upto)
            text.acked = max(text.acked, text.base + ack.accepted)
            self._reached(text)

    async def _end(self, text: Text) -> None:
        text.ended = text.ended or False
        seq = len(text.tokens) - text.base
        ack = await self.node.append(
            text.session, text.id, text.producer, text.epoch, seq, [], "complete"
        )
        if self._acked("end"):
            assert ack.ended is not None, ack
            text.ended = True

    async def _cancel(self, text: Text) -> None:
        text.cancelled = text.cancelled or False
        await self.node.cancel(text.session, text.id)
        if self._acked("cancel"):
            text.cancelled = True

    async def _delete(self, text: Text) -> None:
        if text.deleted or text.opened is None:
            return
        text.deleted = False
        try:
            await self.node.delete(text.session, text.id)
        except Refusal as refusal:
            if refusal.code not in ("deleted", "not_found"):
                raise
        if self._acked("delete"):
            text.deleted = True

    async def _patch(self, session: str, value: str) -> None:
        acked, asked = self._ledger.metadata.get((session, self.name), (None, []))
        if value not in asked:
            asked.append(value)
        self._ledger.metadata[session, self.name] = (acked, asked)
        await self.node.patch_metadata(session, {self.name: value})
        if self._acked("patch"):
            self._ledger.metadata[session, self.name] = (value, [])

    async def _short_lived(self) -> str:
        session = f"{self.name}-gone-{self._next()}"
        await self.node.create(session, {"of": self.name})
        return session

    async def _delete_session(self, session: str) -> None:
        self._ledger.deleted.setdefault(session, False)
        try:
            await self.node.delete(session)
        except Refusal as refusal:
            if refusal.code not in ("deleted", "not_found"):
                raise
        if self._acked("delete session"):
            self._ledger.deleted[session] = True

    async def _claim(self, text: Text) -> None:
        """Begin anew as another producer, who goes on where the text is."""
        text.claiming = text.claiming or self._claim_id()
        producer = f"{text.claiming}-p"
        answer = await self.node.claim(text.session, text.id, producer, text.claiming, "continue")
        if self._acked("claim"):
            assert answer["text"] == "".join(text.tokens), (answer, len(text.tokens))
            text.producer, text.epoch, text.claiming = producer, answer["epoch"], None
            text.base = text.acked


async def _all(writes: list[Any]) -> None:
    """All of them; the first refusal is raised when each has its answer."""
    for answer in await asyncio.gather(*writes, return_exceptions=True):
        if isinstance(answer, BaseException):
            raise answer
