"""People and agents of the simulation that edit a document together.

Some by requests, one after the other; some live, with a document of their own that they keep and
carry from region to region, also while they are cut off. Every edit leaves a token that names who
wrote it, so that what regions show in the end tells what became of it.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

from perdure.replication.yjs_parser import parse_vector
from perdure.replication.yjs_sync import (
    SyncStep1,
    SyncStep2,
    SyncUpdate,
    decode_message,
    encode_step_1,
    encode_step_2,
    encode_sync_update,
    encode_vector,
)
from pycrdt import Doc, Text, TransactionEvent

from tests.simulation.clients import Client, Surroundings
from tests.simulation.door import Refused, Unavailable
from tests.simulation.history import Draft, Edited
from tests.simulation.meeting import answered

DOCUMENT = "draft"
EDIT_S_MEAN = 0.8
VISIT_S_MEAN = (1.0, 4.0, 30.0)
# After the heal they go on editing for so long.
CALM_S = 5.0
# A request that was lost may be carried out for so long; then numbers are written once more.
LOST_S = 10.0
# And so long regions and editors have, after that, to hold the same.
EQUAL_S_MAX = 90.0
TOKEN = re.compile(r"[^;]*;")
# Why a region may close an editor's socket: it drains, its disk is full or fails, or the editor is
# slow.
CLOSES = frozenset({1012, 1013, 4503, 4507})


class Editor(Client):
    """Somebody who edits by requests: adds to the text, and sets a number of its own."""

    def __init__(self, around: Surroundings, name: str, session: str, whim: Random) -> None:
        super().__init__(around, name, session)
        self._whim = whim
        self._count = 0
        self.is_settled = False

    async def run(self) -> None:
        calm_s = None
        while calm_s is None or self.now_s - calm_s < CALM_S:
            await asyncio.sleep(self._whim.expovariate(1 / EDIT_S_MEAN))
            await (self._append() if self._whim.random() < 0.6 else self._number())
            if calm_s is None and self.around.calm.is_set():
                calm_s = self.now_s
        await asyncio.sleep(LOST_S)
        await self._number()
        self.around.history.numbered[self.session, self.name] = self._count
        self.is_settled = True

    async def _append(self) -> None:
        self._count += 1
        token, key = f"{self.name}.{self._count};", f"key-{self.name}-{self._count}"
        self.around.history.tokens.setdefault(self.session, set()).add(token)
        asked = ("append_document", self.session, DOCUMENT, token, key)
        if self._whim.random() < 0.2:
            # Impatient: elsewhere too, at once.
            elsewhere = self._whim.choice(self.around.regions)
            call = self.around.door.call(self.name, elsewhere, *asked)
            (_, disk), _ = await asyncio.gather(self.insist(*asked), self._let_go(call))
        else:
            _, disk = await self.insist(*asked)
        where = (self.session, self.name, token)
        self.around.history.edited.append(Edited(self.now_s, *where, disk))

    @staticmethod
    async def _let_go(call: Awaitable[Any]) -> None:
        with contextlib.suppress(Unavailable):
            await call

    async def _number(self) -> None:
        self._count += 1
        patch = {self.name: self._count}
        await self.insist("patch_document", self.session, DOCUMENT, None, patch)


class LiveEditor(Client):
    """A client of Yjs. What it has written it keeps, and brings to whichever region it is at."""

    def __init__(self, around: Surroundings, name: str, session: str, whim: Random) -> None:
        super().__init__(around, name, session)
        self._whim = whim
        self._visit_s_mean = whim.choice(VISIT_S_MEAN)
        self._doc: Doc[Any] = Doc(client_id=whim.getrandbits(50) | 1)
        self._text = self._doc.get("text", type=Text)
        self._taking = False
        self._made: list[bytes] = []
        self._doc.observe(self._note)
        self._count = 0
        self._calm_s: float | None = None

    def text(self) -> str:
        """What it holds."""
        return str(self._text)

    def _note(self, event: TransactionEvent) -> None:
        if not self._taking:
            self._made.append(event.update)

    async def run(self) -> None:
        while True:
            try:
                await self._visit()
            except (Unavailable, ConnectionError):
                await asyncio.sleep(self._whim.uniform(0.05, 0.6))
            if self._whim.random() < 0.3:
                self._edit()
            if self._whim.random() < 0.6:
                self.region = self._whim.choice(self.around.regions)

    async def _visit(self) -> None:
        """At one region, until it is lost or the editor moves on."""
        stay_s = self._whim.expovariate(1 / self._visit_s_mean)
        where = (self.name, self.region, self.session, DOCUMENT)
        socket = await self.around.door.share(*where)
        self._made.clear()
        await socket.send_bytes(encode_step_1(parse_vector(self._doc.get_state())))
        reading = asyncio.create_task(self._read(socket))
        editing = asyncio.create_task(self._write(socket))
        try:
            stays = None if self.around.calm.is_set() else stay_s
            both = {reading, editing}
            await asyncio.wait(both, timeout=stays, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, editing):
                task.cancel()
            ends = await asyncio.gather(reading, editing, return_exceptions=True)
            socket.abort()
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _read(self, socket: Any) -> None:
        while True:
            data = (await socket.receive()).data
            if data is None:
                return
            if data[:1] == b"\xff":
                code = int.from_bytes(data[1:])
                assert code in CLOSES, f"{self.name} was sent away from {self.region}: {code}"
                return
            match decode_message(data):
                case SyncStep1(vector=vector):
                    rest = self._doc.get_update(encode_vector(vector))
                    await socket.send_bytes(encode_step_2(rest))
                case SyncStep2(data=update) | SyncUpdate(data=update):
                    self._taking = True
                    self._doc.apply_update(update)
                    self._taking = False

    async def _write(self, socket: Any) -> None:
        while True:
            await asyncio.sleep(self._whim.expovariate(1 / EDIT_S_MEAN))
            self._edit()
            while self._made:
                await socket.send_bytes(encode_sync_update(self._made.pop(0)))

    def _edit(self) -> None:
        """Between two tokens; or one of its own is taken out."""
        if self._calm_s is None and self.around.calm.is_set():
            self._calm_s = self.now_s
        if self._calm_s is not None and self.now_s - self._calm_s > CALM_S:
            return
        text = self.text()
        tokens = [match.span() for match in TOKEN.finditer(text)]
        mine = [(a, b) for a, b in tokens if text.startswith(f"{self.name}.", a)]
        if mine and self._whim.random() < 0.25:
            start, end = self._whim.choice(mine)
            self.around.history.dropped.add(text[start:end])
            del self._text[start:end]
            return
        self._count += 1
        token = f"{self.name}.{self._count};"
        self.around.history.tokens.setdefault(self.session, set()).add(token)
        self.around.history.live.append((self.session, token))
        self._text.insert(self._whim.choice([0, *(end for _, end in tokens)]), token)


class Studio:
    """Who edits documents, in some sessions."""

    def __init__(self, around: Surroundings, sessions: list[str], whim: Random) -> None:
        self._around = around
        self._whim = whim
        self._sessions = sessions
        self._editors: list[Editor] = []
        self._live: list[LiveEditor] = []
        self._tasks: list[asyncio.Task[None]] = []

    def populate(self) -> list[str]:
        """Begin; the names of everybody."""
        for session in self._sessions:
            for number in range(self._whim.randint(1, 2)):
                args = (self._around, f"{session}-e{number}", session, self._whim)
                self._editors.append(Editor(*args))
            for number in range(self._whim.randint(1, 3)):
                args = (self._around, f"{session}-y{number}", session, self._whim)
                self._live.append(LiveEditor(*args))
        everybody: list[Any] = [*self._editors, *self._live]
        self._tasks = [asyncio.create_task(one.run()) for one in everybody]
        return [one.name for one in everybody]

    async def leave(self) -> None:
        """Everybody stops at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settle(self) -> None:
        """Until everybody and every region holds the same, or long after that should be so."""
        await self._until(lambda: all(editor.is_settled for editor in self._editors))
        await self._look()
        await self._until(self._are_equal)

    async def _until(self, done: Callable[[], bool]) -> None:
        began_s = asyncio.get_running_loop().time()
        while not done() and asyncio.get_running_loop().time() - began_s < EQUAL_S_MAX:
            await asyncio.sleep(1)
            for task in self._tasks:
                if task.done():
                    task.result()
            await self._look()

    def _are_equal(self) -> bool:
        drafts = self._around.history.drafts
        texts = {(place[0], draft.text) for place, draft in drafts.items()}
        shown = {(place[0], repr(draft)) for place, draft in drafts.items() if draft.version}
        return len(texts) == len(shown) == len(self._sessions)

    async def _look(self) -> None:
        """What everybody holds, and every region shows."""
        drafts = self._around.history.drafts
        for editor in self._live:
            drafts[editor.session, editor.name] = Draft(editor.text(), {}, "")
        for session in self._sessions:
            for region in self._around.regions:
                ask = partial(self._ask, session, region)
                drafts[session, region] = await answered(region, ask)

    async def _ask(self, session: str, region: str) -> Draft | None:
        try:
            where = ("studio", region, "document", session, DOCUMENT)
            found, _ = await self._around.door.call(*where)
        except Unavailable:
            return None
        except Refused as refused:
            if refused.code != "not_found":
                raise
            return Draft("", {}, "none")
        return Draft(found["text"], dict(sorted(found["json"].items())), found["version"])
