"""Anthropic's Messages API, streamed: ``message_start``, content blocks, ``message_stop``.

https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from collections.abc import Mapping
from typing import Any

from perdure_client.vendor_parts import End, Item, Parts, Whole

_TOOL_USES = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
# The SDK's own (``MessageStream``) repeat what the API's events have said.
_IGNORED = frozenset(
    {"ping", "text", "thinking", "signature", "citation", "input_json", "compaction"}
)


class FromAnthropic:
    """One answer of the Messages API."""

    def __init__(self) -> None:
        self.unknown = 0
        self._parts = Parts()
        self._whole = Whole()
        self._types: dict[int, str] = {}
        self._citations: dict[int, list[Any]] = {}
        # Of tool uses whose input came with the block; pieces of it may follow instead.
        self._inputs: dict[int, Any] = {}
        self._sources: set[str] = set()

    @property
    def status(self) -> End:
        """See ``Adapter``."""
        return self._whole.status

    def feed(self, event: Mapping[str, Any]) -> list[Item]:
        """See ``Adapter``."""
        match event.get("type"):
            case "message_start":
                message = event.get("message") or {}
                self._whole.note(
                    id=message.get("id"), model=message.get("model"), usage=message.get("usage")
                )
            case "content_block_start":
                self._start(event["index"], event["content_block"])
            case "content_block_delta":
                self._delta(event["index"], event["delta"])
            case "content_block_stop":
                self._stop(event["index"])
            case "message_delta":
                delta, usage = event.get("delta") or {}, event.get("usage") or {}
                self._whole.note(
                    finish_reason=delta.get("stop_reason"),
                    stop_sequence=delta.get("stop_sequence"),
                    stop_details=delta.get("stop_details"),
                    container=delta.get("container"),
                    usage={**self._whole.fields.get("usage", {}), **_given(usage)},
                )
            case "message_stop":
                self._whole.ended = True
            case "error":
                self._whole.error = event.get("error")
            case other:
                self.unknown += other not in _IGNORED
        return self._parts.take()

    def finish(self) -> list[Item]:
        """See ``Adapter``."""
        # Of blocks that the end has cut: what was kept for their end.
        for index in self._types:
            if self._parts.is_open(index):
                self._stop(index)
        self._parts.close_all()
        self._whole.write(self._parts)
        return self._parts.take()

    def _start(self, index: int, block: Mapping[str, Any]) -> None:
        type_ = self._types[index] = block["type"]
        if type_ == "text":
            self._parts.open(index, "text")
            self._parts.text(index, block.get("text") or "")
            self._citations[index] = list(block.get("citations") or [])
        elif type_ == "thinking":
            self._parts.open(index, "reasoning")
            self._parts.text(index, block.get("thinking") or "")
            self._parts.set(index, signature=block.get("signature") or None)
        elif type_ == "redacted_thinking":
            self._parts.open(index, "reasoning")
            self._parts.set(index, redacted=block.get("data"))
        elif type_ in _TOOL_USES:
            self._parts.open(
                index,
                "tool-call",
                id=block.get("id"),
                name=block.get("name"),
                server=block.get("server_name"),
                toolset=block.get("toolset_name"),
                kind=None if type_ == "tool_use" else type_,
            )
            self._inputs[index] = block.get("input")
        elif "tool_use_id" in block:
            self._result(block)
        else:
            self._parts.open(index, "data", name=type_)
            self._parts.set(index, block=_without_type(block) or None)

    def _result(self, block: Mapping[str, Any]) -> None:
        """A tool's output: added to its call where that is the last part, else on its own."""
        call, content = block["tool_use_id"], block.get("content")
        rest = {"output": content, "is_error": block.get("is_error") or None}
        if self._parts.reaches(call):
            self._parts.after(**rest)
        else:
            self._parts.once("data", name="tool-output", call=call, **rest)
        for found in content if isinstance(content, list) else [content]:
            if isinstance(found, Mapping) and found.get("url"):
                self._source(found)

    def _source(self, found: Mapping[str, Any]) -> None:
        if found["url"] not in self._sources:
            self._sources.add(found["url"])
            self._parts.once(
                "source", url=found["url"], title=found.get("title"), age=found.get("page_age")
            )

    def _delta(self, index: int, delta: Mapping[str, Any]) -> None:
        match delta.get("type"):
            case "text_delta":
                self._parts.text(index, delta["text"])
            case "thinking_delta":
                self._parts.text(index, delta["thinking"])
            case "input_json_delta":
                if delta["partial_json"]:
                    self._inputs.pop(index, None)
                self._parts.text(index, delta["partial_json"])
            case "signature_delta":
                self._parts.set(index, signature=delta["signature"])
            case "citations_delta":
                self._citations.setdefault(index, []).append(delta["citation"])
            case "compaction_delta":
                self._parts.text(index, delta.get("content") or "")
                self._parts.set(index, encrypted=delta.get("encrypted_content"))
            case _:
                self.unknown += 1

    def _stop(self, index: int) -> None:
        citations = self._citations.pop(index, [])
        if citations:
            self._parts.set(index, citations=citations)
        if self._inputs.get(index):
            self._parts.set(index, input=self._inputs[index])
        self._parts.close(index)
        for citation in citations:
            if citation.get("url"):
                self._source(citation)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _without_type(block: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in _given(block).items() if name != "type"}
