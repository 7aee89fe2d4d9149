"""The simulated clock, network and processes do what the simulation says of them."""

import asyncio
from random import Random
from typing import Any
from unittest import mock

import pytest

from tests.simulation.loop import PROCESS, Stuck, VirtualLoop, run
from tests.simulation.network import CLOSED, Network, connect
from tests.simulation.world import World


class Dummy:
    """What a step may belong to."""

    def __init__(self) -> None:
        self.paused = self.dead = False
        self.parked: list[asyncio.Handle] = []


def test_time_jumps_to_what_is_due() -> None:
    """A day passes at once, and exactly."""

    async def main(loop: VirtualLoop) -> float:
        await asyncio.sleep(86_400)
        return loop.time()

    assert run(main) == pytest.approx(86_400)


def test_nothing_due_is_found_out() -> None:
    """A simulation that waits for nothing says so instead of hanging."""

    async def main(loop: VirtualLoop) -> None:
        await loop.create_future()

    with pytest.raises(Stuck):
        run(main)


def test_a_paused_process_stands_still_and_goes_on() -> None:
    """Its timers pass, and what was due happens when it is resumed, in order."""
    seen: list[tuple[str, float]] = []

    async def main(loop: VirtualLoop) -> None:
        process = Dummy()
        token = PROCESS.set(process)

        async def tick() -> None:
            for number in range(3):
                await asyncio.sleep(1)
                seen.append((str(number), loop.time()))

        task = loop.create_task(tick())
        PROCESS.reset(token)
        await asyncio.sleep(1.5)
        process.paused = True
        await asyncio.sleep(10)
        assert len(seen) == 1
        loop.resume(process)
        await task

    run(main)
    assert [at for _, at in seen] == pytest.approx([1.0, 11.5, 12.5])


def test_a_dead_process_does_nothing_more() -> None:
    """No step of it runs, though it is due."""

    async def main(loop: VirtualLoop) -> bool:
        process = Dummy()
        token = PROCESS.set(process)
        task = loop.create_task(asyncio.sleep(1))
        PROCESS.reset(token)
        await asyncio.sleep(0.5)
        process.dead = True
        await asyncio.sleep(5)
        done = task.done()
        process.dead = False
        return done

    assert run(main) is False


async def _received(socket: Any, count: int) -> list[Any]:
    return [(await socket.receive()).data for _ in range(count)]


def test_a_connection_keeps_its_order_also_over_a_cut() -> None:
    """What was on its way when the path was cut arrives after the heal, once and in order."""

    async def main(loop: VirtualLoop) -> None:
        network = Network(Random(1))
        near, far = connect(network, "eu", "us")
        network.path("eu", "us").jitter_s = 0.5
        for number in range(20):
            await near.send_bytes(bytes([number]))
            await asyncio.sleep(0.05)
            if number == 10:
                network.cut("eu", "us")
        await asyncio.sleep(5)
        network.heal("eu", "us")
        assert await _received(far, 20) == [bytes([n]) for n in range(20)]

    run(main)


def test_a_cut_path_hides_also_the_end() -> None:
    """The other end of a connection that was closed behind a cut is half open until the heal."""

    async def main(loop: VirtualLoop) -> None:
        network = Network(Random(1))
        near, far = connect(network, "eu", "us")
        network.cut("eu", "us")
        near.abort()
        await asyncio.sleep(60)
        assert not far.closed
        network.heal("eu", "us")
        assert await far.receive() is CLOSED

    run(main)


def test_a_spoiled_path_loses_and_repeats() -> None:
    """Frames of links are lost, doubled and swapped; a client's connection just breaks."""

    async def main(loop: VirtualLoop) -> None:
        network = Network(Random(1))
        network.path("eu", "us").spoil = 0.3
        near, far = connect(network, "eu", "us")
        for number in range(50):
            await near.send_bytes(bytes([number]))
        await asyncio.sleep(1)
        near.abort()
        got = []
        while (message := await far.receive()) is not CLOSED:
            got.append(message.data[0])
        assert set(range(50)) - set(got)
        assert len(got) > len(set(got))
        assert got != sorted(got)
        network.path("c", "us").spoil = 1.0
        client, server = connect(network, "c", "us", breaks=True)
        await client.send_bytes(b"x")
        assert await server.receive() is CLOSED

    run(main)


def test_a_path_is_as_quick_as_it_was_when_faults_that_overlap_are_over() -> None:
    """Whichever began first: neither takes what the other made of the path for its usual state."""

    async def main(loop: VirtualLoop) -> None:
        world = World(1, loop)
        path = world.network.path("eu", "us")
        with mock.patch.object(world.faults, "_pair", return_value=("eu", "us")):
            tasks = [loop.create_task(world.faults.far()) for _ in range(2)]
            await asyncio.sleep(0.05)
        assert world.network.delay_s(path) >= 0.3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert world.network.delay_s(path) <= path.delay_s + path.jitter_s < 0.01

    run(main)
