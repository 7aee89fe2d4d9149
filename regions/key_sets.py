"""Reads a key set (a file, or a URL of the regions' identity provider), again and again.

What was read last is kept on disk too: a region that starts while the provider cannot be reached
goes on with that.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import httpx2
from perdure.regions.ports import Clock, Storage, StorageError
from perdure.replication.limits import KEYS_BYTES_MAX, KEYS_HURRY_S, KEYS_REFRESH_S

log = logging.getLogger("perdure")

FETCH_S_MAX = 10
_NOTE = "key set"
# Takes the bytes of a key set; ``ValueError`` for what is none.
Take = Callable[[bytes], None]


class KeySet:
    """A key set that is read from one place. ``run`` for ever; ``hurry`` for a key that is not
    known."""

    def __init__(self, where: str, take: Take, storage: Storage, clock: Clock) -> None:
        self._where = where
        self._take = take
        self._storage = storage
        self._clock = clock
        self._last = b""
        self._is_reading = asyncio.Lock()
        self._read_ms: int | None = None

    def recall(self) -> None:
        """Begin with what was read last, before a restart."""
        kept = self._storage.notes().get(_NOTE)
        if kept is not None:
            with contextlib.suppress(ValueError):
                self._take(kept.encode())
                self._last = kept.encode()

    async def run(self) -> None:
        """Read it again and again."""
        while True:
            await self.read()
            await asyncio.sleep(KEYS_REFRESH_S)

    async def hurry(self) -> bool:
        """Read it now, unless that was done a moment ago; whether it is new."""
        now_ms = self._clock.monotonic_ms()
        if self._read_ms is not None and now_ms - self._read_ms < KEYS_HURRY_S * 1000:
            # Perhaps it is being read just now.
            async with self._is_reading:
                return True
        return await self.read()

    async def read(self) -> bool:
        """Read it; whether it could be."""
        async with self._is_reading:
            self._read_ms = self._clock.monotonic_ms()
            try:
                text = await fetch(self._where)
                if text != self._last:
                    self._take(text)
                    self._last = text
                    await self._storage.note(_NOTE, text.decode())
            except (OSError, ValueError, httpx2.HTTPError) as error:
                # The keys that are known stay: a provider that is down must lock nobody out.
                log.error("the key set %s cannot be read: %s", self._where, error)
                return False
            except StorageError:
                # Only after a restart would it be missed.
                return True
            return True


async def fetch(where: str) -> bytes:
    """The bytes of a key set. Raises ``OSError``, ``ValueError`` and ``httpx2.HTTPError``."""
    if not where.startswith(("https://", "http://")):
        text = await asyncio.to_thread(Path(where).read_bytes)
        if len(text) > KEYS_BYTES_MAX:
            raise ValueError("it is too large")
        return text
    pieces = bytearray()
    async with (
        # All of it: the client's own limit is one of each piece.
        asyncio.timeout(FETCH_S_MAX),
        httpx2.AsyncClient(timeout=FETCH_S_MAX, follow_redirects=False) as client,
        client.stream("GET", where, headers={"accept": "application/json"}) as answer,
    ):
        if answer.status_code != 200:
            raise ValueError(f"it answers {answer.status_code}")
        async for piece in answer.aiter_bytes():
            pieces += piece
            if len(pieces) > KEYS_BYTES_MAX:
                raise ValueError("it is too large")
    return bytes(pieces)
