"""Texts that forks read are handed over before a session is erased: whole, and with work in proportion to them."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from chatbot.sessions.actor import forks
from chatbot.sessions.domain.commands import SERVICE, DeleteSession
from events.catalogue import AdoptedMessage, MessageCopied, MessagePosted
from events.integrity.chain_verifier import verify
from events.record import Metadata, RecordedEvent
from projections.sqlite.queries import SqliteQueries
from tests.support.log.forked_log import fork_of, origin_of
from tests.support.sessions.sessions_harness import SessionsHarness

FORKS = 4


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[SessionsHarness]:
    made = SessionsHarness(tmp_path)
    await made.open()
    yield made
    await made.close()


async def texts_of(sessions: SessionsHarness, session_id: str) -> list[str]:
    history = await sessions.reader.history(session_id, None, 1_000, None)
    rest = [one async for piece in sessions.reader.remaining_messages(history) for one in piece]
    return [one.content for one in (*history.messages, *rest)]


async def delete(sessions: SessionsHarness, session_id: str) -> None:
    await sessions.supervisor.ask(session_id, DeleteSession(), SERVICE)


async def writing_command_of(sessions: SessionsHarness, name: str, texts: int) -> tuple[int, int]:
    """Deletes a session with so many texts in each of FORKS forks: hundreds of SQLite's steps, and texts read."""
    adopted = await origin_of(sessions.log, name, texts)
    for fork in range(FORKS):
        await fork_of(sessions.log, f"{name}-fork{fork}", name, adopted)
    await sessions.runner.wait_for(sessions.log.head().position)
    steps: list[None] = []
    queries = sessions.runner.queries
    assert isinstance(queries, SqliteQueries)
    hops = queries._reader._batchers
    assert hops is not None
    batcher, _ = hops
    await batcher.connection.set_progress_handler(lambda: steps.append(None), 100)
    read, read_at = [0], sessions.log.read_at

    async def counted(positions: Sequence[int]) -> dict[int, RecordedEvent]:
        read[0] += len(positions)
        return await read_at(positions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions.log, "read_at", counted)
        await delete(sessions, name)
    await batcher.connection.set_progress_handler(None, 0)  # type: ignore[arg-type]  # none any more
    for fork in range(FORKS):
        assert await texts_of(sessions, f"{name}-fork{fork}") == [f"text {n} of it" for n in range(texts)]
    return len(steps), read[0]


async def test_four_times_as_many_texts_are_four_times_the_work(sessions: SessionsHarness) -> None:
    few_steps, few_read = await writing_command_of(sessions, "few", 150)
    many_steps, many_read = await writing_command_of(sessions, "many", 600)
    assert many_steps < 6 * few_steps, "if pages were searched again each time it would be sixteen times"
    assert many_read < 5 * few_read
    assert (await verify(sessions.log))[1] is None


async def test_each_fork_keeps_what_it_reads_whatever_else_it_reads(
    sessions: SessionsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forks of different lengths, a fork of a fork, and one that reads texts of two sessions."""
    for page in ("COPY_BATCH_TEXTS", "LENT_PAGE", "FORKS_PAGE"):
        monkeypatch.setattr(forks, page, 2)
    log = sessions.log
    first = await origin_of(log, "first", 5)
    for length in (1, 3, 5):
        await fork_of(log, f"of{length}", "first", first[:length])
    (said,) = await log.append("of3", 2, [MessagePosted("own", first[2].message_id, "user", "its own")], Metadata())
    own = AdoptedMessage("own", first[2].message_id, "user", "complete", said.position, 0)
    await fork_of(log, "of both", "of3", [*first[:3], own])
    await sessions.runner.wait_for(log.head().position)
    texts = [f"text {n} of it" for n in range(5)]
    await delete(sessions, "of3")
    assert await texts_of(sessions, "of both") == [*texts[:3], "its own"]
    copied = [one.event.message_id for one in await log.read_all(limit=1_000) if isinstance(one.event, MessageCopied)]
    assert copied == ["own"], "what it reads of the first session stays there"
    await delete(sessions, "first")
    assert await texts_of(sessions, "of both") == [*texts[:3], "its own"]
    for length in (1, 5):
        assert await texts_of(sessions, f"of{length}") == texts[:length]
    await delete(sessions, "of both")
    assert (await verify(log))[1] is None
