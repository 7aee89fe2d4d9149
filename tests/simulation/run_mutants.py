"""Deliberate bugs of runs: the simulator must catch every one."""

from typing import Any

from perdure.regions import node, runs
from perdure.replication import runs as run_rules

from tests.simulation.mutation import registry

MUTANTS, mutant = registry()


@mutant(runs.RunDesk, "lease_s")
def leases_keep_nobody_away(self: Any, message: Any) -> int:
    """Whoever asks is given the run, whoever is at work."""
    return 0


@mutant(runs.RunDesk, "_sight")
def silence_is_work(self: Any, message: Any) -> run_rules.Sight:
    """An agent that is not seen is taken to be at work for ever."""
    return run_rules.Sight.SEEN


@mutant(run_rules, "admit_input")
def inputs_are_dropped(session: Any, id_: str, message: str, hlc: int) -> list[Any]:
    """A message for a run is just a message."""
    run_rules.run_of(session, id_)
    return []


@mutant(node.Node, "_appended")
def appends_renew_nothing(self: Any, session: str, message: str, lane: Any) -> None:
    """A lease is over while its agent writes."""
