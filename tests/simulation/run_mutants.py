"""Deliberate bugs of runs: the simulator must catch every one."""

from typing import Any

from perdure.regions import node, runs
from perdure.replication import runs as run_rules
from perdure.replication.turn import Turn

from tests.simulation.mutation import registry

MUTANTS, mutant = registry()


@mutant(runs.RunDesk, "lease_s")
def leases_keep_nobody_away(self: Any, message: Any) -> int:
    """Whoever asks is given the run, whoever is at work."""
    return 0


_check = runs.RunDesk.check


@mutant(runs.RunDesk, "check")
def lapsed_for_who_cannot_see(self: Any, session: Any, id_: str) -> None:
    """A region that cannot see a lease writes down, for all, that it is over."""
    _check(self, session, id_)
    message = session.visible(id_) if not session.deleted else None
    key = None if message is None else self.key_of(message)
    if key is not None and self._sight(message) is run_rules.Sight.UNSEEN:
        self._presence.lapsed[key] = None


@mutant(runs.RunDesk, "_sight")
def silence_is_work(self: Any, message: Any) -> run_rules.Sight:
    """An agent that is not seen is taken to be at work for ever."""
    return run_rules.Sight.SEEN


@mutant(run_rules, "admit_input")
def inputs_are_dropped(session: Any, id_: str, message: str, hlc: int) -> list[Any]:
    """A message for a run is just a message."""
    run_rules.run_of(session, id_)
    return []


_apply = Turn.apply


@mutant(Turn, "apply")
def the_last_word_heard_counts(self: Any, op: Any) -> None:
    """Of an agent's words that counts which came last, and not the greatest."""
    if hasattr(op, "state"):
        self.steps.pop(op.lane, None)
    _apply(self, op)


@mutant(node.Node, "_appended")
def appends_renew_nothing(self: Any, session: str, message: str, lane: Any) -> None:
    """A lease is over while its agent writes."""
