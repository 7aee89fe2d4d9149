"""What encryption costs where a region keeps things: the storage that ships, by itself."""

import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from perdure.regions.cipher import Cipher
from perdure.regions.clock import SystemEntropy
from perdure.regions.storage import SqliteStorage
from perdure.replication.records import Origin, Record, seal

from tests.bench.rows import Bench, Row

# About what one token in an operation takes.
BODY_BYTES = 250
ORIGIN = Origin("eu", 1)
ROUNDS = 5


async def encryption_rows(bench: Bench) -> AsyncIterator[Row]:
    """CPU of this process, all threads, for each record that is committed (in transactions of so
    many) and read back; the least of some rounds, taken by turns with and without a key."""
    for batch, count in ((1, 2_000), (20, 10_000), (100, 20_000)):
        count = count // 10 if bench.quick else count
        records = [seal(ORIGIN, lsn, os.urandom(BODY_BYTES)) for lsn in range(1, count + 1)]
        costs: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        for _ in range(1 if bench.quick else ROUNDS):
            for encrypted, found in costs.items():
                found.append(await _round(records, batch, encrypted=encrypted))
        figures = {}
        for number, what in enumerate(("commit", "read")):
            clear, encrypted = (min(c[number] for c in found) for found in costs.values())
            figures[f"clear_us_per_{what}"] = clear
            figures[f"encrypted_us_per_{what}"] = encrypted
            figures[f"{what}_ratio"] = encrypted / clear
        yield Row(f"encryption-{batch}-a-transaction", figures)


async def _round(records: list[Record], batch: int, *, encrypted: bool) -> tuple[float, float]:
    cipher = Cipher([b"k" * 32], SystemEntropy()) if encrypted else None
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as directory:
        storage = SqliteStorage(Path(directory), cipher)
        storage.open()
        list(storage.replay())
        began = time.process_time()
        for at in range(0, len(records), batch):
            await storage.commit(records[at : at + batch])
        committed = time.process_time()
        at = 0
        while at < len(records):
            at += len(await storage.read(ORIGIN, at, 1_000_000))
        read = time.process_time()
        storage.close()
    us = 1e6 / len(records)
    return us * (committed - began), us * (read - committed)
