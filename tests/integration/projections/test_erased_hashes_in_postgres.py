"""Hashes of erased metadata leave the tables of the projections in PostgreSQL, and their indexes."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from events.catalogue import SessionDeleted
from events.options import LogOptions
from events.record import Metadata
from events.storage.postgres.postgres_connection import Database
from events.storage.postgres.postgres_log import PostgresLog
from projections.errors import ProjectionsUnavailable
from projections.postgres.hash_purge import vacuum_hashes
from projections.postgres.node_projections import NodeProjections
from projections.postgres.projection_schema import PREFIX
from tests.support.log.event_builders import created
from tests.support.programs.postgres_server import PostgresServer

pytestmark = pytest.mark.real_part

LABELS = 20_000  # on so many pages that a VACUUM, by itself, would leave the index of a few deleted rows alone


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    return await postgres.schema()


@pytest.fixture
async def log(url: str) -> AsyncIterator[PostgresLog]:
    opened = await PostgresLog.open(url, LogOptions(busy_timeout_s=60.0))
    yield opened
    await opened.close()


@pytest.fixture
async def admin(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


async def test_a_purge_removes_the_entries_of_indexes_and_nobody_waits_for_it(
    log: PostgresLog, admin: asyncpg.Connection
) -> None:
    node = NodeProjections(log, log.database, log.pool)
    await node.start()
    await log.append("erased", 0, [created("alice", user_id="u1", app="web")], Metadata())
    await node.wait_for(1)
    await admin.execute(f"INSERT INTO {PREFIX}labels SELECT no, no + 10 FROM generate_series(1, {LABELS}) AS no")
    await admin.execute(f"VACUUM ANALYZE {PREFIX}labels")

    async def indexed() -> list[int]:
        """The entries of each index, as the last ANALYZE or VACUUM that went through it has counted them."""
        query = """
            SELECT reltuples::bigint FROM pg_index JOIN pg_class AS c ON c.oid = indexrelid
             WHERE indrelid = $1::regclass
        """
        return [count for (count,) in await admin.fetch(query, f"{PREFIX}labels")]

    assert await indexed() == [LABELS + 2] * 2
    async with admin.transaction():
        await admin.execute(f"LOCK TABLE {PREFIX}labels IN SHARE UPDATE EXCLUSIVE MODE")  # as a long purge: it waits
        await log.erase("erased", 1, SessionDeleted("request", "alice"), Metadata())
        for name in "abc":
            recorded = await log.append(name, 0, [created()], Metadata())
            await node.wait_for(recorded[-1].position)
            await asyncio.sleep(0.05)
        assert await admin.fetchval(f"SELECT is_stale FROM {PREFIX}meta")
    async with asyncio.timeout(20):
        while await admin.fetchval(f"SELECT is_stale FROM {PREFIX}meta"):
            await asyncio.sleep(0.05)
    assert await indexed() == [LABELS] * 2
    await node.stop()


async def test_tables_that_the_server_skips_count_as_not_purged(
    url: str, log: PostgresLog, admin: asyncpg.Connection
) -> None:
    node = NodeProjections(log, log.database, log.pool)
    await node.start()
    await node.stop()
    role, schema = f"r{uuid.uuid4().hex[:12]}", await admin.fetchval("SELECT current_schema()")
    await admin.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role}")
    database = Database(url.replace("postgres@", f"{role}@"), LogOptions())
    with pytest.raises(ProjectionsUnavailable, match="erased hashes"):
        await vacuum_hashes(database)
