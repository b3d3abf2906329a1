"""Chat goes on while the projections are rebuilt, whatever of a session was in memory when they were lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from projections import runner
from tests.support.http.service_requests import forget_projections, said, sent
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

SAID = ["one", "You said: one"]


@asynccontextmanager
async def projections_lost(service: Running, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Their file is gone, and no other is made before the block ends. Then they are made by the runner's thread."""
    ended = asyncio.Event()

    async def takes_its_time(*_arguments: Any) -> None:
        await ended.wait()

    monkeypatch.setattr(runner, "SUBPROCESS_EVENTS_MIN", 1)
    monkeypatch.setattr(service.services.runner, "_rebuild", takes_its_time)
    forget_projections(folder)
    async with asyncio.timeout(20):
        while not service.services.runner.rebuilding:
            await service.session()  # the runner looks at its file when there is news
    yield
    assert service.services.runner.rebuilding
    ended.set()


async def test_chat_does_not_wait_for_them(tmp_path: Path, model: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, model.url) as service:
        unknown, described, regenerated, live = [await service.session() for _ in range(4)]
        for session_id in (unknown, described, regenerated, live):
            await service.chat(session_id, "one")
    async with serving(tmp_path, model.url) as service:
        for session_id in (described, regenerated):  # their facts are in memory, and none of their texts
            path = f"/api/sessions/{session_id}"
            assert (await service.client.patch(path, json={"title": "Numbers"})).status_code == 200
        await service.chat(live, "two")
        async with projections_lost(service, tmp_path, monkeypatch), asyncio.timeout(4):  # less than a read waits
            for session_id in (unknown, described):
                await service.chat(session_id, "two")
                assert sent(model) == [*SAID, "two"]
            answer = await service.client.post(f"/api/sessions/{regenerated}/regenerate", json={"message_id": None})
            assert answer.status_code == 200, answer.text
            assert sent(model) == ["one"]
            await service.chat(live, "three")
            assert sent(model) == [*SAID, "two", "You said: two", "three"]
        for session_id in (unknown, described):
            assert await said(service.client, session_id) == [*SAID, "two", "You said: two"]
        assert await said(service.client, regenerated) == SAID
        assert len(await said(service.client, live)) == 6


async def test_a_named_conversation_does_not_wait_for_them(
    tmp_path: Path, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def turn(*texts: str) -> None:
        messages = [
            {"role": "user" if index % 2 == 0 else "assistant", "content": one} for index, one in enumerate(texts)
        ]
        body = {"messages": messages, "model": "fake-model"}
        answer = await service.client.post("/v1/chat/completions", json=body, headers={"X-Session-Id": "chat-1"})
        assert answer.status_code == 200, answer.text

    async with serving(tmp_path, model.url) as service:
        await turn("one")
    async with serving(tmp_path, model.url) as service:
        async with projections_lost(service, tmp_path, monkeypatch), asyncio.timeout(4):
            await turn(*SAID, "two")
            assert sent(model) == [*SAID, "two"]
        await turn(*SAID, "two", "You said: two", "three")
        listed = (await service.client.get("/api/sessions")).json()["sessions"]
        (session_id,) = [one["session_id"] for one in listed if one.get("named_by")]
        assert await said(service.client, session_id) == [*SAID, "two", "You said: two", "three", "You said: three"]
