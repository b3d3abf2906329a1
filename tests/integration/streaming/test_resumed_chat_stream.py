"""A streamed request that is repeated with its Idempotency-Key and a Last-Event-ID gets the frames after that one."""

import asyncio
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support.http.service_requests import event_counts, wait_for_last_message
from tests.support.http.stream_reader import StreamReader, reading, text_of
from tests.support.model.model_server import ModelServer
from tests.support.node_cluster import nodes
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import Running, frames, serving

PIECES = ("안", "녕 ", "e\u0301", "👩‍👩 ", "ok")
TEXT = "".join(PIECES)
KEY = "key-1"

Frames = list[dict[str, Any]]


async def repeat(service: Running, path: str, body: Any, after: str) -> Frames:
    """The frames of a repetition, to the end."""
    async with reading(service.client, path, body, after=after, key=KEY) as reader:
        await reader.to_the_end()
    return reader.frames


def place(frame: dict[str, Any]) -> tuple[int, int]:
    version, _, offset = frame["cursor"].partition(":")
    return int(version), int(offset)


async def stepwise(reader: StreamReader, model: ModelServer, pieces: int) -> None:
    """Let the model say that many pieces, each in a frame of its own."""
    for number in range(1, pieces + 1):
        model.step()
        await reader.text("".join(PIECES[:number]))


@pytest.mark.parametrize(("path", "then"), [("chat", "finish"), ("regenerate", "error")])
async def test_a_repetition_after_any_frame_gets_the_frames_after_it(
    tmp_path: Path, model: ModelServer, path: str, then: str
) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id = await service.session()
        await service.chat(session_id, "one")
        url, body = "/api/chat/stream", {"session_id": session_id, "message": "two"}
        if path == "regenerate":
            url, body = f"/api/sessions/{session_id}/regenerate", {}
        model.script(pieces=PIECES, stepwise=True, then=then)
        async with reading(service.client, url, body, key=KEY) as reader:
            await reader.until("start")
            await stepwise(reader, model, len(PIECES))
            model.step()
            await reader.to_the_end()
        first = reader.frames
        assert [frame["type"] for frame in first[-2:]] == ["complete" if then == "finish" else "error", "done"]
        events = event_counts(tmp_path)
        await check_each(service, url, body, first)
    async with serving(tmp_path, model.url) as service:
        await check_each(service, url, body, first)
    assert event_counts(tmp_path) == events
    assert len(model.requests) == 2


async def check_each(service: Running, url: str, body: Any, first: Frames) -> None:
    for number, frame in enumerate(first[:-1]):
        again = await repeat(service, url, body, frame["cursor"])
        assert text_of(again) == text_of(first[number + 1 :])
        expected = [one for one in first[number + 1 :] if one["type"] != "chunk"]
        assert [one for one in again if one["type"] != "chunk"] == expected
        assert all(place(one) > place(frame) for one in again[:-1])


async def test_a_repetition_joins_a_reply_that_still_runs(service: Running, model: ModelServer) -> None:
    body = {"session_id": await service.session(), "message": "hi"}
    model.script(pieces=PIECES, stepwise=True)
    async with reading(service.client, "/api/chat/stream", body, key=KEY) as left:
        await left.until("start")
        await stepwise(left, model, 2)
    async with reading(service.client, "/api/chat/stream", body, after=left.cursor, key=KEY) as reader:
        model.step()
        await reader.text(PIECES[2])
        for _ in PIECES[3:]:
            model.step()
        model.step()
        await reader.to_the_end()
    assert [frame["type"] for frame in reader.frames if frame["type"] != "chunk"] == ["complete", "done"]
    assert text_of(left.frames) + text_of(reader.frames) == TEXT == reader.frames[-2]["full_response"]
    assert len(model.requests) == 1


async def test_a_reply_that_waits_its_turn_tells_its_start_once(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    model.script(pieces=PIECES, hold_after=2)
    ahead = asyncio.create_task(service.chat(session_id, "one"))
    await wait_for_last_message(service.client, session_id, status="streaming")
    async with reading(service.client, f"/api/sessions/{session_id}/stream", after="0:0") as feed:
        await feed.text("".join(PIECES[:2]))
    body = {"session_id": session_id, "message": "two"}
    async with reading(service.client, "/api/chat/stream", body, key=KEY) as left:
        start = await left.until("start")
    assert place(start)[1] == len("".join(PIECES[:2])), "the offset counts the text of the reply ahead"
    async with reading(service.client, "/api/chat/stream", body, after=left.cursor, key=KEY) as reader:
        model.release()
        await reader.to_the_end()
    await ahead
    assert [frame["type"] for frame in reader.frames if frame["type"] != "chunk"] == ["complete", "done"]
    assert text_of(reader.frames) == "You said: two"
    again = await repeat(service, "/api/chat/stream", body, left.cursor)
    assert text_of(again) == "You said: two", "the offset of the frame before counts another reply"


async def test_a_reply_that_was_begun_anew_is_told_from_its_new_start(tmp_path: Path, model: ModelServer) -> None:
    settings = {"CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX": "1", "CHATBOT_SERVER_DRAIN_GRACE_S": "0"}
    model.script(pieces=PIECES, hold_after=3)
    async with serving(tmp_path, model.url, **settings) as service:
        session_id = await service.session()
        body = {"session_id": session_id, "message": "hi"}
        async with reading(service.client, "/api/chat/stream", body, key=KEY) as left:
            await left.text("".join(PIECES[:3]))
    async with serving(tmp_path, model.url, **settings) as service:
        await wait_for_last_message(service.client, session_id, status="complete")
        again = await repeat(service, "/api/chat/stream", body, left.cursor)
    assert again[0]["type"] == "start"
    assert again[0]["message_id"] == left.frames[0]["message_id"]
    assert text_of(again) == "You said: hi" == again[-2]["full_response"]


async def test_a_cursor_without_an_offset_stands_for_what_is_recorded(service: Running) -> None:
    body = {"session_id": await service.session(), "message": "hi"}
    first = await repeat(service, "/api/chat/stream", body, "")
    start, end = place(first[0])[0], place(first[-2])[0]
    assert [one["type"] for one in await repeat(service, "/api/chat/stream", body, str(end))] == ["done"]
    again = await repeat(service, "/api/chat/stream", body, str(start))
    assert (text_of(again), again[0]["type"]) == ("You said: hi", "chunk")


async def test_what_is_no_cursor_is_refused_before_anything_is_recorded(service: Running, tmp_path: Path) -> None:
    session_id = await service.session()
    calls: list[tuple[str, Any]] = [
        ("/api/chat/stream", {"session_id": session_id, "message": "hi"}),
        (f"/api/sessions/{session_id}/regenerate", {}),
    ]
    for (path, body), cursor in product(calls, ["x", "-1", "1:", "1:2:3", "9" * 16]):
        headers = {"Idempotency-Key": KEY, "Last-Event-ID": cursor, "Accept": "text/event-stream"}
        refused = await service.client.post(path, json=body, headers=headers)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["path"] == "header.Last-Event-ID"
    assert event_counts(tmp_path) == {"session_created": 1}


async def test_without_a_key_no_request_is_a_repetition(service: Running) -> None:
    body = {"session_id": await service.session(), "message": "hi"}
    for cursor in ("1:0", "999:0"):
        answer = await service.client.post("/api/chat/stream", json=body, headers={"Last-Event-ID": cursor})
        kinds = [one["type"] for one in frames(answer.text)]
        assert (kinds[0], kinds[-2:]) == ("start", ["complete", "done"])


@pytest.mark.real_part
async def test_another_node_takes_the_stream_up(tmp_path: Path, model: ModelServer, postgres: PostgresServer) -> None:
    async with nodes(tmp_path, await postgres.schema(), model.url) as (first, second):
        body = {"session_id": await first.session(), "message": "hi"}
        model.script(pieces=PIECES, stepwise=True)
        async with reading(first.client, "/api/chat/stream", body, key=KEY) as left:
            await left.until("start")
            await stepwise(left, model, 2)
            async with reading(second.client, "/api/chat/stream", body, after=left.cursor, key=KEY) as reader:
                for _ in (*PIECES[2:], "end"):
                    model.step()
                await reader.to_the_end()
            await left.to_the_end()
    assert text_of(left.frames) == TEXT
    assert [frame["type"] for frame in reader.frames if frame["type"] != "chunk"] == ["complete", "done"]
    assert text_of(reader.frames) == "".join(PIECES[2:])


async def test_a_place_far_beyond_the_end_is_found_at_once(service: Running, model: ModelServer) -> None:
    body = {"session_id": await service.session(), "message": "hi"}
    model.script(pieces=PIECES, hold_after=2)
    async with reading(service.client, "/api/chat/stream", body, key=KEY) as first:
        await first.text("".join(PIECES[:2]))
        async with reading(service.client, "/api/chat/stream", body, after="9" * 15, key=KEY) as again:
            model.release()
            await again.to_the_end()
    assert [frame["type"] for frame in again.frames if frame["type"] != "chunk"] == ["complete", "done"]
    assert [frame["type"] for frame in await repeat(service, "/api/chat/stream", body, "9" * 15)] == ["done"]
