"""What gives a writer: awaited, or as a block at whose end the message is complete."""

from collections.abc import Callable, Coroutine, Generator
from typing import Any

from perdure_client.writer import Writer


class Opening:
    """``await`` it for a writer, or use it in ``async with``: complete at the end of the block.
    ``made`` gives the same writer to who cannot await this."""

    def __init__(self, made: Callable[[], Coroutine[Any, Any, Writer]]) -> None:
        self.made = made
        self._writer: Writer | None = None

    def __await__(self) -> Generator[Any, None, Writer]:
        return self.made().__await__()

    async def __aenter__(self) -> Writer:
        self._writer = await self
        return await self._writer.__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        assert self._writer is not None
        await self._writer.__aexit__(kind, *rest)
