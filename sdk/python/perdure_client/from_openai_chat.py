"""OpenAI's chat completions, streamed as chunks; and what speaks the same, such as DeepSeek.

https://platform.openai.com/docs/api-reference/chat-streaming
"""

from collections.abc import Mapping
from typing import Any

from perdure_client.vendor_parts import End, Item, Parts, Whole

# Text of these fields of a delta goes into parts of these types.
_TEXTS = {
    "reasoning_content": "reasoning",
    "reasoning": "reasoning",
    "content": "text",
    "refusal": "refusal",
}


class FromOpenAIChat:
    """One answer of chat completions: its first choice. Further ones are not of this message; how
    many there were is said at its end."""

    def __init__(self) -> None:
        self.unknown = 0
        self._parts = Parts()
        self._whole = Whole()
        self._blocks = 0
        self._text: tuple[str, int] | None = None
        self._calls: set[int] = set()
        self._others: set[int] = set()

    @property
    def status(self) -> End:
        """See ``Adapter``."""
        return self._whole.status

    def feed(self, event: Mapping[str, Any]) -> list[Item]:
        """See ``Adapter``."""
        if event.get("error"):
            self._whole.error = event["error"]
            return self._parts.take()
        if "choices" not in event:
            self.unknown += 1
            return []
        self._whole.note(id=event.get("id"), model=event.get("model"), usage=event.get("usage"))
        for choice in event["choices"]:
            if choice.get("index", 0) == 0:
                self._choice(choice)
            else:
                self._others.add(choice["index"])
        return self._parts.take()

    def finish(self) -> list[Item]:
        """See ``Adapter``."""
        self._parts.close_all()
        if self._others:
            self._whole.note(other_choices=len(self._others))
        self._whole.write(self._parts)
        return self._parts.take()

    def _choice(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta") or {}
        for field, type_ in _TEXTS.items():
            # Some servers send the reasoning under both names.
            doubled = field == "reasoning" and delta.get("reasoning_content")
            text = delta.get(field)
            if isinstance(text, str) and text and not doubled:
                self._write(type_, text)
        for call in delta.get("tool_calls") or ():
            self._call(call)
        for annotation in delta.get("annotations") or ():
            self._annotation(annotation)
        if choice.get("finish_reason"):
            self._whole.note(finish_reason=choice["finish_reason"])
            self._whole.ended = True
            self._parts.close_all()
            self._text = None

    def _write(self, type_: str, text: str) -> None:
        """Text goes on in its part, or ends the one before: nobody says when it has ended."""
        if self._text is None or self._text[0] != type_:
            self._end_text()
            self._blocks += 1
            self._text = (type_, self._blocks)
            self._parts.open(self._text, type_)
        self._parts.text(self._text, text)

    def _end_text(self) -> None:
        if self._text is not None:
            self._parts.close(self._text)
            self._text = None

    def _call(self, call: Mapping[str, Any]) -> None:
        """Calls may be streamed side by side, by index; those after the first wait for their end,
        which is that of the answer."""
        index, function = call.get("index", 0), call.get("function") or {}
        key = ("call", index)
        if index not in self._calls:
            self._end_text()
            self._calls.add(index)
            self._parts.open(key, "tool-call", id=call.get("id"), name=function.get("name"))
        self._parts.text(key, function.get("arguments") or "")

    def _annotation(self, annotation: Mapping[str, Any]) -> None:
        cited = annotation.get("url_citation") or {}
        if cited.get("url"):
            self._end_text()
            self._parts.once("source", url=cited["url"], title=cited.get("title"))
