"""Deliberate bugs of erasing: the simulator must catch every one."""

from typing import Any

from perdure.replication.gossip import Gossip

from tests.regions.memory_storage import MemoryStorage
from tests.simulation.mutation import registry

MUTANTS, mutant = registry()


@mutant(MemoryStorage, "erase")
async def the_word_is_given_without_the_deed(self: Any, subjects: Any) -> bool:
    """The logs stay as they are, and it is said to be done."""
    return True


@mutant(Gossip, "deleting")
def the_word_is_never_given(self: Any) -> None:
    """What waits is never looked at, for nothing seems to be deleted."""
