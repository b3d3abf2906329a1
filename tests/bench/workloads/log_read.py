"""The log read, folded and proven, each beside the least that SQLite and Python can do of it."""

import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from events.integrity.chain_verifier import verify
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import COLUMNS
from projections.folds.batch import fold
from projections.folds.session import Session
from projections.runner import RunnerOptions
from projections.sqlite.rebuild import rebuild
from tests.bench.workloads.log_append import Rate

PAGE = 1000
TAIL = 10
STREAMS = 2000
LABEL_KEY = bytes(32)
BATCH_MAX = RunnerOptions().batch_max


class Work(Struct, frozen=True):
    """Something done with every event of the log, and its floor."""

    name: str
    ours: Callable[[SqliteLog, Path], Awaitable[int]]
    floor_name: str
    floor: Callable[[SqliteLog, Path], Awaitable[int]]


async def timed(work: Callable[[SqliteLog, Path], Awaitable[int]], database: Path) -> Rate:
    """`work` returns how many it has done; opening the log is not counted."""
    log = await SqliteLog.open(database, read_only=True)
    try:
        began_s, used_s = time.perf_counter(), time.process_time()
        done = await work(log, database)
        seconds, used_s = time.perf_counter() - began_s, time.process_time() - used_s
    finally:
        await log.close()
    return Rate(done / seconds, used_s / done * 1e6)


async def scan(_: SqliteLog, database: Path) -> int:
    """All columns of all rows, in this thread."""
    with closing(sqlite3.connect(database)) as connection:
        return sum(1 for _ in connection.execute(f"SELECT {COLUMNS} FROM events ORDER BY position"))


async def read_all(log: SqliteLog, _: Path) -> int:
    after = 0
    while page := await log.read_all(after=after, limit=PAGE):
        after = page[-1].position
    return after


async def tails(log: SqliteLog, database: Path) -> int:
    """The newest events of streams all over the log."""
    for stream_id in streams(database):
        await log.read(stream_id, limit=TAIL, backwards=True)
    return STREAMS


async def bare_tails(_: SqliteLog, database: Path) -> int:
    """The same rows, undecoded, in this thread."""
    found = streams(database)
    query = f"SELECT {COLUMNS} FROM events WHERE stream_id = ? ORDER BY version DESC LIMIT ?"
    with closing(sqlite3.connect(database)) as connection:
        for stream_id in found:
            connection.execute(query, (stream_id, TAIL)).fetchall()
    return STREAMS


def streams(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        found = [row[0] for row in connection.execute("SELECT stream_id FROM events WHERE version = 1")]
    return [found[place * len(found) // STREAMS] for place in range(STREAMS)]


async def rebuild_all(log: SqliteLog, database: Path) -> int:
    path = database.with_name("projections.db")
    reached, _ = await rebuild(log, path, BATCH_MAX, lambda _: None)
    for leftover in path.parent.glob("projections.db*"):
        leftover.unlink()
    return reached


async def fold_only(log: SqliteLog, _: Path) -> int:
    """As a rebuild reads and folds, but nothing is written; all sessions stay in memory."""
    states: dict[str, Session] = {}
    after = 0
    while batch := await log.read_all(after=after, limit=BATCH_MAX):
        for changed in fold(batch, states, LABEL_KEY).sessions:
            states[changed.session.session_id] = changed.session
        after = batch[-1].position
    return after


async def verify_all(log: SqliteLog, _: Path) -> int:
    walk, fault = await verify(log)
    assert fault is None
    return walk.position


WORKS = (
    Work(f"newest {TAIL} events of a stream", tails, "rows only", bare_tails),
    Work(f"read_all, pages of {PAGE:,}", read_all, "scan", scan),
    Work("rebuild all projections", rebuild_all, "read, decode and fold", fold_only),
    Work("verify the chain", verify_all, "scan", scan),
)
