"""The checks of presence pass a good history and reject broken ones."""

from collections.abc import Callable

from tests.simulation.history import Act, Announced, Disturbed, History, Met
from tests.simulation.presence_checks import ghosts, gone, missing, settled, stays_of, sure_times

ANA, BEN = "s0-p0", "s0-p1"


def acts(who: str, *told: tuple[float, str, str]) -> list[Act]:
    return [Act(at_s, "s0", who, what, region) for at_s, what, region in told]


def met(at_s: float, *names: str, region: str = "us") -> Met:
    return Met(at_s - 0.01, at_s, "s0", region, f"{region}/1", frozenset(names))


def good() -> History:
    """Ana comes, moves to another region, leaves; Ben has a lease that he lets go."""
    history = History(["eu", "us"], ["s0"])
    history.acts = [
        *acts(ANA, (10, "comes", "eu"), (10.1, "here", "eu"), (20, "drops", "eu")),
        *acts(ANA, (22, "comes", "us"), (22.1, "here", "us"), (40, "drops", "us")),
        *acts(ANA, (40.1, "leaves", ""), (40.2, "left", "us")),
        *acts(BEN, (10, "comes", "eu"), (10.1, "put", "eu")),
        *acts(BEN, (14, "comes", "eu"), (14.1, "put", "eu")),
    ]
    history.met = [met(9), met(15, ANA, BEN), met(21.5, ANA), met(30, ANA), met(43.5), met(90)]
    history.announced = [
        Announced(10.2, "r", 1.0, ANA, True),
        Announced(40.4, "r", 1.0, ANA, False),
    ]
    history.final_met = [met(90), met(90, region="eu")]
    history.final_present = {"eu": 0, "us": 0}
    return history


def breaches(history: History) -> list[str]:
    checks = (missing, ghosts, gone, settled)
    return [breach for check in checks for breach in check(history)]


def test_a_good_history_passes() -> None:
    """And what the acts tell is what is taken from them."""
    assert breaches(good()) == []
    assert sure_times(stays_of(good(), ANA)) == [(10.1, 40)]
    assert sure_times(stays_of(good(), BEN)) == [(10.1, 20)]


def _missed(history: History) -> None:
    history.met[3] = met(30)


def _missed_while_moving(history: History) -> None:
    history.met[2] = met(21.5)


def _lease_missed(history: History) -> None:
    history.met.append(met(18, ANA))


def _ghost(history: History) -> None:
    history.met[-1] = met(90, BEN)


def _ghost_after_a_leave(history: History) -> None:
    history.met[4] = met(43.5, ANA)


def _announced_again(history: History) -> None:
    history.acts[:3] = []
    history.announced.append(Announced(60.0, "r", 1.0, ANA, True))
    history.announced[0] = Announced(22.2, "r", 1.0, ANA, True)


def _not_settled(history: History) -> None:
    history.final_met[1] = met(90, ANA, region="eu")


def _left_behind(history: History) -> None:
    history.final_present["eu"] = 1


def _stayed_and_gone(history: History) -> None:
    history.stay.add(BEN)


BROKEN: list[tuple[Callable[[History], None], Callable[[History], object]]] = [
    (_missed, missing),
    (_missed_while_moving, missing),
    (_lease_missed, missing),
    (_ghost, ghosts),
    (_ghost_after_a_leave, ghosts),
    (_announced_again, gone),
    (_not_settled, settled),
    (_left_behind, settled),
    (_stayed_and_gone, settled),
]


def test_what_goes_wrong_is_an_excuse_while_it_lasts() -> None:
    """Nobody is blamed while a fault, or what follows from it, may still be the cause."""
    history = good()
    _missed(history)
    _ghost(history)
    history.disturbed.append(Disturbed("eu", 20.0, 85.0, "crash"))
    assert breaches(history) == []
