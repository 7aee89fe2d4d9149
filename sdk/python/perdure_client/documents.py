"""A shared document of a session from a client's side: read, write, append, follow, edit live."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perdure_client.errors import Deleted, NotFound, Unavailable
from perdure_client.ids import checked_id, given, new_id
from perdure_client.regions import Regions
from perdure_client.transports import Event

if TYPE_CHECKING:
    from pycrdt import Doc

    from perdure_client.live import Live


@dataclass(frozen=True)
class DocumentValue:
    """A shared document as a region has it: its text, and its map as JSON. ``version`` is equal
    where the document is."""

    id: str
    text: str
    json: dict[str, Any]
    version: str


class Document:
    """One shared document of a session, which need not be there yet. Edits of others at the same
    time, in any region, merge."""

    def __init__(
        self,
        regions: Regions,
        session: str,
        id_: str,
        events: Callable[[], AsyncGenerator[Event, None]],
        headers: Callable[[], dict[str, str]],
    ) -> None:
        self.id: str = checked_id(id_)
        self._regions = regions
        self._path = f"{session}/documents/{self.id}"
        self._events = events
        self._headers = headers

    async def read(self) -> DocumentValue:
        """The document, as the first region that answers has it. Raises ``NotFound`` where there
        is none, and ``Deleted``."""
        return await self._ask("GET", "")

    async def write(
        self, *, text: str | None = None, json: dict[str, Any] | None = None
    ) -> DocumentValue:
        """Make the text this one, where it differs, or patch the map with ``json`` (RFC 7396: None
        deletes), or both; the document as it is then. Makes the document where there is none."""
        return await self._ask("PATCH", "", given(text=text, json=json))

    async def append(self, text: str) -> DocumentValue:
        """Add to the end of the text, once, whichever regions it is tried at; the document as it is
        then."""
        # One key for all tries: a region that has it adds nothing.
        headers = {"idempotency-key": new_id()}
        return await self._ask("POST", "/append", {"text": text}, headers)

    async def delete(self) -> None:
        """Delete it, for ever; again: nothing."""
        try:
            await self._regions.request("DELETE", self._path)
        except Deleted:
            return

    async def follow(self) -> AsyncGenerator[DocumentValue, None]:
        """The document as it is now, once it is there, and each time that it has changed, across
        regions, until it or its session is deleted.

        States that follow one another quickly may come as one. Raises :class:`PerdureError` for
        what every region would refuse.
        """
        version = ""
        try:
            async with aclosing(self._events()) as events:
                async for event in events:
                    told = version_told(event, self.id)
                    if told is None or told == version:
                        continue
                    value = await self._seen(event.region)
                    if value is not None and value.version != version:
                        version = value.version
                        yield value
        except Deleted:
            return

    def live(self, doc: "Doc[Any] | None" = None) -> "Live":
        """Edit it as a Yjs document: ``async with document.live() as live``, with ``live.doc``, a
        new one of pycrdt, or ``doc``. Needs ``perdure-client[yjs]``."""
        # What who edits no document live need not have installed.
        from perdure_client.live import Live

        return Live(self._regions, self._path, self._headers, doc)

    async def _seen(self, region: str) -> DocumentValue | None:
        """The document at the region that told of it, or elsewhere, however long that takes; None
        where it is not there yet: the region will tell."""
        while True:
            try:
                answer, _ = await self._regions.request("GET", self._path, first=region)
                return value_of(answer)
            except NotFound:
                return None
            except Unavailable:
                continue

    async def _ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> DocumentValue:
        answer, _ = await self._regions.request(method, self._path + path, body, headers)
        return value_of(answer)


def value_of(answer: dict[str, Any]) -> DocumentValue:
    """The document of an answer."""
    return DocumentValue(answer["id"], answer["text"], answer["json"], answer["version"])


def version_told(event: Event, id_: str) -> str | None:
    """The version of the document that the event tells of; None where it tells of none, and ``""``
    where it tells of all and this is not among them, perhaps no more. Raises ``Deleted`` where it
    tells that it is gone."""
    data = event.data
    if event.event == "snapshot":
        every = data.get("documents", ())
    elif event.event != "document":
        return None
    elif "all" in data:
        every = data["all"]
    elif data["document"] != id_:
        return None
    elif data.get("deleted"):
        detail = f"document {id_} was deleted"
        raise Deleted({"code": "deleted", "status": 410, "detail": detail})
    else:
        return str(data["version"])
    return next((str(each["version"]) for each in every if each["id"] == id_), "")
