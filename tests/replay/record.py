"""Write the history of this version: every event type, every older shape, and an erasure.

    python -m tests.replay.record > tests/replay/histories/v<version>.ndjson

Clock and salts are fixed, so that the same program writes the same file. A released history is never written again.
"""

import asyncio
import sys
import tempfile
from itertools import count
from pathlib import Path

from msgspec.structs import replace

from events.catalogue import MessagePosted, SessionCreated
from events.integrity.hash_chain import GENESIS, commit, link
from events.record import StoredRow
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.replay.recorded_history import write
from tests.support.log.media import put_sample_files
from tests.support.log.sample_events import ASKED, EVERY_EVENT, RESERVED_EVENTS, deleted, posted

START_US = 1_735_689_600_000_000
# Shapes that this program can read but no longer writes, by type and schema version.
OLD_SHAPES = {
    ("session_created", 1): '{"type":"session_created","owner":"bob","metadata":{"topic":"old"},"timeout_hours":24}'
}


async def rows_of_this_version(directory: Path) -> list[StoredRow]:
    """The rows of a new log that holds one of everything."""
    ticks, salts = count(START_US, 1_000_000), count(1)
    log = await SqliteLog.open(
        directory / "log.db",
        clock=lambda: next(ticks),
        random_bytes=lambda size: next(salts).to_bytes(size, "big"),
    )
    try:
        await log.append("old", 0, [SessionCreated(owner="bob", metadata={}, timeout_s=1), posted("일")], ASKED)
        await put_sample_files(log)
        for version, event in enumerate(EVERY_EVENT):
            await log.append("everything", version, [event], ASKED)
        for stream_id, events in RESERVED_EVENTS.items():
            await log.append(stream_id, 0, events, ASKED)
        await log.append("erased", 0, [SessionCreated(owner=None, metadata={}, timeout_s=60), secret()], ASKED)
        await log.erase("erased", 2, deleted(), ASKED)
        return with_old_shapes(await log.rows(limit=1000))
    finally:
        await log.close()


def secret() -> MessagePosted:
    return posted("what is erased is not in this file")


def with_old_shapes(rows: list[StoredRow]) -> list[StoredRow]:
    """The same log as an older program would have begun it: the first row of a type in its old shape."""
    chained: list[StoredRow] = []
    digest, shapes = GENESIS, {name: (version, data) for (name, version), data in OLD_SHAPES.items()}
    for row in rows:
        if row.type in shapes and row.salt is not None:
            version, data = shapes.pop(row.type)
            old = replace(row, schema_version=version, data=data, commitment=commit(row.salt, data.encode()))
        else:
            old = row
        numbers = (old.position, old.version, old.schema_version, old.recorded_at_us)
        digest = link(digest, numbers, (old.stream_id, old.type, old.metadata), old.commitment)
        chained.append(replace(old, digest=digest))
    return chained


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        sys.stdout.write(write(asyncio.run(rows_of_this_version(Path(scratch)))))
