"""A slice of the rounds on real processes, and the proxy between them."""

import asyncio
import contextlib
from copy import deepcopy
from pathlib import Path

import pytest

from tests.chaos.namespaces import Namespaces, NoNamespaces
from tests.chaos.proxy import Proxy, Way
from tests.chaos.regions import NAMES
from tests.chaos.rounds import Outcome, Told, campaign
from tests.simulation.checkers import judge

# `make chaos` runs more.
SLICE = range(2)
# A region is cut off from the others in this one.
IN_NAMESPACES = range(531, 532)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """Some rounds."""
    return asyncio.run(campaign(tmp_path_factory.mktemp("chaos"), SLICE, Told()))


def test_regions_survive_what_happens_to_processes(outcomes: list[Outcome]) -> None:
    """Killed in the middle of what is written, and more; nothing is lost, twice, or out of order,
    and readers go on at other regions."""
    for outcome in outcomes:
        assert not outcome.breaches, f"round {outcome.seed}: " + "\n".join(outcome.breaches)
    counts = [outcome.history.counts for outcome in outcomes]
    assert all(count["fault.kill"] for count in counts)
    assert sum(count["resumes_elsewhere"] for count in counts) >= 10


@pytest.mark.failure("N1", "N2")
def test_regions_in_namespaces(tmp_path: Path) -> None:
    """Where links lose packets, and nobody is told that they do."""
    namespaces = Namespaces(NAMES)
    try:
        namespaces.make()
    except NoNamespaces as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    try:
        outcomes = asyncio.run(campaign(tmp_path, IN_NAMESPACES, Told(), namespaces=namespaces))
    finally:
        namespaces.remove()
    for outcome in outcomes:
        assert not outcome.breaches, f"round {outcome.seed}: " + "\n".join(outcome.breaches)


def test_a_lost_token_would_be_seen(outcomes: list[Outcome]) -> None:
    """The records of a round, with one token taken from what is shown: the checkers refuse them."""
    history = deepcopy(outcomes[0].history)
    message = next(i for i, seen in history.final["us"].items() if "-m" in i and seen.text)
    seen = history.final["us"][message]
    for views in (*history.final.values(), *history.final_readers.values()):
        if message in views:
            views[message] = seen._replace(text=seen.text[seen.text.index(";") + 1 :])
    assert judge(history)


async def echo() -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(100):
            writer.write(chunk)
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


async def test_the_proxy_passes_holds_up_and_cuts() -> None:
    """What is held up arrives once the way is open; a cut breaks the connection, and takes none."""
    server = await echo()
    proxy = Proxy(server.sockets[0].getsockname()[1])
    await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"one")
    assert await reader.read(3) == b"one"
    proxy.set(Way.HOLE)
    writer.write(b"two")
    coming = asyncio.ensure_future(reader.read(3))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not coming.done()
    proxy.set(Way.OPEN)
    assert await coming == b"two"
    proxy.set(Way.CUT)
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read(1) == b""
    writer.close()
    await proxy.stop()
    server.close()
    await server.wait_closed()
