"""A shared document: a pycrdt ``Doc``, its outline, and the updates that wait for others.

Rule of this file: a document is the set of its updates, in whatever order and however often they
come, before and after it was stored. pycrdt sees an update only when the outline has found that it
fits and that nothing before it is missing: until then it waits here, within limits.

A client admits what this document can take (:meth:`SharedDocument.check`); what a region has logged
is taken without those limits, for it is in the logs of all regions. Where this outline still knows
something deleted that the other region had forgotten, it forgets it too, and looks again.

Not seen here: two writers that use one client id for different edits. Each region keeps what it
read first, and the digests differ.
"""

import base64
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any

from perdure.replication.document_keys import AppendKeys
from perdure.replication.document_value import value_of
from perdure.replication.errors import Damaged
from perdure.replication.ids import canonical, digest
from perdure.replication.items import DIGEST_BYTES
from perdure.replication.lib0 import YjsError
from perdure.replication.limits import (
    DOCUMENT_BYTES_MAX,
    DOCUMENT_CLIENTS_MAX,
    DOCUMENT_PARKED_BYTES_MAX,
    DOCUMENT_PARKED_MAX,
    DOCUMENT_STEPS_MAX,
    DOCUMENT_STRUCTS_MAX,
)
from perdure.replication.operations import Keyed
from perdure.replication.yjs_outline import Fitting, Holds, Outline
from perdure.replication.yjs_parser import YJS_CLOCK_MAX, Update, parse_logged
from pycrdt import Doc, Map, Text

TEXT, JSON = "text", "json"
# The client id of our own Docs, which never write.
SILENT_CLIENT = 0


class SharedDocument:
    """One document of a session. What was stored is opened when somebody looks at it."""

    def __init__(self, id_: str, stored: Mapping[str, Any] | None = None) -> None:
        self.id = id_
        self.keys = AppendKeys()
        # The client id under which this region edits it, while it stays in memory.
        self.writer: int | None = None
        self._doc: Doc[Any] = Doc(client_id=SILENT_CLIENT)
        self._outline = Outline()
        # Not less than there is; counted anew when a limit is reached.
        self._bytes = self._structs = 0
        self._is_counted = True
        self._parked: dict[bytes, None] = {}
        self._deleted: dict[int, list[tuple[int, int]]] | None = None
        self._digest: bytes | None = None
        self._closed: bytes | None = None
        if stored is not None:
            self._restore(stored)

    # Taking updates

    def take(self, data: bytes) -> list[bytes]:
        """Merge an update that is logged, here or elsewhere: what could be applied by it, in order.

        Raises ``YjsError`` for one that never fits.
        """
        self._open()
        applied = [data] if self._apply(data) else []
        ready = applied
        while ready and self._parked:
            # What waited may fit now; and what that brings may let others fit.
            ready = [waiting for waiting in list(self._parked) if self._unpark(waiting)]
            applied = [*applied, *ready]
        return applied

    def _unpark(self, data: bytes) -> bool:
        try:
            fits = self._apply(data)
        except YjsError:
            # What it waited for was something else than it was made for.
            del self._parked[data]
            self._digest = None
            return False
        if fits:
            del self._parked[data]
        return fits

    def _apply(self, data: bytes) -> bool:
        """Whether it fitted; False: it waits."""
        update = parse_logged(data)
        try:
            fitting = self._fit(update)
        except YjsError as error:
            if error.code != "gap":
                raise
            self._park(data)
            return False
        _apply(self._doc, data)
        self._outline.add(fitting)
        self._bytes += len(data)
        self._structs += update.structs
        self._is_counted = False
        self._digest = self._deleted = None
        return True

    def _park(self, data: bytes) -> None:
        if data in self._parked:
            return
        self._parked[data] = None
        self._digest = None
        while (
            len(self._parked) > DOCUMENT_PARKED_MAX
            or sum(map(len, self._parked)) > DOCUMENT_PARKED_BYTES_MAX
        ):
            # The digests tell that something is missing, and a round brings it.
            del self._parked[next(iter(self._parked))]

    def _fit(self, update: Update) -> Fitting:
        try:
            return self._outline.fit(update, admitted=True)
        except YjsError as error:
            if error.code == "gap":
                raise
            # Know no more than what can be told of the document, as the other region perhaps does.
            self._load(self._doc.get_update())
            return self._outline.fit(update, admitted=True)

    # What may be admitted from clients

    def check(self, update: Update) -> None:
        """Raises ``YjsError`` for an update of a client that this document does not take now:
        ``gap`` when something before it is missing, ``too_large`` for one that would make the
        document so."""
        self._open()
        self._outline.fit(update)
        if self._is_beyond(update) and not self._is_counted:
            self._count()
        if self._is_beyond(update):
            raise YjsError("too_large", "the document would be too large, or too scattered")
        state = self._outline.state
        if len(state.keys() | update.clients) > DOCUMENT_CLIENTS_MAX:
            raise YjsError("too_large", f"more than {DOCUMENT_CLIENTS_MAX} clients")
        # A piece that does not go on where its client stopped may have to be sorted among all.
        heads = sum(
            struct.end > state.get(block.client, 0)
            and struct.left != (block.client, struct.clock - 1)
            for block in update.blocks
            for struct in block.structs
        )
        if heads * (self._structs + update.structs) > DOCUMENT_STEPS_MAX:
            raise YjsError("too_large", f"{heads} pieces at once")

    def _is_beyond(self, update: Update) -> bool:
        size = self._bytes + update.content_bytes
        return size > DOCUMENT_BYTES_MAX or self._structs + update.structs > DOCUMENT_STRUCTS_MAX

    def _count(self) -> None:
        snapshot = self._doc.get_update()
        self._bytes, self._structs = len(snapshot), parse_logged(snapshot).structs
        self._is_counted = True

    def is_news(self, update: Update) -> bool:
        """Whether the update says anything that is not known. It must fit."""
        self._open()
        state = self._outline.state
        if any(block.end > state.get(block.client, 0) for block in update.blocks):
            return True
        deleted = self._deletes()
        return not all(
            _covers(deleted.get(client, []), clock, clock + length)
            for client, ranges in update.deletes
            for clock, length in ranges
        )

    def _deletes(self) -> dict[int, list[tuple[int, int]]]:
        """What is deleted: from clock to clock, in order and apart from each other."""
        if self._deleted is None:
            told = parse_logged(self._doc.get_update(self._doc.get_state()))
            self._deleted = {client: _joined(ranges) for client, ranges in told.deletes}
        return self._deleted

    # Reading

    @property
    def vector(self) -> dict[int, int]:
        """The state vector."""
        self._open()
        return self._outline.state

    def since(self, vector: bytes | None = None) -> bytes:
        """What somebody lacks whose (parsed) state vector this is; everything for None."""
        if self._closed is not None and vector is None:
            return self._closed
        self._open()
        return self._doc.get_update() if vector is None else self._doc.get_update(vector)

    def text(self) -> str:
        """The root ``text``."""
        self._open()
        holds = self._outline.roots.get(TEXT, Holds(0))
        return str(self._doc.get(TEXT, type=Text)) if holds & Holds.TEXT else ""

    def json(self) -> dict[str, Any]:
        """The root ``json``."""
        self._open()
        if not self._outline.roots.get(JSON, Holds(0)) & Holds.KEYS:
            return {}
        found: dict[str, Any] = value_of(self._doc.get(JSON, type=Map))
        return found

    def digest(self) -> bytes:
        """A digest of everything that regions must agree on."""
        if self._digest is None:
            self._open()
            deleted = sorted(self._deletes().items())
            content = canonical([self.text(), self.json()])
            parked = sorted(digest(DIGEST_BYTES, data).hex() for data in self._parked)
            known = canonical([sorted(self._outline.state.items()), deleted, parked])
            self._digest = digest(DIGEST_BYTES, self.id, known, content)
        return self._digest

    def version(self) -> str:
        """Names what the document is: the same in all regions that hold the same."""
        return self.digest().hex()

    def value(self) -> dict[str, Any]:
        """The document as it is shown."""
        return {
            "id": self.id,
            "text": self.text(),
            "json": self.json(),
            "version": self.version(),
        }

    # Storing

    def stored(self) -> dict[str, Any]:
        """What is to be stored."""
        wire = [base64.b64encode(data).decode() for data in (self.since(), *self._parked)]
        keys = [list(append) for append in self.keys.all()]
        return {
            "updates": wire,
            "digest": self.digest().hex(),
            **({"keys": keys} if keys else {}),
        }

    def _restore(self, stored: Mapping[str, Any]) -> None:
        self._closed, *parked = (base64.b64decode(data) for data in stored["updates"])
        self._parked = dict.fromkeys(parked)
        self._digest = bytes.fromhex(stored["digest"])
        self.keys = AppendKeys(Keyed(*fields) for fields in stored.get("keys", ()))

    def told(self) -> list[bytes]:
        """Updates that say the same as those that made it."""
        return [self.since(), *self._parked]

    def _open(self) -> None:
        if self._closed is not None:
            closed, self._closed = self._closed, None
            try:
                self._load(closed)
            except YjsError as error:
                raise Damaged(f"document {self.id} is none: {error}") from error

    def _load(self, snapshot: bytes) -> None:
        update = parse_logged(snapshot)
        outline, doc = Outline(), Doc[Any](client_id=SILENT_CLIENT)
        fitting = outline.fit(update, admitted=True)
        _apply(doc, snapshot)
        outline.add(fitting)
        self._doc, self._outline = doc, outline
        self._bytes, self._structs = len(snapshot), update.structs
        self._is_counted = True
        self._deleted = None


def _apply(doc: Doc[Any], data: bytes) -> None:
    try:
        doc.apply_update(data)
    except Exception:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        # pycrdt panics with what is no Exception, and that must not take the region with it.
        raise RuntimeError("pycrdt stopped in the middle of an update") from error


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for clock, length in ranges:
        if joined and joined[-1][1] >= clock:
            joined[-1] = (joined[-1][0], clock + length)
        else:
            joined.append((clock, clock + length))
    return joined


def _covers(ranges: list[tuple[int, int]], start: int, end: int) -> bool:
    at = bisect_right(ranges, (start, YJS_CLOCK_MAX)) - 1
    return at >= 0 and end <= ranges[at][1]
