"""What a returning reader needs of one message: what it was told against what is shown here.

Rule of this file: nothing is taken back from a reader unless this region *knows* better. What was
told under a name that is not known here, beyond what is held here, or beyond a takeover that has
not shown a single item, is held: the text may be on its way. ``docs/PROTOCOL.md`` A.6.
"""

from enum import Enum

from perdure.replication.claims import shared_items
from perdure.replication.cursor import Entry
from perdure.replication.ids import LaneKey
from perdure.replication.message import Message
from perdure.replication.shown import Shown


class Verdict(Enum):
    """What one message of a cursor needs; the reasons of ``replace`` are its values."""

    GROW = "grow"
    HOLD = "hold"
    FENCED = "fenced"
    CONFLICT = "conflict"
    MESSAGE = "message"
    DELETED = "deleted"


def judge(message: Message | None, entry: Entry) -> Verdict:
    """Compare what a reader was told of a message with what this region shows."""
    if message is None or message.shown is None:
        return Verdict.HOLD
    shown = message.shown
    variant = message.variants().get(entry.tag)
    if variant is None:
        # Also where a greater epoch is known: what was told may belong to a header that is not
        # known here, and that wins.
        return Verdict.HOLD
    same_header = (variant.header, variant.created) == (shown.header, shown.created)
    if _forked_below(shown, entry):
        return Verdict.CONFLICT if same_header else Verdict.MESSAGE
    verdict = _judge_lane(message, shown, variant.lane, entry)
    if same_header:
        return verdict
    held = verdict is Verdict.HOLD and variant.header == shown.header
    return Verdict.HOLD if held else Verdict.MESSAGE


def _forked_below(shown: Shown, entry: Entry) -> bool:
    if shown.forked_at is None:
        return False
    ended = entry.status != "streaming"
    return shown.forked_at < entry.length or (ended and shown.forked_at == entry.length)


def _judge_lane(message: Message, shown: Shown, lane: LaneKey, entry: Entry) -> Verdict:
    tip = message.tip
    assert tip is not None and message.header is not None
    # A cancel is for ever, so a region that does not know it is behind. (An end of the lane that
    # says "cancelled" may have been fenced.)
    marked = entry.status == "cancelled" and message.lane(lane).end is None
    if marked and shown.status == "streaming":
        return Verdict.HOLD
    if lane == tip:
        return _judge_length(message, shown, entry)
    mine, theirs = message.claims.chain_of(lane), message.chain
    if mine is None or message.claims.waits(message.header.lane, lane, tip):
        return Verdict.HOLD
    if entry.length > shared_items(mine, theirs):
        # A claim without items may be an answer that was lost: it takes no text back yet.
        empty = tip in message.claims and not message.lane(tip).entries
        return Verdict.HOLD if empty else Verdict.FENCED
    if entry.length > shown.length:
        return Verdict.HOLD
    reopened = entry.status != "streaming" and shown.status == "streaming"
    return Verdict.FENCED if reopened else Verdict.GROW


def _judge_length(message: Message, shown: Shown, entry: Entry) -> Verdict:
    """For a reader of the lane that is shown here too."""
    behind = entry.length > shown.length
    if behind and message.has_end:
        # A lane that ended before what was told of it has two contents.
        return Verdict.CONFLICT
    later = _rank(entry.status) > (2 if message.has_end else _rank(shown.status))
    return Verdict.HOLD if behind or later else Verdict.GROW


def _rank(status: str) -> int:
    """A cancel mark overtakes ``streaming``, and an end overtakes both."""
    return {"streaming": 0, "cancelled": 1}.get(status, 2)
