"""Erasures that go on after the answer, where several nodes share the log."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatbot.sessions import erasure_job
from chatbot.sessions.actor import actor
from chatbot.sessions.actor import forks as forking
from events.integrity.chain_verifier import verify
from tests.support.http.service_requests import said
from tests.support.model.model_server import ModelServer
from tests.support.node_cluster import nodes
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import Running

pytestmark = pytest.mark.real_part
HISTORY = ["one", "You said: one", "two", "You said: two"]


@pytest.fixture
async def pair(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Running]]:
    monkeypatch.setattr(actor, "COPY_INLINE_TEXTS_MAX", 2)
    monkeypatch.setattr(erasure_job, "POLL_S", 0.05)
    monkeypatch.setattr(forking, "COPY_BATCH_TEXTS", 1)
    async with nodes(tmp_path, await postgres.schema(), model.url) as running:
        yield running


async def test_a_session_that_one_node_deletes_is_gone_at_all_and_its_forks_are_whole(pair: list[Running]) -> None:
    first, second = pair
    session_id = await first.session()
    path = f"/api/sessions/{session_id}"
    for text in ("one", "two"):
        await first.chat(session_id, text)
    forks = [(await node.client.post(f"{path}/fork", json={})).json()["session_id"] for node in (first, second, second)]
    answer = await first.client.delete(path)
    assert (answer.status_code, answer.json()["status"]) == (202, "erasing")
    for node in pair:
        gone = await node.client.get(path)
        assert (gone.status_code, gone.json()["type"]) == (404, "/problems/session-deleted")
    async with asyncio.timeout(30):
        while (again := await second.client.delete(path)).status_code == 202:
            await asyncio.sleep(0.02)
    assert again.status_code in (204, 404), again.text  # 204: the last text was copied just before it came
    for node in pair:
        for fork in forks:
            assert await said(node.client, fork) == HISTORY
    log = second.services.log
    left = [one for one in await log.read(session_id, limit=100) if one.event is not None]
    assert [one.type for one in left] == ["session_deleted"]
    copied = [one for one in await log.read_all(limit=1_000) if one.type == "message_copied"]
    assert len(copied) == len(forks) * len(HISTORY), "each text once, though two nodes look for such sessions"
    assert (await verify(log))[1] is None
