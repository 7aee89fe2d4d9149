"""The writer of one streaming message: keeps what is not stable, and repeats it elsewhere.

One task sends what has gathered, one request at a time. The regions know a token by (producer,
epoch, seq), so sending it again changes nothing; so whenever the region changes, everything that is
not known to be in two regions is sent again.
"""

import asyncio
import json
from collections import deque
from typing import Any, Literal

from perdure_client.errors import BufferLost, PerdureError
from perdure_client.regions import Regions

APPEND_ITEMS_MAX = 1_024
APPEND_BYTES_MAX = 1_048_576
BUFFER_BYTES_MAX = 8_388_608
POLL_S_MIN = 0.05
POLL_S_MAX = 1.0
Item = str | dict[str, Any]
OnFull = Literal["block", "release"]


def _size(item: Item) -> int:
    return len(item) * 4 if isinstance(item, str) else len(json.dumps(item))


class Writer:
    """Appends to one message. ``write``, ``mark``, then ``end``; or ``async with``.

    Every method raises a :class:`PerdureError` once the regions refuse for good: ``Fenced``,
    ``Cancelled``, ``Conflict``, ``Ended``, ``Deleted``, ``BufferLost``.
    """

    def __init__(
        self,
        regions: Regions,
        path: str,
        opened: dict[str, Any],
        region: str,
        *,
        message: str,
        producer: str,
        on_full: OnFull = "block",
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
    ) -> None:
        self.message = message
        self.producer = producer
        self.epoch: str = opened["epoch"]
        self.region = region
        self.text: str = opened.get("text", "")
        self.parts: list[dict[str, Any]] = opened.get("parts", [])
        self.accepted = self.stable_count = int(opened["next"])
        self.moves = 0
        self._header = opened["header"]
        self._regions = regions
        self._path = path
        self._on_full = on_full
        self._buffer_bytes_max = buffer_bytes_max
        # Items from seq ``_first`` on that may have to be sent again; ``_sent``: the next to send.
        self._buffer: deque[Item] = deque()
        self._bytes = 0
        self._first = self._sent = int(opened["next"])
        self._end: str | None = None
        self._ended: str | None = None
        self._alone = False
        self._reopened = False
        self._lacking_since: float | None = None
        self._error: PerdureError | None = None
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"perdure-writer-{message}")

    # For the producer

    @property
    def next(self) -> int:
        """The seq of the next item."""
        return self._first + len(self._buffer)

    async def write(self, token: str) -> None:
        """Add a token. Waits only while 8 MiB are not stable and ``on_full`` is ``block``."""
        await self._add(token)

    async def mark(self, mark: dict[str, Any]) -> None:
        """Add a mark: ``{"part": {…}}`` opens a part, ``{"set": {…}}`` adds fields to it."""
        await self._add(mark)

    async def _add(self, item: Item) -> None:
        self._check()
        if self._end is not None:
            raise ValueError("the message has been ended")
        while self._bytes > self._buffer_bytes_max:
            if self._on_full == "release" and self.accepted > self._first:
                self._release(self.accepted)
                continue
            await self._wait()
        self._buffer.append(item)
        self._bytes += _size(item)
        self._wake.set()

    async def flush(self) -> None:
        """Until everything that was written is accepted (on disk in a region)."""
        while self.accepted < self.next:
            await self._wait()
        self._check()

    async def end(self, status: str = "complete") -> None:
        """End the message; returns when the end is accepted."""
        self._check()
        self._end = self._end or status
        self._wake.set()
        while self._ended is None:
            await self._wait()

    async def stable(self) -> None:
        """Until everything that was written, and the end if there is one, is in two regions (or
        accepted, where no other region is configured)."""
        while not self._is_stable():
            await self._wait()
        self._check()

    async def aclose(self) -> None:
        """Stop, without an end: another producer may claim the message."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def __aenter__(self) -> "Writer":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Complete on a normal exit, failed on an exception; then wait until it is stable."""
        try:
            if kind is None:
                await self.end("complete")
                await self.stable()
            elif issubclass(kind, Exception) and self._error is None:
                await self.end("failed")
        finally:
            await self.aclose()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def _wait(self) -> None:
        self._check()
        self._changed.clear()
        await self._changed.wait()
        self._check()

    # The sending task

    def _is_stable(self) -> bool:
        if self._end is not None and self._ended != "stable" and not (self._alone and self._ended):
            return False
        return self._first == self.next and self.accepted >= self.next

    async def _run(self) -> None:
        try:
            pause = self._regions.pause()
            poll_s = POLL_S_MIN
            while not (self._end is not None and self._is_stable()):
                if self._has_work():
                    poll_s = POLL_S_MIN
                    if await self._send():
                        pause.reset()
                    else:
                        await self._regions.sleep(pause.next_s())
                    continue
                if await self._idle(None if self._is_stable() else poll_s):
                    continue
                # Nothing new to send, but something is not stable: ask, so that a region that
                # died with it is noticed now and not with the next token.
                poll_s = min(poll_s * 2, POLL_S_MAX)
                if not await self._send():
                    await self._regions.sleep(pause.next_s())
        except PerdureError as error:
            self._error = error
        finally:
            self._changed.set()

    def _has_work(self) -> bool:
        return self._sent < self.next or (self._end is not None and self._ended is None)

    async def _idle(self, wait_s: float | None) -> bool:
        """Wait for something to do; False when the time was over."""
        self._wake.clear()
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return False
        return self._has_work()

    async def _send(self) -> bool:
        """One append of what has gathered; False when it must be tried again."""
        seq, items = self._sent, self._gathered()
        body: dict[str, Any] = {"tokens": items}
        whole = seq + len(items) == self.next
        if self._end is not None and whole:
            body["end"] = self._end
        headers = {
            "producer-id": self.producer,
            "producer-epoch": self.epoch,
            "producer-seq": str(seq),
        }
        path = f"{self._path}/{self.message}/tokens"
        try:
            answer = await self._regions.once(self.region, "POST", path, body, headers)
        except PerdureError as error:
            return await self._refused(error)
        if answer is None:
            self._move()
            return False
        self._acknowledged(answer)
        return True

    def _gathered(self) -> list[Item]:
        items: list[Item] = []
        size = 0
        for index in range(self._sent - self._first, len(self._buffer)):
            size += _size(self._buffer[index])
            if items and (size > APPEND_BYTES_MAX or len(items) >= APPEND_ITEMS_MAX):
                break
            items.append(self._buffer[index])
        return items

    def _acknowledged(self, answer: dict[str, Any]) -> None:
        self._lacking_since = None
        self._reopened = False
        self.accepted = max(self.accepted, answer["accepted"])
        self._sent = max(self._sent, min(answer["next"], self.next))
        self._ended = answer["ended"]
        # ``stable`` null: the region has no others, and accepted is all there is.
        self._alone = answer["stable"] is None
        safe = answer["accepted"] if self._alone else answer["stable"]
        self.stable_count = max(self.stable_count, safe)
        self._release(min(self.stable_count, self.next))
        self._changed.set()

    def _release(self, seq: int) -> None:
        while self._first < seq:
            self._bytes -= _size(self._buffer.popleft())
            self._first += 1

    def _move(self) -> None:
        """Go to another region, and send it everything that may be in the old one alone."""
        self.region = self._regions.pick(self.region)
        self.moves += 1
        self._sent = self._first
        self._ended = None

    async def _refused(self, error: PerdureError) -> bool:
        if error.code == "unknown_epoch":
            return await self._reopen()
        if error.code != "gap":
            raise error
        expected = int(error.problem.get("expected", 0))
        if expected >= self._first:
            self._sent = expected
            return True
        return await self._await_gossip()

    async def _reopen(self) -> bool:
        """Make the region know the message and the epoch. True: go on at once."""
        again, self._reopened = self._reopened, True
        answer = await self._regions.once(self.region, "POST", self._path, {"header": self._header})
        if answer is None:
            self._move()
            return False
        self._sent = max(self._first, min(int(answer["next"]), self.next))
        # A region that still does not know it is given time, not asked in a circle.
        return not again

    async def _await_gossip(self) -> bool:
        """The region lacks what two others have and this writer no longer holds: it will come."""
        now = self._regions.now()
        self._lacking_since = now if self._lacking_since is None else self._lacking_since
        if now - self._lacking_since > self._regions.give_up_s:
            raise BufferLost(
                {"code": "buffer_lost", "status": 409, "detail": "the region lacks stable tokens"}
            )
        self._move()
        return False
