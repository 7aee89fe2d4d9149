"""What is asked over a dialled link, and the answers that come back."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from perdure.regions.links import Digests, PeerUnreachable
from perdure.replication.frames import Kind, encode_json
from perdure.replication.limits import STATUS_BYTES_MAX

ASK_S_MAX = 5.0
# A pull ends when no piece comes for so long; so many pieces wait to be stored.
PIECE_S_MAX = 30.0
PIECES_WAITING_MAX = 4

Answer = dict[str, Any]


class Questions:
    """The questions of one link, while it is open. Only the link's own task sends."""

    def __init__(self, name: str, wake: asyncio.Event) -> None:
        self._name = name
        self._wake = wake
        # The version of the link; None while there is none.
        self._version: int | None = None
        # None for the answer that can no longer come.
        self._asks: dict[int, asyncio.Future[Answer | None]] = {}
        self._waiting: dict[int, tuple[Kind, bytes]] = {}
        # The pieces that came for each question for sessions; None when no more can come.
        self._pulls: dict[int, asyncio.Queue[bytes | None]] = {}
        self._asked = 0

    @property
    def version(self) -> int | None:
        """What the link speaks; None while it is closed."""
        return self._version

    def open(self, version: int) -> None:
        """The link is open."""
        self._version = version

    def close(self) -> None:
        """It is closed: no answer comes any more."""
        self._version = None
        for ask in self._asks.values():
            if not ask.done():
                ask.set_result(None)
        self._asks.clear()
        self._waiting.clear()
        for pieces in self._pulls.values():
            _end(pieces)

    def take(self) -> Iterator[tuple[Kind, bytes]]:
        """What is to be sent."""
        while self._waiting:
            yield self._waiting.pop(next(iter(self._waiting)))

    async def digests(self, session: str | None, buckets: Sequence[int] | None) -> Digests:
        """Digests of the peer; raises ``PeerUnreachable`` when it does not answer in time."""
        question: dict[str, Any] = {}
        if session is not None:
            question["session"] = session
        if buckets is not None:
            question["buckets"] = list(buckets)
        answer = await self._ask(Kind.ASK_DIGESTS, question)
        found, sessions = answer.get("buckets"), answer.get("sessions")
        return Digests(
            found if isinstance(found, list) else None,
            sessions if isinstance(sessions, dict) else None,
        )

    async def status(self, what: Mapping[str, Any]) -> dict[str, Any]:
        """What the peer says of itself; raises ``PeerUnreachable`` when it does not answer in time,
        cannot, or is of a version that knows no such question."""
        if self._version is None or self._version < 2:
            raise PeerUnreachable(self._name)
        if len(encode_json(dict(what))) > STATUS_BYTES_MAX:
            raise ValueError("the question is too long")
        status = (await self._ask(Kind.ASK_STATUS, {"what": dict(what)})).get("status")
        if not isinstance(status, dict):
            raise PeerUnreachable(self._name)
        return status

    async def _ask(self, kind: Kind, question: dict[str, Any]) -> Answer:
        number = self._number()
        self._asks[number] = answered = asyncio.get_running_loop().create_future()
        self._send(number, kind, question)
        try:
            async with asyncio.timeout(ASK_S_MAX):
                answer: Answer | None = await answered
        except TimeoutError as error:
            raise PeerUnreachable(self._name) from error
        finally:
            self._asks.pop(number, None)
            self._waiting.pop(number, None)
        if answer is None:
            raise PeerUnreachable(self._name)
        return answer

    def _number(self) -> int:
        if self._version is None:
            raise PeerUnreachable(self._name)
        self._asked += 1
        return self._asked

    def _send(self, number: int, kind: Kind, question: dict[str, Any]) -> None:
        self._waiting[number] = (kind, encode_json({"ask": number, **question}))
        self._wake.set()

    def answered(self, value: Answer) -> None:
        """An answer has come."""
        number = value.get("ask")
        if not isinstance(number, int):
            return
        if number in self._pulls:
            # Instead of more pieces: the peer cannot tell now.
            _end(self._pulls[number])
        future = self._asks.get(number)
        if future is not None and not future.done():
            future.set_result(value)

    async def pull(self, sessions: Sequence[str]) -> AsyncIterator[bytes]:
        """Everything that the peer knows of these sessions, in pieces; raises ``PeerUnreachable``
        when it stops before the last."""
        number = self._number()
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue(PIECES_WAITING_MAX)
        self._pulls[number] = pieces
        self._send(number, Kind.ASK_SESSIONS, {"sessions": list(sessions)})
        try:
            while True:
                async with asyncio.timeout(PIECE_S_MAX):
                    piece = await pieces.get()
                if piece is None:
                    raise PeerUnreachable(self._name)
                if not piece:
                    return
                yield piece
        except TimeoutError as error:
            raise PeerUnreachable(self._name) from error
        finally:
            del self._pulls[number]
            self._waiting.pop(number, None)
            # Who waits to hand on a piece must not wait for somebody who has left.
            _empty(pieces)

    async def take_piece(self, number: int, piece: bytes) -> None:
        """Hand a piece on; while nobody takes it, nothing more is read from the peer."""
        pieces = self._pulls.get(number)
        if pieces is not None:
            await pieces.put(piece)


def _end(pieces: asyncio.Queue[bytes | None]) -> None:
    _empty(pieces)
    pieces.put_nowait(None)


def _empty(pieces: asyncio.Queue[bytes | None]) -> None:
    while not pieces.empty():
        pieces.get_nowait()
