"""The scripted agent of ``perdure demo chat``: a worker like any other, whose model is a list of
answers that it speaks at the pace of a person who reads aloud."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any
from zlib import crc32

from perdure_client import Client, Turn
from perdure_client.errors import NotFound

AGENT = "bot"
DRAFT = "draft"
WORDS_PER_S = 9.0
LEASE_S = 5
_WORD = re.compile(r"\s*\S+|\s+\Z")

_ANSWERS = (
    (
        r"\b(draft|note|write)",
        "I have put a line at the end of the draft. You can type there at the same time, and so can"
        " whoever reads this in the other window: what both of you write is merged, letter by"
        " letter, and nobody has to wait for anybody. Try it in the same sentence.",
    ),
    (
        r"\b(story|long|tell)",
        "A letter was to go from one end of a country to the other, and the road was bad. So its"
        " writer did not give it to one rider. She read it aloud, word by word, in a room with"
        " three clerks, and each of them wrote down what he heard under the number of the word."
        "\n\nIn the middle of the seventh line the first clerk was called away, and never came"
        " back. Nobody noticed. She went on reading. Where the second clerk had missed a word, the"
        " third one had it, and because every word had its number, nobody wrote one twice."
        "\n\nWhen the letter was done there were two copies of it, and they were equal to the last"
        " comma. The first clerk came back in the evening, sat down, and asked which number he had"
        " missed. By supper there were three.",
    ),
    (
        r"\b(stop|cancel)",
        "Then press Stop, in any window: I hear it in every region, at once, and what I have said"
        " until then stays where it is. I go on talking until you do: one, two, three, four, five,"
        " six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen, sixteen,"
        " seventeen, eighteen, nineteen, twenty. You are patient.",
    ),
    (
        r"\b(kill|die|dead|region|fail)",
        "Kill the region that you read from while I say this. Your window goes on at another one,"
        " behind the word that it has; so do I, if the region was mine as well. Every word is named"
        " by who said it and by its place, so it does not matter to whom I say it, or how often. If"
        " you see a word twice, or miss one, then that is a bug.",
    ),
    (
        r"\b(hello|hi|hey|help)\b",
        "Hello. I am a short list of answers that pretends to be a model. Ask me for a story, or to"
        " add something to the draft; press Stop while I speak; or kill the region that you read"
        " from, and see what happens to this sentence.",
    ),
    (
        r"",
        "I have read that, in all regions at once. What you see here comes word by word, and each"
        " word is on two disks before I forget it. Open another window at another region: it shows"
        " the same, in the same order. You can also ask me for a story, or for a line in the"
        " draft.",
    ),
)
_LINES = (
    "Whatever is typed here is typed in every region.",
    "A sentence may have two authors.",
    "Nobody holds the pen, so nobody can drop it.",
    "What is merged needs no referee.",
)


def answer_to(asked: str) -> str:
    """What the agent says to this; the same each time, so that another attempt goes on in it."""
    found = (text for words, text in _ANSWERS if re.search(words, asked, re.IGNORECASE))
    return next(found)


def wants_line(asked: str) -> bool:
    """Whether the agent is asked to write into the draft."""
    return bool(re.search(_ANSWERS[0][0], asked, re.IGNORECASE))


class ScriptedAgent:
    """One worker; it goes from region to region as its client does. ``say`` is told what it does,
    for a person who watches."""

    def __init__(
        self, client: Client, say: Callable[[str], None], words_per_s: float = WORDS_PER_S
    ) -> None:
        self._client = client
        self._say = say
        self._pace_s = 1 / words_per_s

    async def work(self, session: str) -> None:
        """Answer every run that is asked of it, and be present in the session meanwhile; for
        ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._be_present(session))
            agent = self._client.agent(AGENT, lease_s=LEASE_S)
            group.create_task(agent.work(self._answer, on_error=self._failed))

    async def _be_present(self, session: str) -> None:
        events = self._client.session(session).events(presence=AGENT, presence_data={"name": AGENT})
        async with aclosing(events):
            async for _ in events:
                pass

    async def _answer(self, turn: Turn) -> None:
        asked = await self._asked(turn)
        if wants_line(asked):
            await self._add_line(turn)
        text = answer_to(asked)
        if not text.startswith(turn.text):
            raise ValueError(f"run {turn.id} shows what this agent never said")
        self._say(f"{AGENT}: answers in session {turn.session.id}" + " again" * bool(turn.text))
        moves, status = turn.writer.moves, "stopped"
        try:
            status = await turn.pipe(self._spoken(text[len(turn.text) :]))
        finally:
            moved = ", went to another region meanwhile" * (turn.writer.moves > moves)
            self._say(f"{AGENT}: {status}{moved}")

    def _failed(self, turn: Turn, error: Exception) -> None:
        self._say(f"{AGENT}: could not answer in session {turn.session.id}: {error}")

    async def _asked(self, turn: Turn) -> str:
        if turn.run["input"] is None:
            return ""
        try:
            message: dict[str, Any] = await turn.session.message(turn.run["input"])
        except NotFound:
            # The region that answers has the run and not yet what it is about.
            return ""
        return str(message["text"])

    async def _spoken(self, text: str) -> AsyncGenerator[str, None]:
        for word in _WORD.findall(text):
            yield word
            await asyncio.sleep(self._pace_s)

    async def _add_line(self, turn: Turn) -> None:
        """Once for each run: another attempt finds it there."""
        line = f"{AGENT}, {turn.id[:6]}: {_LINES[crc32(turn.id.encode()) % len(_LINES)]}"
        path = f"/v1/sessions/{turn.session.id}/documents/{DRAFT}"
        try:
            document, _ = await self._client.regions.request("GET", path)
            text = str(document["text"])
        except NotFound:
            text = ""
        if line not in text:
            new_line = "\n" * bool(text and not text.endswith("\n"))
            await self._client.regions.request(
                "POST",
                f"{path}/append",
                {"text": f"{new_line}{line}\n"},
                {"Idempotency-Key": f"line-{turn.id}"[:128]},
            )
