"""Digests of the sessions, for ``verify`` and for repair: stored ones, and those not stored yet."""

from collections.abc import Iterable

from perdure.regions.image_tables import BUCKETS, term_of
from perdure.regions.ports import Storage
from perdure.regions.state import State
from perdure.replication.ids import bucket
from perdure.replication.session import Session

_BUCKET_MASK = 2**64 - 1


class Holdings:
    """Digests over everything that a region holds."""

    def __init__(self, state: State, storage: Storage) -> None:
        self._state = state
        self._storage = storage

    def __len__(self) -> int:
        return len(self._state)

    def knows(self, id_: str) -> bool:
        """Whether anything is known of the session here."""
        return self._state.find(id_) is not None

    def of(self, id_: str) -> str:
        """The digest of one session; an unknown one has that of an empty one."""
        return (self._state.find(id_) or Session(id_)).whole().hex()

    def buckets(self) -> list[str]:
        """The sum of the sessions' digests in each of 4,096 buckets, as 16 hex digits."""
        sums = self._storage.bucket_sums()
        for session, stored in self._state.unstored():
            if not session.is_blank:
                number = bucket(session.id, BUCKETS)
                sums[number] = (sums[number] + term_of(session.whole()) - stored) & _BUCKET_MASK
        return [f"{value:016x}" for value in sums]

    def in_buckets(self, numbers: Iterable[int]) -> dict[str, str]:
        """The digests of the sessions of some buckets."""
        wanted = {number for number in numbers if 0 <= number < BUCKETS}
        found = {
            id_: digest.hex() for id_, digest in self._storage.in_buckets(sorted(wanted)).items()
        }
        for session, _ in self._state.unstored():
            if not session.is_blank and bucket(session.id, BUCKETS) in wanted:
                found[session.id] = session.whole().hex()
        return found
