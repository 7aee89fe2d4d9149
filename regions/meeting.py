"""Members of a session: who comes, who stays, who leaves (``docs/PROTOCOL.md`` A.4)."""

from typing import Any

from perdure.regions.fanout import Reader
from perdure.regions.presence import PresenceDesk
from perdure.regions.signals import check_signal
from perdure.regions.writing import Writing
from perdure.replication import admission
from perdure.replication.cursor import decode
from perdure.replication.errors import Refusal
from perdure.replication.ids import canonical, check_id
from perdure.replication.limits import (
    PRESENCE_DATA_BYTES_MAX,
    PRESENCE_TTL_S_DEFAULT,
    PRESENCE_TTL_S_MAX,
)
from perdure.replication.presence_view import PUT, Key
from perdure.replication.roster import Roster
from perdure.replication.tenants import check_session


class Meeting(Writing):
    """The presence side of a :class:`~perdure.regions.node.Node`, which brings the desk."""

    desk: PresenceDesk

    def _roster(self, session: str) -> Roster:
        return self.desk.roster(session)

    def members(self, session: str) -> list[dict[str, Any]]:
        """Everybody who is here. Raises ``Refusal``: ``not_found``, ``deleted``."""
        check_session(session)
        self._check_readable()
        self._check_not_deleted(session)
        found = list(self.desk.values(session))
        if not found:
            self._existing(session)
        return found

    def _check_not_deleted(self, session: str) -> None:
        state = self.state.find(session)
        if state is not None:
            admission.check_live(state)

    def put_member(
        self, session: str, member: str, data: Any = None, ttl_s: int | None = None
    ) -> dict[str, Any]:
        """A member is here for ``ttl_s`` seconds from now; the member as it is shown.

        Raises ``Refusal``: ``invalid_body``, ``too_large``, ``too_many``, ``deleted``.
        """
        self._check_open()
        check_session(session)
        check_id(member, "member")
        ttl_s = PRESENCE_TTL_S_DEFAULT if ttl_s is None else ttl_s
        if not 1 <= ttl_s <= PRESENCE_TTL_S_MAX:
            raise Refusal("invalid_body", f"ttl_s must be 1 to {PRESENCE_TTL_S_MAX}", field="ttl_s")
        text = check_data(data)
        self._check_not_deleted(session)
        self.desk.attendance.hold(Key(session, member, PUT), text, ttl_s)
        value = self.desk.value(session, member)
        assert value is not None
        return value

    def remove_member(self, session: str, member: str) -> None:
        """A member leaves, through everything that is known of it here."""
        self._check_open()
        check_session(session)
        check_id(member, "member")
        self._check_not_deleted(session)
        self.desk.attendance.leave(session, member)

    def signal(self, session: str, name: str, data: Any, sender: str | None) -> None:
        """Something for who reads the session now, in all regions. Raises ``Refusal``."""
        self._check_open()
        check_session(session)
        if sender is not None:
            check_id(sender, "from")
        check_signal(name, data)
        self._check_not_deleted(session)
        self.desk.signals.send(session, name, data, sender)
        self.desk.wake()

    def subscribe(
        self, session: str, cursor: str | None, member: str | None = None, data: Any = None
    ) -> Reader:
        """As :meth:`Reading.subscribe`; with ``member``, that one is here while it lasts."""
        if member is None:
            return super().subscribe(session, cursor)
        check_session(session)
        check_id(member, "presence")
        text = check_data(data)
        # Who is refused was never here: whatever may refuse comes before the arrival, and that
        # before the subscription, whose snapshot shows it.
        if cursor:
            decode(cursor)
        self._check_readable()
        self._check_not_deleted(session)
        self.fanout.check_room()
        attendance = self.desk.attendance
        key = attendance.arrive(session, member, text)
        try:
            reader = super().subscribe(session, cursor)
        except BaseException:
            # Also when a disk fails: nobody else would ever let go of it.
            attendance.depart(key)
            raise
        reader.on_close(lambda: attendance.depart(key))
        return reader


def check_data(data: Any) -> str | None:
    """The canonical text of a member's data; None for null. Raises ``Refusal`` ``too_large``."""
    text = None if data is None else canonical(data)
    if text is not None and len(text.encode()) > PRESENCE_DATA_BYTES_MAX:
        raise Refusal(
            "too_large",
            "a member's data is too large",
            field="data",
            limit_bytes=PRESENCE_DATA_BYTES_MAX,
        )
    return text
