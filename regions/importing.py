"""Bringing exported sessions into regions, through their ordinary API (PROTOCOL C.1).

Rule of this file: everything is asked for under ids that the file gives, so that doing it again
changes nothing, and finishes what was broken off. What regions give out themselves (serials, times)
is new; the old stands in the metadata, under ``imported``.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from perdure.regions.bringing import Bringing, Report
from perdure.regions.export_block import DIGEST_BYTES, FORMAT
from perdure.replication.limits import EXPORT_LINE_BYTES_MAX
from perdure.replication.tenants import is_tenant

from perdure_client import Client
from perdure_client.errors import Deleted, PerdureError

# Sessions that are brought in at the same time, and lines of each that wait.
SESSIONS_AT_ONCE = 8
LINES_WAITING_MAX = 32
# Why going on makes no sense: each line would be refused.
_HOPELESS = frozenset({"unauthorized", "unavailable", "storage_full"})


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
        # What is being brought in, by session: a block that is repeated goes on after the first.
        self._running: dict[str, asyncio.Task[None]] = {}

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
        await block.queue.put((number, value))
        if kind in ("end", "failed"):
            await self._done()

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
        if (before := self._running.get(session)) is not None:
            await asyncio.wait([before])
        await self._room.acquire()
        block = _Block(
            session,
            hashlib.blake2b(raw, digest_size=DIGEST_BYTES),
            asyncio.Queue(LINES_WAITING_MAX),
            lines=1,
        )
        self._block = block
        task = self._running[session] = group.create_task(self._bring(block))
        task.add_done_callback(lambda _: self._running.pop(session))

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
            bringing = Bringing(self._client, self._name or block.session, self._report)
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
            self._report.sessions += 1
        finally:
            self._room.release()
