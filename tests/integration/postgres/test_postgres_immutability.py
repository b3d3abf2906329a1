"""What PostgreSQL refuses in its own way; what every store refuses is in tests/contract/test_store_immutability.py."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from events.storage.postgres.postgres_log import PostgresLog
from events.storage.postgres.postgres_schema import FORMAT, MARK
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.programs.postgres_server import PostgresServer

pytestmark = pytest.mark.real_part
KEPT = "SELECT count(*), count(data), max(position) FROM events"


@pytest.fixture(scope="module")
def url(postgres: PostgresServer) -> str:
    """A log with stream `a` at version 2, erased up to 1, and stream `b` at version 2."""

    async def filled() -> str:
        url = await postgres.schema()
        log = await PostgresLog.open(url)
        await log.append("a", 0, [posted("gone")], ASKED)
        await log.erase("a", 1, deleted(), ASKED)
        await log.append("b", 0, [posted("kept"), posted("too")], ASKED)
        await log.close()
        return url

    return asyncio.run(filled())


@pytest.fixture
async def foreign(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Another program's connection, with that program's own settings."""
    connection = await asyncpg.connect(url)
    yield connection
    assert tuple(await connection.fetchrow(KEPT)) == (4, 3, 4)
    await connection.close()


@pytest.mark.parametrize(
    "statement",
    ["TRUNCATE events", "TRUNCATE events CASCADE"],
)
async def test_it_refuses_to_truncate(foreign: asyncpg.Connection, statement: str) -> None:
    with pytest.raises(asyncpg.RaiseError, match="cannot be deleted"):
        await foreign.execute(statement)


def row(position: int, stream_id: str, version: int, proof: int = 32) -> str:
    zeros = f"decode(repeat('00', {proof}), 'hex')"
    return f"({position}, '{stream_id}', {version}, 't', 1, 1, '', '', '\\x00', {zeros}, {zeros})"


@pytest.mark.parametrize("one", [(3, "c", 1, 32), (5, "b", 1, 32), (0, "c", 1, 32), (5, "c", 0, 32), (5, "c", 1, 31)])
async def test_it_refuses_what_is_there_and_what_no_log_writes(
    foreign: asyncpg.Connection, one: tuple[int, str, int, int]
) -> None:
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await foreign.execute(f"INSERT INTO events VALUES {row(*one)}")


async def test_the_table_says_what_it_is(foreign: asyncpg.Connection) -> None:
    assert await foreign.fetchval("SELECT obj_description('events'::regclass)") == f"{MARK}{FORMAT}"
    assert await foreign.fetchval("SELECT data::json->>'content' FROM events WHERE position = 3") == "kept"
