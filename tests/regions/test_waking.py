"""Crowds are woken in slices, and whoever else has something to do comes in between."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

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


async def test_others_have_the_loop_between_two_slices() -> None:
    """After a slice the loop is free for as long as that took, whatever that was."""
    place = Place()
    loop = asyncio.get_running_loop()
    crowd = Crowd(place.waking)
    at: list[float] = []

    async def wait() -> None:
        await crowd.wait()
        at.append(loop.time())
        if len(at) == 1:
            # Somebody who takes long: the loop stands still.
            until_s = loop.time() + 0.02
            while loop.time() < until_s:
                pass

    tasks = [asyncio.create_task(wait()) for _ in range(2 * WOKEN_AT_ONCE_MAX)]
    await turns(1)
    crowd.wake()
    await asyncio.gather(*tasks)
    first, second = at[WOKEN_AT_ONCE_MAX - 1], at[WOKEN_AT_ONCE_MAX]
    assert second - first >= 0.015
