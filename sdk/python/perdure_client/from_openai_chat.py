"""OpenAI's chat completions, streamed as chunks; and what speaks the same, such as DeepSeek.

https://platform.openai.com/docs/api-reference/chat-streaming
"""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

from perdure_client.vendor_parts import End, Item, Parts, VendorError, Whole

# Text of these fields of a delta goes into parts of these types.
_TEXTS = {
    "reasoning_content": "reasoning",
    "reasoning": "reasoning",
    "content": "text",
    "refusal": "refusal",
}


class _Call(NamedTuple):
    key: Hashable
    id: str | None
    named: bool


class FromOpenAIChat:
    """One answer of chat completions: its first choice. Further ones are not of this message; how
    many there were is said at its end."""

    def __init__(self) -> None:
        self.unknown = 0
        self._parts = Parts()
        self._whole = Whole()
        self._blocks = 0
        self._text: tuple[str, int] | None = None
        # By index: the call that its pieces belong to now.
        self._calls: dict[int, _Call] = {}
        self._citations: list[Any] = []
        self._sources: set[str] = set()
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
        self._end_text()
        self._parts.close_all()
        if self._others:
            self._whole.note(other_choices=len(self._others))
        self._whole.write(self._parts)
        return self._parts.take()

    def _choice(self, choice: Mapping[str, Any]) -> None:
        if "delta" not in choice and choice.keys() & {"message", "text"}:
            raise VendorError("a choice is no piece of a chat's answer")
        delta = choice.get("delta") or {}
        for field, type_ in _TEXTS.items():
            # Some servers send the reasoning under both names.
            if (text := delta.get(field)) and not (
                field == "reasoning" and delta.get("reasoning_content")
            ):
                self._write(type_, text)
        for call in delta.get("tool_calls") or ():
            self._call(call.get("index") or 0, call.get("id"), call.get("function") or {})
        if delta.get("function_call"):
            # What calls were before there could be several.
            self._call(-1, None, delta["function_call"])
        self._citations += delta.get("annotations") or []
        if choice.get("finish_reason"):
            self._whole.note(finish_reason=choice["finish_reason"])
            self._whole.ended = True
            self._end_text()
            self._parts.close_all()

    def _write(self, type_: str, text: str) -> None:
        """Text goes on in its part, or ends the one before: nobody says when it has ended."""
        if self._text is None or self._text[0] != type_:
            self._end_text()
            self._blocks += 1
            self._text = (type_, self._blocks)
            self._parts.open(self._text, type_)
        self._parts.text(self._text, text)

    def _end_text(self) -> None:
        """End the text that goes on, if one does; what was cited in it follows."""
        key, self._text = self._text, None
        cited, self._citations = self._citations, []
        if key is not None:
            self._parts.set(key, citations=cited or None)
            self._parts.close(key)
        elif cited:
            self._parts.once("data", name="citations", citations=cited)
        for annotation in cited:
            self._source(annotation.get("url_citation") or {})

    def _source(self, cited: Mapping[str, Any]) -> None:
        url = cited.get("url")
        if url and url not in self._sources:
            self._sources.add(url)
            self._parts.once("source", url=url, title=cited.get("title"))

    def _call(self, index: int, id_: str | None, function: Mapping[str, Any]) -> None:
        """Calls may be streamed side by side, by index; those after the first wait for their end,
        which is that of the answer. Some servers give all the same index: a new id is a new call.
        """
        name, call = function.get("name"), self._calls.get(index)
        if call is None or (id_ and call.id and id_ != call.id):
            if call is not None:
                self._parts.close(call.key)
            self._end_text()
            self._blocks += 1
            call = _Call(("call", self._blocks), id_, bool(name))
            self._parts.open(call.key, "tool-call", id=id_, name=name)
        elif name and not call.named:
            call = call._replace(named=True)
            self._parts.set(call.key, name=name)
        self._calls[index] = call
        self._parts.text(call.key, function.get("arguments") or "")
