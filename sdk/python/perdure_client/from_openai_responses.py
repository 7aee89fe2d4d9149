"""OpenAI's Responses API, streamed: output items with their parts.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Mapping
from typing import Any

from perdure_client.vendor_parts import End, Item, Parts, Whole

# Deltas of these events are the text of the part that they belong to.
_CONTENT = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "reasoning",
}
_ARGUMENTS = frozenset(
    {
        "response.function_call_arguments.delta",
        "response.mcp_call_arguments.delta",
        "response.custom_tool_call_input.delta",
        "response.code_interpreter_call_code.delta",
    }
)
# Content as it is at its end: the type of its part, and the field that is the text.
_CONTENT_TYPES = {
    "output_text": ("text", "text"),
    "refusal": ("refusal", "refusal"),
    "reasoning_text": ("reasoning", "text"),
}
# What the text of a call is, in the item as it is at its end.
_INPUTS = ("arguments", "input", "code")
_CALL_FIELDS = frozenset({"id", "type", "call_id", "name", "server_label", *_INPUTS})
_CALLS = frozenset({"mcp_approval_request", "program"})
# They say nothing that the others do not say.
_IGNORED_ENDINGS = (
    *(".in_progress", ".searching", ".generating", ".interpreting", ".compacting"),
    *(".queued", ".added", ".done", ".completed"),
)
_IGNORED_EVENTS = frozenset({"response.mcp_call.failed", "response.mcp_list_tools.failed"})


class FromOpenAIResponses:
    """One response."""

    def __init__(self) -> None:
        self.unknown = 0
        self._parts = Parts()
        self._whole = Whole()
        # Output items that have begun, by index: their type.
        self._types: dict[int, str] = {}
        self._streamed: set[Any] = set()
        self._opened: dict[int, list[Any]] = {}
        self._sources: set[str] = set()
        self._citations: dict[Any, list[Any]] = {}

    @property
    def status(self) -> End:
        """See ``Adapter``."""
        return self._whole.status

    def feed(self, event: Mapping[str, Any]) -> list[Item]:
        """See ``Adapter``."""
        type_ = str(event.get("type"))
        if type_ in _CONTENT:
            self._text(self._content(event, _CONTENT[type_]), event["delta"])
        elif type_ == "response.reasoning_summary_text.delta":
            self._text(self._summary(event), event["delta"])
        elif type_ in _ARGUMENTS:
            self._text(event["output_index"], event["delta"])
        elif type_ == "response.output_item.added":
            self._added(event["output_index"], event["item"])
        elif type_ == "response.output_item.done":
            self._done(event["output_index"], event["item"])
        elif type_ == "response.content_part.done":
            self._content_done(event, event.get("part") or {})
        elif type_ == "response.reasoning_summary_part.done":
            self._summary_done(event, event.get("part") or {})
        elif type_ == "response.output_text.annotation.added":
            key = self._content(event, "text")
            self._citations.setdefault(key, []).append(event["annotation"])
        elif not self._about_the_whole(type_, event):
            known = type_ in _IGNORED_EVENTS or type_.endswith(_IGNORED_ENDINGS)
            self.unknown += not known
        return self._parts.take()

    def finish(self) -> list[Item]:
        """See ``Adapter``."""
        for key, cited in self._citations.items():
            # Of text that the end has cut.
            if self._parts.is_open(key):
                self._parts.set(key, citations=cited)
        self._parts.close_all()
        self._whole.write(self._parts)
        return self._parts.take()

    def _about_the_whole(self, type_: str, event: Mapping[str, Any]) -> bool:
        response = event.get("response") or {}
        if type_ == "error":
            flat = {n: event.get(n) for n in ("code", "message", "param") if event.get(n)}
            self._whole.error = event.get("error") or flat
        elif type_ == "response.failed":
            self._whole.error = response.get("error") or {"message": "the response failed"}
        elif type_ in ("response.completed", "response.incomplete"):
            reason = (response.get("incomplete_details") or {}).get("reason")
            self._whole.note(finish_reason=reason or response.get("status"))
            self._whole.ended = True
        elif type_ not in ("response.created", "response.in_progress"):
            return False
        self._whole.note(
            id=response.get("id"), model=response.get("model"), usage=response.get("usage")
        )
        return True

    def _text(self, key: Any, text: str) -> None:
        self._streamed.add(key)
        self._parts.text(key, text)

    def _begin(self, index: int, key: Any, type_: str, **fields: Any) -> Any:
        if key not in self._opened.setdefault(index, []):
            self._opened[index].append(key)
            self._parts.open(key, type_, **fields)
        return key

    def _content(self, event: Mapping[str, Any], type_: str) -> Any:
        index = event["output_index"]
        fields = {"id": event.get("item_id")} if type_ == "reasoning" else {}
        key = (index, "content", event.get("content_index", 0))
        return self._begin(index, key, type_, **fields)

    def _summary(self, event: Mapping[str, Any]) -> Any:
        index = event["output_index"]
        key = (index, "summary", event.get("summary_index", 0))
        return self._begin(index, key, "reasoning", id=event.get("item_id"))

    def _added(self, index: int, item: Mapping[str, Any]) -> None:
        type_ = self._types[index] = item["type"]
        if type_ in ("message", "reasoning"):
            return
        server = item.get("server_label")
        if not (type_.endswith("_call") or type_ in _CALLS):
            call = item.get("call_id")
            self._begin(
                index, index, "data", name=type_, id=item.get("id"), server=server, call=call
            )
            return
        self._begin(
            index,
            index,
            "tool-call",
            id=item.get("call_id") or item.get("id"),
            name=item.get("name") or type_.removesuffix("_call"),
            server=server,
            kind=None if type_ == "function_call" else type_,
        )

    def _content_done(self, at: Mapping[str, Any], part: Mapping[str, Any]) -> None:
        """A piece of a message or of reasoning is over; ``part`` is all of it."""
        kind = part.get("type", "output_text")
        if kind not in _CONTENT_TYPES:
            index = at["output_index"]
            key = (index, "content", at.get("content_index", 0))
            self._begin(index, key, "data", name=kind)
            self._parts.set(key, content=dict(part))
            self._parts.close(key)
            return
        type_, field = _CONTENT_TYPES[kind]
        key = self._content(at, type_)
        if key not in self._streamed:
            self._text(key, part.get(field) or "")
        streamed = self._citations.pop(key, [])
        cited = part.get("annotations") or streamed
        if cited:
            self._parts.set(key, citations=cited)
        self._parts.close(key)
        for annotation in cited:
            self._source(annotation)

    def _source(self, found: Mapping[str, Any]) -> None:
        url = found.get("url")
        if url and url not in self._sources:
            self._sources.add(url)
            self._parts.once("source", url=url, title=found.get("title"))

    def _summary_done(self, at: Mapping[str, Any], part: Mapping[str, Any]) -> None:
        key = self._summary(at)
        if key not in self._streamed:
            self._text(key, part.get("text") or "")
        self._parts.close(key)

    def _done(self, index: int, item: Mapping[str, Any]) -> None:
        """An item is over. What of it was not streamed, for its vendor does not, follows now."""
        if item["type"] not in ("message", "reasoning"):
            self._called(index, item)
            return
        opened = self._opened.setdefault(index, [])
        at = {"output_index": index, "item_id": item.get("id")}
        for number, part in enumerate(item.get("summary") or ()):
            if self._is_new(index, "summary", number):
                self._summary_done({**at, "summary_index": number}, part)
        for number, part in enumerate(item.get("content") or ()):
            if self._is_new(index, "content", number):
                self._content_done({**at, "content_index": number}, part)
        for key in opened:
            self._parts.close(key)
        if item["type"] == "reasoning":
            self._reasoned(index, item)

    def _is_new(self, index: int, kind: str, number: int) -> bool:
        key = (index, kind, number)
        return key not in self._opened[index] or self._parts.is_open(key)

    def _reasoned(self, index: int, item: Mapping[str, Any]) -> None:
        """A signed or encrypted form belongs to the last of its parts, or to one without text."""
        encrypted = item.get("encrypted_content")
        if self._opened[index] and encrypted is None:
            return
        if self._opened[index] and self._parts.reaches(item.get("id")):
            self._parts.after(encrypted=encrypted)
            return
        key = self._begin(index, (index, "reasoning"), "reasoning", id=item.get("id"))
        self._parts.set(key, encrypted=encrypted)
        self._parts.close(key)

    def _called(self, index: int, item: Mapping[str, Any]) -> None:
        """A call, with its outcome where the vendor made it; or an item of another kind."""
        if index not in self._types:
            self._added(index, item)
        given = next((item[name] for name in _INPUTS if item.get(name)), "")
        is_text = isinstance(given, str)
        if index not in self._streamed and is_text:
            self._text(index, given)
        rest = {name: value for name, value in item.items() if name not in _CALL_FIELDS}
        self._parts.set(index, **rest, input=None if is_text else given)
        self._parts.close(index)
        action = item.get("action")
        for found in (action.get("sources") or ()) if isinstance(action, Mapping) else ():
            self._source(found)
