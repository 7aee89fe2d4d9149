"""A session, for threads. Made by ``make sync-client``: change
``perdure_client/session.py`` instead."""

from collections.abc import Callable
from typing import Any, Literal

from perdure_client import session as asynchronous
from perdure_client.reducer import SessionView
from perdure_client.sync.documents import Document
from perdure_client.sync.portal import Iteration, Portal
from perdure_client.sync.writer import Writer
from perdure_client.transports import Event
from perdure_client.writer import BUFFER_BYTES_MAX, OnFull


class Session:
    """One session. Every operation is tried at other regions until one answers, and repeating it
    changes nothing."""

    def __init__(self, portal: Portal, it: asynchronous.Session) -> None:
        self._portal = portal
        self._it = it

    @property
    def id(self) -> str:
        """As the class says."""
        return self._it.id

    @property
    def steps_lost(self) -> int:
        """As the class says."""
        return self._it.steps_lost

    def create(self, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
        """Create the session; an existing one is not changed."""
        return self._portal.call(self._it.create(metadata))

    def send(
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
        return self._portal.call(
            self._it.send(
                role,
                text,
                id=id,
                author=author,
                after=after,
                metadata=metadata,
                replaces=replaces,
                run=run,
            )
        )

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
    ) -> Writer:
        """Open a streaming message: ``writer = session.open()`` or ``with``.

        ``id``, ``producer``: random, unless given, but a producer is one that the grant allows.
        ``after``: the greatest serial that the author has seen. ``replaces``: the message that this
        one stands for. ``buffer_bytes_max``: of what is not yet in two regions so much is kept;
        then ``on_full`` says whether ``write`` waits (``block``) or lets go of what is on one disk
        (``release``).
        """
        return Writer(
            self._portal,
            self._portal.call(
                self._it.open(
                    role,
                    id=id,
                    producer=producer,
                    author=author,
                    after=after,
                    metadata=metadata,
                    replaces=replaces,
                    on_full=on_full,
                    buffer_bytes_max=buffer_bytes_max,
                ).made()
            ),
        )

    def claim(
        self,
        message: str,
        *,
        mode: Literal["continue", "restart"] = "continue",
        producer: str | None = None,
        on_full: OnFull = "block",
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
    ) -> Writer:
        """Take a message over from its producer, which then gets ``Fenced``.

        ``writer.text`` and ``writer.parts`` are what it continues; ``restart`` begins from nothing.
        Raises ``NotFound``, ``Ended``, ``Cancelled``, ``Deleted``.
        """
        return Writer(
            self._portal,
            self._portal.call(
                self._it.claim(
                    message,
                    mode=mode,
                    producer=producer,
                    on_full=on_full,
                    buffer_bytes_max=buffer_bytes_max,
                ).made()
            ),
        )

    def snapshot(self) -> dict[str, Any]:
        """The session with its newest 200 messages, as the first region that answers holds it."""
        return self._portal.call(self._it.snapshot())

    def messages(self, *, before: str | None = None, limit: int = 100) -> dict[str, Any]:
        """The newest messages, or the newest before a serial, oldest first, and whether there are
        older ones: ``{"messages", "more"}``."""
        return self._portal.call(self._it.messages(before=before, limit=limit))

    def message(self, id: str) -> dict[str, Any]:
        """One message."""
        return self._portal.call(self._it.message(id))

    def metadata(self, patch: dict[str, Any] | None = None) -> dict[str, Any]:
        """The metadata; with ``patch``, after setting its keys (None deletes)."""
        return self._portal.call(self._it.metadata(patch))

    def cancel(self, message: str) -> str:
        """Stop a message's producer; what was written stays. The status of the message."""
        return self._portal.call(self._it.cancel(message))

    def request_run(
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
        return self._portal.call(
            self._it.request_run(
                agent,
                input=input,
                id=id,
                by=by,
                role=role,
                metadata=metadata,
                after=after,
                replaces=replaces,
            )
        )

    def run(self, id: str) -> dict[str, Any]:
        """A run as it stands, also one that is over."""
        return self._portal.call(self._it.run(id))

    def runs(self, *, before: str | None = None, limit: int = 100) -> dict[str, Any]:
        """The runs of the newest messages, or of the newest before a serial, oldest first, also
        those that are over, and whether there are older messages: ``{"runs", "more"}``."""
        return self._portal.call(self._it.runs(before=before, limit=limit))

    def cancel_run(self, run: str) -> dict[str, Any]:
        """Stop a run, also one that nobody has claimed; what was written stays. The run."""
        return self._portal.call(self._it.cancel_run(run))

    def signal(self, name: str, data: Any = None, *, by: str | None = None) -> bool:
        """Show something to who reads now, such as ``typing``; ``by``: who it comes from.

        It is sent once, to one region, for it is told at most once: False when that did not take
        it, be it away or because too many were sent.
        """
        return self._portal.call(self._it.signal(name, data, by=by))

    def join(self, member: str, data: Any = None, *, ttl_s: int | None = None) -> dict[str, Any]:
        """Be here for ``ttl_s`` seconds (60); call it again in time to stay. The member."""
        return self._portal.call(self._it.join(member, data, ttl_s=ttl_s))

    def leave(self, member: str) -> None:
        """Leave, through everything that is known of the member."""
        self._portal.call(self._it.leave(member))

    def presence(self) -> list[dict[str, Any]]:
        """Who is here now; nobody in a session of which nothing is known."""
        return self._portal.call(self._it.presence())

    def documents(self) -> list[dict[str, Any]]:
        """The shared documents, by id: of each ``{"id", "version"}``; none in a session of which
        nothing is known."""
        return self._portal.call(self._it.documents())

    def document(self, id_: str) -> Document:
        """A shared document of this id; nothing is sent yet. Raises ``Invalid`` for what is no
        id."""
        return Document(self._portal, self._it.document(id_))

    def delete(self, message: str | None = None) -> None:
        """Delete the session, or one of its messages, for ever; again: nothing."""
        self._portal.call(self._it.delete(message))

    def events(
        self,
        cursor: str | None = None,
        on_region: Callable[[str], None] | None = None,
        *,
        presence: str | None = None,
        presence_data: Any = None,
    ) -> Iteration[Event]:
        """Every event from the cursor on, across regions, until the session is deleted.

        ``presence``: a member that is here as long as this goes on, with its data.
        ``on_region`` is called with each region that is connected to. Raises ``Deleted`` for a
        session that was deleted before, and what else every region would refuse.
        """
        return Iteration(
            self._portal,
            self._it.events(cursor, on_region, presence=presence, presence_data=presence_data),
            lambda it: it,
        )

    def read(
        self,
        view: SessionView | None = None,
        *,
        presence: str | None = None,
        presence_data: Any = None,
    ) -> Iteration[SessionView]:
        """The assembled session after each event, from nothing or from a saved view on.

        ``presence``: a member that is here as long as this goes on, with its data.
        The same object is given each time. Ends when the session is deleted. Raises
        :class:`PerdureError` for what every region would refuse.
        """
        return Iteration(
            self._portal,
            self._it.read(view, presence=presence, presence_data=presence_data),
            lambda it: it,
        )
