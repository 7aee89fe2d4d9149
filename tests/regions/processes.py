"""The ``perdure`` command as processes: what they print, how they end."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
from perdure.regions.cluster import free_ports

SECRET = "a secret of these tests, long enough"
DEADLINE_S = 30
COMMAND = (sys.executable, "-m", "perdure.regions.main")
# A machine's own settings must not reach the tests.
ENVIRONMENT = {name: text for name, text in os.environ.items() if not name.startswith("PERDURE_")}


class Ended(NamedTuple):
    """How a process ended, and what it printed."""

    code: int
    out: str
    err: str


class Running:
    """A process that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            return (await self.process.stdout.readline()).decode()

    async def line_with(self, text: str) -> str:
        """The next line that contains this; it must come."""
        while text not in (line := await self.line()):
            assert line, f"it ended without {text!r}: {await self.end()}"
        return line

    async def write(self, raw: bytes) -> None:
        """Something on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(raw)
        await self.process.stdin.drain()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def end(self, stdin: bytes | None = None) -> Ended:
        """Wait for its end; ``stdin`` is written and closed first."""
        async with asyncio.timeout(DEADLINE_S):
            out, err = await self.process.communicate(stdin)
        assert self.process.returncode is not None
        return Ended(self.process.returncode, out.decode(), err.decode())


@contextlib.asynccontextmanager
async def started(
    *command: Any, environment: Mapping[str, str] = {}, **options: Any
) -> AsyncIterator[Running]:
    """A process that is killed at the end, if it still runs."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        **{"stdin": pipe, "stdout": pipe, "stderr": pipe, **options},
        env={**ENVIRONMENT, **environment},
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def perdure(
    *arguments: Any, stdin: bytes = b"", environment: Mapping[str, str] = {}
) -> Ended:
    """Run a command to its end."""
    async with started(*COMMAND, *arguments, environment=environment) as running:
        return await running.end(stdin)


class Served:
    """One region that can be served again and again from its directory."""

    def __init__(self, data: Path, name: str = "eu") -> None:
        self.name = name
        self.data = data
        self.port, self.peer_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"

    def arguments(self, *more: Any) -> list[str]:
        found = ["serve", "--region", self.name, "--data", self.data, "--port", self.port]
        found += ["--peer-port", self.peer_port, "--dev-no-auth", *more]
        return [str(argument) for argument in found]

    @contextlib.asynccontextmanager
    async def serve(
        self, *more: Any, code: str = "", environment: Mapping[str, str] = {}
    ) -> AsyncIterator[Running]:
        """The region, ready; ``code`` is Python that runs in its process first."""
        begin = ("-c", f"{code}\nfrom perdure.regions.main import main\nraise SystemExit(main())")
        command = (sys.executable, *begin) if code else COMMAND
        environment = {"PERDURE_PEER_SECRET": SECRET, **environment}
        async with started(*command, *self.arguments(*more), environment=environment) as running:
            await running.line_with(self.url)
            yield running

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """One request; the answer's JSON. It must succeed."""
        async with httpx2.AsyncClient(trust_env=False, timeout=DEADLINE_S) as http:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            answer = await http.request(method, self.url + path, json=body, headers=names)
        assert answer.is_success, answer.text
        return answer.json()

    async def raw(self, request: bytes) -> bytes:
        """These bytes on a connection of their own; what comes until it is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        async with asyncio.timeout(DEADLINE_S):
            writer.write(request)
            writer.write_eof()
            answer = await reader.read()
        writer.close()
        return answer

    async def open(self, session: str = "s", message: str = "m") -> dict[str, Any]:
        """Open a streaming message; the answer."""
        body = {"id": message, "role": "assistant", "producer": "p", "claim_id": "claim-0001"}
        opened: dict[str, Any] = await self.ask("POST", f"/v1/sessions/{session}/messages", body)
        return opened

    async def append(self, epoch: str, seq: int, *tokens: str, **more: Any) -> dict[str, Any]:
        """Append to message ``m`` of session ``s``."""
        path = "/v1/sessions/s/messages/m/tokens"
        headers = {"producer_id": "p", "producer_epoch": epoch, "producer_seq": str(seq)}
        ack: dict[str, Any] = await self.ask(
            "POST", path, {"tokens": list(tokens), **more}, **headers
        )
        return ack
