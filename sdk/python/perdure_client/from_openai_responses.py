"""OpenAI's Responses API, streamed: output items with their parts.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Mapping
from typing import Any

from perdure_client.vendor_parts import End, Item, Parts, Whole

# Deltas of these events are the text of the part that they belong to.
_TEXT = frozenset({"response.output_text.delta", "response.refusal.delta"})
_REASONING = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})
_ARGUMENTS = frozenset(
    {
        "response.function_call_arguments.delta",
        "response.mcp_call_arguments.delta",
        "response.custom_tool_call_input.delta",
        "response.code_interpreter_call_code.delta",
    }
)
# What the text of a call is, in the item as it is at its end.
_INPUTS = ("arguments", "input", "code")
_CALL_FIELDS = frozenset({"id", "type", "call_id", "name", "server_label", *_INPUTS})
# They say nothing that the others do not say.
_IGNORED_ENDINGS = (".in_progress", ".searching", ".generating", ".interpreting", ".done")
_IGNORED_EVENTS = frozenset({"response.queued", "response.reasoning_summary_part.added"})


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
        if type_ in _TEXT:
            key = self._content(event, "refusal" if "refusal" in type_ else "text")
            self._text(key, event["delta"])
        elif type_ in _REASONING:
            self._text(self._summary(event), event["delta"])
        elif type_ in _ARGUMENTS:
            self._text(event["output_index"], event["delta"])
        elif type_ == "response.output_item.added":
            self._added(event["output_index"], event["item"])
        elif type_ == "response.output_item.done":
            self._done(event["output_index"], event["item"])
        elif type_ == "response.content_part.done":
            self._part_done(event)
        elif type_ == "response.reasoning_summary_part.done":
            self._parts.close(self._summary(event))
        elif type_ == "response.output_text.annotation.added":
            key = self._content(event, "text")
            self._citations.setdefault(key, []).append(event["annotation"])
        elif not self._about_the_whole(type_, event):
            known = type_ in _IGNORED_EVENTS or type_.endswith((*_IGNORED_ENDINGS, ".added"))
            self.unknown += not (known or type_.endswith(".completed"))
        return self._parts.take()

    def finish(self) -> list[Item]:
        """See ``Adapter``."""
        self._parts.close_all()
        self._whole.write(self._parts)
        return self._parts.take()

    def _about_the_whole(self, type_: str, event: Mapping[str, Any]) -> bool:
        response = event.get("response") or {}
        if type_ == "error":
            self._whole.error = {n: event.get(n) for n in ("code", "message") if event.get(n)}
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
        return self._begin(index, (index, "content", event.get("content_index", 0)), type_)

    def _summary(self, event: Mapping[str, Any]) -> Any:
        index = event["output_index"]
        number = event.get("summary_index", event.get("content_index", 0))
        return self._begin(index, (index, "summary", number), "reasoning", id=event.get("item_id"))

    def _added(self, index: int, item: Mapping[str, Any]) -> None:
        type_ = self._types[index] = item["type"]
        if type_ in ("message", "reasoning"):
            return
        if type_ == "mcp_list_tools":
            server = item.get("server_label")
            self._begin(index, index, "data", name=type_, id=item.get("id"), server=server)
            return
        self._begin(
            index,
            index,
            "tool-call",
            id=item.get("call_id") or item.get("id"),
            name=item.get("name") or type_.removesuffix("_call"),
            server=item.get("server_label"),
            kind=None if type_ == "function_call" else type_,
        )

    def _part_done(self, event: Mapping[str, Any]) -> None:
        part = event.get("part") or {}
        refused = part.get("type") == "refusal"
        key = self._content(event, "refusal" if refused else "text")
        if key not in self._streamed:
            self._text(key, part.get("refusal" if refused else "text") or "")
        cited = part.get("annotations") or self._citations.pop(key, [])
        if cited:
            self._parts.set(key, citations=cited)
        self._parts.close(key)
        for annotation in cited:
            url = annotation.get("url")
            if url and url not in self._sources:
                self._sources.add(url)
                self._parts.once("source", url=url, title=annotation.get("title"))

    def _done(self, index: int, item: Mapping[str, Any]) -> None:
        type_ = item["type"]
        if type_ == "message":
            for key in self._opened.get(index, []):
                self._parts.close(key)
        elif type_ == "reasoning":
            self._reasoned(index, item)
        else:
            self._called(index, item)

    def _reasoned(self, index: int, item: Mapping[str, Any]) -> None:
        """A signed or encrypted form belongs to the last of its parts, or to one without text."""
        for key in self._opened.get(index, []):
            self._parts.close(key)
        encrypted = item.get("encrypted_content")
        if self._opened.get(index) and self._parts.reaches(item.get("id")):
            self._parts.after(encrypted=encrypted)
            return
        key = self._begin(index, (index, "reasoning"), "reasoning", id=item.get("id"))
        self._parts.set(key, encrypted=encrypted)
        self._parts.close(key)

    def _called(self, index: int, item: Mapping[str, Any]) -> None:
        if index not in self._types:
            self._added(index, item)
        if index not in self._streamed:
            given = next((item[name] for name in _INPUTS if item.get(name)), "")
            self._text(index, given if isinstance(given, str) else "")
        rest = {name: value for name, value in item.items() if name not in _CALL_FIELDS}
        self._parts.set(index, **rest)
        self._parts.close(index)
