"""One exported session on its way into regions: what becomes of each line (PROTOCOL C.1)."""

import base64
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from perdure.replication.ids import canonical, digest
from perdure.replication.limits import APPEND_ITEMS_MAX, TOKEN_BYTES_MAX
from perdure.replication.parts import items_of

from perdure_client import Client
from perdure_client.errors import Conflict, Deleted, Ended, PerdureError

PRODUCER = "import"
# Messages of a session that are kept open until its end; one more is ended at once.
UNFINISHED_MESSAGES_MAX = 1_000
# An append takes about so much.
_APPEND_BYTES = 1_048_576
_REOPENED_MAX = 3
_FAULTS_KEPT = 1_000


@dataclass
class Report:
    """What came of it. ``known``: what was there already; ``deleted``: what was deleted there, and
    stays so; ``faults``: what could not be brought in, by line."""

    sessions: int = 0
    messages: int = 0
    documents: int = 0
    known: int = 0
    deleted: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, number: int, text: str) -> None:
        """Something in this line does not do."""
        if len(self.faults) < _FAULTS_KEPT:
            # Of a file that anybody may have written: nothing that a terminal would obey.
            shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
            self.faults.append(f"line {number}: {shown}")


class Bringing:
    """One session on its way into the regions."""

    def __init__(self, client: Client, session: str, report: Report) -> None:
        self._client = client
        self._session = client.session(session)
        self._path = f"/v1/sessions/{session}"
        self._report = report
        # A message whose items come in lines of their own.
        self._stream: _Stream | None = None
        # Those that were streaming: there may be more of them, as long as the block has no end.
        self._unfinished: list[_Stream] = []

    async def line(self, number: int, value: dict[str, Any]) -> None:
        """Raises ``PerdureError``, and whatever comes of a line that is not as it must be."""
        match value["kind"]:
            case "session":
                await self._create(value)
            case "message":
                self._stream = None
                await self._message(number, value)
            case "items":
                if self._stream is not None and self._stream.message == value["message"]:
                    await self._stream.add(value["items"])
                    if value.get("last"):
                        await self._end(self._stream)
            case "document":
                await self._document(value)
            case "end" | "failed":
                # A block without an end is repeated whole, and may have more of a message then:
                # what was streaming stays open until it comes.
                await self._end_unfinished()

    async def _end_unfinished(self) -> None:
        while self._unfinished:
            try:
                await self._finish(self._unfinished.pop(0))
            except Deleted:
                self._report.deleted += 1

    async def _create(self, value: dict[str, Any]) -> None:
        said = {"created": value["created"]}
        metadata = {"imported": said, **value["metadata"]}
        there = (await self._session.create(metadata))["metadata"]
        # What somebody has set there since is theirs.
        if missing := {name: text for name, text in metadata.items() if name not in there}:
            await self._session.metadata(missing)

    async def _message(self, number: int, value: dict[str, Any]) -> None:
        body = _draft(value)
        follows = value.get("items_follow") is True
        parts = [] if follows else value["parts"]
        text = "" if follows else value["text"]
        is_plain = parts in ([], [{"type": "text", "text": text}])
        is_short = len(text.encode()) <= TOKEN_BYTES_MAX
        if value["status"] == "complete" and is_plain and is_short and not follows:
            try:
                await self._ask("/messages", {**body, "text": text})
                self._report.messages += 1
                return
            except Conflict:
                if not await self._is_begun(value["id"]):
                    await self._compare(number, value)
                    return
        claim_id = f"import-{digest(12, self._session.id, value['id']).hex()}"
        opening = {**body, "producer": PRODUCER, "claim_id": claim_id}
        try:
            opened = await self._opened(opening)
        except Conflict:
            await self._compare(number, value)
            return
        stream = _Stream(self._client, self._path, value, opened)
        if opened["next"]:
            there = await self._session.message(value["id"])
            if there["status"] == "streaming" or follows:
                stream.go_on(opened["next"], there["parts"])
            elif there["parts"] != parts:
                text = f"message {value['id']} has ended there with another text or parts"
                self._report.fault(number, text)
                return
            else:
                # Where its text was split may have been another place then.
                self._report.known += 1
                return
        if follows:
            self._stream = stream
            return
        await stream.add(list(items_of(parts)))
        await self._end(stream)

    async def _is_begun(self, id_: str) -> bool:
        """Whether an import opened it when it was still streaming, and has not ended it."""
        there = await self._session.message(id_)
        is_ours = isinstance(there["metadata"].get("imported"), dict)
        return there["status"] == "streaming" and is_ours

    async def _opened(self, opening: dict[str, Any]) -> dict[str, Any]:
        """Open it, or go on with what an import opened when it was still streaming: what is said of
        the original in its metadata was another thing then. Raises ``Conflict``."""
        try:
            return await self._ask("/messages", opening)
        except Conflict:
            there = await self._session.message(opening["id"])
            said = there["metadata"].get("imported")
            if there["status"] != "streaming" or not isinstance(said, dict):
                raise
            # Under another claim than ours it is refused again.
            return await self._ask("/messages", {**opening, "metadata": there["metadata"]})

    async def _end(self, stream: "_Stream") -> None:
        self._stream = None
        if stream.is_unfinished and len(self._unfinished) < UNFINISHED_MESSAGES_MAX:
            self._unfinished.append(stream)
            return
        await self._finish(stream)

    async def _finish(self, stream: "_Stream") -> None:
        try:
            await stream.end()
        except Ended:
            self._report.known += 1
            return
        self._report.messages += 1

    async def _compare(self, number: int, value: dict[str, Any]) -> None:
        """Another body is there under this id: the original, or something else."""
        there = await self._session.message(value["id"])
        names = ["role", "author", "status"]
        if value.get("items_follow") is not True:
            names += ["text", "parts"]
        different = [name for name in names if there.get(name) != value.get(name)]
        if different:
            text = f"message {value['id']} is there with another {' and '.join(different)}"
            self._report.fault(number, text)
        else:
            self._report.known += 1

    async def _document(self, value: dict[str, Any]) -> None:
        document = self._session.document(value["id"])
        update = base64.b64decode(value["update"], validate=True)
        async with document.live() as live:
            live.doc.apply_update(update)
        self._report.documents += 1

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer, _ = await self._client.regions.request("POST", self._path + path, body)
        return answer


def _draft(value: dict[str, Any]) -> dict[str, Any]:
    """The message as it is asked for."""
    said = {"created": value["created"], "serial": value["serial"]}
    if value["status"] == "streaming":
        said["status"] = "streaming"
    if "run" in value:
        said["run"] = value["run"]
    body = {
        "id": value["id"],
        "role": value["role"],
        # What was imported before says when it was written at first.
        "metadata": {"imported": said, **value["metadata"]},
    }
    for name in ("author", "replaces"):
        if value.get(name) is not None:
            body[name] = value[name]
    return body


class _Stream:
    """A message that is appended to, from where the regions have it."""

    def __init__(
        self, client: Client, path: str, value: dict[str, Any], opened: dict[str, Any]
    ) -> None:
        self.message: str = value["id"]
        self._regions = client.regions
        self._path = f"{path}/messages"
        self._header = opened["header"]
        self._epoch = opened["epoch"]
        # Nobody goes on with what was streaming: it is not whole.
        self.is_unfinished = value["status"] == "streaming"
        self._status = "failed" if self.is_unfinished else value["status"]
        self._seq = 0
        # What is there already of what comes, a text or a mark after the other.
        self._there: deque[str | dict[str, Any]] = deque()

    def go_on(self, seq: int, parts: list[dict[str, Any]]) -> None:
        """The regions have these parts, and take the next item under this number. Where texts were
        split may have been another place then."""
        self._seq = seq
        for item in items_of(parts):
            if self._there and isinstance(item, str) and isinstance(self._there[-1], str):
                self._there[-1] += item
            else:
                self._there.append(item)

    def _missing(self, item: str | dict[str, Any]) -> str | dict[str, Any] | None:
        """What of an item is not there yet. Raises ``ValueError`` where something else is."""
        if not self._there:
            return item
        there = self._there.popleft()
        if there == item:
            return None
        if isinstance(there, str) and isinstance(item, str):
            if there.startswith(item):
                self._there.appendleft(there[len(item) :])
                return None
            # More of a text, unless something else follows there.
            if item.startswith(there) and not self._there:
                return item[len(there) :]
        raise ValueError(f"message {self.message} is there with other parts")

    async def add(self, items: list[Any]) -> None:
        """Append these items after the others, as many at once as a request takes."""
        batch: list[Any] = []
        size = 0
        for given in items:
            if (item := self._missing(given)) is None:
                continue
            batch.append(item)
            size += len(canonical(item).encode())
            if size >= _APPEND_BYTES or len(batch) == APPEND_ITEMS_MAX:
                await self._append(batch, None)
                batch, size = [], 0
        if batch:
            await self._append(batch, None)

    async def end(self) -> None:
        """End it as it ended."""
        await self._append([], self._status)

    async def _append(self, items: list[Any], end: str | None) -> None:
        body = {"tokens": items, **({"end": end} if end is not None else {})}
        for tried in range(_REOPENED_MAX):
            headers = {
                "producer-id": PRODUCER,
                "producer-epoch": self._epoch,
                "producer-seq": str(self._seq),
            }
            try:
                path = f"{self._path}/{self.message}/tokens"
                await self._regions.request("POST", path, body, headers)
                break
            except PerdureError as error:
                # Another region, which has not heard of it yet.
                if error.code != "unknown_epoch" or tried == _REOPENED_MAX - 1:
                    raise
                await self._regions.request("POST", self._path, {"header": self._header})
        self._seq += len(items)
