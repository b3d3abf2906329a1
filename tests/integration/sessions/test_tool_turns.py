"""Turns with tool calls, from the command to the record and to the model's next request."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatbot.llm.provider import ChatMessage, Finish, PartsMessage
from chatbot.sessions.actor.mailbox import CommandResult
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import (
    Caller,
    CancelReply,
    Command,
    CreateSession,
    Fork,
    IdempotencyKey,
    PostMessage,
    Regenerate,
)
from chatbot.sessions.domain.message_checks import media_path
from events.catalogue import Parameters, ToolCallsClosed
from events.errors import NodesOutdated
from events.record import RecordedEvent
from events.schema.parts import Media, Parts, Reasoning, Text, ToolCall, ToolResult
from tests.support.model.manual_provider import PartPiece
from tests.support.sessions.sessions_harness import SessionsHarness

TOOLS = Parameters(tools=[{"type": "function", "function": {"name": "weather"}}])
CALLS = (ToolCall("call_1", "weather", '{"city":"Seoul"}'), ToolCall("call_2", "weather", '{"city":"Busan"}'))
RESULTS = (ToolResult("call_1", (Text("21 °C"),)), ToolResult("call_2", (Text("broken"),), is_error=True))
NO_RESULTS = tuple(ToolResult(call.call_id, (Text("cancelled"),), is_error=True) for call in CALLS)
CALL_PIECES = tuple(PartPiece("tool_call", one.arguments, one.call_id, one.name) for one in CALLS)


class World(SessionsHarness):
    """One session `s`, whose model does as it is told."""

    numbers = 0

    async def ask(self, command: Command, session_id: str = "s") -> CommandResult:
        return await self.supervisor.ask(session_id, command, Caller())

    async def post(self, content: str = "weather?", session_id: str = "s", **fields: Any) -> str:
        """The id of the reply that a message gets."""
        self.numbers += 1
        reply_id = f"r{self.numbers}"
        fields.setdefault("parameters", Parameters())
        result = await self.ask(PostMessage(f"m{self.numbers}", reply_id, content, **fields), session_id)
        assert result.reply is not None
        return reply_id

    async def post_results(self, parts: Parts = RESULTS, session_id: str = "s", **fields: Any) -> str:
        return await self.post("", session_id, role="tool", parts=parts, **fields)

    async def answer(self, *pieces: str) -> None:
        """The model answers its newest request."""
        await self.comes(lambda: bool(self.provider.calls) and not self.provider.calls[-1].closed)
        given = self.provider.calls[-1].given
        for piece in pieces:
            given.put_nowait(piece)
        given.put_nowait(Finish("stop", "hand-model"))
        await self.comes(lambda: not self.supervisor.replies("s"))

    async def call_tools(self) -> str:
        """The id of a reply with open calls."""
        reply_id = await self.post(parameters=TOOLS)
        await self.answer(*CALL_PIECES)
        return reply_id

    async def comes(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not reached():
                await asyncio.sleep(0.005)

    async def history(self, session_id: str = "s") -> list[RecordedEvent]:
        return await self.log.read(session_id, limit=1_000)

    async def newest_types(self, count: int) -> list[str]:
        return [one.type for one in (await self.history())[-count:]]

    async def calls_of(self, reply_id: str, session_id: str = "s") -> str | None:
        await self.runner.wait_for(self.log.head().position)
        session = await self.ports.queries.session(session_id)
        assert session is not None
        row = await self.ports.queries.message(session.no, reply_id)
        assert row is not None
        return row.calls

    async def restart(self) -> None:
        await self.close()
        await self.open()


@asynccontextmanager
async def opened(folder: Path, **rules: Any) -> AsyncIterator[World]:
    world = World(folder, **rules)
    await world.open()
    try:
        await world.ask(CreateSession(None, {}, 0, None, None))
        yield world
    finally:
        await world.close()


async def test_results_continue_the_turn_with_its_parameters(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        called = await world.call_tools()
        assert await world.calls_of(called) == "open"
        await world.post_results()
        request = world.provider.calls[-1]
        assert request.messages == (
            ChatMessage("user", "weather?"),
            PartsMessage("assistant", "", CALLS),
            PartsMessage("tool", "", RESULTS),
        )
        assert request.parameters.tools == TOOLS.tools
        await world.answer("Warm.")
        assert await world.calls_of(called) == "answered"


async def test_a_restarted_service_goes_on_within_a_turn(tmp_path: Path) -> None:
    async with opened(tmp_path, max_context_messages=10) as world:
        await world.post()
        await world.answer("Hello.")
        await world.call_tools()
        await world.restart()
        await world.post_results()
        roles = [message.role for message in world.provider.calls[-1].messages]
        assert roles == ["user", "assistant", "user", "assistant", "tool"]


@pytest.mark.parametrize("on_busy", ["queue", "interrupt"])
async def test_a_message_of_a_person_closes_open_calls(tmp_path: Path, on_busy: str) -> None:
    async with opened(tmp_path) as world:
        called = await world.call_tools()
        await world.post("never mind", on_busy=on_busy)
        assert await world.newest_types(3) == ["tool_calls_closed", "message_posted", "reply_started"]
        assert (await world.history())[-3].event == ToolCallsClosed(called, ("call_1", "call_2"), "superseded")
        assert world.provider.calls[-1].messages == (
            ChatMessage("user", "weather?"),
            PartsMessage("assistant", "", CALLS),
            PartsMessage("tool", "", NO_RESULTS),
            ChatMessage("user", "never mind"),
        )
        with pytest.raises(rejections.CallsClosed):
            await world.post_results(parent_id=called)
        assert await world.calls_of(called) == "closed"


async def test_a_message_may_ask_to_be_refused_while_calls_are_open(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        called = await world.call_tools()
        with pytest.raises(rejections.CallsOpen) as refused:
            await world.post(on_busy="reject")
        assert refused.value.members == {"reply_id": called, "call_ids": ["call_1", "call_2"]}
        assert await world.calls_of(called) == "open"


async def test_a_queued_message_closes_the_calls_of_the_reply_that_it_waited_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.post()
        await world.post("and more")
        await world.comes(lambda: len(world.provider.calls) == 1)
        for piece in (CALL_PIECES[0], Finish("tool_calls", "hand-model")):
            world.provider.calls[0].given.put_nowait(piece)
        await world.comes(lambda: len(world.provider.calls) == 2)
        assert await world.newest_types(3) == ["reply_completed", "tool_calls_closed", "reply_started"]


async def test_an_edit_elsewhere_leaves_calls_open(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        called = await world.call_tools()
        await world.post("another question", parent_id=None)
        assert await world.newest_types(2) == ["message_posted", "reply_started"]
        await world.answer("Hello.")
        assert await world.calls_of(called) == "open"
        await world.post_results(parent_id=called)


async def test_results_may_be_edited_on_a_branch(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        called = await world.call_tools()
        await world.post_results()
        await world.answer("Warm.")
        edited = (ToolResult("call_1", (Text("-3 °C"),)), RESULTS[1])
        await world.post_results(edited, parent_id=called)
        assert world.provider.calls[-1].messages[-1] == PartsMessage("tool", "", edited)


async def test_regenerating_answers_the_same_message_or_the_same_results_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        called = await world.call_tools()
        await world.ask(Regenerate("again", called, Parameters()))
        assert [message.content for message in world.provider.calls[-1].messages] == ["weather?"]
        await world.answer("It is warm.")
        assert await world.calls_of(called) == "open"
        await world.post_results(parent_id=called)
        await world.answer("Warm.")
        await world.ask(Regenerate("again2", f"m{world.numbers}", Parameters()))
        assert world.provider.calls[-1].messages[-1] == PartsMessage("tool", "", RESULTS)
        assert world.provider.calls[-1].parameters.tools == TOOLS.tools


async def test_a_cancel_closes_open_calls_and_its_repetition_is_answered_alike(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        called = await world.call_tools()
        await world.restart()
        for _ in range(2):
            result = await world.ask(CancelReply(idempotency_key=IdempotencyKey("k", "f")))
            assert result.reply is None
            assert result.closed_calls is not None
            assert (result.closed_calls.reply_id, result.closed_calls.reason) == (called, "cancelled")
        assert (await world.ask(CancelReply())).closed_calls is None
        assert await world.newest_types(1) == ["tool_calls_closed"]
        assert await world.calls_of(called) == "closed"


async def test_calls_of_a_fork_are_answered_apart_from_its_origin(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        called = await world.call_tools()
        await world.ask(Fork("f", called))
        assert await world.calls_of(called, "f") == "open"
        await world.post_results(session_id="f")
        assert world.provider.calls[-1].messages[1:] == (
            PartsMessage("assistant", "", CALLS),
            PartsMessage("tool", "", RESULTS),
        )
        assert (await world.calls_of(called, "f"), await world.calls_of(called)) == ("answered", "open")


MISFITS: dict[str, tuple[Parts, str, type[rejections.Rejection]]] = {
    "no result": ((Text("warm"),), "$.message[0].type", rejections.InvalidMessage),
    "another call": ((*RESULTS, ToolResult("call_3", ())), "$.message[2].call_id", rejections.InvalidMessage),
    "twice": ((RESULTS[0], RESULTS[0]), "$.message[1].call_id", rejections.InvalidMessage),
    "missing": (RESULTS[:1], "$.message", rejections.CallsUnanswered),
}


@pytest.mark.parametrize("fault", MISFITS)
async def test_results_that_do_not_fit_are_refused_at_their_place(tmp_path: Path, fault: str) -> None:
    parts, path, kind = MISFITS[fault]
    async with opened(tmp_path) as world:
        called, head = await world.call_tools(), world.log.head().position
        with pytest.raises(kind) as refused:
            await world.post_results(parts)
        assert refused.value.path == path
        assert (world.log.head().position, await world.calls_of(called)) == (head, "open")


async def test_results_need_calls(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        with pytest.raises(rejections.NoOpenCalls):
            await world.post_results()
        reply_id = await world.post()
        for on_busy in ("queue", "interrupt"):
            with pytest.raises(rejections.SessionBusy):
                await world.post_results(on_busy=on_busy)
        await world.answer("The running reply went on.")
        for parent_id in (reply_id, f"m{reply_id[1:]}"):
            with pytest.raises(rejections.NoOpenCalls):
                await world.post_results(parent_id=parent_id)
        with pytest.raises(rejections.UnknownMessage):
            await world.post_results(parent_id="nowhere")


@pytest.mark.parametrize("part", [RESULTS[0], CALLS[0], Reasoning("hm")], ids=type)
async def test_a_person_posts_texts_and_files_only(tmp_path: Path, part: Any) -> None:
    async with opened(tmp_path) as world:
        with pytest.raises(rejections.InvalidMessage) as refused:
            await world.post("hello", parts=(Text("hello"), part))
        assert refused.value.path == "$.message[1].type"


async def test_a_message_of_a_person_follows_no_results(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.call_tools()
        await world.post_results()
        await world.answer("Warm.")
        with pytest.raises(rejections.ParentUnanswered):
            await world.post(parent_id=f"m{world.numbers}")


async def test_a_turn_has_a_bounded_number_of_rounds(tmp_path: Path) -> None:
    async with opened(tmp_path, tool_rounds_max=2) as world:
        await world.call_tools()
        for _ in range(2):
            await world.post_results()
            await world.answer(*CALL_PIECES)
        await world.restart()  # the whole turn has to be loaded to count
        with pytest.raises(rejections.TooManyRounds):
            await world.post_results()
        await world.post("never mind")
        assert await world.newest_types(3) == ["tool_calls_closed", "message_posted", "reply_started"]


IMAGE = Media("a" * 64, "image/png", 3)


async def test_what_the_model_does_not_take_is_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        head = world.log.head().position
        world.provider.takes = frozenset()
        refusals: list[tuple[Awaitable[Any], str]] = [
            (world.post(parameters=TOOLS), "$.tools"),
            (world.post(parameters=Parameters(response_format={"type": "json_object"})), "$.response_format"),
            (world.post(parameters=Parameters(reasoning_effort="low")), "$.reasoning_effort"),
            (world.post(parameters=Parameters(extra_body={"top_k": 3})), "$.extra_body"),
            (world.post("look", parts=(Text("look"), IMAGE)), "$.message[1]"),
        ]
        for asked, path in refusals:
            with pytest.raises(rejections.Unsupported) as refused:
                await asked
            assert refused.value.path == path
        assert world.log.head().position == head


async def test_parts_wait_until_every_process_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def admit_none(_: object) -> bool:
        return False

    async with opened(tmp_path) as world:
        monkeypatch.setattr(world.log, "admits", admit_none)
        with pytest.raises(NodesOutdated):
            await world.post(parameters=TOOLS)
        await world.post("plain messages go on")


async def test_a_file_that_is_gone_is_refused_at_its_place(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        with pytest.raises(rejections.InvalidMessage) as refused:
            await world.post("look", parts=(Text("look"), IMAGE))
        assert refused.value.path == "$.message[1].sha256"
        nested = PostMessage("m", "r", "", Parameters(), parts=(ToolResult("c", (Text("see"), IMAGE)),))
        assert media_path(nested, IMAGE.sha256) == "$.message[0].content[1].sha256"


async def test_the_files_of_one_message_are_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path, request_media_max_bytes=10) as world:
        images = tuple(Media(str(n) * 64, "image/png", 6) for n in (1, 2))
        with pytest.raises(rejections.InvalidMessage) as refused:
            await world.post("look", parts=(Text("look"), *images))
        assert refused.value.path == "$.message[2]"
