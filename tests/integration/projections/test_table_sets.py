"""Two sets of tables of the projections in PostgreSQL: a rebuild fills one while the other answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
import pytest

from events.catalogue import SessionCreated
from events.log import EventLog
from events.options import LogOptions
from events.record import Metadata, RecordedEvent
from events.storage.postgres.postgres_connection import Database
from events.storage.postgres.postgres_log import PostgresLog
from events.storage.postgres.postgres_read_pool import PostgresReadPool
from projections.checkpoint import checkpoint_at
from projections.errors import InvalidRebuild
from projections.port import EraseCandidatesQuery, SessionListQuery
from projections.postgres import projection_tables
from projections.postgres.node_projections import NodeProjections
from projections.postgres.projection_schema import NEXT_PREFIX, PREFIX
from projections.postgres.projection_tables import REBUILD_LOCK, ProjectionTables, create_set, try_lock
from projections.postgres.server_session import ServerSession
from projections.postgres.table_queries import TableQueries
from projections.postgres.table_rebuild import rebuild_tables
from projections.runner import RunnerOptions
from tests.support.log.event_builders import created, turn
from tests.support.programs.postgres_server import PostgresServer
from tests.support.sessions.projection_harness import RecordingObserver

pytestmark = pytest.mark.real_part


class PartialLog(PostgresLog):
    """As a process reads it that has seen the events up to `visible` so far."""

    visible = 2**60
    url = ""  # to write to the tables of a rebuild

    async def read_all(self, *, after: int = 0, limit: int) -> list[RecordedEvent]:
        if self.url:
            await run(self.url, f"UPDATE {NEXT_PREFIX}meta SET digest = 'other'")
        return [one for one in await super().read_all(after=after, limit=limit) if one.position <= self.visible]


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    return await postgres.schema()


@pytest.fixture
async def log(url: str) -> AsyncIterator[PartialLog]:
    """With a session of four events."""
    opened = await PartialLog.open(url, LogOptions(busy_timeout_s=60.0))
    assert isinstance(opened, PartialLog)
    await opened.append("s", 0, [created(), *turn(1)], Metadata())
    yield opened
    await opened.close()


async def run(url: str, script: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(script)
    finally:
        await connection.close()


async def exists(log: PostgresLog, table: str) -> bool:
    ((found,),) = await log.pool.fetch("SELECT to_regclass($1) IS NOT NULL", table)
    return bool(found)


async def rebuild(log: PostgresLog) -> tuple[int, bool]:
    return await rebuild_tables(log.database, log, 100, lambda _: None)


@asynccontextmanager
async def folding(log: PostgresLog) -> AsyncIterator[tuple[NodeProjections, RecordingObserver]]:
    told = RecordingObserver()
    node = NodeProjections(log, log.database, log.pool, told, RunnerOptions(file_check_s=0.0))
    await node.start()
    await node.wait_for(log.head().position)
    yield node, told
    await node.stop()


@asynccontextmanager
async def opened_store(log: PostgresLog) -> AsyncIterator[ProjectionTables]:
    store = ProjectionTables(log.database, log.pool)
    assert await store.open(log) is None
    yield store
    await store.close()


@asynccontextmanager
async def session(log: PostgresLog) -> AsyncIterator[ServerSession]:
    opened = await ServerSession.open(log.database)
    yield opened
    await opened.close()


async def test_nodes_fold_and_answer_while_a_backup_reads_the_tables_that_a_rebuild_replaces(
    url: str, log: PartialLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection_tables, "SWAP_PAUSE_S", 0.2)
    async with folding(log) as (node, told):
        backup = await asyncpg.connect(url)
        try:
            async with backup.transaction():
                await backup.fetch(f"SELECT count(*) FROM {PREFIX}sessions")
                assert await rebuild(log) == (4, False)
                for version in (4, 7, 10):
                    recorded = await log.append("s", version, turn(version), Metadata())
                    await node.wait_for(recorded[-1].position)
                    found = await node.queries.session("s")
                    assert found is not None
                    assert found.version == version + 3
                assert (told.adoptions, node.trouble) == ([], None)
        finally:
            await backup.close()
        version = 13
        async with asyncio.timeout(20):
            while not told.adoptions:  # looked for while events arrive
                version = (await log.append("s", version, turn(version), Metadata()))[-1].version
                await node.wait_for(version)


async def test_a_damaged_set_is_replaced_once_no_backup_reads_it(url: str, log: PartialLog) -> None:
    async with folding(log) as (node, told):
        backup = await asyncpg.connect(url)
        try:
            async with backup.transaction():
                await backup.fetch(f"SELECT count(*) FROM {PREFIX}sessions")
                node.queries._damaged("it is damaged")
                async with asyncio.timeout(20):
                    while len(told.failures) < 4:  # more attempts than rebuilds in a row are allowed
                        await asyncio.sleep(0.01)
        finally:
            await backup.close()
        await node.wait_for(4, timeout_s=20)
        assert (node.failure, node.rebuilding) == (None, False)


async def test_a_rebuilt_set_is_not_put_in_place_while_another_rebuild_runs(log: PartialLog) -> None:
    async with opened_store(log) as store:
        assert await rebuild(log) == (4, False)
        async with session(log) as other:
            assert await try_lock(other, REBUILD_LOCK)
            assert not await store.adopt(log, 100)
        assert await store.adopt(log, 100)
        assert await rebuild(log) == (4, False), "the lock is free again"


async def test_a_rebuilt_set_that_another_process_writes_is_refused(url: str, log: PartialLog) -> None:
    async with opened_store(log) as store:
        log.visible = 1
        assert await rebuild(log) == (1, False)
        log.visible = 4
        await fold(store, log)
        log.url = url
        with pytest.raises(InvalidRebuild, match="another process"):
            await store.adopt(log, 100)
        log.url = ""
        assert not await exists(log, f"{NEXT_PREFIX}meta")
        assert store.checkpoint.position == 4


class ReplacedOnce:
    """A pool, during whose first query a rebuild is put in place."""

    def __init__(self, log: PostgresLog, store: ProjectionTables) -> None:
        self._log = log
        self._store: ProjectionTables | None = store

    async def fetch(self, query: str, *values: Any, is_long: bool = False) -> list[Any]:
        rows = await self._log.pool.fetch(query, *values, is_long=is_long)
        store, self._store = self._store, None
        if store is not None:
            await rebuild(self._log)
            assert await store.adopt(self._log, 100)
        return rows


async def test_a_hash_is_looked_up_in_the_tables_whose_key_it_was_made_with(log: PartialLog) -> None:
    await log.append("k", 0, [SessionCreated(None, {"app": "web"}, 3600, idempotency_key="key")], Metadata())
    async with opened_store(log) as store:
        await fold(store, log)
        asks: list[Callable[[TableQueries], Awaitable[Any]]] = [
            lambda queries: queries.positions_of_key(5, "key"),
            lambda queries: queries.list_sessions(SessionListQuery(any_owner=True, metadata={"app": "web"})),
            lambda queries: queries.erase_candidates(EraseCandidatesQuery(metadata={"app": "web"})),
        ]
        for ask in asks:
            expected = await ask(store.queries)
            pool = cast(PostgresReadPool, ReplacedOnce(log, store))
            assert await ask(TableQueries(pool, lambda _: None)) == expected
            assert expected


async def test_what_a_killed_rebuild_has_left_is_dropped(log: PartialLog) -> None:
    async with session(log) as killed, killed.statements() as statements:
        await create_set(statements, NEXT_PREFIX, is_complete=False)
    async with folding(log):
        assert not await exists(log, f"{NEXT_PREFIX}meta")


async def test_a_rebuild_under_way_is_left_alone_by_a_node_that_starts(log: PartialLog) -> None:
    async with session(log) as running:
        assert await try_lock(running, REBUILD_LOCK)
        async with running.statements() as statements:
            await create_set(statements, NEXT_PREFIX, is_complete=False)
        async with folding(log):
            assert await exists(log, f"{NEXT_PREFIX}meta")


async def test_a_rebuild_without_a_node_shows_all_that_the_present_tables_show(url: str, log: PartialLog) -> None:
    async with folding(log):
        pass
    log.visible = 2

    def show_all(_reached: int) -> None:
        log.visible = 4

    assert await rebuild_tables(Database(url, LogOptions()), log, 100, show_all) == (4, True)


async def fold(store: ProjectionTables, log: EventLog) -> None:
    batch = await log.read_all(after=store.checkpoint.position, limit=100)
    await store.apply(batch, await checkpoint_at(log, batch[-1].position))
