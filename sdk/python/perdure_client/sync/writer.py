"""The writer of one streaming message, for threads. Made by ``make sync-client``: change
``perdure_client/writer.py`` instead."""

from typing import Any

from perdure_client import writer as asynchronous
from perdure_client.pipes import Format
from perdure_client.sync.portal import Portal
from perdure_client.vendor_parts import End


class Writer:
    """Appends to one message. ``write``, ``mark``, then ``end``; or ``with``.

    Every method raises a :class:`PerdureError` once the regions refuse for good: ``Fenced``,
    ``Cancelled``, ``Conflict``, ``Ended``, ``Deleted``; ``Unavailable`` when none has taken
    anything for ``give_up_s``, ``BufferLost`` when those that answer lacked for so long what this
    writer no longer holds; and ``RuntimeError`` once it is closed.

    ``next``, ``accepted``, ``stable_count`` count the items of this writer; ``moves`` how often it
    went on at another ``region``; ``text`` and ``parts`` are what a claim continues.
    """

    def __init__(self, portal: Portal, it: asynchronous.Writer) -> None:
        self._portal = portal
        self._it = it

    @property
    def message(self) -> str:
        """As the class says."""
        return self._it.message

    @property
    def producer(self) -> str:
        """As the class says."""
        return self._it.producer

    @property
    def epoch(self) -> str:
        """As the class says."""
        return self._it.epoch

    @property
    def region(self) -> str:
        """As the class says."""
        return self._it.region

    @property
    def text(self) -> str:
        """As the class says."""
        return self._it.text

    @property
    def parts(self) -> list[dict[str, Any]]:
        """As the class says."""
        return self._it.parts

    @property
    def accepted(self) -> int:
        """As the class says."""
        return self._it.accepted

    @property
    def stable_count(self) -> int:
        """As the class says."""
        return self._it.stable_count

    @property
    def moves(self) -> int:
        """As the class says."""
        return self._it.moves

    @property
    def next(self) -> int:
        """The seq of the next item."""
        return self._it.next

    def write(self, token: str) -> None:
        """Add a token; an empty one adds nothing. Waits only while ``buffer_bytes_max`` are not
        stable and ``on_full`` is ``block``; a wait that is cancelled has not added it.

        Raises ``Invalid`` for a lone surrogate and for more than 1 MiB; the message goes on.
        """
        self._portal.call(self._it.write(token))

    def mark(self, mark: dict[str, Any]) -> None:
        """Add a mark: ``{"part": {…}}`` opens a part, ``{"set": {…}}`` adds fields to it.

        Waits and raises as ``write`` does; a mark may have 256 KiB.
        """
        self._portal.call(self._it.mark(mark))

    def pipe(self, stream: Any, format: Format | None = None) -> End:
        """Write a model's whole answer, as it comes, and end the message; how it ended.

        ``stream``: a stream object of Anthropic's or OpenAI's SDK, any iterable (async or not) of
        their events as mappings, or of plain tokens (``str``). ``format`` is told from the first
        event unless it is given. An answer that breaks off ends the message as ``failed``.

        The stream is closed at the end, also when the regions refuse (the message was cancelled,
        or claimed by another): so a model that nobody listens to any more stops. What the stream
        raises ends the message as ``failed`` and is raised; ``VendorError`` for what is no event.
        """
        return self._portal.call(self._it.pipe(stream, format))

    def flush(self) -> None:
        """Until everything that was written is accepted (on disk in a region)."""
        self._portal.call(self._it.flush())

    def end(self, status: End = "complete") -> None:
        """End the message; returns when the end is accepted. A second end changes nothing."""
        self._portal.call(self._it.end(status))

    def stable(self) -> None:
        """Until everything that was written, and the end if there is one, is in two regions (or
        accepted, where no other region is configured)."""
        self._portal.call(self._it.stable())

    @property
    def has_end(self) -> bool:
        """Whether the message was ended by this writer."""
        return self._it.has_end

    def close(self) -> None:
        """Stop at once, without an end: what is not accepted by now may be lost, and another
        producer may claim the message. Never raises."""
        self._portal.call(self._it.aclose())

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Complete on a normal exit, and then wait until it is stable; failed on an exception. A
        task that is cancelled, and Ctrl-C, leave the message open, to be claimed; so does
        ``close`` in the block."""
        self._portal.call(self._it.__aexit__(kind, *_))
