"""What every store of projections promises to the runner and to those who query it (`projections.port`)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from events.catalogue import (
    BranchSelected,
    IgnoredEvent,
    MessageWithdrawn,
    ReplyProgressed,
    SessionAccessed,
    SessionDeleted,
    SessionExpired,
    UsageTotal,
)
from events.errors import LogUnusable
from projections.checkpoint import checkpoint_at
from projections.errors import InvalidProjection, InvalidRebuild, LogReplaced, ProjectionsInUse, ProjectionsUnavailable
from projections.port import ChangesQuery, Checkpoint, EraseCandidatesQuery, ProjectionStore, SessionListQuery
from projections.runner import ProjectionRunner
from tests.support.log.event_builders import created, emptied, posted, started, turn, turns
from tests.support.log.memory_log import MemoryLog
from tests.support.projection_stores import PostgresProjectionStores, ProjectionStores, SqliteProjectionStores


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real_part)])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ProjectionStores]:
    made: ProjectionStores
    if request.param == "sqlite":
        made = SqliteProjectionStores(tmp_path)
    else:
        made = PostgresProjectionStores(await request.getfixturevalue("postgres").schema())
    yield made
    await made.close()


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@asynccontextmanager
async def opened(stores: ProjectionStores, log: MemoryLog) -> AsyncIterator[ProjectionStore]:
    store = stores.make()
    try:
        assert await store.open(log) is None
        yield store
    finally:
        await store.close()


async def fold(store: ProjectionStore, log: MemoryLog, limit: int = 1_000) -> None:
    """Everything that `log` has and the store has not, in batches of at most `limit`."""
    while batch := log.events[store.checkpoint.position :][:limit]:
        await store.apply(batch, await checkpoint_at(log, batch[-1].position))


async def answers(store: ProjectionStore, log: MemoryLog) -> dict[str, Any]:
    """What the store answers to each of its queries, about every session of `log`."""
    queries, found = store.queries, dict[str, Any]()
    for session_id in sorted({recorded.stream_id for recorded in log.events}):
        session = await queries.session(session_id)
        assert session is not None
        page = await queries.texts_read_by_forks(session.no, after="", limit=100)
        leaves = [row.message_id for row in await queries.path(session.no, session.head or "", limit=100)]
        found[session_id] = (
            session,
            [await queries.snapshot(session_id, limit=limit) for limit in (1, 3, 100)],
            [await queries.snapshot(session_id, branch=leaf, limit=2) for leaf in (*leaves, "unknown")],
            [await queries.snapshot(session_id, before=leaf, limit=2) for leaf in (*leaves, "unknown")],
            await queries.message_tree(session.no, limit=100),
            [await queries.message(session.no, message_id) for message_id in leaves],
            [await queries.newest_leaf(session.no, message_id) for message_id in leaves],
            [await queries.forks_reading(position, after=0, limit=9) for position in (page.positions if page else ())],
            await queries.texts_read_by(session.no, after=0, limit=100),
            await queries.usage_of(session.no),
        )
    everything = SessionListQuery(any_owner=True, now_us=log.now_us)
    found["lists"] = (
        await queries.list_sessions(everything),
        await queries.list_sessions(replace(everything, pinned=True)),
        await queries.list_sessions(replace(everything, pinned=False, order="created")),
        await queries.changed_sessions(ChangesQuery(any_owner=True)),
        await queries.newest_messages((await queries.list_sessions(everything)).sessions),
        await queries.list_sessions(replace(everything, status="expired", order="created")),
        await queries.erase_candidates(EraseCandidatesQuery(owner="alice")),
        await queries.open_sessions(limit=100),
        await queries.owed_by_other_nodes("me", limit=100),
        await queries.due(2**62 - 1, limit=100),
        await queries.next_deadline(),
        await queries.long_expired(2**62 - 1, limit=100),
        await queries.oldest_expired(),
        await queries.erasing(limit=100),
        await queries.has_owners(),
        await queries.counts(),
        [await queries.usage(by, "2025-01-01", "2030-01-01") for by in ("day", "owner", "model")],
    )
    return found


def conversations(log: MemoryLog) -> None:
    """Sessions in every state."""
    log.record("chat", created("alice", app="web"), *turn(1), *turn(2, "r1"), *turn(3, "r1"), BranchSelected("r2"))
    log.record("open", created("bob"), posted("m1", None, "r1"), started("r1", "m1"))
    waiting = (posted("m1", None, "r1"), started("r1", "m1"), posted("m2", "r1", "r2"), posted("m3", "r2", "r3"))
    log.record("queue", created("bob"), *waiting, posted("m4", "r3", "r4"), MessageWithdrawn("m2", "r2", "r1"))
    log.record("expired", created("alice"), *turn(1), SessionExpired(log.now_us))
    log.record("erased", created("alice", app="web"), *turn(1))
    log.erase_now("erased", SessionDeleted("request", "alice", usage=(UsageTotal("2025-01-01", "small", 1, 10, 20),)))
    log.record("emptied", created("alice"), *turn(1))
    log.erase_now("emptied", emptied())


async def test_a_store_that_nobody_has_used_is_empty(stores: ProjectionStores, log: MemoryLog) -> None:
    async with opened(stores, log) as store:
        assert (store.checkpoint, store.has_erased_hashes) == (Checkpoint(), False)
        assert await store.queries.counts() == {}
        assert await store.queries.session("s") is None
        assert (await store.queries.list_sessions(SessionListQuery(any_owner=True))).sessions == []
        assert await store.is_in_place()


async def test_a_batch_is_readable_as_soon_as_it_is_applied(stores: ProjectionStores, log: MemoryLog) -> None:
    async with opened(stores, log) as store:
        for n in range(1, 4):
            log.record("s", *([created()] if n == 1 else []), *turn(n, f"r{n - 1}" if n > 1 else None))
            await fold(store, log)
            session = await store.queries.session("s")
            assert session is not None
            assert (session.position, session.message_count) == (log.head().position, 2 * n)
            assert store.checkpoint == await checkpoint_at(log, log.head().position)


@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_the_size_of_batches_changes_no_answer(stores: ProjectionStores, log: MemoryLog, limit: int) -> None:
    conversations(log)
    async with opened(stores, log) as store:
        await fold(store, log, limit)
        in_small_batches = await answers(store, log)
        await store.replace()
        await fold(store, log)
        assert await answers(store, log) == in_small_batches


async def test_what_follows_a_withdrawn_message_moves_up(stores: ProjectionStores, log: MemoryLog) -> None:
    conversations(log)
    log.record("queue", posted("m5", "r4", "r5"), MessageWithdrawn("m4", "r4", "r3"))
    for limit in (1, 3, 1_000):
        async with opened(stores, log) as store:
            await fold(store, log, limit)
            session = await store.queries.session("queue")
            assert session is not None
            assert (session.head, session.message_count) == ("r5", 6)
            path = await store.queries.path(session.no, "r5", limit=100)
            assert [(one.message_id, one.depth) for one in path] == [
                (name, depth) for depth, name in enumerate(("m1", "r1", "m3", "r3", "m5", "r5"), start=1)
            ]
            assert [one.parent_id for one in path] == [None, *(one.message_id for one in path[:-1])]
            assert await store.queries.message(session.no, "m2") is None
            await store.replace()


async def changed(store: ProjectionStore, after: int, owner: str | None = "alice", **query: Any) -> list[str]:
    found = await store.queries.changed_sessions(ChangesQuery(owner, after=after, **query))
    assert found.position == store.checkpoint.position
    assert len(found.sessions) == await store.queries.count_changed(ChangesQuery(owner, after=after, **query))
    return [one.session_id for one in found.sessions]


async def test_what_has_changed_since_a_position_is_told_once_and_by_owner(
    stores: ProjectionStores, log: MemoryLog
) -> None:
    conversations(log)
    async with opened(stores, log) as store:
        await fold(store, log)
        assert await changed(store, 0) == ["chat", "expired", "erased", "emptied"]
        assert await changed(store, 0, limit=2) == ["chat", "expired"]
        assert sorted(await changed(store, 0, None, any_owner=True)) == sorted({one.stream_id for one in log.events})
        before = log.head().position
        log.record("open", ReplyProgressed("r1", 0, "words"))
        log.record("chat", SessionAccessed(), posted("m9", "r2", "r9"))
        log.record("erased", SessionAccessed())
        log.record("hidden", replace(created("bob"), kind="stateless"))
        (batch,) = [log.events[before:]]
        owners = await store.apply(batch, await checkpoint_at(log, batch[-1].position))
        assert owners == {"alice"}
        assert await changed(store, before) == ["chat", "erased"]
        assert await changed(store, before, "bob") == []
        assert await changed(store, before, None, any_owner=True) == ["chat", "erased"]


async def test_a_store_goes_on_from_its_checkpoint(stores: ProjectionStores, log: MemoryLog) -> None:
    conversations(log)
    async with opened(stores, log) as store:
        await fold(store, log)
        checkpoint, before = store.checkpoint, await answers(store, log)
    async with opened(stores, log) as store:
        assert store.checkpoint == checkpoint
        assert await answers(store, log) == before
        log.record("chat", *turn(4, "r2"))
        await fold(store, log)
        assert store.checkpoint.position == log.head().position


async def test_a_batch_that_fails_leaves_neither_content_nor_checkpoint(
    stores: ProjectionStores, log: MemoryLog
) -> None:
    """Its first events are valid; the last has a time that no database's integer holds."""
    conversations(log)
    async with opened(stores, log) as store:
        await fold(store, log)
        checkpoint, before = store.checkpoint, await answers(store, log)
        valid = log.record("chat", *turn(4, "r2"))
        invalid = replace(log.record("open", posted("m2", "r1", "r2"))[0], recorded_at_us=2**63)
        with pytest.raises((OverflowError, InvalidProjection)):
            await store.apply([*valid, invalid], await checkpoint_at(log, invalid.position))
        assert (store.checkpoint, await answers(store, log)) == (checkpoint, before)
    async with opened(stores, log) as store:
        assert (store.checkpoint, await answers(store, log)) == (checkpoint, before)
        await fold(store, log)
        assert store.checkpoint.position == log.head().position


async def test_a_batch_of_a_session_that_was_lost_is_refused(stores: ProjectionStores, log: MemoryLog) -> None:
    conversations(log)
    async with opened(stores, log) as store:
        await fold(store, log)
        lost = replace(log.record("chat", *turn(4, "r2"))[0], stream_id="lost", version=2)
        with pytest.raises(InvalidProjection):
            await store.apply([lost], await checkpoint_at(log, lost.position))


@pytest.mark.parametrize("first", [1, 3, 4, 6], ids=["again", "the last one again", "a part again", "a gap"])
async def test_a_batch_must_follow_the_checkpoint(stores: ProjectionStores, log: MemoryLog, first: int) -> None:
    log.record("s", created(), *turn(1))
    async with opened(stores, log) as store:
        await fold(store, log)
        log.record("s", *turn(2, "r1"))
        batch = log.events[first - 1 :]
        with pytest.raises(LogUnusable):
            await store.apply(batch, await checkpoint_at(log, batch[-1].position))
        assert store.checkpoint.position == 4
        await fold(store, log)


async def test_a_batch_with_a_gap_is_refused(stores: ProjectionStores, log: MemoryLog) -> None:
    log.record("s", created(), *turn(1))
    async with opened(stores, log) as store:
        with pytest.raises(LogUnusable):
            await store.apply([log.events[0], *log.events[2:]], await checkpoint_at(log, 4))
        assert (store.checkpoint.position, await store.queries.counts()) == (0, {})


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_a_stream_that_is_no_session_is_passed_over(stores: ProjectionStores, log: MemoryLog, limit: int) -> None:
    log.record("s", created(), *turn(1))
    for _ in range(3):
        (other,) = log.record("of another kind", SessionAccessed())
        log.events[-1] = replace(other, type="order_placed", event=IgnoredEvent())
    log.record("s", *turn(2, "r1"))
    async with opened(stores, log) as store:
        await fold(store, log, limit)
        assert store.checkpoint.position == log.head().position
        assert await store.queries.session("of another kind") is None
        assert await store.queries.counts() == {"active": 1}


async def test_concurrent_readers_see_whole_batches(stores: ProjectionStores, log: MemoryLog) -> None:
    """Each batch is a turn, so that a session always has twice as many messages as turns, all of them in its branch."""
    log.record("s", created())
    async with opened(stores, log) as store:
        await fold(store, log)
        seen: list[int] = []
        is_over = asyncio.Event()

        async def read() -> None:
            last = 0
            while not is_over.is_set():
                snapshot = await store.queries.snapshot("s", limit=1_000)
                assert snapshot is not None
                count = snapshot.session.message_count
                assert snapshot.session.version == 1 + 3 * (count // 2)
                assert (len(snapshot.messages), snapshot.depth or 0) == (count, count)
                assert all(message.status == "complete" for message in snapshot.messages)
                assert count >= last, "a later answer is older"
                last = count
            seen.append(last)

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(read())
            for n in range(1, 30):
                log.record("s", *turn(n, f"r{n - 1}" if n > 1 else None))
                await fold(store, log)
            is_over.set()
        assert len(seen) == 8


async def test_what_is_erased_is_gone_after_the_batch_and_its_hashes_after_the_purge(
    stores: ProjectionStores, log: MemoryLog
) -> None:
    log.record("kept", created("alice", app="web"), *turn(1))
    log.record("erased", created("alice", app="web"), *turn(1))
    async with opened(stores, log) as store:
        await fold(store, log)
        assert not store.has_erased_hashes
        log.erase_now("erased", SessionDeleted("request", "alice"))
        await fold(store, log)
        erased = await store.queries.session("erased")
        assert erased is not None
        assert (erased.status, await store.queries.path(erased.no, "r1", limit=9)) == ("deleted", [])
        assert store.has_erased_hashes
        assert await store.purge_erased_hashes()
        assert not store.has_erased_hashes
        listed = await store.queries.list_sessions(SessionListQuery(owner="alice", metadata={"app": "web"}))
        assert [session.session_id for session in listed.sessions] == ["kept"]
    async with opened(stores, log) as store:
        assert not store.has_erased_hashes


async def test_a_store_that_ends_before_its_purge_remembers_it(stores: ProjectionStores, log: MemoryLog) -> None:
    log.record("erased", created("alice", app="web"))
    async with opened(stores, log) as store:
        await fold(store, log)
        log.erase_now("erased", SessionDeleted("request", "alice"))
        await fold(store, log)
    async with opened(stores, log) as store:
        assert store.has_erased_hashes


async def test_a_replaced_store_is_empty_and_folds_the_log_to_the_same_answers(
    stores: ProjectionStores, log: MemoryLog
) -> None:
    conversations(log)
    async with opened(stores, log) as store:
        await fold(store, log)
        before = await answers(store, log)
        await store.replace()
        assert (store.checkpoint, store.has_erased_hashes) == (Checkpoint(), False)
        assert await store.queries.counts() == {}
        await fold(store, log)
        assert await answers(store, log) == before


async def test_another_log_is_refused_and_what_was_folded_stays(stores: ProjectionStores, log: MemoryLog) -> None:
    conversations(log)
    async with opened(stores, log) as store:
        await fold(store, log)
        before = await answers(store, log)
    other = MemoryLog(b"another")
    conversations(other)
    for wrong in (other, MemoryLog()):
        refused = stores.make()
        with pytest.raises(LogReplaced):
            await refused.open(wrong)
        await refused.close()
    async with opened(stores, log) as store:
        assert await answers(store, log) == before


async def test_one_process_at_a_time_has_a_store_open(stores: ProjectionStores, log: MemoryLog) -> None:
    async with opened(stores, log):
        second = stores.make()
        with pytest.raises(ProjectionsInUse):
            await second.open(log)
        await second.close()
    async with opened(stores, log):
        pass


async def test_a_closed_store_answers_no_query(stores: ProjectionStores, log: MemoryLog) -> None:
    async with opened(stores, log) as store:
        queries = store.queries
    with pytest.raises(ProjectionsUnavailable):
        await queries.counts()


async def test_a_rebuild_is_adopted_with_what_was_folded_meanwhile(stores: ProjectionStores, log: MemoryLog) -> None:
    conversations(log)
    async with opened(stores, log) as store:
        assert not await store.adopt(log, 100), "nothing is ready"
        await fold(store, log)
        await stores.rebuild_elsewhere(log)
        log.record("chat", *turn(4, "r2"))
        await fold(store, log)
        before = await answers(store, log)
        assert await store.adopt(log, 2)
        assert store.checkpoint.position == log.head().position
        assert await answers(store, log) == before
        assert await store.is_in_place()
        assert not await store.adopt(log, 100), "it was adopted already"


async def test_queries_wait_while_a_rebuild_is_adopted(stores: ProjectionStores, log: MemoryLog) -> None:
    log.record("s", created(), *turns(20))
    async with opened(stores, log) as store:
        await fold(store, log)
        await stores.rebuild_elsewhere(log)
        adopting = asyncio.create_task(store.adopt(log, 100))
        while not adopting.done():
            assert await store.queries.counts() == {"active": 1}
            await asyncio.sleep(0)
        assert await adopting


async def test_a_rebuild_of_another_log_is_refused_and_the_present_one_stays(
    stores: ProjectionStores, log: MemoryLog
) -> None:
    conversations(log)
    other = MemoryLog(b"another")
    other.record("s", created())
    async with opened(stores, log) as store:
        await stores.rebuild_elsewhere(other)
        await fold(store, log)
        before = await answers(store, log)
        with pytest.raises(InvalidRebuild):
            await store.adopt(log, 100)
        assert await answers(store, log) == before


async def test_a_runner_follows_the_log_through_the_port_alone(stores: ProjectionStores, log: MemoryLog) -> None:
    conversations(log)
    runner = ProjectionRunner(stores.make(), log)
    await runner.start()
    try:
        for n in range(4, 8):
            await runner.wait_for(log.head().position, timeout_s=20)
            log.record("chat", *turn(n, f"r{n - 1}"))
        await runner.wait_for(log.head().position, timeout_s=20)
        session = await runner.queries.session("chat")
        assert session is not None
        assert (session.position, runner.failure) == (log.head().position, None)
    finally:
        await runner.stop()
