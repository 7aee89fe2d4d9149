"""Crowds are woken in slices, and whoever else has something to do comes in between."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from perdure.regions.waking import WOKEN_AT_ONCE_MAX, Crowd, Waking


class Place:
    """Where things are noted in the order in which they happen."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.waking = Waking()

    async def crowd(self, name: str, count: int) -> Crowd:
        """So many that wait, and note their names when they are woken."""
        crowd = Crowd(self.waking)

        async def wait() -> None:
            await crowd.wait()
            self.noted.append(name)

        self.tasks = [asyncio.create_task(wait()) for _ in range(count)]
        await asyncio.sleep(0)
        return crowd


async def until(done: Callable[[], bool]) -> None:
    """Let the loop turn, and its time pass, until then."""
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_few_are_woken_at_once() -> None:
    """In the same turn: nobody is later for it."""
    place = Place()
    crowd = await place.crowd("few", WOKEN_AT_ONCE_MAX)
    crowd.wake()
    await turns(1)
    assert len(place.noted) == WOKEN_AT_ONCE_MAX


async def test_a_crowd_is_woken_in_slices() -> None:
    """No turn of the loop wakes more than a slice, and all are woken in the end."""
    place = Place()
    crowd = await place.crowd("many", 10 * WOKEN_AT_ONCE_MAX + 3)
    crowd.wake()
    seen = [0]
    while len(place.noted) < 10 * WOKEN_AT_ONCE_MAX + 3:
        await turns(1)
        seen.append(len(place.noted))
    assert max(b - a for a, b in pairwise(seen)) <= WOKEN_AT_ONCE_MAX


async def test_a_few_do_not_wait_for_a_crowd() -> None:
    """While a crowd is being woken, the readers of another session are at once."""
    place = Place()
    many, few = await place.crowd("many", 2_000), await place.crowd("few", 3)
    many.wake()
    await turns(3)
    few.wake()
    await turns(1)
    assert place.noted.count("few") == 3
    assert place.noted.count("many") <= 4 * WOKEN_AT_ONCE_MAX


async def test_crowds_take_turns() -> None:
    """The smaller one is through long before the larger one."""
    place = Place()
    large, small = await place.crowd("large", 2_000), await place.crowd("small", 100)
    large.wake()
    small.wake()
    await until(lambda: place.noted.count("small") == 100)
    assert place.noted.count("large") < 300
    await until(lambda: place.noted.count("large") == 2_000)


async def test_who_waits_again_is_woken_again() -> None:
    """Somebody who was woken and waits anew goes behind those who have not been yet, and is not
    forgotten."""
    waking = Waking()
    crowd = Crowd(waking)
    woken = [0] * 100

    async def follow(number: int) -> None:
        for _ in range(3):
            await crowd.wait()
            woken[number] += 1

    tasks = [asyncio.create_task(follow(number)) for number in range(100)]
    await turns(1)
    for round_ in (1, 2, 3):
        crowd.wake()
        await until(lambda wanted=round_: min(woken) == wanted)  # type: ignore[misc]
        assert max(woken) == round_
    await asyncio.gather(*tasks)
    assert woken == [3] * 100


async def test_who_has_left_is_passed_over() -> None:
    """Its place in a slice is lost, and nothing else."""
    place = Place()
    crowd = await place.crowd("many", 100)
    for task in place.tasks[:50]:
        task.cancel()
    crowd.wake()
    await until(lambda: len(place.noted) == 50)
    assert all(task.done() for task in place.tasks)


async def test_the_patient_are_never_woken_at_once() -> None:
    """Ten thousand crowds of one are as many as one crowd of ten thousand."""
    place = Place()
    crowds = [await place.crowd("idle", 1) for _ in range(200)]
    for crowd in crowds:
        crowd.wake(patient=True)
    await turns(2)
    assert len(place.noted) <= 2 * WOKEN_AT_ONCE_MAX
    await until(lambda: len(place.noted) == 200)


class Measured:
    """The loop's time, which passes as the test says, and by a little with each look at it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1_000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", self.time)

    def time(self) -> float:
        self.now_s += 0.000_005
        return self.now_s


async def slices(place: Place, measured: Measured, took_s: float) -> list[float]:
    """When each reader of three slices looked; each of them takes so long."""
    crowd, at = Crowd(place.waking), list[float]()

    async def wait() -> None:
        await crowd.wait()
        at.append(measured.now_s)
        measured.now_s += took_s

    tasks = [asyncio.create_task(wait()) for _ in range(3 * WOKEN_AT_ONCE_MAX)]
    await turns(1)
    crowd.wake()
    await asyncio.gather(*tasks)
    return at


async def test_others_have_the_loop_between_two_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as the slice took, where they want it; not longer, and no turn in which they do
    nothing."""
    place, measured = Place(), Measured(monkeypatch)

    async def other() -> None:
        while True:
            measured.now_s += 0.000_2
            await asyncio.sleep(0)

    busy = asyncio.create_task(other())
    at = await slices(place, measured, 0.000_1)
    took_s = WOKEN_AT_ONCE_MAX * 0.000_1
    for k in (1, 2):
        between_s = at[k * WOKEN_AT_ONCE_MAX] - at[k * WOKEN_AT_ONCE_MAX - 1]
        assert took_s < between_s < 2 * took_s
    busy.cancel()
    before_s = measured.now_s
    at = await slices(place, measured, 0.000_1)
    assert measured.now_s - before_s < 3.5 * took_s


async def test_a_commit_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread needs the interpreter: while somebody waits for the disk the loop sleeps between
    two slices, though nobody else wants it."""
    place, measured = Place(), Measured(monkeypatch)
    place.waking.is_disk_at_work = lambda: True
    later: list[float] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def note(delay: float, *rest: Any) -> asyncio.TimerHandle:
        later.append(delay)
        measured.now_s += delay
        return call_later(0, *rest)

    monkeypatch.setattr(loop, "call_later", note)
    await slices(place, measured, 0.000_1)
    assert len(later) == 2 and min(later) >= WOKEN_AT_ONCE_MAX * 0.000_1
