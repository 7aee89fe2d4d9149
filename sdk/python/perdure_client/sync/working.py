"""Blocking handlers of an agent's turns, each in a thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from perdure_client.agents import Agent
from perdure_client.turns import Turn


async def working(
    agent: Agent,
    handler: Callable[[Turn], object],
    concurrency: int,
    on_error: Callable[[Turn, Exception], object] | None,
) -> None:
    """As ``Agent.work``, with a handler that blocks."""
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(concurrency, "perdure-turn")

    async def carry_out(turn: Turn) -> None:
        done = loop.run_in_executor(threads, handler, turn)
        # Looked at in any case: when the client is closed nobody waits for it.
        done.add_done_callback(lambda it: None if it.cancelled() else it.exception())
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            # A thread cannot be stopped: it hears of it when it next does something with the turn.
            await turn.aclose()
            await asyncio.gather(done, return_exceptions=True)
            raise

    try:
        await agent.work(carry_out, concurrency=concurrency, on_error=on_error)
    finally:
        threads.shutdown(wait=False)
