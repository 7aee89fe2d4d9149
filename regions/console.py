"""What the commands say to people and to programs."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

from perdure_client import Client

# After so long it says that it is still trying.
NOTE_AFTER_S = 2.0


def say(text: str) -> None:
    """Something for people, beside the output."""
    print(f"perdure: {text}", file=sys.stderr, flush=True)


def print_json(value: Mapping[str, Any]) -> None:
    """One line for programs."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


@contextlib.asynccontextmanager
async def patiently(client: Client) -> AsyncIterator[None]:
    """Until the first answer: say so when it is long in coming."""

    async def note() -> None:
        await asyncio.sleep(NOTE_AFTER_S)
        say(f"no answer from {' or '.join(client.regions.urls)} yet; still trying")

    noting = asyncio.create_task(note())
    try:
        yield
    finally:
        noting.cancel()
