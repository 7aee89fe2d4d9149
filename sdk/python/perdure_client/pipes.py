"""Vendors' streams as items: SDK stream objects, plain iterators, and bytes as they were sent."""

import asyncio
import codecs
import inspect
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any, Literal, get_args

from perdure_client.from_anthropic import FromAnthropic
from perdure_client.from_openai_chat import FromOpenAIChat
from perdure_client.from_openai_responses import FromOpenAIResponses
from perdure_client.sse import EventParser
from perdure_client.vendor_parts import Adapter, Item, VendorError

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
    raise VendorError(f"cannot tell the format of this stream; give one of {known}")


def feed(adapter: Adapter, event: Mapping[str, Any]) -> list[Item]:
    """The items of an event; ``VendorError`` when it lacks what its format says."""
    try:
        return adapter.feed(event)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise VendorError(
            f"a {event.get('type', 'chunk')} event is malformed: {error!r}"
        ) from error


def event_of(value: Any) -> Mapping[str, Any]:
    """The JSON object of an event: a mapping, or an object of a vendor's SDK (a pydantic model)."""
    if isinstance(value, Mapping):
        return value
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise VendorError(f"{type(value).__name__} is no event: a mapping or a model is one")
    event: Mapping[str, Any] = dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)
    return event


async def elements(stream: Any) -> AsyncGenerator[Any, None]:
    """What a stream gives: of an async iterable, or of a plain one, which is read in a thread and
    so does not stop the event loop. The stream is closed at the end, however that comes."""
    try:
        if hasattr(stream, "__aiter__"):
            async for element in stream:
                yield element
        elif isinstance(stream, Iterable):
            iterator, over = iter(stream), object()
            while (element := await asyncio.to_thread(next, iterator, over)) is not over:
                yield element
        else:
            raise TypeError(f"{type(stream).__name__} is no stream: it cannot be iterated")
    finally:
        await _close(stream)


async def _close(stream: Any) -> None:
    for name in ("aclose", "close"):
        close = getattr(stream, name, None)
        if close is not None:
            try:
                closing = close()
                if inspect.isawaitable(closing):
                    await closing
            except ValueError:
                # A generator that a thread is still in: it ends with the thread.
                return
            return


class EventBytes:
    """The events of a stream as it was sent: server-sent events, or a JSON object on each line.

    ``VendorError`` for what is neither; ``UnicodeDecodeError`` for what is not UTF-8.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._sse: EventParser | None = None
        self._line = ""
        self._begun = False

    def feed(self, chunk: bytes, *, final: bool = False) -> list[dict[str, Any]]:
        """The events that these bytes complete. An event that the end cuts is left out."""
        text = self._decoder.decode(chunk, final)
        if not self._begun:
            self._line += text
            text = self._line.lstrip()
            if not text:
                return []
            self._begun, self._line = True, ""
            self._sse = None if text.startswith("{") else EventParser()
        if self._sse is None:
            return self._lines(text, final)
        events = self._sse.feed(text.encode())
        found = [event for e in events if (event := _parsed(e.data)) is not None]
        if final:
            try:
                rest = self._sse.feed(b"\n\n")
                found += [event for e in rest if (event := _parsed(e.data)) is not None]
            except VendorError:
                return found
        return found

    def _lines(self, text: str, final: bool) -> list[dict[str, Any]]:
        self._line += text
        *lines, self._line = self._line.split("\n")
        if len(self._line) > EVENT_CHARS_MAX:
            raise VendorError(f"an event has more than {EVENT_CHARS_MAX} characters")
        try:
            found = [event for line in lines if (event := _parsed(line)) is not None]
        except VendorError:
            # Not an object on each line: perhaps one over many lines, as errors are sent.
            self._line = "\n".join([*lines, self._line])
            if not final:
                return []
            found = []
        if final and self._line.strip():
            event = _parsed(self._line)
            found += [] if event is None else [event]
            self._line = ""
        return found


def _parsed(data: str) -> dict[str, Any] | None:
    data = data.strip()
    if not data or data == "[DONE]":
        return None
    try:
        event = json.loads(data)
    except ValueError as error:
        raise VendorError(f"an event of the stream is no JSON: {data[:80]!r}") from error
    if not isinstance(event, dict):
        raise VendorError(f"an event of the stream is no object: {data[:80]!r}")
    return event
