"""The database itself refuses to change or delete a file that is in use, whatever program asks it."""

import sqlite3
from pathlib import Path

import asyncpg
import pytest

from events.log import EventLog
from events.media import MediaReference
from events.record import Metadata
from tests.support.log.log_texts import ALL
from tests.support.log.media import OWNER, put, read, shown
from tests.support.log.stores import PostgresStores, SqliteStores

REFUSED = [
    "UPDATE media SET sha256 = {zeros}",
    "UPDATE media SET bytes = 3",
    "UPDATE media SET media_type = 'text/html'",
    "UPDATE media SET sha256 = NULL, is_unused = {true}",
    "DELETE FROM media",
    "UPDATE media_chunks SET data = {zeros}",
    "DELETE FROM media_chunks",
    "DELETE FROM media_references WHERE position = 1",
    "UPDATE media_references SET position = 2 WHERE position = 1",
    "UPDATE media_references SET holder = 'b' WHERE position = 0",
]


async def keep(log: EventLog) -> str:
    """A file that an event at position 1 refers to, and an upload holds."""
    stat = await put(log, b"kept")
    await log.append("a", 0, [shown(stat)], Metadata(actor="bob"))
    return stat.sha256


async def check_kept(log: EventLog, sha256: str) -> None:
    assert await read(log, sha256) == b"kept"
    assert await log.media.references(sha256, limit=ALL) == [MediaReference(1, "a"), MediaReference(0, OWNER)]


async def test_sqlite_refuses_to_change_or_delete_a_file_that_is_in_use(tmp_path: Path) -> None:
    stores = SqliteStores(tmp_path)
    log = await stores.open()
    sha256 = await keep(log)
    foreign = sqlite3.connect(stores.path, isolation_level=None)
    for statement in REFUSED:
        with pytest.raises(sqlite3.IntegrityError, match="media: "):
            foreign.execute(statement.format(zeros="zeroblob(32)", true=1))
    foreign.close()
    await check_kept(log, sha256)
    await stores.close()


@pytest.mark.real_part
async def test_postgres_refuses_to_change_or_delete_a_file_that_is_in_use(request: pytest.FixtureRequest) -> None:
    stores = PostgresStores(await request.getfixturevalue("postgres").schema())
    log = await stores.open()
    sha256 = await keep(log)
    foreign = await asyncpg.connect(stores.url)
    truncations = [f"TRUNCATE {name} CASCADE" for name in ("media", "media_chunks", "media_references")]
    for statement in (*REFUSED, *truncations):
        with pytest.raises(asyncpg.RaiseError, match="media: "):
            await foreign.execute(statement.format(zeros="decode(repeat('00', 32), 'hex')", true="true"))
    await foreign.close()
    await check_kept(log, sha256)
    await stores.close()
