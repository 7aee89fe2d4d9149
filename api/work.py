"""An agent's feed: its open runs as a list, by long poll, or as server-sent events."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from perdure.api.bodies import Receive, Scope, Send, until_gone
from perdure.api.connecting import connection_of, cut_by
from perdure.api.fields import poll_wait_ms, query
from perdure.api.hot import JSON, KEEP_ALIVE, respond, stream_headers, write_slices
from perdure.api.standing import Needs, Standing, standing_of
from perdure.regions.guard_headers import guarded
from perdure.regions.node import Node
from perdure.regions.work_readers import Told, WorkReader
from perdure.replication.errors import Refusal
from perdure.replication.tenants import name_of

Headers = list[tuple[bytes, bytes]]
_EVENT_STREAM = b"text/event-stream"


class Asked(NamedTuple):
    """A feed as it was asked for."""

    cursor: str | None
    wait_s: float
    worker: str | None


async def work_feed(
    node: Node, scope: Scope, receive: Receive, send: Send, agent: str, headers: Headers
) -> None:
    """``GET /v1/agents/{a}/runs``."""
    values = query(scope["query_string"], "wait_ms", "cursor", "worker")
    standing = standing_of(scope)
    if (worker := values.get("worker")) is not None:
        standing.authority.check_name(worker, "worker")
    gone = asyncio.ensure_future(until_gone(receive))
    try:
        if _wants_stream(scope):
            reader = node.follow_agent(agent, worker)
            connection = connection_of(scope)
            connection.follow(reader)
            connection.member, connection.end = worker, reader.end
            cut_by(scope, gone)
            with standing.held(None, reader.expire_grant, needs_of_feed(agent, worker)):
                await _stream(node, reader, send, gone, headers)
            return
        wait_s = poll_wait_ms(values) / 1000 if "wait_ms" in values else 0.0
        asked = Asked(values.get("cursor"), wait_s, values.get("worker"))
        body = await _poll(node, standing, agent, asked, gone)
        content = (b"content-type", JSON.encode())
        await respond(send, 200, body, [*headers, content])
    finally:
        gone.cancel()


def needs_of_feed(agent: str, worker: str | None) -> Needs:
    """What following an agent (its name inside) needs."""
    return Needs(frozenset({"run"}), (name_of(agent), worker))


def hold_feed(standing: Standing, reader: WorkReader) -> Callable[[], None]:
    """It goes on under this standing, until what is given back is called."""
    needs = needs_of_feed(reader.agent, reader.worker)
    return standing.hold(None, reader.expire_grant, needs)


def _wants_stream(scope: Scope) -> bool:
    return any(
        name == b"accept" and _EVENT_STREAM in value.lower() for name, value in scope["headers"]
    )


async def _poll(
    node: Node, standing: Standing, agent: str, asked: Asked, gone: asyncio.Future[None]
) -> bytes:
    # A worker that polls is at work while it waits.
    reader = node.follow_agent(agent, asked.worker)
    over: list[str] = []

    def end(why: str) -> None:
        over.append(why)
        reader.wake()

    let_go = standing.hold(None, end, needs_of_feed(agent, asked.worker))
    deadline = asyncio.get_running_loop().time() + asked.wait_s
    try:
        while True:
            if over:
                raise Refusal("unauthorized", f"the grant is over: it is {over[0]}")
            text, cursor = node.agent_runs(agent)
            rest_s = deadline - asyncio.get_running_loop().time()
            if cursor != asked.cursor or rest_s <= 0 or gone.done() or reader.is_over:
                return f'{{"runs":{text},"cursor":"{cursor}"}}'.encode()
            changed = asyncio.ensure_future(reader.next())
            both: set[asyncio.Future[object]] = {changed, gone}  # type: ignore[arg-type]
            try:
                await asyncio.wait(both, timeout=rest_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
    finally:
        let_go()
        reader.close()


async def _stream(
    node: Node, reader: WorkReader, send: Send, gone: asyncio.Future[None], headers: Headers
) -> None:
    writing = asyncio.ensure_future(_write(reader, send, headers))
    try:
        await asyncio.wait({writing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            writing.result()
    except TimeoutError:
        # The worker takes nothing any more. It comes back and is told all of it.
        node.counters["readers_cut"] += 1
    finally:
        writing.cancel()
        reader.close()


async def _write(reader: WorkReader, send: Send, headers: Headers) -> None:
    start = {"type": "http.response.start", "status": 200}
    await send({**start, "headers": guarded(stream_headers(), headers)})
    while (told := await reader.next()) is not None:
        await write_slices(send, b"".join(map(_encode, told)) or KEEP_ALIVE)
    await send({"type": "http.response.body", "body": b""})


def _encode(told: Told) -> bytes:
    name, data = told
    return f"event: {name}\ndata: {data}\n\n".encode()
