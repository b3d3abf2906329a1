"""Requests without a conversation are erased: after a time, or earlier where an API key has too many of them."""

import asyncio

import pytest
from structlog.testing import capture_logs

from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import SERVICE, DeleteSession, Expire, Fork, RecordAccess
from chatbot.sessions.erasure_job import ErasureJob
from chatbot.sessions.stateless_limit import StatelessLimit
from events.catalogue import SessionDeleted, SessionExpired
from events.schema.naming import STATELESS, TASK
from projections.port import EraseCandidatesQuery, SessionListQuery
from tests.integration.transcripts.test_transcripts import JUN, MINA, id_of, post, real, said
from tests.support.sessions.sessions_harness import CONVERSATIONS, SessionsHarness

__all__ = ["real"]
RETENTION_US = CONVERSATIONS.retention_s * 1_000_000


async def erase_what_has_begun(real: SessionsHarness) -> None:
    job = ErasureJob(real.ports, real.supervisor.ask)
    running = asyncio.create_task(job.run())
    await asyncio.sleep(0)
    await real.runner.wait_for(real.log.head().position)
    while await real.ports.queries.erasing(limit=1):
        await asyncio.sleep(0.005)
    running.cancel()


@pytest.mark.parametrize("kind", [STATELESS, TASK])
async def test_an_expired_request_is_erased(real: SessionsHarness, kind: str) -> None:
    result = await post(real, said("u:Hello"), name=None, kind=kind, end_user="person-7")
    named = await post(real, said("u:Hello"))
    real.now_us += RETENTION_US
    for session_id in (id_of(result), id_of(named)):
        await real.supervisor.ask(session_id, Expire(), SERVICE, cause="expiry")
    await real.runner.wait_for(real.log.head().position)
    await erase_what_has_begun(real)
    events = await real.log.read(id_of(result), limit=100)
    assert [one.event for one in events[:-1]] == [None] * (len(events) - 1)
    deleted = events[-1].event
    assert isinstance(deleted, SessionDeleted)
    assert (deleted.reason, deleted.kind, sum(one.replies for one in deleted.usage)) == ("retention", kind, 1)
    kept = await real.log.read(id_of(named), limit=100)
    assert all(one.event is not None for one in kept)
    assert not any(isinstance(one.event, SessionExpired) for one in kept), "an hour is not over"
    with pytest.raises(rejections.SessionDeleted):
        await real.supervisor.ask(id_of(result), RecordAccess(), MINA)


async def test_a_fork_keeps_what_an_erased_request_said(real: SessionsHarness) -> None:
    result = await post(real, said("u:One", "a:claimed", "u:Two"), "2", name=None, kind=STATELESS)
    await real.supervisor.ask(id_of(result), Fork("fork"), MINA)
    real.now_us += RETENTION_US // 2
    await real.supervisor.ask("fork", RecordAccess(always=True), MINA)
    real.now_us += RETENTION_US // 2
    await real.supervisor.ask(id_of(result), Expire(), SERVICE, cause="expiry")
    await erase_what_has_begun(real)
    page = await real.reader.history("fork", None, 10, None)
    assert [(one.content, one.imported) for one in page.messages] == [
        ("One", True), ("claimed", True), ("Two", False), ("2", False),
    ]  # fmt: skip
    more = await post(real, said("u:One", "a:claimed", "u:Two", "a:2", "u:Three"), name=None, session_id="fork")
    assert more.state.session.message_count == 6


async def test_the_oldest_are_erased_where_a_key_has_too_many(real: SessionsHarness) -> None:
    old = [await post(real, said(f"u:{index} {'x' * 9_000}"), name=None, kind=STATELESS) for index in range(5)]
    others = await post(real, said("u:" + "x" * 9_000), name=None, kind=TASK, caller=JUN)
    named = await post(real, said("u:" + "x" * 90_000))
    running = await post(real, said("u:" + "x" * 9_000), None, name=None, kind=STATELESS)
    limit = StatelessLimit(real.ports, real.supervisor.ask, bytes_max=35_000)
    with capture_logs() as logs:
        assert await limit.erase_batch() == 3
        assert await limit.erase_batch() == 0
    assert [one["event"] for one in logs if one["log_level"] == "warning"] == ["stateless.erased_early"]
    await real.runner.wait_for(real.log.head().position)
    gone = [id_of(one) for one in (*old, others, named, running) if await is_deleted(real, id_of(one))]
    assert gone == [id_of(one) for one in old[:3]]
    assert real.seen.early == 3


async def is_deleted(real: SessionsHarness, session_id: str) -> bool:
    session = await real.ports.queries.session(session_id)
    return session is None or session.is_deleted


async def test_one_that_is_open_is_never_erased_early(real: SessionsHarness) -> None:
    await post(real, said("u:" + "x" * 97), None, name=None, kind=STATELESS)
    await post(real, said("u:Hello"), name=None, kind=STATELESS)
    assert await StatelessLimit(real.ports, real.supervisor.ask, bytes_max=1).erase_batch() == 1


async def test_end_users_are_found_by_their_id(real: SessionsHarness) -> None:
    mine = {
        id_of(await post(real, said("u:1"), end_user="person-7")),
        id_of(await post(real, said("u:1"), end_user="person-7", name=None, kind=STATELESS)),
        id_of(await post(real, said("u:1"), end_user="person-7", name=None, kind=TASK)),
    }
    await post(real, said("u:1"), end_user="person-8")
    await real.runner.wait_for(real.log.head().position)
    wanted = EraseCandidatesQuery(metadata={"user_id": "person-7"})
    assert {one.session_id for one in await real.ports.queries.erase_candidates(wanted)} == mine


async def test_kinds_survive_a_rebuild_also_once_erased(real: SessionsHarness) -> None:
    kept = await post(real, said("u:Hello"), name=None, kind=TASK)
    erased = await post(real, said("u:Hello"), name=None, kind=STATELESS)
    await real.supervisor.ask(id_of(erased), DeleteSession(), MINA)
    await real.runner.wait_for(real.log.head().position)
    before = [await real.ports.queries.session(id_of(one)) for one in (kept, erased)]
    await real.close()
    real.forget_projections()
    await real.open()
    assert [await real.ports.queries.session(id_of(one)) for one in (kept, erased)] == before
    assert [one.kind for one in before if one is not None] == [TASK, STATELESS]
    listed = await real.ports.queries.list_sessions(SessionListQuery(owner="mina", kind=TASK))
    assert [one.session_id for one in listed.sessions] == [id_of(kept)]
