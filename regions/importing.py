"""Bringing exported sessions into regions, through their ordinary API (PROTOCOL C.1).

Rule of this file: everything is asked for under ids that the file gives, so that doing it again
changes nothing, and finishes what was broken off. What regions give out themselves (serials, times)
is new; the old stands in the metadata, under ``imported``.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from perdure.regions.export_block import DIGEST_BYTES, FORMAT
from perdure.replication.ids import canonical, digest
from perdure.replication.limits import APPEND_ITEMS_MAX, EXPORT_LINE_BYTES_MAX, TOKEN_BYTES_MAX
from perdure.replication.parts import items_of
from perdure.replication.tenants import is_tenant

from perdure_client import Client
from perdure_client.errors import Conflict, Deleted, Ended, PerdureError

# Sessions that are brought in at the same time, and lines of each that wait.
SESSIONS_AT_ONCE = 8
LINES_WAITING_MAX = 32
PRODUCER = "import"
# Why going on makes no sense: each line would be refused.
_HOPELESS = frozenset({"unauthorized", "unavailable", "storage_full"})
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


class Hopeless(Exception):
    """Nothing more can be brought in; what is, stays."""


@dataclass
class _Block:
    """A session that is being read. Its lines go to the task that brings it in."""

    session: str
    digest: "hashlib.blake2b"
    queue: "asyncio.Queue[tuple[int, dict[str, Any]] | None]"
    lines: int = 0
    messages: int = 0
    documents: int = 0


class Importer:
    """Brings in one file. ``tenant``: only sessions of this tenant are; None: all of them.
    ``name``: what the one session of the file is called from now on."""

    def __init__(
        self, client: Client, report: Report, tenant: str | None, name: str | None = None
    ) -> None:
        self._client = client
        self._report = report
        self._tenant = tenant
        self._name = name
        self._sessions: set[str] = set()
        self._room = asyncio.Semaphore(SESSIONS_AT_ONCE)
        self._block: _Block | None = None
        self._tenants: set[str] = set()

    async def take(self, lines: AsyncIterator[bytes]) -> None:
        """Bring in all that the lines say. Raises ``Hopeless``."""
        try:
            async with asyncio.TaskGroup() as group:
                number = 0
                async for raw in lines:
                    number += 1
                    await self._line(group, number, raw)
                if self._block is not None:
                    self._report.fault(number, f"the end of session {self._block.session} is cut")
                    await self._done()
        except* Hopeless as group_error:
            raise Hopeless(str(group_error.exceptions[0])) from None

    async def _line(self, group: asyncio.TaskGroup, number: int, raw: bytes) -> None:
        value = self._parsed(number, raw)
        if value is None:
            return
        kind, block = value.get("kind"), self._block
        if kind == "header":
            if block is not None:
                if block.session != value.get("session"):
                    self._report.fault(number, f"session {block.session} has no end before this")
                await self._done()
            await self._begin(group, number, value, raw)
            return
        if block is None:
            return
        if kind == "end":
            self._check_end(number, block, value)
        if kind == "failed":
            text = f"session {block.session} is not whole: {value.get('detail')}"
            self._report.fault(number, text)
        block.digest.update(raw)
        block.lines += 1
        block.messages += kind == "message"
        block.documents += kind == "document"
        if kind in ("end", "failed"):
            await self._done()
        else:
            await block.queue.put((number, value))

    def _parsed(self, number: int, raw: bytes) -> dict[str, Any] | None:
        if not raw.strip():
            return None
        if len(raw) > EXPORT_LINE_BYTES_MAX:
            self._report.fault(number, f"longer than {EXPORT_LINE_BYTES_MAX:,} bytes")
            return None
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            self._report.fault(number, f"no JSON: {error}")
            return None
        if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
            self._report.fault(number, "no object with a kind")
            return None
        return value

    async def _begin(
        self, group: asyncio.TaskGroup, number: int, value: dict[str, Any], raw: bytes
    ) -> None:
        self._block = None
        tenant, session = value.get("tenant", ""), value.get("session")
        is_known = value.get("format") == FORMAT and is_tenant(tenant)
        if not is_known or not isinstance(session, str):
            self._report.fault(number, f"this is no export of format {FORMAT}")
            return
        if self._tenant is not None and tenant != self._tenant:
            return
        self._tenants.add(tenant)
        if len(self._tenants) > 1:
            names = " and ".join(sorted(name or "none" for name in self._tenants))
            raise Hopeless(
                f"line {number}: the file has sessions of several tenants ({names}), and a grant is"
                " of one: choose with --tenant"
            )
        self._sessions.add(session)
        if self._name is not None and len(self._sessions) > 1:
            raise Hopeless(f"line {number}: the file has several sessions, and --as is for one")
        try:
            self._client.session(self._name or session)
        except PerdureError as error:
            self._report.fault(number, str(error))
            return
        await self._room.acquire()
        block = _Block(
            session,
            hashlib.blake2b(raw, digest_size=DIGEST_BYTES),
            asyncio.Queue(LINES_WAITING_MAX),
            lines=1,
        )
        self._block = block
        group.create_task(self._bring(block))

    def _check_end(self, number: int, block: _Block, value: dict[str, Any]) -> None:
        counted = (block.messages, block.documents, block.lines)
        said = tuple(value.get(name) for name in ("messages", "documents", "lines"))
        if said != counted or value.get("blake2b") != block.digest.hexdigest():
            self._report.fault(number, f"session {block.session} is not as it was exported")

    async def _done(self) -> None:
        block, self._block = self._block, None
        if block is not None:
            await block.queue.put(None)

    async def _bring(self, block: _Block) -> None:
        """Bring in one session, a line after the other."""
        try:
            bringing = _Bringing(self._client, self._name or block.session, self._report)
            while (found := await block.queue.get()) is not None:
                number, value = found
                try:
                    await bringing.line(number, value)
                except Deleted:
                    self._report.deleted += 1
                except PerdureError as error:
                    if error.code in _HOPELESS:
                        raise Hopeless(f"line {number}: {error}") from error
                    self._report.fault(
                        number, f"{value.get('kind')} {value.get('id', '')}: {error}"
                    )
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    self._report.fault(number, f"not as it must be: {error!r}")
            await bringing.finish()
            self._report.sessions += 1
        finally:
            self._room.release()


class _Bringing:
    """One session on its way into the regions."""

    def __init__(self, client: Client, session: str, report: Report) -> None:
        self._client = client
        self._session = client.session(session)
        self._path = f"/v1/sessions/{session}"
        self._report = report
        # A message whose items come in lines of their own.
        self._stream: _Stream | None = None

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

    async def finish(self) -> None:
        """The lines are over. A message that was cut stays open: the next import ends it."""
        self._stream = None

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
            except Conflict:
                await self._compare(number, value)
            return
        claim_id = f"import-{digest(12, self._session.id, value['id']).hex()}"
        opening = {**body, "producer": PRODUCER, "claim_id": claim_id}
        try:
            opened = await self._ask("/messages", opening)
        except Conflict:
            await self._compare(number, value)
            return
        stream = _Stream(self._client, self._path, value, opened)
        if follows:
            self._stream = stream
            return
        await stream.add(list(items_of(parts)))
        await self._end(stream)

    async def _end(self, stream: "_Stream") -> None:
        self._stream = None
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
        self._status = "failed" if value["status"] == "streaming" else value["status"]
        self._seq = 0

    async def add(self, items: list[Any]) -> None:
        """Append these items after the others, as many at once as a request takes."""
        batch: list[Any] = []
        size = 0
        for item in items:
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
