"""A session from a client's side: send, open, claim, read."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing
from typing import Any, Literal

import httpx2

from perdure_client.errors import Deleted, NotFound, OutOfStep, PerdureError
from perdure_client.ids import checked_id, new_id, query
from perdure_client.reducer import SessionView, apply
from perdure_client.regions import RETRY_STATUSES, Regions
from perdure_client.transports import Connecting, Event, HeldBack, Transports
from perdure_client.writer import BUFFER_BYTES_MAX, OnFull, Writer

# A connection that held for so long was a good one: the next failure begins a new series of tries.
STEADY_S = 5.0


class Opening:
    """``await`` it for a writer, or use it in ``async with``: complete at the end of the block."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, Writer]]) -> None:
        self._make = make
        self._writer: Writer | None = None

    def __await__(self) -> Generator[Any, None, Writer]:
        return self._make().__await__()

    async def __aenter__(self) -> Writer:
        self._writer = await self
        return await self._writer.__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        assert self._writer is not None
        await self._writer.__aexit__(kind, *rest)


class Session:
    """One session. Every operation is tried at other regions until one answers, and repeating it
    changes nothing."""

    def __init__(
        self,
        regions: Regions,
        transports: Transports,
        id_: str,
        headers: Callable[[], dict[str, str]],
    ) -> None:
        self.id = checked_id(id_)
        self._regions = regions
        self._transports = transports
        self._path = f"/v1/sessions/{self.id}"
        self._connecting = Connecting(regions, transports, self._path, headers)
        # How often an event did not fit what :meth:`read` held, so that it started over.
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
        body = {"id": checked_id(id or new_id()), "role": role, "text": text}
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
        """Open a streaming message: ``writer = await session.open()`` or ``async with``.

        ``id``, ``producer``: random, unless given. ``after``: the greatest serial that the author
        has seen. ``replaces``: the message that this one stands for. ``buffer_bytes_max``: of what
        is not yet in two regions so much is kept; then ``on_full`` says whether ``write`` waits
        (``block``) or lets go of what is on one disk (``release``).
        """
        body = {
            "id": checked_id(id or new_id()),
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
        mode: Literal["continue", "restart"] = "continue",
        producer: str | None = None,
        on_full: OnFull = "block",
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
    ) -> Opening:
        """Take a message over from its producer, which then gets ``Fenced``.

        ``writer.text`` and ``writer.parts`` are what it continues; ``restart`` begins from nothing.
        Raises ``NotFound``, ``Ended``, ``Cancelled``, ``Deleted``.
        """
        path = f"{self._path}/messages/{checked_id(message)}/claim"
        body = {"producer": producer or f"p-{new_id()}", "claim_id": new_id(), "mode": mode}

        async def make() -> Writer:
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
        """The session with its newest 200 messages, as the first region that answers holds it."""
        return await self._ask("GET", "")

    async def messages(self, *, before: str | None = None, limit: int = 100) -> dict[str, Any]:
        """The newest messages, or the newest before a serial, oldest first, and whether there are
        older ones: ``{"messages", "more"}``."""
        return await self._ask("GET", "/messages" + query(limit=limit, before=before))

    async def metadata(self, patch: dict[str, Any] | None = None) -> dict[str, Any]:
        """The metadata; with ``patch``, after setting its keys (None deletes)."""
        method = "GET" if patch is None else "PATCH"
        answer = await self._ask(method, "/metadata", patch)
        metadata: dict[str, Any] = answer["metadata"]
        return metadata

    async def cancel(self, message: str) -> str:
        """Stop a message's producer; what was written stays. The status of the message."""
        answer = await self._ask("POST", f"/messages/{checked_id(message)}/cancel")
        return str(answer["status"])

    async def join(
        self, member: str, data: Any = None, *, ttl_s: int | None = None
    ) -> dict[str, Any]:
        """Be here for ``ttl_s`` seconds (60); call it again in time to stay. The member."""
        path = f"/presence/{checked_id(member)}"
        return await self._ask("PUT", path, _given(data=data, ttl_s=ttl_s))

    async def leave(self, member: str) -> None:
        """Leave, through everything that is known of the member."""
        await self._ask("DELETE", f"/presence/{checked_id(member)}")

    async def presence(self) -> list[dict[str, Any]]:
        """Who is here now; nobody in a session of which nothing is known."""
        try:
            answer = await self._ask("GET", "/presence")
        except NotFound:
            return []
        members: list[dict[str, Any]] = answer["presence"]
        return members

    async def delete(self, message: str | None = None) -> None:
        """Delete the session, or one of its messages, for ever; again: nothing."""
        path = "" if message is None else f"/messages/{checked_id(message)}"
        try:
            await self._ask("DELETE", path)
        except Deleted:
            return

    async def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer, _ = await self._regions.request(method, self._path + path, body)
        return answer

    # Reading

    async def events(
        self,
        cursor: str | None = None,
        on_region: Callable[[str], None] | None = None,
        *,
        presence: str | None = None,
        presence_data: Any = None,
    ) -> AsyncGenerator[Event, None]:
        """Every event from the cursor on, across regions, until the session is deleted.

        ``presence``: a member that is here as long as this goes on, with its data.
        ``on_region`` is called with each region that is connected to. Raises ``Deleted`` for a
        session that was deleted before, and what else every region would refuse.
        """
        pause = self._regions.pause()
        region = self._regions.pick()
        bound = _given(presence=presence and checked_id(presence), presence_data=presence_data)
        while True:
            wait_s: float | None = None
            transport = self._transports.of(region)
            why, retry_after_s = "its stream of events has ended", 0.0
            began = self._regions.now()
            try:
                connected = self._connecting.events(transport, region, cursor, on_region, bound)
                async with aclosing(connected) as events:
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
                if error.code == "invalid_cursor" and cursor is not None:
                    cursor = None
                elif error.status not in RETRY_STATUSES:
                    raise
                why, retry_after_s = str(error), error.problem.get("retry_after_s", 0.0)
            except HeldBack as error:
                if self._transports.held_back(region, transport):
                    continue
                why = f"{transport} does not get through to it: {error}"
            except (httpx2.RequestError, OSError, ValueError) as error:
                # Gone, silent, or what it says is no event: the cursor is still good elsewhere.
                why = repr(error)
            self._transports.failed(region)
            self._regions.failed(region, why, retry_after_s)
            region = await self._regions.turn(region, pause.next_s() if wait_s is None else wait_s)

    async def read(
        self,
        view: SessionView | None = None,
        *,
        presence: str | None = None,
        presence_data: Any = None,
    ) -> AsyncGenerator[SessionView, None]:
        """The assembled session after each event, from nothing or from a saved view on.

        ``presence``: a member that is here as long as this goes on, with its data.
        The same object is given each time. Ends when the session is deleted. Raises
        :class:`PerdureError` for what every region would refuse.
        """
        view = view or SessionView(self.id)
        pause = self._regions.pause()

        def connected(_: str) -> None:
            # What another connection held back, this one will say again if it does.
            for message in view.messages:
                message.held = False

        while not view.deleted:
            try:
                reading = self.events(
                    view.cursor, connected, presence=presence, presence_data=presence_data
                )
                async with aclosing(reading) as events:
                    async for event in events:
                        apply(view, event.event, event.data)
                        view.cursor = event.id or view.cursor
                        view.region = event.region
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
