"""Requests that arrive at once come in turns."""

import asyncio

import pytest
from perdure.api import gate as gates
from perdure.api.gate import LET_IN_AT_ONCE_MAX, Gate
from perdure.replication.errors import Refusal


async def test_a_few_come_in_without_waiting():
    """No turn of the loop passes for them."""
    gate = Gate()
    for _ in range(LET_IN_AT_ONCE_MAX):
        entering = gate.enter("a")
        with pytest.raises(StopIteration):
            entering.send(None)


async def test_a_crowd_of_one_caller_does_not_stand_before_another():
    """Who comes last, and is somebody else, is among the next few; the crowd keeps its order."""
    gate = Gate()
    entered: list[str] = []

    async def request(by: str, name: str) -> None:
        await gate.enter(by)
        entered.append(name)

    tasks = [asyncio.create_task(request("busy", f"b{n}")) for n in range(200)]
    tasks.append(asyncio.create_task(request("quiet", "q")))
    await asyncio.gather(*tasks)
    assert entered.index("q") <= 2 * LET_IN_AT_ONCE_MAX
    assert [name for name in entered if name != "q"] == [f"b{n}" for n in range(200)]


async def test_no_turn_lets_in_more_than_a_few():
    """And all get in."""
    gate = Gate()
    entered = 0

    async def request() -> None:
        nonlocal entered
        await gate.enter("a")
        entered += 1

    tasks = [asyncio.create_task(request()) for _ in range(100)]
    before = 0
    while before < 100:
        await asyncio.sleep(0)
        assert entered - before <= LET_IN_AT_ONCE_MAX
        before = entered
    await asyncio.gather(*tasks)


async def test_who_leaves_while_it_waits_takes_no_turn():
    """Its place is given to the next."""
    gate = Gate()
    tasks = [asyncio.create_task(gate.enter("a")) for _ in range(50)]
    await asyncio.sleep(0)
    for task in tasks[10:40]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(task.cancelled() for task in tasks) == 30
    assert gate._waiting == 0 and not gate._rows


async def test_those_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch):
    """One more is refused, with when to come back, and the others are not touched."""
    monkeypatch.setattr(gates, "REQUESTS_WAITING_MAX", 3)
    gate = Gate()
    tasks = [asyncio.create_task(gate.enter("a")) for _ in range(LET_IN_AT_ONCE_MAX + 4)]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None)] * (LET_IN_AT_ONCE_MAX + 3) + [
        Refusal
    ]
