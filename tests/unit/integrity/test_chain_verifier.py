"""Tampering with a real log file, behind its triggers' back: each kind is found, at the right position."""

import shutil
import sqlite3
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace

from events.integrity.chain_verifier import ChainFault, ChainVerifier, verify
from events.integrity.hash_chain import GENESIS, commit, link
from events.record import Head, RawColumns, StoredRow
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import RAW_COLUMNS, TRIGGERS
from tests.support.log.log_files import first_fault
from tests.support.log.sample_events import ASKED, EVERY_EVENT, deleted, posted

LENGTH = 24
ERASED = 9  # positions 1 to 9 hold stream "gone", erased by the event at 10


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "log.db"


@pytest.fixture
async def database(whole_file: Path, tmp_path: Path) -> Path:
    """A copy of a log of three streams, one of them erased, without its triggers."""
    if not whole_file.exists():
        log = await SqliteLog.open(whole_file)
        for version in range(ERASED):
            await log.append("gone", version, [posted(f"secret {version}")], ASKED)
        await log.erase("gone", ERASED, deleted(), ASKED)
        await log.append("left", 0, EVERY_EVENT[:7], ASKED)
        await log.append("right", 0, EVERY_EVENT[:7], ASKED)
        await log.close()
    copy = Path(shutil.copy(whole_file, tmp_path / "log.db"))
    with_triggers_dropped(copy)
    return copy


def with_triggers_dropped(database: Path) -> None:
    tamper(database, *(f"DROP TRIGGER {name}" for name in TRIGGERS))


def tamper(database: Path, *statements: str) -> None:
    connection = sqlite3.connect(database, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.fixture
async def log(database: Path) -> AsyncIterator[SqliteLog]:
    opened = await SqliteLog.open(database, read_only=True)
    yield opened
    await opened.close()


async def fault_of(database: Path, expected_head: Head | None = None) -> ChainFault | None:
    log = await SqliteLog.open(database, read_only=True)
    try:
        return (await verify(log, ChainVerifier(expected_head)))[1]
    finally:
        await log.close()


async def test_a_log_that_nobody_touched_is_whole(log: SqliteLog) -> None:
    reached: list[int] = []
    walk, fault = await verify(log, progress=reached.append)
    assert fault is None
    assert Head(walk.position, walk.digest) == log.head()
    assert (walk.position, walk.erased, reached) == (LENGTH, ERASED, [LENGTH])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("stream_id", "'left', version = 8"),
        ("stream_id", "'new'"),
        ("version", "8"),
        ("version", "-1"),
        ("type", "'reply_started'"),
        ("schema_version", "schema_version + 1"),
        ("schema_version", "-1"),
        ("recorded_at", "recorded_at + 1"),
        ("metadata", "'{}'"),
        ("metadata", "CAST(x'ff' AS TEXT)"),
        ("data", "replace(data, 'm1', 'm2')"),
        ("data", "CAST(x'ff' AS TEXT)"),
        ("salt", "randomblob(16)"),
        ("commitment", "randomblob(32)"),
        ("digest", "randomblob(32)"),
    ],
)
async def test_a_changed_column_is_found_where_it_is(database: Path, column: str, value: str) -> None:
    tamper(database, f"UPDATE events SET {column} = {value} WHERE position = {LENGTH - 3}")
    fault = await fault_of(database)
    assert fault is not None
    assert fault.position == LENGTH - 3


@pytest.mark.parametrize("column", ["stream_id", "type", "metadata", "data"])
async def test_what_is_no_text_is_a_fault_even_in_a_chain_computed_anew(database: Path, column: str) -> None:
    version = ", version = 1" if column == "stream_id" else ""
    tamper(database, f"UPDATE events SET {column} = CAST(x'ff' AS TEXT){version} WHERE position = {LENGTH}")
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        query = f"SELECT {RAW_COLUMNS} FROM events WHERE position >= {LENGTH - 1} ORDER BY position"
        before, row = connection.execute(query).fetchall()
        _, stream, number, kind, schema, at_us, asked, data, salt, *_ = row
        commitment = sha256(salt + data).digest()
        numbers = struct.pack(">QQQQ", LENGTH, number, schema, at_us)
        texts = b"".join(len(text).to_bytes(8) + text for text in (stream, kind, asked))
        digest = sha256(before[-1] + numbers + texts + commitment).digest()
        connection.execute(
            "UPDATE events SET commitment = ?, digest = ? WHERE position = ?", (commitment, digest, LENGTH)
        )
    fault = await fault_of(database)
    assert fault is not None
    assert (fault.position, fault.reason.startswith("a column holds what no log writes")) == (LENGTH, True), fault


@pytest.mark.parametrize("position", [1, 5, ERASED, 10, 11, LENGTH])
async def test_any_row_is_protected_erased_or_not(database: Path, position: int) -> None:
    tamper(database, f"UPDATE events SET recorded_at = recorded_at - 1 WHERE position = {position}")
    fault = await fault_of(database)
    assert fault is not None
    assert fault.position == position


async def test_a_moved_position_leaves_a_gap(database: Path) -> None:
    tamper(database, f"UPDATE events SET position = 1000 WHERE position = {LENGTH}")
    assert await fault_of(database) == ChainFault(LENGTH, "no event is here: the next one is at position 1000")


@pytest.mark.parametrize("position", [1, 12, LENGTH - 1])
async def test_a_deleted_event_is_missed(database: Path, position: int) -> None:
    tamper(database, f"DELETE FROM events WHERE position = {position}")
    fault = await fault_of(database)
    assert fault is not None
    assert fault.position == position


async def test_a_deleted_event_is_missed_even_when_the_rest_moves_up(database: Path) -> None:
    tamper(
        database,
        "DELETE FROM events WHERE position = 12",
        "UPDATE events SET position = position - 1, version = version - (stream_id = 'left') WHERE position > 12",
    )
    fault = await fault_of(database)
    assert fault is not None
    assert fault.position == 12


COPY = (
    "INSERT INTO events SELECT {position}, 'forged', 1, type, schema_version, recorded_at, metadata, data, salt,"
    " commitment, digest FROM events WHERE position = 11"
)


@pytest.mark.parametrize(("position", "found"), [(LENGTH + 1, LENGTH + 1), (0, 1), (-7, 1)])
async def test_an_inserted_event_is_found_wherever_it_hides(database: Path, position: int, found: int) -> None:
    tamper(database, COPY.format(position=position))
    fault = await fault_of(database)
    assert fault is not None
    assert fault.position == found


async def test_an_event_inserted_in_the_middle_is_found(database: Path) -> None:
    tamper(
        database,
        "UPDATE events SET position = -position WHERE position >= 15",
        "UPDATE events SET position = 1 - position WHERE position < 0",
        COPY.format(position=15),
    )
    fault = await fault_of(database)
    assert fault is not None
    assert fault.position == 15


async def test_two_swapped_events_are_found(database: Path) -> None:
    tamper(
        database,
        "UPDATE events SET position = -1 WHERE position = 12",
        "UPDATE events SET position = 12 WHERE position = 19",
        "UPDATE events SET position = 19 WHERE position = -1",
    )
    fault = await fault_of(database)
    assert fault is not None
    assert fault.position == 12


async def test_two_swapped_contents_are_found(database: Path) -> None:
    tamper(
        database,
        "CREATE TEMP TABLE pair AS SELECT * FROM events WHERE position IN (13, 14)",
        "UPDATE events SET (data, salt, commitment) ="
        " (SELECT data, salt, commitment FROM pair WHERE pair.position = 27 - events.position)"
        " WHERE position IN (13, 14)",
    )
    fault = await fault_of(database)
    assert fault is not None
    assert fault.position == 13


async def test_content_erased_without_a_reason_is_found(database: Path) -> None:
    tamper(database, "UPDATE events SET data = NULL, salt = NULL WHERE position IN (16, 14)")
    assert await fault_of(database) == ChainFault(14, "content is gone and no later event of the stream says why")


async def test_a_reason_does_not_cover_another_stream(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("other", 0, [posted("x")], ASKED)
    await log.append("gone", 0, [posted("y")], ASKED)
    await log.erase("gone", 1, deleted(), ASKED)
    await log.close()
    tamper(tmp_path / "log.db", "UPDATE events SET data = NULL, salt = NULL WHERE position = 1")
    fault = await fault_of(tmp_path / "log.db")
    assert fault is not None
    assert fault.position == 1


async def test_a_reason_does_not_cover_itself(database: Path) -> None:
    tamper(database, "UPDATE events SET data = NULL, salt = NULL WHERE position = 10")
    fault = await fault_of(database)
    assert fault is not None
    assert fault.position == 10


@pytest.mark.parametrize("column", ["data", "salt"])
async def test_content_and_salt_go_together(database: Path, column: str) -> None:
    tamper(
        database,
        "PRAGMA ignore_check_constraints=ON",
        "PRAGMA writable_schema=ON",
        f"UPDATE events SET {column} = NULL WHERE position = 14",
    )
    assert await fault_of(database) == ChainFault(14, "content and salt must be erased together")


async def test_a_log_cut_short_is_whole_by_itself_but_not_beside_its_anchor(database: Path) -> None:
    log = await SqliteLog.open(database, read_only=True)
    expected_head = log.head()
    await log.close()
    assert await fault_of(database, expected_head) is None
    tamper(database, f"DELETE FROM events WHERE position > {LENGTH - 2}")
    assert await fault_of(database) is None
    assert await fault_of(database, expected_head) == ChainFault(
        LENGTH - 1, f"the log ends here, but {LENGTH} events were recorded"
    )


async def test_a_chain_computed_anew_is_whole_by_itself_but_not_beside_its_anchor(log: SqliteLog) -> None:
    rows = await log.rows(limit=LENGTH)
    data = '{"type":"reply_started"}'
    rewritten = replace(rows[14], data=data, commitment=commit(rows[14].salt or b"", data.encode()))
    forged = chained_anew([*rows[:14], rewritten, *rows[15:]])
    assert first_fault(forged) is None
    assert first_fault(rows, log.head()) is None
    fault = first_fault(forged, log.head())
    assert fault is not None
    assert fault.position == LENGTH


def chained_anew(rows: list[StoredRow]) -> list[StoredRow]:
    """`rows` with the digests that somebody who knows the format would give them."""
    digest, forged = GENESIS, []
    for row in rows:
        numbers = (row.position, row.version, row.schema_version, row.recorded_at_us)
        digest = link(digest, numbers, (row.stream_id, row.type, row.metadata), row.commitment)
        forged.append(replace(row, digest=digest))
    return forged


@pytest.mark.parametrize("version", [0, 2, 4])
async def test_versions_of_a_stream_have_no_gap_even_in_a_chain_computed_anew(log: SqliteLog, version: int) -> None:
    rows = await log.rows(limit=LENGTH)
    assert rows[12].version == 3
    fault = first_fault(chained_anew([*rows[:12], replace(rows[12], version=version), *rows[13:]]))
    assert fault == ChainFault(13, f"version {version} of stream left stands where 3 belongs")


async def test_a_log_is_verified_while_it_is_written_and_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason for an erasure may be recorded after the walk has begun, and further on."""
    monkeypatch.setattr("events.integrity.chain_verifier.PAGE_ROWS", 200)
    log = await SqliteLog.open(tmp_path / "live.db")
    for version in range(0, 600, 200):
        await log.append("a", version, [posted("x")] * 200, ASKED)
    pages: list[int] = []
    scan_rows = log.scan_rows

    async def erase_after_the_first_page(
        take: Callable[[Iterator[RawColumns]], ChainFault | None], *, after: int = 0, limit: int
    ) -> ChainFault | None:
        page = await scan_rows(take, after=after, limit=limit)
        if not pages:
            pages.append(after)
            await log.erase("a", 600, deleted(), ASKED)
        return page

    log.scan_rows = erase_after_the_first_page  # type: ignore[method-assign,assignment]  # a write between two pages
    walk, fault = await verify(log)
    await log.close()
    assert fault is None
    assert (walk.position, walk.erased) == (601, 400)
