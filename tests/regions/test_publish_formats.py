"""``perdure publish --format``: real answers into one region, whole at another."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from perdure.regions.cluster import Cluster, free_ports

from tests.regions.processes import COMMAND, Ended, Served, perdure, started

RECORDINGS = Path(__file__).parents[3] / "shared" / "data" / "llm-streams"
FORMATS = {"anthropic": "anthropic", "openai-chat": "openai-chat", "deepseek": "openai-chat"}
CHUNK = {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]}
LAST = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def format_of(path: Path) -> str:
    known = (kind for name, kind in FORMATS.items() if path.stem.startswith(name))
    return next(known, "openai-responses")


def spelled(path: Path) -> tuple[str, str]:
    """Text and reasoning as the recording's own deltas spell them, by the vendors' definitions."""
    text, reasoning = "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("data:") or line.endswith("[DONE]"):
            continue
        event = json.loads(line.removeprefix("data:"))
        match event.get("type"), event.get("delta"):
            case "content_block_delta", {"type": "text_delta", "text": piece}:
                text += piece
            case "content_block_delta", {"type": "thinking_delta", "thinking": piece}:
                reasoning += piece
            case "response.output_text.delta", piece:
                text += str(piece)
            case "response.reasoning_summary_text.delta", piece:
                reasoning += str(piece)
        for choice in event.get("choices", ()):
            text += choice["delta"].get("content") or ""
            reasoning += choice["delta"].get("reasoning_content") or ""
    return text, reasoning


def joined(message: dict[str, Any], kind: str) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == kind)


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"the recordings are not at {RECORDINGS}")
async def test_recorded_answers_are_whole_at_another_region(tmp_path: Path) -> None:
    """Every recording, published at one of three regions and read at the two others; then all
    regions hold the same."""
    paths = sorted(RECORDINGS.glob("*.sse"))
    assert len(paths) >= 6
    ports = free_ports(6)
    async with Cluster(tmp_path, list(zip(ports[::2], ports[1::2], strict=True))) as cluster:
        eu, *others = [region.url for region in cluster.regions.values()]
        for path in paths:
            arguments = ("publish", path.stem, "--id", "m", "--format", format_of(path))
            done = await perdure(*arguments, "--url", eu, "--json", stdin=path.read_bytes())
            assert done.code == 0, done
            found = json.loads(done.out)
            assert (found["status"], found["stable"]) == ("complete", found["accepted"])
        checked = await perdure("verify", "--url", eu, "--json")
        assert (checked.code, json.loads(checked.out)["equal"]) == (0, True), checked
        for url in others:
            for path in paths:
                served = Served(tmp_path)
                served.url = url
                message = await served.ask("GET", f"/v1/sessions/{path.stem}/messages/m")
                assert (message["text"], joined(message, "reasoning")) == spelled(path)
                assert message["status"] == "complete"
    shutil.rmtree(tmp_path, ignore_errors=True)


async def published(served: Served, raw: bytes, *more: str) -> Ended:
    arguments = ("publish", "s", "--id", "m", "--url", served.url, *more)
    return await perdure(*arguments, stdin=raw)


def sse(*events: Any) -> bytes:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()


async def test_a_stream_that_breaks_off_ends_as_failed(tmp_path: Path) -> None:
    """What came is kept; the exit code and the output say that it is not whole."""
    served = Served(tmp_path / "data")
    async with served.serve():
        done = await published(served, sse(CHUNK), "--format", "openai-chat")
        assert done.code == 1 and "not whole" in done.err
        message = await served.ask("GET", "/v1/sessions/s/messages/m")
        assert (message["text"], message["status"]) == ("Hello", "failed")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"error": {"message": "no such model"}}', "no such model"),
        (b'{"type":"error","error":{"message":"overloaded"}}', "overloaded"),
        (b'{"object":"chat.completion","choices":[{"message":{"content":"x"}}]}', "no stream"),
        (b"<html>502 Bad Gateway</html>", "no event"),
        (b"", "no event"),
        (b"data: [DONE]\n\n", "no event"),
        (b"data: {oops\n\n", "no JSON"),
        (b"data: \xff\n\n", "not UTF-8 (invalid start byte)\n"),
    ],
)
async def test_what_is_no_answer_opens_no_message(tmp_path: Path, raw: bytes, says: str) -> None:
    """A vendor's refusal, nothing, or something else: said in words, exit code 1."""
    served = Served(tmp_path / "data")
    async with served.serve():
        done = await published(served, raw, "--format", "openai-chat")
        assert done.code == 1 and says in done.err and "Traceback" not in done.err, done
        found = await served.ask("GET", "/v1/sessions")
        assert found["sessions"] == []


async def test_what_is_wrong_in_the_middle_ends_the_message_as_failed(tmp_path: Path) -> None:
    """An event that is no JSON: what came before it is kept, and the command says what it was."""
    served = Served(tmp_path / "data")
    async with served.serve():
        raw = sse(CHUNK) + b"data: {oops\n\n" + sse(CHUNK, LAST)
        done = await published(served, raw, "--format", "openai-chat")
        assert (done.code, done.out) == (1, "") and "no JSON: '{oops'" in done.err, done
        message = await served.ask("GET", "/v1/sessions/s/messages/m")
        assert (message["text"], message["status"]) == ("Hello", "failed")


async def test_a_live_stream_is_passed_on_as_it_comes(tmp_path: Path) -> None:
    """The first token is in the session before the vendor has sent the second."""
    served = Served(tmp_path / "data")
    async with served.serve():
        command = (*COMMAND, "publish", "s", "--id", "m", "--url", served.url)
        async with started(*command, "--format", "openai-chat") as publishing:
            await publishing.write(sse(CHUNK))
            following = (*COMMAND, "tail", "s", "--url", served.url, "--until-end", "--json")
            async with started(*following) as tail:
                await tail.line_with("Hello")
                await publishing.write(sse(CHUNK, LAST) + b"data: [DONE]\n\n")
                done = await publishing.end(b"")
                assert done.code == 0, done
                assert json.loads(await tail.line_with('"end"'))["data"]["status"] == "complete"
        message = await served.ask("GET", "/v1/sessions/s/messages/m")
        assert message["text"] == "HelloHello"
