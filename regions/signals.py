"""Signals: something for who reads now. Pushed at most once, and stored nowhere."""

import base64
import json
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from perdure.regions.fanout import Fanout
from perdure.regions.ports import Clock
from perdure.replication.errors import Refusal
from perdure.replication.feed import Draft
from perdure.replication.frames import FrameError, decode_json, encode_json
from perdure.replication.ids import ROLE, canonical, is_id
from perdure.replication.lib0 import YjsError
from perdure.replication.limits import (
    SIGNAL_BYTES_MAX,
    SIGNALS_BURST_MAX,
    SIGNALS_PER_S_MAX,
    SIGNALS_WAITING_MAX,
)
from perdure.replication.tenants import is_session
from perdure.replication.yjs_sync import Presence, decode_awareness

# Who is at a document is told to peers in pieces of at most so many bytes.
PRESENT_BYTES_MAX = 32_768
_PRESENT = "present"
# Sessions of which it is kept how much they have signalled; others have a whole burst.
_SESSIONS_METERED_MAX = 10_000


class Signals:
    """The signals of one region, to its readers and to its peers."""

    def __init__(self, region: str, fanout: Fanout, clock: Clock) -> None:
        self.dropped = 0
        # Takes what peers tell of who is at a document.
        self.hear_present: Callable[[tuple[str, str], Iterable[Presence]], None] | None = None
        self._region = region
        self._fanout = fanout
        self._clock = clock
        # What waits for each peer that is linked.
        self._waiting: dict[str, deque[bytes]] = {}
        # How many signals a session may still give, and since when.
        self._left: dict[str, tuple[float, int]] = {}

    def send(self, session: str, name: str, data: Any, sender: str | None) -> None:
        """Tell readers here, and have the peers told. Raises ``Refusal`` ``too_many``."""
        self._spend(session)
        value = {"session": session, "signal": name, "data": data, "from": sender}
        self._push(value)
        self._tell(value, self._region)

    def tell_present(self, name: tuple[str, str], awareness: bytes) -> None:
        """Have the peers told who is at a document; too much at once is dropped."""
        if len(awareness) > PRESENT_BYTES_MAX:
            self.dropped += 1
            return
        data = base64.b64encode(awareness).decode()
        value = {"session": name[0], "document": name[1], "signal": _PRESENT, "from": None}
        self._push({**value, "data": data})

    def _push(self, value: dict[str, Any]) -> None:
        payload = encode_json(value)
        for waiting in self._waiting.values():
            self.dropped += len(waiting) == SIGNALS_WAITING_MAX
            waiting.append(payload)

    def _spend(self, session: str) -> None:
        now_ms = self._clock.monotonic_ms()
        left, since_ms = self._left.get(session, (float(SIGNALS_BURST_MAX), now_ms))
        left = min(SIGNALS_BURST_MAX, left + (now_ms - since_ms) * SIGNALS_PER_S_MAX / 1000)
        if left < 1:
            raise Refusal("too_many", "too many signals in this session", retry_after_s=1)
        self._left.pop(session, None)
        self._left[session] = (left - 1, now_ms)
        if len(self._left) > _SESSIONS_METERED_MAX:
            del self._left[next(iter(self._left))]

    def _tell(self, value: dict[str, Any], region: str) -> None:
        feed = self._fanout.get(value["session"])
        if feed is not None:
            told = {name: value[name] for name in ("signal", "data", "from")}
            text = json.dumps({**told, "region": region}, ensure_ascii=False, separators=(",", ":"))
            feed.announce(Draft("signal", text))

    # Links

    def linked(self, name: str) -> None:
        """The link to a peer is open: it is told of what comes from now on."""
        self._waiting[name] = deque(maxlen=SIGNALS_WAITING_MAX)

    def lost(self, name: str) -> None:
        """It is closed, and what waited is over."""
        self._waiting.pop(name, None)

    def next(self, name: str) -> bytes | None:
        """The next ``signal`` payload for a peer."""
        waiting = self._waiting.get(name)
        return waiting.popleft() if waiting else None

    def told(self, name: str, payload: bytes) -> None:
        """A ``signal`` frame of a peer. Raises ``FrameError``."""
        value = decode_json(payload)
        sender = value.get("from")
        if not (is_session(value.get("session")) and (sender is None or is_id(sender))):
            raise FrameError("payload", "a signal is of a session, and of somebody")
        if not is_signal(value.get("signal")) or "data" not in value:
            raise FrameError("payload", "no signal")
        if "document" in value:
            self._hear(value)
        else:
            self._tell(value, name)

    def _hear(self, value: dict[str, Any]) -> None:
        if not is_id(value["document"]) or not isinstance(value["data"], str):
            raise FrameError("payload", "somebody is at a document")
        try:
            entries = decode_awareness(base64.b64decode(value["data"], validate=True))
        except (YjsError, ValueError) as error:
            raise FrameError("payload", "no awareness") from error
        if self.hear_present is not None:
            self.hear_present((value["session"], value["document"]), entries)


def is_signal(name: object) -> bool:
    """Whether this may name a signal."""
    return isinstance(name, str) and ROLE.match(name) is not None


def check_signal(name: str, data: Any) -> None:
    """``Refusal``: ``invalid_body``, ``too_large``."""
    if not is_signal(name):
        detail = "signal must be 1 to 32 of a-z 0-9 _ -, a letter first"
        raise Refusal("invalid_body", detail, field="signal")
    if len(canonical(data).encode()) > SIGNAL_BYTES_MAX:
        raise Refusal(
            "too_large", "the signal is too large", field="data", limit_bytes=SIGNAL_BYTES_MAX
        )
