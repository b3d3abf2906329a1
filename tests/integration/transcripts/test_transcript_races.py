"""Transcripts where processes die, or race with one another."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatbot.audit.conversation import load_conversation
from chatbot.sessions.conversations import TranscriptRequest
from chatbot.sessions.domain.commands import SERVICE, IdempotencyKey, RecordAccess
from chatbot.sessions.replies.reply import Reply
from events.catalogue import Parameters
from events.schema.naming import STATELESS
from tests.integration.transcripts.test_transcripts import (
    CHAT,
    MINA,
    id_of,
    next_call,
    outline,
    post,
    said,
    sent,
)
from tests.support.model.model_server import ModelServer
from tests.support.node_cluster import nodes
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import Running
from tests.support.sessions.sessions_harness import SessionsHarness

KEY = IdempotencyKey("once", "f" * 64)


async def test_a_crash_loses_nothing_and_a_retry_finds_what_it_left(tmp_path: Path) -> None:
    real = SessionsHarness(tmp_path)
    await real.open()
    transcript = said("s:All.", "u:One", "a:claimed", "u:Two")
    first = await post(real, transcript, None, idempotency_key=KEY)
    await next_call(real, 0)
    await real.crash()
    await real.open()
    again = await post(real, transcript, None, idempotency_key=KEY)
    assert first.reply is not None
    assert again.reply is not None
    assert (again.reply.reply_id, again.reply.outcome and again.reply.outcome.status) == (
        first.reply.reply_id, "interrupted",
    )  # fmt: skip
    other = await post(real, transcript, "2", reply_client_id="another")
    assert await outline(real, other) == [
        "user/1 One *", "assistant/2 claimed *", "user/3 Two", "assistant/4 ", "assistant/4 2",
    ]  # fmt: skip
    await real.close()


async def test_a_reply_that_is_retried_after_a_crash_is_sent_the_whole_transcript(tmp_path: Path) -> None:
    real = SessionsHarness(tmp_path, retry_interrupted=1)
    await real.open()
    texts = [f"{'ua'[index % 2]}:{index}" for index in range(21)]
    first = await post(real, said("s:All.", *texts), None)
    await next_call(real, 0)
    await real.crash()
    await real.open()
    await real.supervisor.ask(id_of(first), RecordAccess(), SERVICE)
    call = await next_call(real, 0)
    assert sent(real) == ["s:All.", *texts]
    call.given.put_nowait("done")
    await real.close()


async def test_a_new_session_is_on_disk_with_its_first_reply_or_not_at_all(tmp_path: Path) -> None:
    real = SessionsHarness(tmp_path)
    await real.open()
    real.log.refusing = True
    with pytest.raises(Exception, match="the disk is full"):
        await post(real, said("u:One", "a:claimed", "u:Two"), None)
    real.log.refusing = False
    assert real.log.head().position == 0
    result = await post(real, said("u:One", "a:claimed", "u:Two"), "2")
    assert result.state.session.version == 5
    await real.close()


@pytest.fixture
async def pair(tmp_path: Path, model: ModelServer, postgres: PostgresServer) -> AsyncIterator[list[Running]]:
    async with nodes(tmp_path, await postgres.schema(), model.url) as running:
        yield running


@pytest.mark.real_part
async def test_two_nodes_make_one_session_of_one_name(pair: list[Running]) -> None:
    def first_request(key: IdempotencyKey | None, **fields: object) -> TranscriptRequest:
        return TranscriptRequest(
            messages=said("u:One", "a:claimed", "u:Two"),
            parameters=Parameters(),
            idempotency_key=key,
            **fields,  # type: ignore[arg-type]
        )

    conversations = [one.services.conversations for one in pair]
    results = await asyncio.gather(*(one.post(first_request(None, name=CHAT), MINA) for one in conversations))
    await asyncio.gather(*(one.reply.wait_end() for one in results if isinstance(one.reply, Reply)))
    assert len({id_of(one) for one in results}) == 1
    found = await load_conversation(pair[0].services.log, id_of(results[0]))
    assert found is not None
    assert [(one.role, one.imported) for one in found.messages.values()] == [
        ("user", True), ("assistant", True), ("user", False), ("assistant", False), ("assistant", False),
    ]  # fmt: skip
    keyed = await asyncio.gather(*(one.post(first_request(KEY, kind=STATELESS), MINA) for one in conversations))
    assert len({(id_of(one), one.reply.reply_id) for one in keyed if one.reply is not None}) == 1
