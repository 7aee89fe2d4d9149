"""A session as lines of JSON, for other programs and for ``perdure import`` (PROTOCOL C.1).

A block is a session: a header, the session, its messages from the oldest on, its documents, and an
end with counts and a digest. It is made as it is read, with a bounded part of it in memory. What is
written meanwhile may be in it, or not; a message that is streaming is told as it stands.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from typing import Any

from perdure.regions.export_block import FORMAT, Block
from perdure.regions.node import Node
from perdure.replication.errors import Refusal
from perdure.replication.hlc import to_time, wall_time
from perdure.replication.ids import canonical
from perdure.replication.message import Message
from perdure.replication.oldest_first import BEGINNING, oldest_first
from perdure.replication.parts import items_of
from perdure.replication.session import Session
from perdure.replication.tenants import Range, check_session, is_own, name_of, range_of, tenant_of

# Messages that are read at once: each is loaded, and leaves memory again.
_PAGE_MESSAGES = 20
# A message that is longer is told in several lines of about so much.
LINE_BYTES_TARGET = 262_144


async def export(node: Node, session: str, version: str) -> AsyncIterator[bytes]:
    """The lines of a session, some at a time. Before the first it raises ``Refusal``:
    ``not_found``, ``deleted``, ``invalid_id``, ``catching_up``; later it ends with a line of kind
    ``failed``, and no end."""
    check_session(session)
    if is_own(session):
        raise Refusal("not_found", f"this region knows no session {name_of(session)}")
    # Also whether it may be read at all.
    metadata = node.metadata(session)
    state = node.state.find(session)
    assert state is not None
    node.state.pin(session)
    block, messages, documents = Block(), 0, 0
    try:
        yield _head(node, state, block, version, metadata)
        after = BEGINNING
        while not state.deleted:
            ids, after = oldest_first(state, after, _PAGE_MESSAGES)
            if not ids:
                break
            # Who reads as fast as it is made would have the loop for all of a long session.
            await asyncio.sleep(0)
            for id_ in ids:
                # One that was damaged, or deleted meanwhile, is left out.
                if (message := state.messages.look(id_)) is not None and message.shown is not None:
                    for line in _message(node, message, block):
                        yield line
                    messages += 1
        for said in [] if state.deleted else state.documents.versions():
            document = state.documents.get(said["id"])
            if document is not None:
                value = document.value()
                update = base64.b64encode(document.since()).decode()
                yield block.line("document", **value, update=update)
                documents += 1
        if state.deleted:
            yield block.line("failed", code="deleted", detail="it was deleted meanwhile")
        else:
            yield block.end(messages, documents)
    finally:
        node.state.unpin(session)


def _head(
    node: Node, state: Session, block: Block, version: str, metadata: dict[str, Any]
) -> bytes:
    header = block.line(
        "header",
        format=FORMAT,
        session=name_of(state.id),
        tenant=tenant_of(state.id),
        region=node.region,
        version=version,
        exported=wall_time(node.clock.wall_ms()),
    )
    created = None if state.created is None else to_time(state.created)
    return header + block.line("session", created=created, metadata=metadata)


def _message(node: Node, message: Message, block: Block) -> Iterator[bytes]:
    value = message.value()
    if message.header is not None and message.header.run is not None:
        run = node.turns.value(message)
        value["run"] = {name: run[name] for name in ("agent", "by", "input", "status", "attempt")}
    size = len(value["text"].encode()) + len(canonical(value["parts"]).encode())
    if size <= LINE_BYTES_TARGET:
        yield block.line("message", **value)
        return
    parts = value.pop("parts")
    del value["text"]
    yield block.line("message", **value, items_follow=True)
    items: list[Any] = []
    size = 0
    for item in items_of(parts):
        items.append(item)
        size += len(canonical(item).encode())
        if size >= LINE_BYTES_TARGET:
            yield block.line("items", message=message.id, items=items)
            items, size = [], 0
    yield block.line("items", message=message.id, items=items, last=True)


def names(node: Node, tenant: str | None, after: str | None, limit: int) -> dict[str, Any]:
    """A page of the sessions of a tenant, or (None) of all, by their names inside: ``sessions``,
    and where there are more, ``next``."""
    tenants = sorted({"", *node.state.census.tenants()}) if tenant is None else [tenant]
    found: list[str] = []
    for each in tenants:
        first, past = range_of(each, "*")
        if after is not None:
            if each < tenant_of(after):
                continue
            if each == tenant_of(after):
                first = after + "\x01"
        page = node.state.page(Range(first, past), limit + 1 - len(found))
        found += [name for name, _ in page]
        if len(found) > limit:
            break
    return {"sessions": found[:limit], "next": found[limit - 1] if len(found) > limit else None}
