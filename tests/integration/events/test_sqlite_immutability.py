"""What SQLite refuses in its own way; what every store refuses is in tests/contract/test_store_immutability.py."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import APPLICATION_ID, FORMAT, WRITER_PRAGMAS
from tests.support.log.sample_events import ASKED, deleted, posted

COLUMNS = "stream_id, version, type, schema_version, recorded_at, metadata, data, salt, commitment, digest"


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A log with stream `a` at version 2, erased up to 1, and stream `b` at version 2."""
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("a", 0, [posted("gone")], ASKED)
    await log.erase("a", 1, deleted(), ASKED)
    await log.append("b", 0, [posted("kept"), posted("too")], ASKED)
    await log.close()
    return tmp_path / "log.db"


@pytest.fixture
def foreign(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection, with that program's own settings."""
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    assert connection.execute("SELECT count(*), count(data) FROM events").fetchone() == (4, 3)
    connection.close()


def insert(verb: str, position: str, stream_id: str, version: int) -> str:
    return (
        f"{verb} INTO events (position, {COLUMNS}) VALUES"
        f" ({position}, '{stream_id}', {version}, 't', 1, 1, '', '', x'00', zeroblob(32), zeroblob(32))"
    )


@pytest.mark.parametrize("verb", ["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE", "REPLACE"])
@pytest.mark.parametrize("position", ["3", "6", "0", "-1"])
def test_it_refuses_a_position_that_is_not_the_next(foreign: sqlite3.Connection, verb: str, position: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="position must be the one after the last"):
        foreign.execute(insert(verb, position, "c", 1))


@pytest.mark.parametrize("verb", ["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE", "REPLACE"])
@pytest.mark.parametrize(("stream_id", "version"), [("a", 2), ("a", 4), ("b", 1), ("c", 0), ("c", 2)])
def test_it_refuses_a_version_that_is_not_the_next(
    foreign: sqlite3.Connection, verb: str, stream_id: str, version: int
) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="version must be the one after the stream's last"):
        foreign.execute(insert(verb, "5", stream_id, version))


@pytest.mark.parametrize(("column", "value"), [("commitment", "zeroblob(31)"), ("digest", "zeroblob(33)")])
def test_it_refuses_proof_of_another_length(foreign: sqlite3.Connection, column: str, value: str) -> None:
    proof = {"commitment": "zeroblob(32)", "digest": "zeroblob(32)"} | {column: value}
    with pytest.raises(sqlite3.IntegrityError, match=f"length\\({column}\\) = 32"):
        foreign.execute(
            f"INSERT INTO events (position, {COLUMNS}) VALUES (5, 'c', 1, 't', 1, 1, '', '', x'00',"
            f" {proof['commitment']}, {proof['digest']})"
        )


def test_the_file_says_what_it_is(foreign: sqlite3.Connection) -> None:
    assert foreign.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert foreign.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    assert foreign.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert foreign.execute("SELECT json_extract(data, '$.content') FROM events WHERE position = 3").fetchone() == (
        "kept",
    )


async def test_the_writing_connection_is_set_for_durability_and_erasure(path: Path) -> None:
    log = await SqliteLog.open(path)
    try:
        assert log._write_side is not None
        connection = log._write_side.store._connection
        assert connection is not None
        for setting in WRITER_PRAGMAS:
            name, value = setting.split("=")
            expected = {"FULL": 2, "ON": 1, "MEMORY": 2}.get(value) or int(value)
            assert list(await connection.execute_fetchall(f"PRAGMA {name}")) == [(expected,)], setting
    finally:
        await log.close()
