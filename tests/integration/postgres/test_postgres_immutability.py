"""PostgreSQL itself refuses to forget, change or reorder, whatever program asks it."""

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
    ["DELETE FROM events", "DELETE FROM events WHERE position = 4", "TRUNCATE events", "TRUNCATE events CASCADE"],
)
async def test_it_refuses_to_delete(foreign: asyncpg.Connection, statement: str) -> None:
    with pytest.raises(asyncpg.RaiseError, match="cannot be deleted"):
        await foreign.execute(statement)


@pytest.mark.parametrize(
    "change",
    [
        "position = 9",
        "stream_id = 'c'",
        "version = 9",
        "type = 'message_edited'",
        "schema_version = 2",
        "recorded_at = 0",
        "metadata = '{}'",
        "data = '{}'",
        "salt = '\\x00'",
        "commitment = decode(repeat('00', 32), 'hex')",
        "digest = decode(repeat('00', 32), 'hex')",
        "data = NULL",
        "salt = NULL",
        "data = NULL, salt = NULL, type = 'session_accessed'",
        "data = NULL, salt = NULL, digest = decode(repeat('00', 32), 'hex')",
        "data = data",
    ],
)
async def test_it_refuses_any_change_but_the_erasure_of_content(foreign: asyncpg.Connection, change: str) -> None:
    with pytest.raises(asyncpg.RaiseError, match="cannot be changed"):
        await foreign.execute(f"UPDATE events SET {change} WHERE position = 3")
    with pytest.raises(asyncpg.RaiseError, match="cannot be changed"):
        await foreign.execute(
            "INSERT INTO events SELECT * FROM events WHERE position = 3"
            f" ON CONFLICT (position) DO UPDATE SET {change.replace('= data', '= events.data')}"
        )


@pytest.mark.parametrize("change", ["data = NULL, salt = NULL", "data = '{}', salt = '\\x00'"])
async def test_erased_content_stays_erased(foreign: asyncpg.Connection, change: str) -> None:
    with pytest.raises(asyncpg.RaiseError, match="cannot be changed"):
        await foreign.execute(f"UPDATE events SET {change} WHERE position = 1")


def row(position: int, stream_id: str, version: int, proof: int = 32) -> str:
    zeros = f"decode(repeat('00', {proof}), 'hex')"
    return f"({position}, '{stream_id}', {version}, 't', 1, 1, '', '', '\\x00', {zeros}, {zeros})"


@pytest.mark.parametrize(
    "rows",
    [
        [(6, "c", 1)],
        [(5, "c", 1), (7, "c", 2)],
        [(6, "c", 1), (7, "c", 2)],
        [(2**40, "c", 1)],
    ],
)
async def test_it_refuses_a_position_that_is_not_the_next(
    foreign: asyncpg.Connection, rows: list[tuple[int, str, int]]
) -> None:
    with pytest.raises(asyncpg.RaiseError, match="position must be the one after the last"):
        await foreign.execute(f"INSERT INTO events VALUES {','.join(row(*one) for one in rows)}")


@pytest.mark.parametrize(
    "rows",
    [
        [(5, "a", 4)],
        [(5, "c", 2)],
        [(5, "c", 1), (6, "c", 3)],
        [(5, "d", 1), (6, "c", 2), (7, "c", 3)],
    ],
)
async def test_it_refuses_a_version_that_is_not_the_next(
    foreign: asyncpg.Connection, rows: list[tuple[int, str, int]]
) -> None:
    with pytest.raises(asyncpg.RaiseError, match="version must be the one after the stream's last"):
        await foreign.execute(f"INSERT INTO events VALUES {','.join(row(*one) for one in rows)}")


@pytest.mark.parametrize("one", [(3, "c", 1, 32), (5, "b", 1, 32), (0, "c", 1, 32), (5, "c", 0, 32), (5, "c", 1, 31)])
async def test_it_refuses_what_is_there_and_what_no_log_writes(
    foreign: asyncpg.Connection, one: tuple[int, str, int, int]
) -> None:
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await foreign.execute(f"INSERT INTO events VALUES {row(*one)}")


async def test_the_table_says_what_it_is(foreign: asyncpg.Connection) -> None:
    assert await foreign.fetchval("SELECT obj_description('events'::regclass)") == f"{MARK}{FORMAT}"
    assert await foreign.fetchval("SELECT data::json->>'content' FROM events WHERE position = 3") == "kept"
