"""One turn of an agent: a run that it has won, the writer of its message, and its lease.

The lease is renewed in the background for as long as the turn is held. What a region says of the
run, as an answer or by the feed, comes together here: whoever waits for the turn hears of it.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from perdure_client.errors import Deleted, NotFound, PerdureError, Unavailable, error_of
from perdure_client.ids import given
from perdure_client.pipes import Format
from perdure_client.reducer import is_over
from perdure_client.regions import Regions
from perdure_client.session import Session
from perdure_client.standing import standing
from perdure_client.vendor_parts import End
from perdure_client.writer import Writer

# So long a turn waits for the message that it answers, where only another region has it so far.
INPUT_WAIT_S = 10.0
INPUT_AGAIN_S = 0.2


class Turn:
    """A run that this worker holds. ``pipe`` a model's stream, or ``write`` with its ``writer``; in
    ``async with`` the message is complete at the end of the block, and failed when that raises.

    ``session`` and ``run`` are where and what it is; ``inputs`` the messages that were addressed to
    it so far, anew in each attempt, so who acts on one outside of the session takes the run's id
    and ``attempt`` as the key; ``text`` and ``parts`` what the message shows already, which is
    continued.

    ``is_over``: it is held no more; ``error``: what took it away, if something did.

    Everything raises ``Cancelled`` once the run was cancelled, and ``Fenced`` once another worker
    has taken it over.
    """

    def __init__(
        self,
        regions: Regions,
        session: Session,
        claimed: dict[str, Any],
        writer: Writer,
        lease_s: float,
    ) -> None:
        self.session = session
        self.run: dict[str, Any] = claimed["run"]
        self.inputs: list[dict[str, Any]] = claimed["inputs"]
        self.attempt = int(self.run["attempt"])
        self.writer = writer
        self._regions = regions
        self._region = writer.region
        self._header = claimed["header"]
        self._messages = f"/v1/sessions/{session.id}/messages"
        self._path = f"/v1/sessions/{session.id}/runs/{writer.message}"
        self._lease_s = lease_s
        # Ids of inputs, in the order in which they came to be known.
        self._inputs: dict[str, None] = {}
        self._words: list[dict[str, Any]] = []
        self._speaking = asyncio.Lock()
        self.error: Exception | None = None
        self.is_over = False
        self._changed = asyncio.Event()
        self._renew = asyncio.Event()
        self._leasing = asyncio.create_task(self._keep(), name=f"perdure-lease-{writer.message}")

    @property
    def id(self) -> str:
        """The run's id, which is its message's."""
        return self.writer.message

    @property
    def text(self) -> str:
        """What the message showed when it was claimed."""
        return self.writer.text

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The parts that the message showed when it was claimed."""
        return self.writer.parts

    # For the agent

    async def history(self, limit: int = 100) -> list[dict[str, Any]]:
        """The conversation that is to be answered, oldest first, as a model is told it: of the
        ``limit`` messages before this one those that still stand (:func:`standing`), and what the
        run answers.

        Waits for the message that the run answers, where the region has not heard of it yet;
        raises ``NotFound`` when it does not come.
        """
        asked = await self._asked()
        own = await self.session.message(self.id)
        page = await self.session.messages(before=own["serial"], limit=limit)
        messages = [*page["messages"], own]
        begins = await self._begins(messages) if page["more"] else 0
        stand = standing(messages[begins:])[:-1]
        if asked is not None and asked["serial"] > own["serial"]:
            # Of a region whose clock is ahead of that of the one that was asked for the run.
            stand = standing([*stand, asked])
        return stand

    async def _begins(self, messages: list[dict[str, Any]]) -> int:
        """Where what stands begins: what replaces an older message than these leaves out all that
        is before it here."""
        ids = {message["id"] for message in messages}
        for at in reversed(range(len(messages))):
            replaced = messages[at].get("replaces")
            if replaced is None or replaced in ids:
                continue
            try:
                there = await self.session.message(replaced)
            except (NotFound, Deleted):
                continue
            if there["serial"] < messages[0]["serial"]:
                return at
        return 0

    async def _asked(self) -> dict[str, Any] | None:
        """What the run answers. Somebody may have sent it to one region, and asked another one for
        the run."""
        waited_s = 0.0
        while self.run["input"] is not None:
            try:
                return await self.session.message(self.run["input"])
            except Deleted:
                # Nothing is answered then; where it is the session, who asks on is told.
                return None
            except NotFound:
                if waited_s >= INPUT_WAIT_S:
                    raise
            await self._regions.sleep(INPUT_AGAIN_S)
            waited_s += INPUT_AGAIN_S
        return None

    async def pipe(self, stream: Any, format: Format | None = None) -> End:
        """Write a model's whole answer, end the run, and wait until all of it is in two regions;
        how it ended. ``stream`` and ``format`` are as of :meth:`Writer.pipe`.

        The stream is closed at the end, also when the run was cancelled or taken over. What it
        raises ends the run as ``failed`` and is raised.
        """
        try:
            status = await self.writer.pipe(stream, format)
            await self.writer.stable()
            return status
        finally:
            await self.aclose()

    async def end(self, status: End = "complete") -> None:
        """End the run, and wait until that is in two regions."""
        try:
            await self.writer.end(status)
            await self.writer.stable()
        finally:
            await self.aclose()

    async def suspend(self, detail: Any = None) -> None:
        """Say that this waits for a person or a tool; ``detail``, of 4 KiB at most, says for what.
        It is held on: others leave it alone."""
        await self._say("suspended", detail)

    async def resume(self, detail: Any = None) -> None:
        """Say that this goes on after ``suspend``."""
        await self._say("running", detail)

    async def new_inputs(self) -> AsyncGenerator[dict[str, Any], None]:
        """Each message that is addressed to the run from now on, as it comes, until the run is
        over. Those that were before are ``inputs``."""
        seen = {message["id"] for message in self.inputs}
        while True:
            for id_ in [id_ for id_ in self._inputs if id_ not in seen]:
                seen.add(id_)
                message = await self._input(id_)
                if message is not None:
                    yield message
            if self.is_over:
                self._check()
                return
            if not self._inputs.keys() - seen:
                await self._change()

    async def stopped(self) -> None:
        """Until the run was cancelled or taken over, or is held no more."""
        while not self.is_over:
            await self._change()

    async def aclose(self) -> None:
        """Let go of it, without an end: when its lease is over, another may claim it. Never
        raises."""
        self._leasing.cancel()
        await asyncio.gather(self._leasing, return_exceptions=True)
        await self.writer.aclose()
        self._finish(None)

    async def __aenter__(self) -> "Turn":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """As of a writer's block."""
        try:
            await self.writer.__aexit__(kind, *rest)
        finally:
            await self.aclose()

    # What is known of the run

    def heard(self, run: dict[str, Any]) -> None:
        """A region tells of the run as it knows it, which may be less than is known here."""
        before = len(self._inputs)
        self._inputs |= dict.fromkeys(run.get("inputs", ()))
        if run["status"] == "cancelled" and not self.writer.has_end:
            detail = "the run was cancelled"
            problem = {"code": "cancelled", "status": 403, "detail": detail}
            self._finish(error_of(problem))
        elif run["epoch"] != self.writer.epoch or is_over(run):
            # Whether that is newer than this turn, only a region can tell.
            self._renew.set()
        else:
            self.run = run
            if run["status"] == "interrupted":
                # This worker was only slow.
                self._renew.set()
        if len(self._inputs) > before:
            self._changed.set()

    def _finish(self, error: Exception | None) -> None:
        """It is over. What stopped it first stands."""
        if error is not None and not self.is_over:
            self.error = error
            self.writer.stop(error)
        self.is_over = True
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    async def _input(self, id_: str) -> dict[str, Any] | None:
        """The message; None for one that was deleted, or when the run is over first."""
        pause = self._regions.pause()
        while not self.is_over:
            try:
                return await self.session.message(id_)
            except Deleted:
                return None
            except NotFound:
                # The region that answers has not been told of it yet.
                await self._regions.sleep(pause.next_s())
        return None

    # What is said of it

    async def _keep(self) -> None:
        """Renew the lease, in time to try it at another region, until the run is over."""
        body = {"producer": self.writer.producer, "epoch": self.writer.epoch}
        try:
            while not self.is_over:
                await self._regions.wait(self._renew, self._lease_s / 3)
                # An agent that was only slow goes on.
                with contextlib.suppress(Unavailable):
                    self.heard(await self._ask("lease", body))
                    if self.run["status"] == "interrupted":
                        # That its lease was over is noted; a word takes that back.
                        await self._say("running", self.run.get("detail"))
        except Exception as error:
            # Whatever it is: nobody renews the lease any more, and who holds the turn must hear it.
            # Where it has been ended here, the end is what there is to wait for.
            self._finish(None if self.writer.has_end else error)

    async def _say(self, state: str, detail: Any) -> None:
        async with self._speaking:
            self._check()
            self._words.append(given(state=state, detail=detail))
            number = len(self._words)
            try:
                while number <= len(self._words):
                    number = await self._said(number)
            except PerdureError as error:
                if error.code in ("fenced", "cancelled", "ended", "deleted"):
                    self._finish(error)
                elif not isinstance(error, Unavailable):
                    # It was refused, and nothing counts as said.
                    self._words.pop()
                raise

    async def _said(self, number: int) -> int:
        """Say one word; the number of the next. A region that lacks earlier ones is told them."""
        body = {"producer": self.writer.producer, "epoch": self.writer.epoch, "n": number}
        try:
            self.heard(await self._ask("state", body | self._words[number - 1]))
        except PerdureError as error:
            expected = error.problem.get("expected")
            if error.code != "gap" or not isinstance(expected, int) or not 0 < expected < number:
                raise
            return expected
        return number + 1

    async def _ask(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        """One request under this epoch, at the region that was asked last or elsewhere."""
        pause = self._regions.pause()
        deadline = self._regions.now() + self._regions.give_up_s
        while (answer := await self._ask_at(self._region, what, body)) is None:
            self._region = await self._regions.turn(self._region, pause.next_s(), deadline)
        return answer

    async def _ask_at(self, url: str, what: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """At one region, which is told of the epoch where it does not know it; None: elsewhere."""
        path = f"{self._path}/{what}"
        try:
            return await self._told(url, path, body)
        except PerdureError as error:
            if error.code not in ("unknown_epoch", "not_found"):
                raise
        header = {"header": self._header}
        if await self._told(url, self._messages, header) is None:
            return None
        return await self._told(url, path, body)

    async def _told(self, url: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        answer: dict[str, Any] | None = await self._regions.once(url, "POST", path, body)
        return answer
