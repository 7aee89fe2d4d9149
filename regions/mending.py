"""Sessions of which something stored was found damaged: what is intact is kept, and the peers are
asked for the rest."""

import logging

from perdure.regions.checkpoint import Checkpoint
from perdure.regions.fanout import Fanout
from perdure.regions.ports import Storage
from perdure.regions.repair import Repair
from perdure.regions.state import State

log = logging.getLogger("perdure")

# How often in a second a damaged session that is being written to is stored, to be built anew.
MEND_SAVES_MAX = 20


async def mend(
    state: State, storage: Storage, checkpoint: Checkpoint, fanout: Fanout, repair: Repair
) -> None:
    """Fetch them from a peer. Raises ``StorageFull`` and ``StorageFailed``."""
    state.damaged |= storage.take_damaged()
    for id_ in sorted(state.damaged):
        state.retain(id_)
        # What is written to it meanwhile must be stored as well before it is built anew; where
        # that goes on and on, the next second tries again.
        for _ in range(MEND_SAVES_MAX):
            if state.is_stored(id_):
                break
            await checkpoint.session(id_)
        if state.is_stored(id_):
            text = "session %s was found damaged; the peers are asked for it"
            log.error(text, id_, extra={"session": id_})
            fanout.send_away(id_)
            state.rebuild(id_)
            state.damaged.discard(id_)
            repair.want(id_)
