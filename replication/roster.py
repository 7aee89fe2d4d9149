"""Who the readers of a session were told is here, and what they are to be told next.

Rule of this file: what a reader gets first is what the others were told, so the next change is a
change for all of them.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

from perdure.replication.limits import FEED_BYTES_MAX, PRESENCE_EVENT_MEMBERS_MAX

# With more than fits into a feed no reader could keep up, however fast it is.
_BYTES_AT_ONCE = FEED_BYTES_MAX // 4


class Roster:
    """The members of one session, each as the JSON that was told of it. ``value`` gives what a
    member is shown as now, None when it is not here."""

    def __init__(
        self, members: Iterable[str], value: Callable[[str], dict[str, Any] | None]
    ) -> None:
        self._value = value
        self._told: dict[str, str] = {}
        self._touched: dict[str, None] = {}
        self._all: str | None = None
        self.touch(members)
        while self.has_news:
            self.changes()

    def touch(self, members: Iterable[str]) -> None:
        """Something of these may have changed."""
        self._touched.update(dict.fromkeys(members))

    def __len__(self) -> int:
        return len(self._told)

    def everybody(self) -> str:
        """The JSON list of all that were told."""
        if self._all is None:
            self._all = f"[{','.join(self._told.values())}]"
        return self._all

    @property
    def has_news(self) -> bool:
        """Whether there may be more to tell."""
        return bool(self._touched)

    def changes(self) -> list[str]:
        """What is to be told now, as the data of ``presence`` events; after more than about
        ``_BYTES_AT_ONCE`` the rest is left for the next time."""
        found: list[tuple[str, str]] = []
        size = 0
        touched = iter(self._touched)
        for member in touched:
            if size >= _BYTES_AT_ONCE:
                self._touched = {member: None, **dict.fromkeys(touched)}
                break
            before, value = self._told.get(member), self._value(member)
            if value is None:
                if before is not None:
                    del self._told[member]
                    found.append(("left", json.dumps({"member": member}, separators=(",", ":"))))
                    size += len(found[-1][1])
                continue
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            if text != before:
                self._told[member] = text
                found.append(("updated" if before is not None else "joined", text))
                size += len(text)
        else:
            self._touched = {}
        if found:
            self._all = None
        step = PRESENCE_EVENT_MEMBERS_MAX
        return [_data(found[start : start + step]) for start in range(0, len(found), step)]


def _data(changes: list[tuple[str, str]]) -> str:
    kinds = ("joined", "updated", "left")
    lists = {kind: [text for found, text in changes if found == kind] for kind in kinds}
    return "{" + ",".join(f'"{kind}":[{",".join(lists[kind])}]' for kind in kinds) + "}"
