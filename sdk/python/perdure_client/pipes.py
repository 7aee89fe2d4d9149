"""Vendors' streams as items: SDK stream objects, plain iterators, and bytes as they were sent."""

import asyncio
import codecs
import contextlib
import inspect
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

from perdure_client.from_anthropic import FromAnthropic
from perdure_client.from_openai_chat import FromOpenAIChat
from perdure_client.from_openai_responses import FromOpenAIResponses
from perdure_client.sse import EventParser
from perdure_client.vendor_parts import Adapter, End, Item, VendorError

Format = Literal["anthropic", "openai-chat", "openai-responses"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ADAPTERS: dict[Format, Callable[[], Adapter]] = {
    "anthropic": FromAnthropic,
    "openai-chat": FromOpenAIChat,
    "openai-responses": FromOpenAIResponses,
}
_ANTHROPIC = frozenset(
    {
        *("message_start", "message_delta", "message_stop", "ping"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
    }
)
# One event of a vendor; a body that is no stream is one too.
EVENT_CHARS_MAX = 16_777_216
_WHOLE = "this is a whole answer and no stream: ask the vendor to stream it (stream=True)"


def adapter_of(format: Format) -> Adapter:
    """A new adapter; ``ValueError`` for a format that is not known."""
    if format not in _ADAPTERS:
        raise ValueError(f"{format!r} is no format: {', '.join(FORMATS)}")
    return _ADAPTERS[format]()


def format_of(event: Mapping[str, Any]) -> Format:
    """The format of the stream that begins with this event; ``VendorError`` when it cannot be told.

    An error alone says nothing of its format, and any adapter takes it.
    """
    type_ = event.get("type")
    if "choices" in event or event.get("object") == "chat.completion.chunk":
        return "openai-chat"
    if isinstance(type_, str) and type_.startswith("response."):
        return "openai-responses"
    if type_ in _ANTHROPIC or (type_ == "error" and "error" in event):
        return "anthropic"
    if "error" in event:
        return "openai-chat"
    known = ", ".join(FORMATS)
    raise VendorError(
        f"cannot tell the format of this stream; give one of {known}, or pipe the texts of it"
    )


def feed(adapter: Adapter, event: Mapping[str, Any]) -> list[Item]:
    """The items of an event; ``VendorError`` when it lacks what its format says."""
    try:
        if is_whole_answer(event):
            raise VendorError(_WHOLE)
        return adapter.feed(event)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise VendorError(
            f"a {event.get('type', 'chunk')} event is malformed: {error!r}"
        ) from error


def is_whole_answer(event: Mapping[str, Any]) -> bool:
    """Whether this is what a vendor sends to somebody who did not ask for a stream."""
    return event.get("object") in ("chat.completion", "response") or event.get("type") == "message"


def event_of(value: Any) -> Mapping[str, Any]:
    """The JSON object of an event: a mapping, or an object of a vendor's SDK (a pydantic model)."""
    if isinstance(value, Mapping):
        return value
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise VendorError(
            f"{type(value).__name__} is no event of a vendor's stream (a mapping, or a model of its"
            " SDK), and no token (a string): of what another library gives, pipe the texts"
        )
    event: Mapping[str, Any] = dump(
        mode="json",
        by_alias=True,
        exclude_unset=True,
        warnings=False,
        # The SDKs' helpers repeat in each event all that came before it.
        exclude={"snapshot"},
    )
    # ``chat.completions.stream()`` wraps the chunks.
    chunk = event.get("chunk")
    return chunk if event.get("type") == "chunk" and isinstance(chunk, Mapping) else event


class Incoming:
    """A stream's items, as they come; ``format`` is told from the first event unless given."""

    def __init__(self, stream: Any, format: Format | None) -> None:
        self._stream = stream
        self._adapter: Adapter | None = None if format is None else adapter_of(format)

    @property
    def status(self) -> End:
        """How the message ends, once there are no more items."""
        return "complete" if self._adapter is None else self._adapter.status

    async def items(self) -> AsyncGenerator[Item, None]:
        """Every item; raises what the stream raises, and ``VendorError``. To be closed."""
        async with contextlib.aclosing(elements(self._stream)) as incoming:
            async for element in incoming:
                if isinstance(element, str):
                    yield element
                    continue
                event = event_of(element)
                if self._adapter is None:
                    self._adapter = adapter_of(format_of(event))
                for item in feed(self._adapter, event):
                    yield item
        for item in self._adapter.finish() if self._adapter else ():
            yield item


def _why_none(value: Any) -> str:
    """What is to be done with it first."""
    if inspect.isawaitable(value):
        return "await it first"
    if hasattr(value, "__aenter__"):
        return "enter it first, and pipe what that gives: async with … as stream"
    return "it cannot be iterated"


async def elements(stream: Any) -> AsyncGenerator[Any, None]:
    """What a stream gives: of an async iterable, or of a plain one, which is read in a thread and
    so does not stop the event loop. The stream is closed at the end, however that comes."""
    iterator: Any = None
    over = threading.Event()
    try:
        if hasattr(stream, "model_dump"):
            raise VendorError(_WHOLE)
        if hasattr(stream, "__aiter__"):
            iterator = aiter(stream)
            async for element in iterator:
                yield element
        elif isinstance(stream, Iterable):
            iterator = iter(stream)
            while (element := await asyncio.to_thread(_next, iterator, over)) is not over:
                yield element
        else:
            raise TypeError(f"{type(stream).__name__} is no stream: {_why_none(stream)}")
    finally:
        over.set()
        if iterator is not stream:
            await _close(iterator)
        await _close(stream)


def _next(iterator: Any, over: threading.Event) -> Any:
    """The next element, or ``over`` after the last."""
    try:
        return next(iterator, over)
    finally:
        if over.is_set():
            # Nobody waits for it any more; and who did could not close what this thread was in.
            _close_now(iterator)


def _close_now(stream: Any) -> Any:
    """Close it; what is returned may have to be awaited."""
    for name in ("aclose", "close"):
        close = getattr(stream, name, None)
        if close is not None:
            # A generator that a thread is in refuses; the thread closes it.
            with contextlib.suppress(ValueError):
                return close()
            return None
    return None


async def _close(stream: Any) -> None:
    closing = _close_now(stream)
    if inspect.isawaitable(closing):
        await closing


class EventBytes:
    """The events of a stream as it was sent: server-sent events, or a JSON object on each line.

    ``VendorError`` for what is neither; ``UnicodeDecodeError`` for what is not UTF-8.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._sse: EventParser | None = None
        self._line = ""
        self._begun = False
        self._found = False

    def feed(self, chunk: bytes, *, final: bool = False) -> Iterator[dict[str, Any]]:
        """The events that these bytes complete, up to one that is refused. An event that the end
        cuts is left out."""
        text = self._decoder.decode(chunk, final)
        if not self._begun:
            text = text.lstrip()
            if not text:
                return
            self._begun = True
            self._sse = None if text.startswith("{") else EventParser(EVENT_CHARS_MAX)
        if self._sse is None:
            yield from self._lines(text, final)
            return
        try:
            whole = self._sse.feed(text.encode())
        except ValueError as error:
            raise VendorError(f"an event has more than {EVENT_CHARS_MAX} characters") from error
        for event in whole:
            yield from _parsed(event.data)
        if final:
            # The last event may lack its empty line, or be cut.
            with contextlib.suppress(VendorError):
                for event in self._sse.feed(b"\n\n"):
                    yield from _parsed(event.data)

    def _lines(self, text: str, final: bool) -> Iterator[dict[str, Any]]:
        *lines, self._line = (self._line + text).split("\n")
        if final:
            lines, self._line = [*lines, self._line], ""
        for number, line in enumerate(lines):
            try:
                for event in _parsed(line):
                    self._found = True
                    yield event
            except VendorError:
                cut = final and number == len(lines) - 1
                if self._found and not cut:
                    raise
                # The first: not an object on each line, perhaps one over many, as errors are sent.
                if not self._found:
                    yield from self._over_lines("\n".join([*lines[number:], self._line]), final)
                return
        if len(self._line) > EVENT_CHARS_MAX:
            raise VendorError(f"an event has more than {EVENT_CHARS_MAX} characters")

    def _over_lines(self, text: str, final: bool) -> Iterator[dict[str, Any]]:
        if len(text) > EVENT_CHARS_MAX:
            raise VendorError(f"an event has more than {EVENT_CHARS_MAX} characters")
        self._line = text
        if final:
            self._line = ""
            yield from _parsed(text)


def _parsed(data: str) -> Iterator[dict[str, Any]]:
    """The event, if there is one."""
    data = data.strip()
    if not data or data == "[DONE]":
        return
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise VendorError(f"an event of the stream is no JSON: {data[:80]!r}") from error
    if not isinstance(event, dict):
        raise VendorError(f"an event of the stream is no object: {data[:80]!r}")
    yield event
