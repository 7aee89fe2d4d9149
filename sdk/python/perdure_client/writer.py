"""The writer of one streaming message: keeps what is not stable, and repeats it elsewhere.

One task sends what has gathered, one request at a time. The regions know a token by (producer,
epoch, seq), so sending it again changes nothing; so whenever the region changes, everything that is
not known to be in two regions is sent again.
"""

import asyncio
import contextlib
import json
from collections import deque
from typing import Any, Literal, get_args

from perdure_client.errors import BufferLost, PerdureError, Unavailable, invalid
from perdure_client.items import Item, check_mark, check_token, size_max_of
from perdure_client.pipes import Format, Incoming
from perdure_client.regions import Regions
from perdure_client.vendor_parts import End

APPEND_ITEMS_MAX = 1_024
APPEND_BYTES_MAX = 1_048_576
BUFFER_BYTES_MAX = 8_388_608
POLL_S_MIN = 0.05
POLL_S_MAX = 1.0
OnFull = Literal["block", "release"]


class Writer:
    """Appends to one message. ``write``, ``mark``, then ``end``; or ``async with``.

    Every method raises a :class:`PerdureError` once the regions refuse for good: ``Fenced``,
    ``Cancelled``, ``Conflict``, ``Ended``, ``Deleted``; ``Unavailable`` when none has taken
    anything for ``give_up_s``, ``BufferLost`` when those that answer lacked for so long what this
    writer no longer holds; and ``RuntimeError`` once it is closed.

    ``next``, ``accepted``, ``stable_count`` count the items of this writer; ``moves`` how often it
    went on at another ``region``; ``text`` and ``parts`` are what a claim continues.
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
        # Since the last acknowledgement: when it first failed, and whether a region lacked what is
        # no longer held. ``_mended``: whether this region's refusal was mended already.
        self._stuck_since: float | None = None
        self._lacking = False
        self._mended = False
        self._pause = regions.pause()
        self._error: Exception | None = None
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"perdure-writer-{message}")

    # For the producer

    @property
    def next(self) -> int:
        """The seq of the next item."""
        return self._first + len(self._buffer)

    async def write(self, token: str) -> None:
        """Add a token; an empty one adds nothing. Waits only while ``buffer_bytes_max`` are not
        stable and ``on_full`` is ``block``; a wait that is cancelled has not added it.

        Raises ``Invalid`` for a lone surrogate and for more than 1 MiB; the message goes on.
        """
        check_token(token)
        if token:
            await self._add(token)

    async def mark(self, mark: dict[str, Any]) -> None:
        """Add a mark: ``{"part": {…}}`` opens a part, ``{"set": {…}}`` adds fields to it.

        Waits and raises as ``write`` does; a mark may have 256 KiB.
        """
        check_mark(mark)
        # A copy: what is sent again must be what was sent, whatever the caller does to it since.
        await self._add(json.loads(json.dumps(mark)))

    async def pipe(self, stream: Any, format: Format | None = None) -> End:
        """Write a model's whole answer, as it comes, and end the message; how it ended.

        ``stream``: a stream object of Anthropic's or OpenAI's SDK, any iterable (async or not) of
        their events as mappings, or of plain tokens (``str``). ``format`` is told from the first
        event unless it is given. An answer that breaks off ends the message as ``failed``.

        The stream is closed at the end, also when the regions refuse (the message was cancelled,
        or claimed by another): so a model that nobody listens to any more stops. What the stream
        raises ends the message as ``failed`` and is raised; ``VendorError`` for what is no event.
        """
        incoming = Incoming(stream, format)
        writing = asyncio.create_task(self._write_all(incoming))
        try:
            # The regions may refuse while the model says nothing.
            await asyncio.wait((writing, self._task), return_when=asyncio.FIRST_COMPLETED)
            if self._ended is not None:
                await asyncio.wait((writing,))
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        if writing.cancelled():
            self._check()
            raise RuntimeError("the writer is closed")
        return writing.result()

    async def _write_all(self, incoming: Incoming) -> End:
        try:
            async with contextlib.aclosing(incoming.items()) as items:
                async for item in items:
                    await (self.write(item) if isinstance(item, str) else self.mark(item))
        except Exception:
            if self._error is None:
                # What went wrong first is what the caller must hear.
                with contextlib.suppress(Exception):
                    await self.end("failed")
            raise
        await self.end(incoming.status)
        return incoming.status

    async def _add(self, item: Item) -> None:
        self._check_open()
        while self._bytes > self._buffer_bytes_max:
            if self._on_full == "release" and self.accepted > self._first:
                self._release(self.accepted)
                continue
            await self._wait()
            self._check_open()
        self._buffer.append(item)
        self._bytes += size_max_of(item)
        self._wake.set()

    async def flush(self) -> None:
        """Until everything that was written is accepted (on disk in a region)."""
        while self.accepted < self.next:
            await self._wait()
        self._check()

    async def end(self, status: End = "complete") -> None:
        """End the message; returns when the end is accepted. A second end changes nothing."""
        if status not in get_args(End):
            raise invalid("invalid_body", f"{status!r} is no end: complete, failed or cancelled")
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

    @property
    def has_end(self) -> bool:
        """Whether the message was ended by this writer."""
        return self._end is not None

    def stop(self, error: Exception) -> None:
        """Raise this from now on, from everything that waits too: it became known elsewhere that
        the message takes nothing more. What stopped the writer before stands."""
        if self._error is None and not self._task.done():
            self._error = error
            self._task.cancel()
            self._changed.set()

    async def aclose(self) -> None:
        """Stop at once, without an end: what is not accepted by now may be lost, and another
        producer may claim the message. Never raises."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def __aenter__(self) -> "Writer":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Complete on a normal exit, and then wait until it is stable; failed on an exception. A
        task that is cancelled, and Ctrl-C, leave the message open, to be claimed; so does
        ``aclose`` in the block."""
        is_over = self._task.done() and self._error is None
        try:
            if is_over:
                return
            if kind is None:
                await self.end("complete")
                await self.stable()
            elif issubclass(kind, Exception) and self._error is None:
                # What went wrong first is what the caller must hear.
                with contextlib.suppress(Exception):
                    await self.end("failed")
        finally:
            await self.aclose()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _check_open(self) -> None:
        self._check()
        if self._end is not None:
            raise ValueError("the message has been ended")
        if self._task.done():
            raise RuntimeError("the writer is closed")

    async def _wait(self) -> None:
        self._check()
        if self._task.done():
            # It ends by itself only when there is nothing left to wait for.
            raise RuntimeError("the writer is closed")
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
            poll_s = POLL_S_MIN
            while not (self._end is not None and self._is_stable()):
                if self._has_work():
                    poll_s = POLL_S_MIN
                elif await self._idle(None if self._is_stable() else poll_s):
                    continue
                else:
                    # Nothing new to send, but something is not stable: ask, so that a region that
                    # died with it is noticed now and not with the next token.
                    poll_s = min(poll_s * 2, POLL_S_MAX)
                if not await self._send():
                    await self._move()
        except Exception as error:
            # Whatever it is: the producer waits for this task, and must hear it.
            self._error = error
        finally:
            self._changed.set()

    def _has_work(self) -> bool:
        return self._sent < self.next or (self._end is not None and self._ended is None)

    async def _idle(self, wait_s: float | None) -> bool:
        """Wait for something to do; False when the time was over."""
        await self._regions.wait(self._wake, wait_s)
        return self._has_work()

    async def _send(self) -> bool:
        """One append of what has gathered; False when it must be tried elsewhere."""
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
            return False
        self._acknowledged(answer)
        return True

    def _gathered(self) -> list[Item]:
        items: list[Item] = []
        size = 0
        for index in range(self._sent - self._first, len(self._buffer)):
            size += size_max_of(self._buffer[index])
            if items and (size > APPEND_BYTES_MAX or len(items) >= APPEND_ITEMS_MAX):
                break
            items.append(self._buffer[index])
        return items

    def _acknowledged(self, answer: dict[str, Any]) -> None:
        self._pause.reset()
        self._stuck_since = None
        self._mended = self._lacking = False
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
            self._bytes -= size_max_of(self._buffer.popleft())
            self._first += 1

    async def _move(self) -> None:
        """Go to another region, and send it everything that may be in the old one alone."""
        now = self._regions.now()
        self._stuck_since = now if self._stuck_since is None else self._stuck_since
        deadline = self._stuck_since + self._regions.give_up_s
        try:
            region = await self._regions.turn(self.region, self._pause.next_s(), deadline)
        except Unavailable:
            if self._lacking:
                detail = "the regions that answer lack stable tokens"
                problem = {"code": "buffer_lost", "status": 409, "detail": detail}
                raise BufferLost(problem) from None
            raise
        self.moves += region != self.region
        self.region, self._sent, self._ended = region, self._first, None
        self._mended = False

    async def _refused(self, error: PerdureError) -> bool:
        """Mend it at once, one time; a region that refuses again is left, not asked in a circle."""
        if error.code == "unknown_epoch":
            return await self._reopen() and self._mends()
        if error.code != "gap":
            raise error
        expected = int(error.problem.get("expected", 0))
        # Below: it lacks what two others have and this writer no longer holds. It will come.
        self._lacking = expected < self._first
        if self._lacking:
            return False
        self._sent = expected
        return self._mends()

    def _mends(self) -> bool:
        again, self._mended = self._mended, True
        return not again

    async def _reopen(self) -> bool:
        """Make the region know the message and the epoch; False when it does not answer."""
        answer = await self._regions.once(self.region, "POST", self._path, {"header": self._header})
        if answer is None:
            return False
        # Also where it is the same one: it has come back with less than it had.
        self._sent = self._first
        return True
