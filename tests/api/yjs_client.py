"""A client of Yjs at one document: pycrdt's, and the protocol of y-websocket, by hand."""

import asyncio
import contextlib
from typing import Any

import websockets
from perdure.replication.yjs_parser import parse_vector
from perdure.replication.yjs_sync import (
    AwarenessUpdate,
    Message,
    Presence,
    SyncStep1,
    SyncStep2,
    SyncUpdate,
    decode_message,
    encode_awareness_message,
    encode_step_1,
    encode_step_2,
    encode_sync_update,
    encode_vector,
)
from pycrdt import Doc, Map, Text, TransactionEvent
from websockets.asyncio.client import ClientConnection


class YjsClient:
    """A document that is edited here, and a socket."""

    def __init__(self, client: int, doc: "Doc[Any] | None" = None) -> None:
        self.doc: Doc[Any] = doc or Doc(client_id=client)
        self.text = self.doc.get("text", type=Text)
        self.map = self.doc.get("json", type=Map)
        self.connection: ClientConnection
        self.heard: list[Message] = []
        self.present: dict[int, str | None] = {}
        self._made: list[bytes] = []
        self._taking = False
        self.doc.observe(self._note)

    def _note(self, event: TransactionEvent) -> None:
        if not self._taking:
            self._made.append(event.update)

    async def connect(self, port: int, path: str, **options: Any) -> "YjsClient":
        """Open the socket, and say what is here, as y-websocket does."""
        self.connection = await websockets.connect(f"ws://127.0.0.1:{port}{path}", **options)
        await self.connection.send(encode_step_1(parse_vector(self.doc.get_state())))
        return self

    async def send(self) -> None:
        """Tell the edits that were made since the last call."""
        made, self._made = self._made, []
        for update in made:
            await self.connection.send(encode_sync_update(update))

    async def here(self, clock: int, state: str | None) -> None:
        """Say who is here."""
        entry = Presence(self.doc.client_id, clock, state)
        await self.connection.send(encode_awareness_message([entry]))

    async def take(self) -> Message:
        """One message, answered as y-websocket answers it."""
        async with asyncio.timeout(10):
            data = await self.connection.recv()
        assert isinstance(data, bytes)
        message = decode_message(data)
        self.heard.append(message)
        match message:
            case SyncStep1(vector=vector):
                rest = self.doc.get_update(encode_vector(vector))
                await self.connection.send(encode_step_2(rest))
            case SyncStep2(data=update) | SyncUpdate(data=update):
                self._taking = True
                self.doc.apply_update(update)
                self._taking = False
            case AwarenessUpdate(entries=entries):
                self.present.update((entry.client, entry.state) for entry in entries)
        return message

    def forget(self) -> None:
        """The first edit that was not told yet never will be by itself."""
        self._made.pop(0)

    async def asked(self, times: int = 1) -> None:
        """Until the region has asked so often for what it lacks."""
        while sum(isinstance(heard, SyncStep1) for heard in self.heard) < times:
            await self.take()

    async def until(self, text: str) -> None:
        """Until the text is this."""
        while str(self.text) != text:
            await self.take()

    async def closed(self) -> tuple[int, str]:
        """How the region closes the socket."""
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await self.take()
        code, reason = self.connection.close_code, self.connection.close_reason
        assert code is not None
        return code, reason or ""

    async def leave(self) -> None:
        """Hang up."""
        await self.connection.close()
