"""What the property tests draw: awkward tokens, marks, entries."""

import json
from typing import Any

from hypothesis import strategies as st
from perdure.replication.ids import Epoch, LaneKey
from perdure.replication.items import Entry, Mark, chain_digest
from perdure.replication.lane import Piece, root_digest
from perdure.replication.records import Origin

AWKWARD = [
    *("", "a", "é", "e\u0301", "👩\u200d🚀", "🇪🇺", "\r", "\n", "\r\n", "\0"),
    *("\u2028", "\u200d", "ß", "日本", "\x7f", "\ufeff", '"', "\\"),
]
kinds = st.sampled_from(["text", "reasoning", "data"])
tokens = st.one_of(st.sampled_from(AWKWARD), st.text(max_size=6))
marks = st.one_of(
    st.builds(
        lambda kind: {"part": {"type": kind}}, st.sampled_from(["text", "reasoning", "data"])
    ),
    st.builds(lambda value: {"set": {"x": value}}, st.one_of(st.integers(-5, 5), tokens)),
)
values: st.SearchStrategy[str | dict[str, Any]] = st.one_of(tokens, tokens, marks)
ORIGIN = Origin("eu", 1)


def mark(value: dict[str, Any]) -> Mark:
    return Mark(json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")))


entries: st.SearchStrategy[Entry] = values.map(lambda v: v if isinstance(v, str) else mark(v))


def lane_key(number: int = 1, producer: str = "p", nonce: int = 7) -> LaneKey:
    return LaneKey(producer, Epoch(number, nonce))


def root(key: LaneKey) -> bytes:
    return root_digest("s", "m", key)


def piece(key: LaneKey, all_entries: list[Entry], start: int, stop: int) -> Piece:
    """The piece of a lane's whole content from ``start`` to ``stop``."""
    before = root(key)
    for entry in all_entries[:start]:
        before = chain_digest(before, entry)
    return Piece(start, before, tuple(all_entries[start:stop]))
