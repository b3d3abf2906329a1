"""Files of messages: the model is shown their very bytes, and a lost file blocks nothing."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from chatbot.llm.provider import ChatMessage, PartsMessage
from chatbot.sessions.domain.commands import DeleteSession, Fork
from events.catalogue import MessageCopied
from events.media import MediaMissing
from events.schema.parts import Media, Text
from tests.integration.sessions.test_tool_turns import World, opened

CONTENT = bytes(range(256)) * 1_000
LEFT_OUT = "[image left out]"


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 50_000):
        yield content[start : start + 50_000]


async def keep(world: World, content: bytes = CONTENT) -> Media:
    await world.log.media.put("image/png", pieces(content), holder="", due_at_us=2**62, bytes_max=1 << 30)
    return Media(hashlib.sha256(content).hexdigest(), "image/png", len(content), "a.png")


def lose(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an import without the file's bytes."""

    async def read(sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        raise MediaMissing(sha256)
        yield b""

    async def stat(_: object) -> dict[str, object]:
        return {}

    monkeypatch.setattr(world.log.media, "read", read)
    monkeypatch.setattr(world.log.media, "stat", stat)


async def test_the_model_is_shown_the_very_bytes_in_every_later_request(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        image = await keep(world)
        parts = (Text("What is this?"), image)
        await world.post("What is this?", parts=parts)
        await world.comes(lambda: bool(world.provider.calls))
        shown = PartsMessage("user", "What is this?", parts, {image.sha256: CONTENT})
        assert world.provider.calls[-1].messages == (shown,)
        await world.answer("A gradient.")
        await world.restart()
        await world.post("Are you sure?")
        await world.comes(lambda: bool(world.provider.calls))
        assert world.provider.calls[-1].messages[0] == shown


async def test_files_beyond_a_request_are_left_out_and_that_is_recorded(tmp_path: Path) -> None:
    async with opened(tmp_path, request_media_max_bytes=len(CONTENT)) as world:
        for number in range(2):
            image = await keep(world, CONTENT[number:])
            await world.post("", parts=(image,))
            await world.answer("Nice.")
        first, _, second = world.provider.calls[-1].messages
        assert first == ChatMessage("user", LEFT_OUT)
        assert isinstance(second, PartsMessage)
        started = next(one.event for one in reversed(await world.history()) if one.type == "reply_started")
        assert getattr(started, "context_left_out").media == 1  # noqa: B009  of any event's class


async def test_a_file_that_is_lost_is_left_out_and_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as world:
        image = await keep(world)
        lose(world, monkeypatch)
        with capture_logs() as logged:
            await world.post("look", parts=(Text("look"), image))
            await world.answer("At what?")
        assert world.provider.calls[-1].messages == (ChatMessage("user", f"look{LEFT_OUT}"),)
        assert [one["event"] for one in logged if one["log_level"] == "warning"] == ["reply.media_missing"]


async def test_a_model_that_takes_no_files_is_sent_the_texts_of_older_messages(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        image = await keep(world)
        await world.post("look", parts=(Text("look"), image))
        await world.answer("Nice.")
        world.provider.takes = frozenset({"tools"})
        await world.post("thanks")
        await world.comes(lambda: len(world.provider.calls) == 2)
        assert world.provider.calls[-1].messages[0] == ChatMessage("user", f"look{LEFT_OUT}")


async def test_a_fork_keeps_the_file_of_its_erased_origin(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        image = await keep(world)
        await world.post("look", parts=(Text("look"), image))
        await world.answer("Nice.")
        await world.ask(Fork("f"))
        await world.ask(DeleteSession())
        copied = next(one.event for one in await world.history("f") if isinstance(one.event, MessageCopied))
        assert copied.parts == (Text("look"), image)
        await world.post("And now?", "f")
        await world.comes(lambda: len(world.provider.calls) == 2)
        assert world.provider.calls[-1].messages[0] == PartsMessage(
            "user", "look", copied.parts, {image.sha256: CONTENT}
        )


async def test_an_origin_whose_file_is_lost_can_be_erased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as world:
        image = await keep(world)
        await world.post("look", parts=(Text("look"), image))
        await world.answer("Nice.")
        await world.ask(Fork("f"))
        lose(world, monkeypatch)
        await world.ask(DeleteSession())
        copied = next(one.event for one in await world.history("f") if isinstance(one.event, MessageCopied))
        assert copied.content == f"look[lost file {image.sha256}]"
        assert await world.newest_types(1) == ["session_deleted"]
