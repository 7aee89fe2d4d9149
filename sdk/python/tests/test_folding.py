"""Whatever happens in a session, its events add up to its snapshot, across any reconnects."""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perdure.regions.node import Node
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal
from sdk.python.tests.conftest import make_node

from perdure_client import SessionView, apply

MESSAGES = ("a", "b", "c")
STEPS_MIN, STEPS_MAX = 6, 25
MARKS: list[dict[str, Any]] = [
    {"part": {"type": "text"}},
    {"part": {"type": "reasoning", "id": "r"}},
    {"set": {"done": True}},
]

messages = st.sampled_from(MESSAGES)
items = st.lists(st.one_of(st.text("xyé🙂", max_size=3), st.sampled_from(MARKS)), max_size=4)
going_on = st.one_of(
    st.tuples(st.just("append"), messages, items),
    st.tuples(st.just("claim"), messages, st.sampled_from(["continue", "restart"])),
    st.tuples(st.just("reconnect"), messages, st.integers(0, 6)),
)
steps = st.one_of(
    going_on,
    going_on,
    st.tuples(st.just("end"), messages, st.sampled_from(["complete", "failed", "cancelled"])),
    st.tuples(st.just("cancel"), messages, st.none()),
    st.tuples(st.just("delete"), messages, st.none()),
    st.tuples(st.just("send"), messages, st.text(max_size=3)),
    st.tuples(st.just("metadata"), messages, st.sampled_from([None, 1, {"x": [1]}])),
)


class Lane(NamedTuple):
    epoch: str
    next: int


class Run:
    """One region, one writer of each message, and one reader that is cut now and then."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.lanes: dict[str, Lane] = {}
        self.view = SessionView("s")
        self.sent = 0
        self.reader = node.subscribe("s", None)

    async def do(self, kind: str, message: str, value: Any) -> None:
        """One step; the region may refuse it."""
        try:
            await getattr(self, kind)(message, value)
        except Refusal:
            return

    async def append(self, message: str, values: Sequence[Any], end: str | None = None) -> None:
        if message not in self.lanes:
            draft = Draft("assistant", id=message, producer="p", claim_id="claim-0000")
            opened = await self.node.open("s", draft)
            self.lanes[message] = Lane(opened.epoch, 0)
        epoch, at = self.lanes[message]
        ack = await self.node.append("s", message, "p", epoch, at, list(values), end)
        self.lanes[message] = Lane(epoch, ack.next)

    async def end(self, message: str, status: str) -> None:
        await self.append(message, [], status)

    async def claim(self, message: str, mode: str) -> None:
        self.sent += 1
        claimed = await self.node.claim("s", message, "p", f"claim-{self.sent:04}", mode)
        self.lanes[message] = Lane(claimed["epoch"], 0)
        # A claim that has written nothing takes nothing back from one who returns.
        await self.append(message, ["!"])

    async def cancel(self, message: str, _: None) -> None:
        await self.node.cancel("s", message)

    async def delete(self, message: str, _: None) -> None:
        await self.node.delete("s", message)

    async def send(self, _: str, text: str) -> None:
        self.sent += 1
        await self.node.send("s", Draft("user", id=f"u{self.sent}", text=text, author="ann"))

    async def metadata(self, key: str, value: Any) -> None:
        await self.node.patch_metadata("s", {key: value})

    async def reconnect(self, _: str, count: int) -> None:
        """Takes some of what there is, loses the rest, and comes back with its cursor."""
        for event in (await self.reader.next() or [])[:count]:
            self.take(event)
        self.reader.close()
        self.reader = self.node.subscribe("s", self.view.cursor)

    def take(self, event: Any) -> None:
        apply(self.view, event.name, json.loads(event.data))
        self.view.cursor = event.cursor

    async def read_to_the_end(self) -> None:
        await self.node.patch_metadata("s", {"over": True})
        while not (self.view.ready and "over" in self.view.metadata):
            for event in await self.reader.next() or []:
                self.take(event)
        self.reader.close()


def shown(view: SessionView) -> list[dict[str, Any]]:
    names = ("id", "serial", "role", "author", "status", "text", "parts", "length", "created")
    return [
        {name: getattr(message, name) for name in (*names, "metadata")} for message in view.messages
    ]


@pytest.mark.failure("C10")
@settings(max_examples=100, deadline=None)
@given(st.lists(steps, min_size=STEPS_MIN, max_size=STEPS_MAX))
def test_folding_events_is_the_snapshot(script: list[tuple[str, str, Any]]) -> None:
    """Appends, marks, ends, takeovers, cancels, deletions, in any order, read by one who is cut at
    any event: what it has put together is what the region holds."""

    async def run(path: Path) -> None:
        node, _ = make_node(path, "eu", [])
        try:
            happening = Run(node)
            for message in MESSAGES:
                await happening.append(message, ["Hello", " world"])
            for step in script:
                await happening.do(*step)
            async with asyncio.timeout(20):
                await happening.read_to_the_end()
            snapshot = node.snapshot("s")
        finally:
            await node.stop()
        assert shown(happening.view) == snapshot["messages"]
        assert happening.view.metadata == snapshot["metadata"]

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))
