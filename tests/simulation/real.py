"""The sample that runs on what ships: the ASGI application, and SQLite in files."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlencode

from perdure.api.app import create_app
from perdure.regions.ports import StorageFailed, StorageFull
from perdure.regions.storage import SqliteStorage
from perdure.replication.errors import Refusal

from perdure_client.sse import EventParser
from tests.simulation.disk import Disk
from tests.simulation.network import SimSocket, connect
from tests.simulation.process import Process
from tests.simulation.verbs import Reply, Verbs


class FileDisk(Disk):
    """A directory."""

    def __init__(self, name: str, root: Path) -> None:
        super().__init__(name)
        self.root = root
        self.path = root / name.replace("/", "-")

    def copy(self, name: str) -> "FileDisk":
        """A copy of the files, between two transactions."""
        backup = FileDisk(name, self.root)
        if self.path.exists():
            shutil.copytree(self.path, backup.path, ignore=shutil.ignore_patterns("lock"))
        return backup


class FileStorage(SqliteStorage):
    """The storage that ships, with the simulation's faults around its transactions."""

    def __init__(self, disk: FileDisk, random: Random) -> None:
        super().__init__(disk.path)
        self.disk = disk
        self._random = random
        self.is_cut = False

    def cut(self) -> None:
        """The process has died: nothing more is written, and the directory is free."""
        self.is_cut = True
        self.close()

    async def _write(self, work: Any) -> Any:
        await asyncio.sleep(self.disk.latency_s * (0.2 + self._random.random()))
        if self.is_cut:
            raise StorageFailed("the process is dead")
        if self.disk.full:
            raise StorageFull("the simulated disk is full")
        if self.disk.failing:
            self._failed = OSError("the simulated disk failed to sync")
            raise StorageFailed("the simulated disk failed to sync")
        result = await super()._write(work)
        await asyncio.sleep(self.disk.latency_s * self._random.random())
        if self.is_cut:
            raise StorageFailed("the process is dead")
        return result


class AppProcess(Process):
    """A process that clients reach through the ASGI application alone."""

    _served: tuple[Any, Any] = (None, None)

    def _make_storage(self, random: Random) -> Any:
        assert isinstance(self.disk, FileDisk)
        return FileStorage(self.disk, random)

    def _app(self) -> Any:
        """The application of the node that lives now: one for a life, as it is served."""
        node, app = self._served
        if node is not self.node:
            app = create_app(self.node, rules=None, version="simulated")
            self._served = self.node, app
        return app

    async def carry_out(self, verb: str, args: Any, more: Any) -> Any:
        """As the base does, by a request; raises what the answer says."""
        return await Verbs(partial(request, self._app())).carry_out(verb, args, more)

    async def follow(
        self, who: str, session: str, cursor: str | None, member: str | None = None
    ) -> SimSocket:
        """A reader's connection, by server-sent events. Raises ``Refusal``."""
        near, far = connect(self._addresses.network, who, self.name, breaks=True)
        self._own(far)
        query = {} if member is None else {"presence": member}
        events = stream(self._app(), f"/v1/sessions/{session}/events", cursor, query)
        first = await anext(events)
        if first:
            raise Refusal(first["code"], first.get("detail", ""))
        self.spawn(self._pass_on(events, far))
        return near

    async def _pass_on(self, events: AsyncIterator[Any], socket: SimSocket) -> None:
        parser = EventParser()
        try:
            async for chunk in events:
                found = [[e.event, e.id, e.data] for e in parser.feed(chunk)]
                await socket.send_bytes(json.dumps(found).encode())
        except ConnectionResetError:
            pass
        finally:
            await events.aclose()  # type: ignore[attr-defined]
            socket.abort()


def _scope(method: str, path: str, headers: dict[str, str], query: dict[str, Any]) -> Any:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": urlencode(query).encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }


async def request(
    app: Any, method: str, path: str, body: Any, headers: dict[str, str], query: dict[str, Any]
) -> Reply:
    """One request and its whole answer."""
    data = b"" if body is None else json.dumps(body).encode()
    headers = {**headers, "content-length": str(len(data))}
    if data:
        headers["content-type"] = "application/json"
    messages = [{"type": "http.request", "body": data, "more_body": False}]
    status, chunks = 0, []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            chunks.append(message.get("body", b""))

    await app(_scope(method, path, headers, query), receive, send)
    text = b"".join(chunks)
    return Reply(status, json.loads(text) if text else None)


async def stream(
    app: Any, path: str, cursor: str | None, query: dict[str, Any]
) -> AsyncIterator[Any]:
    """First what the refusal says (None: there is none), then the pieces of the body."""
    headers = {"last-event-id": cursor} if cursor else {}
    pieces: asyncio.Queue[Any] = asyncio.Queue(1)
    gone = asyncio.Event()

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await pieces.put(message)

    answering = asyncio.create_task(app(_scope("GET", path, headers, query), receive, send))
    answering.add_done_callback(lambda _: gone.set())
    try:
        start = await pieces.get()
        if start["status"] != 200:
            yield json.loads((await pieces.get())["body"])
            return
        yield None
        while True:
            message = await pieces.get()
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return
    finally:
        gone.set()
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
