"""The database itself refuses to forget, change or reorder, whatever program asks it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import asyncpg
import pytest

from events.log import EventLog
from events.storage.postgres.postgres_log import PostgresLog
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.sample_events import ASKED, deleted, posted

COLUMNS = "position, stream_id, version, type, schema_version, recorded_at, metadata, data, salt, commitment, digest"
COUNTS = "SELECT count(*), count(data), max(position) FROM events"


class ForeignConnection(Protocol):
    """Another program's connection to the database, with that program's own settings."""

    @property
    def refusal(self) -> type[Exception]:
        """What a trigger of the log raises."""

    @property
    def byte(self) -> str:
        """The literal of one zero."""

    def zeros(self, length: int) -> str: ...

    def replacement(self, change: str, position: int) -> str:
        """A statement of this database's own that changes a row when a plain UPDATE or INSERT is in conflict."""

    async def execute(self, statement: str) -> None: ...

    async def counts(self) -> tuple[int, ...]: ...

    async def close(self) -> None: ...


class SqliteConnection:
    refusal = sqlite3.IntegrityError
    byte = "x'00'"

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)

    def zeros(self, length: int) -> str:
        return f"zeroblob({length})"

    def replacement(self, change: str, position: int) -> str:
        return f"UPDATE OR REPLACE events SET {change} WHERE position = {position}"

    async def execute(self, statement: str) -> None:
        self._connection.execute(statement)

    async def counts(self) -> tuple[int, ...]:
        return tuple(self._connection.execute(COUNTS).fetchone())

    async def close(self) -> None:
        self._connection.close()


class PostgresConnection:
    refusal = asyncpg.RaiseError
    byte = r"'\x00'"

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    def zeros(self, length: int) -> str:
        return f"decode(repeat('00', {length}), 'hex')"

    def replacement(self, change: str, position: int) -> str:
        change = change.replace("= data", "= events.data")
        return (
            f"INSERT INTO events SELECT * FROM events WHERE position = {position}"
            f" ON CONFLICT (position) DO UPDATE SET {change}"
        )

    async def execute(self, statement: str) -> None:
        await self._connection.execute(statement)

    async def counts(self) -> tuple[int, ...]:
        return tuple(await self._connection.fetchrow(COUNTS))

    async def close(self) -> None:
        await self._connection.close()


async def fill(log: EventLog) -> None:
    """Stream `a` at version 2, erased up to 1, and stream `b` at version 2."""
    await log.append("a", 0, [posted("gone")], ASKED)
    await log.erase("a", 1, deleted(), ASKED)
    await log.append("b", 0, [posted("kept"), posted("too")], ASKED)
    await log.close()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.real_part)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path | str:
    """Of a log for all tests here: a path, or a URL. What is refused leaves it as it is."""

    async def filled() -> Path | str:
        if request.param == "sqlite":
            path = tmp_path_factory.mktemp("immutable") / "log.db"
            await fill(await SqliteLog.open(path))
            return path
        url = str(await request.getfixturevalue("postgres").schema())
        await fill(await PostgresLog.open(url))
        return url

    return asyncio.run(filled())


@pytest.fixture
async def foreign(place: Path | str) -> AsyncIterator[ForeignConnection]:
    connection: ForeignConnection
    if isinstance(place, Path):
        connection = SqliteConnection(place)
    else:
        connection = PostgresConnection(await asyncpg.connect(place))
    yield connection
    assert await connection.counts() == (4, 3, 4)
    await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM events",
        "DELETE FROM events WHERE position = 4",
        "DELETE FROM events WHERE stream_id = 'a'",
    ],
)
async def test_it_refuses_to_delete(foreign: ForeignConnection, statement: str) -> None:
    with pytest.raises(foreign.refusal, match="cannot be deleted"):
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
        "salt = BYTE",
        "commitment = ZEROS",
        "digest = ZEROS",
        "data = NULL",
        "salt = NULL",
        "data = NULL, salt = NULL, type = 'session_accessed'",
        "data = NULL, salt = NULL, digest = ZEROS",
        "data = data",
    ],
)
async def test_it_refuses_any_change_but_the_erasure_of_content(foreign: ForeignConnection, change: str) -> None:
    change = change.replace("BYTE", foreign.byte).replace("ZEROS", foreign.zeros(32))
    with pytest.raises(foreign.refusal, match="cannot be changed"):
        await foreign.execute(f"UPDATE events SET {change} WHERE position = 3")
    with pytest.raises(foreign.refusal, match="cannot be changed"):
        await foreign.execute(foreign.replacement(change, 3))


@pytest.mark.parametrize("change", ["data = NULL, salt = NULL", "data = '{}', salt = BYTE"])
async def test_erased_content_stays_erased(foreign: ForeignConnection, change: str) -> None:
    with pytest.raises(foreign.refusal, match="cannot be changed"):
        await foreign.execute(f"UPDATE events SET {change.replace('BYTE', foreign.byte)} WHERE position = 1")


def insertion(foreign: ForeignConnection, rows: list[tuple[int, str, int]]) -> str:
    zeros = foreign.zeros(32)
    values = [
        f"({position}, '{stream_id}', {version}, 't', 1, 1, '', '', {foreign.byte}, {zeros}, {zeros})"
        for position, stream_id, version in rows
    ]
    return f"INSERT INTO events ({COLUMNS}) VALUES {', '.join(values)}"


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
    foreign: ForeignConnection, rows: list[tuple[int, str, int]]
) -> None:
    with pytest.raises(foreign.refusal, match="position must be the one after the last"):
        await foreign.execute(insertion(foreign, rows))


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
    foreign: ForeignConnection, rows: list[tuple[int, str, int]]
) -> None:
    with pytest.raises(foreign.refusal, match="version must be the one after the stream's last"):
        await foreign.execute(insertion(foreign, rows))
