"""Streams of replies that reason, refuse and call tools: what each frame says, and resuming after any of them."""

import asyncio
from pathlib import Path
from typing import Any

from chatbot.sessions.replies.reply import Reply
from tests.support.http.feed_reader import Frame, following
from tests.support.http.stream_reader import StreamReader, reading
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

KEY = "key-1"
GROWTH = ("chunk", "reasoning", "refusal", "tool_call")
# kind, piece, call and name: each is a frame of its own
STEPS = (
    ("reasoning", "The "),
    ("reasoning", "안녕"),
    ("text", "Let me look."),
    ("tool_call", "", "call_1", "weather"),
    ("tool_call", '{"city":', "call_1", "weather"),
    ("tool_call", '"Seoul"}', "call_1", "weather"),
    ("tool_call", "", "call_2", "time"),
    ("refusal", "No."),
)
PARTS = [
    ("reasoning", "", "The 안녕"),
    ("chunk", "", "Let me look."),
    ("tool_call", "call_1 weather", '{"city":"Seoul"}'),
    ("tool_call", "call_2 time", ""),
    ("refusal", "", "No."),
]
LENGTH = sum(len(text) for *_, text in PARTS)


def parts_of(seen: list[Frame]) -> list[tuple[str, str, str]]:
    """What a client has of a reply: kind, call and text of each part. Fails where something comes twice."""
    parts: list[tuple[str, str, str]] = []
    for frame in seen:
        if frame["type"] not in GROWTH:
            continue
        text = frame["arguments"] if frame["type"] == "tool_call" else frame["content"]
        call = f"{frame['call_id']} {frame['name']}" if frame["type"] == "tool_call" else ""
        part = frame.get("part", 0)
        if part == len(parts):
            parts.append((frame["type"], call, ""))
        assert parts[part][:2] == (frame["type"], call)
        assert part == len(parts) - 1 or not text
        parts[part] = (frame["type"], call, parts[part][2] + text)
        assert int(frame["cursor"].partition(":")[2]) == sum(len(known) for *_, known in parts)
    return parts


async def running_reply(service: Running, session_id: str) -> Reply:
    async with asyncio.timeout(10):
        while (reply := service.services.supervisor.running_reply(session_id)) is None:
            await asyncio.sleep(0.01)
    return reply


async def grow(reply: Reply, reader: StreamReader) -> None:
    """As a model does, step by step, each when the reader has the one before."""
    for step in STEPS:
        reply.grow_part(*step)
        await reader.until("chunk" if step[0] == "text" else step[0])


async def grown(service: Running, model: ModelServer) -> tuple[str, dict[str, Any], list[Frame], Reply]:
    """A session, the body of its request, the frames so far, and the reply, whose model says nothing more."""
    model.script(pieces=("!",), hold_after=0)
    session_id = await service.session()
    body = {"session_id": session_id, "message": "hi"}
    async with reading(service.client, "/api/chat/stream", body, key=KEY) as reader:
        await reader.until("start")
        reply = await running_reply(service, session_id)
        await grow(reply, reader)
        return session_id, body, reader.frames, reply


async def test_each_frame_says_of_which_part_it_is(service: Running, model: ModelServer) -> None:
    _, _, (start, *growth), _ = await grown(service, model)
    assert start["type"] == "start"
    assert parts_of(growth) == PARTS
    without_cursor = [{name: value for name, value in frame.items() if name != "cursor"} for frame in growth]
    assert without_cursor[2:5] == [
        {"type": "chunk", "content": "Let me look.", "part": 1},
        {"type": "tool_call", "call_id": "call_1", "name": "weather", "arguments": "", "part": 2},
        {"type": "tool_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":', "part": 2},
    ]


async def test_a_reader_that_returns_after_any_frame_gets_what_follows_it(service: Running, model: ModelServer) -> None:
    session_id, body, first, _ = await grown(service, model)
    for number, frame in enumerate(first):
        known = parts_of(first[: number + 1])
        async with reading(service.client, "/api/chat/stream", body, after=frame["cursor"], key=KEY) as reader:
            async with asyncio.timeout(10):
                while len(known) < len(PARTS) or frame is not first[-1]:
                    await reader.block()
                    known = parts_of(first[: number + 1] + reader.frames)
                    if known == PARTS:
                        break
        assert known == PARTS
        async with following(service.client, session_id, frame["cursor"]) as feed:
            seen: list[Frame] = []
            while parts_of(first[: number + 1] + seen) != PARTS:
                seen.append(await feed.next())
            assert all("message_id" in one for one in seen)


async def test_the_end_says_how_much_of_each_part_is_kept(service: Running, model: ModelServer) -> None:
    session_id, body, first, reply = await grown(service, model)
    assert (await service.client.post(f"/api/sessions/{session_id}/cancel")).status_code == 202
    async with following(service.client, session_id, first[-1]["cursor"]) as feed:
        error = (await feed.until("error"))[-1]
    async with reading(service.client, "/api/chat/stream", body, after=first[-1]["cursor"], key=KEY) as reader:
        again = await reader.until("error")
    for frame in (error, again):
        assert (frame["status"], frame["message_id"]) == ("cancelled", reply.reply_id)
        assert (frame["length"], frame["part_lengths"]) == (12, [6, 12, 16, 0, 3])
    async with reading(service.client, "/api/chat/stream", body, key=KEY) as reader:
        await reader.to_the_end()
    assert parts_of(reader.frames) == PARTS


async def test_the_end_of_a_reply_has_the_text_alone(service: Running, model: ModelServer) -> None:
    session_id, body, first, _ = await grown(service, model)
    model.release()
    async with reading(service.client, "/api/chat/stream", body, after=first[-1]["cursor"], key=KEY) as reader:
        complete = await reader.until("complete")
    assert complete["full_response"] == "Let me look.!"
    async with following(service.client, session_id, "0:0") as feed:
        seen = await feed.until("complete")
    assert parts_of(seen) == [*PARTS, ("chunk", "", "!")]
    assert seen[-1]["full_response"] == "Let me look.!"


async def test_what_was_recorded_is_read_after_a_restart(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_STREAM_CHECKPOINT_INTERVAL_S="0.1") as service:
        session_id, _, first, reply = await grown(service, model)
        async with asyncio.timeout(10):
            while (await service.history(session_id))["cursor"].partition(":")[2] != str(LENGTH):
                await asyncio.sleep(0.02)
        async with following(service.client, session_id, "0:0") as feed:  # from the log and from memory
            seen: list[Frame] = []
            while parts_of(seen) != PARTS:
                seen.append(await feed.next())
    async with serving(tmp_path, model.url) as service:
        for number, frame in enumerate(first):
            async with following(service.client, session_id, frame["cursor"]) as feed:
                rest = await feed.until("error")
            assert parts_of(first[: number + 1] + rest) == PARTS
            assert (rest[-1]["status"], rest[-1]["message_id"]) == ("interrupted", reply.reply_id)
            assert rest[-1]["part_lengths"] == [6, 12, 16, 0, 3]


async def test_a_reply_of_text_has_the_frames_that_it_always_had(service: Running, model: ModelServer) -> None:
    model.script(pieces=("a", "b"), hold_after=2)
    session_id = await service.session()
    body = {"session_id": session_id, "message": "hi"}
    async with reading(service.client, "/api/chat/stream", body) as reader:
        await reader.text("ab")
        await service.client.post(f"/api/sessions/{session_id}/cancel")
        error = await reader.until("error")
    chunks = [frame for frame in reader.frames if frame["type"] == "chunk"]
    assert all(set(frame) == {"type", "content", "cursor"} for frame in chunks)
    assert error["length"] == 2
    assert "part_lengths" not in error
