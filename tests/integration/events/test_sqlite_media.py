"""Files in a SQLite log: what is left of a deleted one on the disk, and logs without tables for files."""

import asyncio
import random
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from events.media import MEDIA_CHUNK_BYTES, MediaMissing
from events.options import LogOptions
from events.record import Metadata
from events.storage.media_upload import PIECE_BYTES
from events.storage.sqlite import sqlite_media_schema as schema
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import WRITER_PRAGMAS
from tests.support.log.log_texts import ALL, texts
from tests.support.log.media import OWNER, digest_of, file_bytes, put, read, shown
from tests.support.log.sample_events import deleted, posted

ASKED = Metadata(actor=OWNER)
SAMPLE_BYTES = 24  # no two files have as many in common


def samples(content: bytes) -> Iterator[bytes]:
    """A few bytes of every hundredth part."""
    for start in range(0, len(content) - SAMPLE_BYTES, len(content) // 100):
        yield content[start : start + SAMPLE_BYTES]


def found_in(folder: Path, content: bytes) -> int:
    """How many samples of `content` the files in `folder` hold."""
    held = b"\0".join(path.read_bytes() for path in sorted(folder.iterdir()))
    return sum(sample in held for sample in samples(content))


@pytest.fixture
async def empty_log(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    """The connection of a writer."""
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.close()
    connection = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    for pragma in WRITER_PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    yield connection
    connection.close()


@pytest.mark.parametrize("sizes", [[200, 70_000], [800, 1_500], [200, 900, 2_500, 3_900]])
def test_no_page_holds_anything_of_a_deleted_file_whatever_lay_beside_it(
    empty_log: sqlite3.Connection, tmp_path: Path, sizes: list[int]
) -> None:
    random_order = random.Random(18)
    ids: dict[int, int] = {}
    empty_log.execute("BEGIN")
    arriving = [(number, schema.begin_arrival(empty_log, "image/png", 0)) for number in range(1_500)]
    for number, media_id in sorted(arriving, key=lambda one: one[0] + 20 * random_order.random()):  # chunks mix
        content = b"<%06d>" % number * (random_order.choice(sizes) // 8)
        chunks = [content[start : start + MEDIA_CHUNK_BYTES] for start in range(0, len(content), MEDIA_CHUNK_BYTES)]
        schema.add_chunks(empty_log, media_id, 0, chunks, 0)
        schema.finish_arrival(empty_log, media_id, bytes.fromhex(digest_of(content)), ("", 0))
        ids[number] = media_id
    empty_log.execute("COMMIT")
    gone: set[int] = set()
    for _ in range(12):
        chosen = random_order.sample(sorted(ids.keys() - gone), len(ids) // 15)
        gone.update(chosen)
        empty_log.execute("BEGIN")
        for number in chosen:
            empty_log.execute("DELETE FROM media_references WHERE media_id = ?", (ids[number],))
        while schema.delete_unused(empty_log):
            pass
        empty_log.execute("COMMIT")
        empty_log.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        held = {int(found) for found in re.findall(rb"<(\d{6})>(?:<\1>)*", (tmp_path / "log.db").read_bytes())}
        assert held == ids.keys() - gone


async def test_what_a_crash_has_left_of_a_deletion_goes_at_the_next_start(tmp_path: Path) -> None:
    content = file_bytes(3 * PIECE_BYTES)
    log = await SqliteLog.open(tmp_path / "log.db")
    stat = await put(log, content)
    await log.append("a", 0, [shown(stat)], ASKED)
    await log.close()
    crashed = sqlite3.connect(tmp_path / "log.db")  # after the transaction of an erasure
    crashed.execute("UPDATE events SET data = NULL, salt = NULL WHERE position = 1")
    crashed.commit()
    crashed.close()
    assert found_in(tmp_path, content)
    log = await SqliteLog.open(tmp_path / "log.db")
    assert await log.media.stat([stat.sha256]) == {}
    async with asyncio.timeout(20):
        while log.erasure_pending:
            await asyncio.sleep(0.01)
    assert not found_in(tmp_path, content)
    await log.close()


async def test_a_log_without_tables_for_files_is_read_as_it_is_and_gets_them_when_it_is_written(
    tmp_path: Path,
) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("a", 0, [posted("old")], ASKED)
    await log.close()
    older = sqlite3.connect(tmp_path / "log.db")
    older.execute("DROP TRIGGER events_release_media")
    for table in ("media_references", "media_chunks", "media"):
        older.execute(f"DROP TABLE {table}")
    older.commit()
    older.close()
    reading = await SqliteLog.open(tmp_path / "log.db", read_only=True)
    assert texts(await reading.read_all(limit=ALL)) == ["old"]
    assert await reading.media.stat([digest_of(b"1")]) == {}
    assert await reading.media.references(digest_of(b"1"), limit=ALL) == []
    with pytest.raises(MediaMissing):
        await read(reading, digest_of(b"1"))
    await reading.close()
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("a", 1, [shown(await put(log, b"1"))], ASKED)
    await log.erase("a", 2, deleted(), ASKED)
    assert await log.media.stat([digest_of(b"1")]) == {}
    await log.close()


async def test_a_large_file_keeps_the_write_ahead_log_short(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db", LogOptions(wal_limit_bytes=4 * 2**20))
    content = file_bytes(24 * 2**20)
    stat = await put(log, content)
    assert (tmp_path / "log.db-wal").stat().st_size < 8 * 2**20
    await log.append("a", 0, [shown(stat)], ASKED)
    await log.erase("a", 1, deleted(), ASKED)
    assert (tmp_path / "log.db-wal").stat().st_size < 8 * 2**20
    assert not found_in(tmp_path, content)
    await log.close()
