"""Shared documents in several regions: pushed, parked, stored, repaired, and brought back."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from perdure.regions.documents import Seat
from perdure.regions.node import Node
from perdure.regions.signals import Signals
from perdure.replication.frames import FrameError, encode_json
from perdure.replication.yjs_parser import parse_update
from perdure.replication.yjs_sync import Presence, SyncStep1, SyncStep2, SyncUpdate, decode_message
from pycrdt import Doc, Text

from tests.fuzz.making import string, update
from tests.regions.linked import linked

PAIR = {"eu": ["us"], "us": ["eu"]}
MESH = {"eu": ["us", "ap"], "us": ["eu", "ap"], "ap": ["eu", "us"]}


class Reader:
    """A Yjs document behind a seat."""

    def __init__(self, node: Node, client: int) -> None:
        self.node = node
        self.doc: Doc[Any] = Doc(client_id=client)
        self.text = self.doc.get("text", type=Text)
        self.seat: Seat = node.join_document("s", "d")
        node.tell_document(self.seat, {})

    async def type(self, text: str) -> None:
        before = self.doc.get_state()
        self.text.insert(len(self.text), text)
        data = self.doc.get_update(before)
        await self.node.take_update(self.seat, data, parse_update(data))

    async def until(self, text: str) -> None:
        async with asyncio.timeout(20):
            while str(self.text) != text:
                message = await self.seat.next()
                assert message is not None
                match decode_message(message):
                    case SyncStep2(data=data) | SyncUpdate(data=data):
                        self.doc.apply_update(data)


async def test_readers_in_all_regions_see_each_others_edits(tmp_path: Path) -> None:
    """Typed here, read there, by people and by agents over REST; all regions hold the same."""
    async with linked(tmp_path, MESH) as regions:
        eu, us, ap = (regions.nodes[name] for name in ("eu", "us", "ap"))
        one, two = Reader(eu, 11), Reader(us, 12)
        await one.type("a")
        await two.until("a")
        await two.type("b")
        await one.until("ab")
        await ap.append_document("s", "d", "c")
        await asyncio.gather(one.until("abc"), two.until("abc"))
        await asyncio.gather(
            *(eu.patch_document("s", "d", None, {"eu": {"n": n}}) for n in range(5)),
            *(us.patch_document("s", "d", None, {"us": {"n": n}}) for n in range(5)),
            *(ap.append_document("s", "d", "!") for _ in range(5)),
        )
        await regions.until(regions.same)
        shown = [node.document("s", "d") for node in (eu, us, ap)]
        assert shown[0] == shown[1] == shown[2]
        assert shown[0]["text"] == "abc!!!!!"
        assert shown[0]["json"].keys() == {"eu", "us"}
        assert (await eu.verify())["equal"]


async def test_edits_while_apart_merge(tmp_path: Path) -> None:
    """Each side goes on alone; linked again, both have both, and nothing is left to repair."""
    async with linked(tmp_path, PAIR) as regions:
        await regions.nodes["eu"].patch_document("s", "d", "one two", {"a": 1})
        await regions.until(regions.same)
        await regions.stop("us")
        await regions.nodes["eu"].patch_document("s", "d", "one 2", {"b": 1})
        await regions.stop("eu")
        us = await regions.start("us")
        await us.patch_document("s", "d", "1 two", {"c": 1})
        eu = await regions.start("eu")
        await regions.until(regions.same)
        assert eu.document("s", "d") == us.document("s", "d")
        assert eu.document("s", "d")["text"] == "1 2"
        assert eu.document("s", "d")["json"] == {"a": 1, "b": 1, "c": 1}


async def test_a_document_outlives_the_process_and_leaves_memory(tmp_path: Path) -> None:
    """From the log, from an image, after leaving memory; an open socket is told of edits then."""
    async with linked(tmp_path, {"eu": []}) as regions:
        shown = await regions.nodes["eu"].patch_document("s", "d", "ab", {"k": [1]})
        await regions.stop("eu")
        eu = await regions.start("eu")
        assert eu.document("s", "d") == shown
        reader = Reader(eu, 11)
        await reader.until("ab")
        await eu.checkpoint.all()
        eu.state.now += 1_000
        eu.state.evict(1)
        assert not eu.state.sessions
        shown = await eu.append_document("s", "d", "c")
        await reader.until("abc")
        await reader.type("d")
        await eu.checkpoint.all()
        await regions.stop("eu")
        eu = await regions.start("eu")
        assert eu.document("s", "d")["text"] == "abcd"


async def test_a_region_without_a_disk_gets_its_documents_back(tmp_path: Path) -> None:
    """It absorbs them, and tells who is at them already."""
    async with linked(tmp_path, PAIR) as regions:
        eu = regions.nodes["eu"]
        shown = await eu.patch_document("s", "d", "ab", {"k": 1})
        await regions.until(regions.same)
        await eu.checkpoint.all()
        await regions.stop("us")
        us = await regions.start("us", directory="another")
        await regions.until(lambda: us.state.find("s") is not None and regions.same())
        assert us.document("s", "d") == shown
        assert (await us.verify())["equal"]


async def test_who_moves_to_a_region_that_is_behind_loses_nothing(tmp_path: Path) -> None:
    """What builds on what is not here yet is asked for, and all of it comes from the client."""
    async with linked(tmp_path, {"eu": [], "us": []}) as regions:
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        await eu.patch_document("s", "d", "from eu", None)
        reader = Reader(eu, 11)
        await reader.until("from eu")
        reader.node, reader.seat = us, us.join_document("s", "d")
        await reader.type("!")
        assert us.state.find("s") is None or not us.state.sessions["s"].exists
        asked = [decode_message(message) for message in reader.seat._out]
        assert asked == [SyncStep1({}), SyncStep1({})]
        # Again it does not fit: the region asks when something has come.
        await reader.type("!")
        assert len(reader.seat._out) == 2
        other = update((7, 0, [string("x", parent="other")]))
        seat = us.join_document("s", "d")
        await us.take_update(seat, other, parse_update(other))
        assert decode_message(reader.seat._out[-1]) == SyncStep1({7: 1})
        data = reader.doc.get_update()
        await us.take_update(reader.seat, data, parse_update(data))
        assert us.document("s", "d")["text"] == "from eu!!"


async def test_who_is_here_is_known_in_other_regions(tmp_path: Path) -> None:
    """Who comes, moves, leaves, and who is silent for so long that it must be gone."""
    async with linked(tmp_path, PAIR) as regions:
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        await regions.until(lambda: all(n.desk.signals._waiting for n in (eu, us)))
        one, two = eu.join_document("s", "d"), us.join_document("s", "d")
        here = two._room.present

        def states() -> dict[int, str | None]:
            return {entry.client: entry.state for entry in here.entries()}

        one.tell_present([Presence(11, 1, '{"n":1}')])
        await regions.until(lambda: states() == {11: '{"n":1}'})
        one.close()
        await regions.until(lambda: states() == {})
        one = eu.join_document("s", "d")
        one.tell_present([Presence(12, 1, "{}"), Presence(13, 1, "{}")])
        await regions.until(lambda: states().keys() == {12, 13})
        # One of them comes to the other region; its first socket closes only then.
        two.tell_present([Presence(12, 2, "{}")])
        await regions.until(lambda: one._room.present.entries([12])[0].clock == 2)
        one.close()
        await regions.until(lambda: states().keys() == {12})
        # Of one that was elsewhere nothing more is heard.
        one = eu.join_document("s", "d")
        one.tell_present([Presence(14, 1, "{}")])
        await regions.until(lambda: states().keys() == {12, 14})
        for wait_ms in (29_000, 2_000):
            assert states().keys() == {12, 14}
            regions.clock.shift_ms += wait_ms
            us.tick()
        assert states().keys() == {12}
        # Too much at once is told here only.
        one.tell_present([Presence(n, 1, '{"a":"%s"}' % ("x" * 9_000)) for n in range(20, 24)])
        assert eu.desk.signals.dropped == 1


@pytest.mark.parametrize(
    "told", [{"document": "!"}, {"data": 1}, {"data": "!"}, {"data": "AQ=="}, {"session": None}]
)
def test_what_is_no_awareness_of_a_peer_is_refused(told: dict[str, Any]) -> None:
    """The frame is of no use, and its link is closed."""
    signals = Signals("eu", None, None)  # type: ignore[arg-type]
    value = {"session": "s", "document": "d", "signal": "present", "data": "AA==", "from": None}
    signals.told("us", encode_json(value))
    with pytest.raises(FrameError):
        signals.told("us", encode_json({**value, **told}))


async def test_documents_are_gone_with_their_session(tmp_path: Path) -> None:
    """In every region, for who is at them too, and for ever."""
    async with linked(tmp_path, PAIR) as regions:
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        await eu.patch_document("s", "d", "a", None)
        await regions.until(regions.same)
        reader = Reader(us, 11)
        await eu.delete("s")
        await regions.until(regions.same)
        await regions.until(lambda: reader.seat.over is not None)
        assert reader.seat.over == "deleted"
        stored = us.state.sessions["s"].image({})
        assert "documents" not in json.loads(stored.head)
