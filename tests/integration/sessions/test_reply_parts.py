"""What is recorded of replies that reason, refuse and call tools, however they end."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from chatbot.llm.provider import Finish, LlmFailed
from chatbot.sessions.domain.commands import Caller, CancelReply, CreateSession, PostMessage
from chatbot.sessions.replies.reply import Reply
from events.catalogue import (
    Parameters,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnded,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    Usage,
)
from events.codec import VERSIONS_WITH_PARTS
from events.schema.parts import CALL_ID_MAX_CHARS, NAME_MAX_CHARS, Parts, Reasoning, Refusal, Text, ToolCall
from tests.support.model.manual_provider import PartPiece
from tests.support.sessions.sessions_harness import CHECKPOINT_S, SessionsHarness, TimeTravelLoop

MINA = Caller(owner="mina", request_id="r1")
S = "session"
THOUGHT = PartPiece("reasoning", "The weather? ")
CALL = PartPiece("tool_call", '{"city":', "call_1", "weather")
CALL_GOES_ON = PartPiece("tool_call", '"Seoul"}', "call_1", "weather")
USAGE = Usage(3, 5, 8, reasoning_tokens=2)
PARTS: Parts = (Reasoning("The weather? "), Text("Let me look."), ToolCall("call_1", "weather", '{"city":"Seoul"}'))

Scene = Callable[[SessionsHarness], Coroutine[Any, Any, None]]


class OldNodes(SessionsHarness):
    """Older processes run over the same log, which cannot read parts."""

    async def open(self) -> None:
        await super().open()
        asked: list[Any] = []

        async def admits(versions: Any) -> bool:
            asked.append(versions)
            return False

        self.log.admits = admits  # type: ignore[method-assign]
        self.asked = asked


def play(folder: Path, scene: Scene, harness: type[SessionsHarness] = SessionsHarness) -> SessionsHarness:
    """Run `scene` over real files, in time that may leap."""

    async def run() -> SessionsHarness:
        real = harness(folder)
        await real.open()
        try:
            await scene(real)
        finally:
            await real.close()
        return real

    with asyncio.Runner(loop_factory=TimeTravelLoop) as runner:
        return runner.run(run())


async def ask(real: SessionsHarness) -> Reply:
    await real.supervisor.ask(S, CreateSession("mina", {}, 60, None, None), MINA)
    answer = await real.supervisor.ask(S, PostMessage("m", "r", "hi", Parameters()), MINA)
    assert answer.reply is not None
    await real.until(lambda: bool(real.provider.calls), "the model is asked")
    return answer.reply


async def give(real: SessionsHarness, reply: Reply, *given: Any) -> None:
    """Have the model send these, and wait until the reply has them."""
    length = reply.length + sum(len(one) for one in given if isinstance(one, str))
    for one in given:
        real.provider.calls[-1].given.put_nowait(one)
    await real.until(lambda: not real.provider.calls[-1].given.qsize() and reply.length >= length, "it is there")


async def recorded(real: SessionsHarness) -> list[Any]:
    return [one.event for one in await real.log.read(S, limit=100)]


async def recorded_end(real: SessionsHarness) -> Any:
    (ended,) = [event for event in await recorded(real) if isinstance(event, ReplyEnded)]
    return ended


async def checkpoint(real: SessionsHarness) -> list[ReplyProgressed]:
    known = real.log.head().position
    real.skip(CHECKPOINT_S + 1)
    await real.until(lambda: real.log.head().position > known, "the checkpoint is recorded")
    return [event for event in await recorded(real) if isinstance(event, ReplyProgressed)]


def without_duration(parts: Parts) -> Parts:
    return tuple(replace(part, duration_us=0) if isinstance(part, Reasoning) else part for part in parts)


def test_a_completed_reply_has_its_parts_in_order(tmp_path: Path) -> None:
    async def scene(real: SessionsHarness) -> None:
        reply = await ask(real)
        await give(real, reply, THOUGHT, "Let me ", "look.", CALL, CALL_GOES_ON, Finish("tool_calls", "hand-model"))
        outcome = await reply.wait_end()
        ended = await recorded_end(real)
        assert isinstance(ended, ReplyCompleted)
        assert (ended.content, ended.finish_reason) == ("Let me look.", "tool_calls")
        assert without_duration(ended.parts) == PARTS
        assert (outcome.content, outcome.parts) == (ended.content, ended.parts)
        history = await real.reader.history(S, None, 10, None, MINA)
        assert [one.parts for one in history.messages] == [(), ended.parts]

    play(tmp_path, scene)


def test_the_time_that_the_model_reasons_is_recorded(tmp_path: Path) -> None:
    async def scene(real: SessionsHarness) -> None:
        reply = await ask(real)
        await give(real, reply, THOUGHT)
        real.skip(2)
        await give(real, reply, THOUGHT, "Sunny.")
        real.skip(4)
        await give(real, reply, ".", Finish("stop", "hand-model"))
        await reply.wait_end()
        first, _ = (await recorded_end(real)).parts
        assert 2_000_000 <= first.duration_us < 4_000_000

    play(tmp_path, scene)


@pytest.mark.parametrize("piece", [THOUGHT, PartPiece("refusal", "No."), CALL])
def test_a_reply_without_text_completes(tmp_path: Path, piece: PartPiece) -> None:
    async def scene(real: SessionsHarness) -> None:
        reply = await ask(real)
        await give(real, reply, piece, Finish("length", "hand-model"))
        await reply.wait_end()
        ended = await recorded_end(real)
        assert isinstance(ended, ReplyCompleted)
        assert (ended.content, len(ended.parts), ended.finish_reason) == ("", 1, "length")

    play(tmp_path, scene)


def test_a_cancelled_reply_keeps_its_parts_and_what_they_used(tmp_path: Path) -> None:
    async def scene(real: SessionsHarness) -> None:
        reply = await ask(real)
        await give(real, reply, THOUGHT, CALL, USAGE)
        await real.supervisor.ask(S, CancelReply(), MINA)
        ended = await recorded_end(real)
        assert isinstance(ended, ReplyCancelled)
        assert without_duration(ended.parts) == (PARTS[0], ToolCall("call_1", "weather", '{"city":'))
        assert (ended.usage, ended.model) == (USAGE, "hand-model")
        outcome = await reply.wait_end()
        assert (outcome.usage, outcome.parts) == (USAGE, ended.parts)

    play(tmp_path, scene)


def test_a_cancelled_reply_of_text_says_what_it_always_did(tmp_path: Path) -> None:
    async def scene(real: SessionsHarness) -> None:
        await give(real, await ask(real), "text")
        await real.supervisor.ask(S, CancelReply(), MINA)
        ended = await recorded_end(real)
        assert (ended.content, ended.parts, ended.usage, ended.model) == ("text", (), None, None)

    play(tmp_path, scene)


def test_a_failed_reply_keeps_its_parts_and_what_they_used(tmp_path: Path) -> None:
    async def scene(real: SessionsHarness) -> None:
        reply = await ask(real)
        await give(real, reply, THOUGHT, PartPiece("refusal", "No"), USAGE, LlmFailed("cut"))
        await reply.wait_end()
        ended = await recorded_end(real)
        assert isinstance(ended, ReplyFailed)
        assert without_duration(ended.parts) == (PARTS[0], Refusal("No"))
        assert (ended.usage, ended.model) == (USAGE, "hand-model")

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("call_id", "name"),
    [("", "f"), ("c", ""), ("c" * (CALL_ID_MAX_CHARS + 1), "f"), ("c", "f" * (NAME_MAX_CHARS + 1))],
)
def test_a_call_that_no_event_may_hold_fails_the_reply(tmp_path: Path, call_id: str, name: str) -> None:
    async def scene(real: SessionsHarness) -> None:
        reply = await ask(real)
        real.provider.calls[-1].given.put_nowait("text")
        real.provider.calls[-1].given.put_nowait(PartPiece("tool_call", "{}", call_id, name))
        await reply.wait_end()
        ended = await recorded_end(real)
        assert isinstance(ended, ReplyFailed)
        assert (ended.content, ended.parts, ended.cause) == ("text", (), "llm_failed")

    play(tmp_path, scene)


def test_checkpoints_record_each_part_as_it_grows(tmp_path: Path) -> None:
    async def scene(real: SessionsHarness) -> None:
        reply = await ask(real)
        await give(real, reply, THOUGHT, "Look.", PartPiece("tool_call", "", "call_1", "weather"))
        await real.until(lambda: reply.last_part == 2, "the call has begun")
        first = await checkpoint(real)
        assert [(one.part, one.kind, one.text) for one in first] == [
            (0, "reasoning", "The weather? "),
            (1, "text", "Look."),
            (2, "tool_call", ""),
        ]
        await give(real, reply, CALL)
        (last,) = (await checkpoint(real))[len(first) :]
        assert (last.part, last.offset, last.text, last.call_id, last.name) == (2, 18, CALL, "call_1", "weather")

    play(tmp_path, scene)


@pytest.mark.parametrize("cut_in", ["reasoning", "tool_call"])
def test_a_crash_keeps_the_parts_that_were_recorded(tmp_path: Path, cut_in: str) -> None:
    async def scene(real: SessionsHarness) -> None:
        reply = await ask(real)
        kept = [THOUGHT] if cut_in == "reasoning" else [THOUGHT, "Look.", CALL]
        await give(real, reply, *kept)
        await checkpoint(real)
        await give(real, reply, *([THOUGHT] if cut_in == "reasoning" else [CALL_GOES_ON]))
        await real.crash()
        await real.open()
        running = await real.reader.history(S, None, 10, None)
        assert running.offset == sum(map(len, kept))
        await real.supervisor.recover()
        ended = await recorded_end(real)
        assert isinstance(ended, ReplyInterrupted)
        expected: Parts = (Reasoning("The weather? "),)
        if cut_in == "tool_call":
            expected += (Text("Look."), ToolCall("call_1", "weather", '{"city":'))
        assert ended.parts == running.messages[-1].parts == expected
        assert ended.content == running.messages[-1].content == ("" if cut_in == "reasoning" else "Look.")

    play(tmp_path, scene)


def test_where_older_processes_run_only_the_text_is_kept(tmp_path: Path) -> None:
    async def scene(real: SessionsHarness) -> None:
        reply = await ask(real)
        await give(real, reply, "before ")
        real.provider.calls[-1].given.put_nowait(THOUGHT)
        real.provider.calls[-1].given.put_nowait(CALL)
        await give(real, reply, "after", Finish("stop", "hand-model"))
        await reply.wait_end()
        ended = await recorded_end(real)
        assert (ended.content, ended.parts) == ("before after", ())

    real = play(tmp_path, scene, OldNodes)
    assert isinstance(real, OldNodes)
    assert real.asked == [VERSIONS_WITH_PARTS]


def test_where_older_processes_run_a_reply_without_text_fails(tmp_path: Path) -> None:
    async def scene(real: SessionsHarness) -> None:
        reply = await ask(real)
        real.provider.calls[-1].given.put_nowait(THOUGHT)
        real.provider.calls[-1].given.put_nowait(Finish("length", "hand-model", USAGE))
        await reply.wait_end()
        ended = await recorded_end(real)
        assert isinstance(ended, ReplyFailed)
        assert (ended.content, ended.parts, ended.usage) == ("", (), USAGE)

    play(tmp_path, scene, OldNodes)
