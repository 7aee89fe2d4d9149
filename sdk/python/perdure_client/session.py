"""A session from a client's side: send, open, claim, read."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Literal

from perdure_client.documents import Document
from perdure_client.errors import Deleted, NotFound, OutOfStep
from perdure_client.following import followed
from perdure_client.ids import checked_id, given, new_id, query
from perdure_client.opening import Opening
from perdure_client.own_names import new_producer
from perdure_client.reducer import SessionView, apply
from perdure_client.regions import Regions
from perdure_client.transports import Connecting, Event, Transports
from perdure_client.writer import BUFFER_BYTES_MAX, OnFull, Writer


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
        self.id: str = checked_id(id_)
        self._regions = regions
        self._transports = transports
        self._headers = headers
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
        run: str | None = None,
    ) -> dict[str, Any]:
        """Send a complete message; the message as the region holds it.

        ``run``: the run that it is an input for; ``Ended`` when that is over.
        """
        body = {"id": checked_id(id or new_id()), "role": role, "text": text}
        body |= given(author=author, after=after, metadata=metadata, replaces=replaces)
        body |= given(run=run and checked_id(run))
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

        ``id``, ``producer``: random, unless given, but a producer is one that the grant allows.
        ``after``: the greatest serial that the author has seen. ``replaces``: the message that this
        one stands for. ``buffer_bytes_max``: of what is not yet in two regions so much is kept;
        then ``on_full`` says whether ``write`` waits (``block``) or lets go of what is on one disk
        (``release``).
        """
        body = {
            "id": checked_id(id or new_id()),
            "role": role,
            "claim_id": new_id(),
        }
        body |= given(author=author, after=after, metadata=metadata, replaces=replaces)

        async def make() -> Writer:
            body["producer"] = producer or new_producer(self._headers().get("authorization"))
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
        body = {"claim_id": new_id(), "mode": mode}

        async def make() -> Writer:
            body["producer"] = producer or new_producer(self._headers().get("authorization"))
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

    async def message(self, id: str) -> dict[str, Any]:
        """One message."""
        return await self._ask("GET", f"/messages/{checked_id(id)}")

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

    async def request_run(
        self,
        agent: str,
        *,
        input: str | None = None,
        id: str | None = None,
        by: str | None = None,
        role: str | None = None,
        metadata: dict[str, Any] | None = None,
        after: str | None = None,
        replaces: str | None = None,
    ) -> dict[str, Any]:
        """Ask an agent for a turn; the run, whose ``message`` is there from now on.

        ``input``: the message that it answers. ``by``: who asks. ``replaces``: the message that the
        answer stands for, such as an earlier one. ``role`` (``assistant``), ``metadata`` and
        ``after`` are the message's.
        """
        body = {"id": checked_id(id or new_id()), "agent": checked_id(agent)}
        body |= given(input=input, by=by, role=role, metadata=metadata, after=after)
        body |= given(replaces=replaces)
        return await self._ask("POST", "/runs", body)

    async def run(self, id: str) -> dict[str, Any]:
        """A run as it stands, also one that is over."""
        return await self._ask("GET", f"/runs/{checked_id(id)}")

    async def runs(self, *, before: str | None = None, limit: int = 100) -> dict[str, Any]:
        """The runs of the newest messages, or of the newest before a serial, oldest first, also
        those that are over, and whether there are older messages: ``{"runs", "more"}``."""
        return await self._ask("GET", "/runs" + query(limit=limit, before=before))

    async def cancel_run(self, run: str) -> dict[str, Any]:
        """Stop a run, also one that nobody has claimed; what was written stays. The run."""
        return await self._ask("POST", f"/runs/{checked_id(run)}/cancel")

    async def signal(self, name: str, data: Any = None, *, by: str | None = None) -> bool:
        """Show something to who reads now, such as ``typing``; ``by``: who it comes from.

        It is sent once, to one region, for it is told at most once: False when that did not take
        it, be it away or because too many were sent.
        """
        body = given(**{"signal": name, "data": data, "from": by})
        return await self._regions.told(f"{self._path}/signals", body)

    async def join(
        self, member: str, data: Any = None, *, ttl_s: int | None = None
    ) -> dict[str, Any]:
        """Be here for ``ttl_s`` seconds (60); call it again in time to stay. The member."""
        path = f"/presence/{checked_id(member)}"
        return await self._ask("PUT", path, given(data=data, ttl_s=ttl_s))

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

    async def documents(self) -> list[dict[str, Any]]:
        """The shared documents, by id: of each ``{"id", "version"}``; none in a session of which
        nothing is known."""
        try:
            answer = await self._ask("GET", "/documents")
        except NotFound:
            return []
        documents: list[dict[str, Any]] = answer["documents"]
        return documents

    def document(self, id_: str) -> Document:
        """A shared document of this id; nothing is sent yet. Raises ``Invalid`` for what is no
        id."""
        return Document(self._regions, self._path, id_, self.events, self._headers)

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
        bound = given(presence=presence and checked_id(presence), presence_data=presence_data)

        def connected(
            transport: str, region: str, cursor: str | None
        ) -> AsyncGenerator[Event, None]:
            return self._connecting.events(transport, region, cursor, on_region, bound)

        async with aclosing(followed(self._regions, self._transports, connected, cursor)) as events:
            async for event in events:
                yield event

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
