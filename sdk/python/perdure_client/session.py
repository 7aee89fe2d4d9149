"""A session from a client's side: send, open, claim, read."""

import json
import secrets
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

import httpx2

from perdure_client.errors import Deleted, OutOfStep, PerdureError, error_of
from perdure_client.reducer import SessionView, apply
from perdure_client.regions import RETRY_STATUSES, Regions
from perdure_client.sse import EventParser
from perdure_client.writer import BUFFER_BYTES_MAX, OnFull, Writer

SILENCE_S_MAX = 25.0
STEADY_S = 5.0
_ID_BYTES = 12


class Event(NamedTuple):
    """An event as it was received, and from which region."""

    event: str
    id: str
    data: dict[str, Any]
    region: str


class _Opens(Protocol):
    def __call__(self) -> "Any": ...


class Opening:
    """``await`` it for a writer, or use it in ``async with``: complete at the end of the block."""

    def __init__(self, make: _Opens) -> None:
        self._make = make
        self._writer: Writer | None = None

    def __await__(self) -> Generator[Any, None, Writer]:
        writer: Writer = yield from self._make().__await__()
        return writer

    async def __aenter__(self) -> Writer:
        self._writer = await self
        return await self._writer.__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        assert self._writer is not None
        await self._writer.__aexit__(kind, *rest)


def new_id() -> str:
    """A random id."""
    return secrets.token_hex(_ID_BYTES)


class Session:
    """One session. Every operation is tried at other regions until one answers, and repeating it
    changes nothing."""

    def __init__(self, regions: Regions, id_: str) -> None:
        self.id = id_
        self._regions = regions
        self._path = f"/v1/sessions/{id_}"
        self.steps_lost = 0

    async def create(self, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
        """Create the session; an existing one is not changed."""
        return await self._ask("PUT", "", {"metadata": metadata or {}})

    async def send(
        self,
        role: str,
        text: str,
        *,
        id: str | None = None,
        author: str | None = None,
        after: str | None = None,
        metadata: dict[str, Any] | None = None,
        replaces: str | None = None,
    ) -> dict[str, Any]:
        """Send a complete message; the message as the region holds it."""
        body = {"id": id or new_id(), "role": role, "text": text}
        body |= _given(author=author, after=after, metadata=metadata, replaces=replaces)
        return await self._ask("POST", "/messages", body)

    def open(
        self,
        role: str = "assistant",
        *,
        id: str | None = None,
        producer: str | None = None,
        author: str | None = None,
        after: str | None = None,
        metadata: dict[str, Any] | None = None,
        replaces: str | None = None,
        on_full: OnFull = "block",
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
    ) -> Opening:
        """Open a streaming message: ``writer = await session.open()`` or ``async with``."""
        body = {
            "id": id or new_id(),
            "role": role,
            "producer": producer or f"p-{new_id()}",
            "claim_id": new_id(),
        }
        body |= _given(author=author, after=after, metadata=metadata, replaces=replaces)

        async def make() -> Writer:
            opened, region = await self._regions.request("POST", f"{self._path}/messages", body)
            return self._writer(
                opened, region, body["id"], body["producer"], on_full, buffer_bytes_max
            )

        return Opening(make)

    def claim(
        self,
        message: str,
        *,
        mode: str = "continue",
        producer: str | None = None,
        on_full: OnFull = "block",
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
    ) -> Opening:
        """Take a message over; ``writer.text`` and ``writer.parts`` are what it continues."""
        body = {"producer": producer or f"p-{new_id()}", "claim_id": new_id(), "mode": mode}

        async def make() -> Writer:
            path = f"{self._path}/messages/{message}/claim"
            claimed, region = await self._regions.request("POST", path, body)
            return self._writer(
                claimed, region, message, body["producer"], on_full, buffer_bytes_max
            )

        return Opening(make)

    def _writer(
        self,
        opened: dict[str, Any],
        region: str,
        message: str,
        producer: str,
        on_full: OnFull,
        buffer_bytes_max: int,
    ) -> Writer:
        return Writer(
            self._regions,
            f"{self._path}/messages",
            opened,
            region,
            message=message,
            producer=producer,
            on_full=on_full,
            buffer_bytes_max=buffer_bytes_max,
        )

    async def snapshot(self) -> dict[str, Any]:
        """The session with its newest 200 messages."""
        return await self._ask("GET", "")

    async def messages(self, *, before: str | None = None, limit: int = 100) -> dict[str, Any]:
        """A page of messages: ``{"messages", "more"}``."""
        page = f"?limit={limit}" + (f"&before={before}" if before else "")
        return await self._ask("GET", f"/messages{page}")

    async def metadata(self, patch: dict[str, Any] | None = None) -> dict[str, Any]:
        """The metadata; with ``patch``, after setting its keys (None deletes)."""
        method = "GET" if patch is None else "PATCH"
        answer = await self._ask(method, "/metadata", patch)
        metadata: dict[str, Any] = answer["metadata"]
        return metadata

    async def cancel(self, message: str) -> str:
        """Stop a message's producer; what was written stays. The status of the message."""
        answer = await self._ask("POST", f"/messages/{message}/cancel")
        return str(answer["status"])

    async def delete(self, message: str | None = None) -> None:
        """Delete the session, or one of its messages, for ever; again: nothing."""
        try:
            await self._ask("DELETE", f"/messages/{message}" if message else "")
        except Deleted:
            return

    async def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer, _ = await self._regions.request(method, self._path + path, body)
        value: dict[str, Any] = answer
        return value

    # Reading

    async def events(
        self, cursor: str | None = None, on_region: Callable[[str], None] | None = None
    ) -> AsyncGenerator[Event, None]:
        """Every event from the cursor on, across regions, until the session is deleted.

        ``on_region`` is called with each region that is connected to. Raises ``Deleted`` for a
        session that was deleted before, and what else every region would refuse.
        """
        pause = self._regions.pause()
        region: str | None = None
        while True:
            region = self._regions.pick(region)
            wait_s: float | None = None
            began = self._regions.now()
            try:
                async with aclosing(self._connected(region, cursor, on_region)) as events:
                    async for event in events:
                        # Not at once: a region that cuts every connection early must not be
                        # asked again and again without a pause.
                        if self._regions.now() - began >= STEADY_S:
                            pause.reset()
                        cursor = event.id or cursor
                        if event.event == "reconnect":
                            wait_s = pause.share_of_s(event.data["retry_ms"] / 1000)
                            break
                        yield event
                        if event.event == "deleted":
                            return
            except PerdureError as error:
                if error.code == "invalid_cursor":
                    cursor = None
                elif error.status not in RETRY_STATUSES:
                    raise
            except (httpx2.TransportError, ValueError):
                # Gone, silent, or what it says is no event: the cursor is still good elsewhere.
                pass
            self._regions.failed(region)
            await self._regions.sleep(pause.next_s() if wait_s is None else wait_s)

    async def _connected(
        self, region: str, cursor: str | None, on_region: Callable[[str], None] | None
    ) -> AsyncGenerator[Event, None]:
        headers = {"accept": "text/event-stream"} | _given_header("last-event-id", cursor)
        path = f"{self._path}/events"
        async with self._regions.stream(region, path, headers, SILENCE_S_MAX) as answer:
            if answer.status_code != 200:
                raise error_of(_problem(answer.status_code, await answer.aread()))
            self._regions.worked(region)
            if on_region is not None:
                on_region(region)
            parser = EventParser()
            async for chunk in answer.aiter_bytes():
                for event in parser.feed(chunk):
                    yield Event(event.event, event.id, json.loads(event.data), region)

    async def read(self, view: SessionView | None = None) -> AsyncGenerator[SessionView, None]:
        """The assembled session after each event, from nothing or from a saved view on.

        The same object is given each time. Ends when the session is deleted.
        """
        view = view or SessionView(self.id)
        pause = self._regions.pause()

        def connected(_: str) -> None:
            # What another connection held back, this one will say again if it does.
            for message in view.messages:
                message.held = False

        while not view.deleted:
            try:
                async with aclosing(self.events(view.cursor, connected)) as events:
                    async for event in events:
                        apply(view, event.event, event.data)
                        view.cursor, view.region = event.id, event.region
                        yield view
                return
            except OutOfStep:
                self.steps_lost += 1
                view.cursor = None
                await self._regions.sleep(pause.next_s())
            except Deleted:
                apply(view, "deleted", {})
                yield view


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _given_header(name: str, value: str | None) -> dict[str, str]:
    return {name: value} if value else {}


def _problem(status: int, body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        value = {}
    return {"status": status, **(value if isinstance(value, dict) else {})}
