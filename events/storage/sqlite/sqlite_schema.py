"""The log as SQLite keeps it: the file's mark, its one table, and the triggers by which the database itself refuses
to forget, change or reorder what happened.
"""

import asyncio
import os
import sqlite3
from pathlib import Path

import aiosqlite

from events.errors import LogUnavailable, LogUnusable
from events.options import LogOptions
from events.storage.incomplete_log import LogIncomplete, WritingCommand, writing_command_of
from events.storage.sqlite.batched_connection import CallableConnection

APPLICATION_ID = 0x43484C47  # "CHLG": tells a log from any other SQLite file
FORMAT = 1  # PRAGMA user_version
SQLITE_MIN = (3, 37, 0)  # STRICT tables

COLUMNS = "position, stream_id, version, type, schema_version, recorded_at, metadata, data, salt, commitment, digest"

# Texts as bytes: one that is no UTF-8 must not stop the proof that finds it.
RAW_COLUMNS = (
    "position, CAST(stream_id AS BLOB), version, CAST(type AS BLOB), schema_version, recorded_at,"
    " CAST(metadata AS BLOB), CAST(data AS BLOB), salt, commitment, digest"
)

# position is the rowid: rows are only ever added at the right edge of the tree, which is fast, and is why
# secure_delete leaves no copy of an erased text behind.
TABLE = """
CREATE TABLE events (
    position       INTEGER PRIMARY KEY,
    stream_id      TEXT    NOT NULL,
    version        INTEGER NOT NULL,
    type           TEXT    NOT NULL,
    schema_version INTEGER NOT NULL,
    recorded_at    INTEGER NOT NULL, -- microseconds, UTC
    metadata       TEXT    NOT NULL, -- JSON: who asked
    data           TEXT,             -- JSON; NULL once erased
    salt           BLOB,             -- 16 random bytes; NULL once erased
    commitment     BLOB    NOT NULL CHECK (length(commitment) = 32),
    digest         BLOB    NOT NULL CHECK (length(digest) = 32),
    UNIQUE (stream_id, version),
    CHECK ((data IS NULL) = (salt IS NULL))
) STRICT
"""

TRIGGERS = {
    "events_refuse_gap": """
CREATE TRIGGER events_refuse_gap BEFORE INSERT ON events BEGIN
    SELECT RAISE(ABORT, 'events: position must be the one after the last')
     WHERE NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM events);
    SELECT RAISE(ABORT, 'events: version must be the one after the stream''s last')
     WHERE NEW.version IS NOT (SELECT coalesce(max(version), 0) + 1 FROM events WHERE stream_id = NEW.stream_id);
END
""",
    "events_refuse_delete": """
CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events BEGIN
    SELECT RAISE(ABORT, 'events: what happened cannot be deleted');
END
""",
    "events_refuse_update": """
CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events
WHEN NOT (
    OLD.data IS NOT NULL AND NEW.data IS NULL AND NEW.salt IS NULL
    AND NEW.position = OLD.position AND NEW.stream_id = OLD.stream_id AND NEW.version = OLD.version
    AND NEW.type = OLD.type AND NEW.schema_version = OLD.schema_version AND NEW.recorded_at = OLD.recorded_at
    AND NEW.metadata = OLD.metadata AND NEW.commitment = OLD.commitment AND NEW.digest = OLD.digest
) BEGIN
    SELECT RAISE(ABORT, 'events: what happened cannot be changed, only its content erased');
END
""",
}

WRITER_PRAGMAS = (
    "synchronous=FULL",  # NORMAL can lose acknowledged commits on power loss
    "fullfsync=ON",  # macOS: its fsync alone does not reach the platter
    "checkpoint_fullfsync=ON",
    "secure_delete=ON",  # erased content is overwritten with zeros
    "recursive_triggers=ON",  # without it INSERT OR REPLACE walks past the trigger that refuses DELETE
    "temp_store=MEMORY",  # no content in temporary files
    "wal_autocheckpoint=0",  # events/storage/sqlite/wal_checkpointer.py does it
)

_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_BUSY: "another program keeps it locked",
    sqlite3.SQLITE_LOCKED: "another program keeps it locked",
    sqlite3.SQLITE_PROTOCOL: "another program keeps it locked",
    sqlite3.SQLITE_IOERR: "reading or writing the file failed: look at the disk",
    sqlite3.SQLITE_READONLY: "the file cannot be written: look at its permissions",
    sqlite3.SQLITE_PERM: "the file cannot be written: look at its permissions",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened: look at its path and permissions",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore a copy, or see `chatbot salvage`",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database: choose another DATABASE_URL",
    sqlite3.SQLITE_NOMEM: "out of memory",
}

# After these the connection itself is not to be trusted.
DAMAGED = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN})


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code, 0 for an error of the Python module's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether `error` says that the file itself makes no sense: no further try will cure that."""
    return primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def explain(error: sqlite3.Error, path: Path) -> str | None:
    """What is the matter, in words for an operator; None for an error that only a mistake in this program makes."""
    reason = _REASONS.get(primary_code(error))
    return reason and f"database {path}: {reason} ({getattr(error, 'sqlite_errorname', 'unknown')})"


async def connect(path: Path, options: LogOptions, *, mode: str) -> aiosqlite.Connection:
    """A connection; `mode` is SQLite's: `ro`, `rw`, `rwc`, or `immutable` for a copy that nothing can write."""
    if sqlite3.sqlite_version_info < SQLITE_MIN:
        raise LogUnusable(f"SQLite {sqlite3.sqlite_version} is too old: this program needs 3.37 or newer")
    query = "mode=ro&immutable=1" if mode == "immutable" else f"mode={mode}"
    connection = await aiosqlite.connect(
        f"{path.as_uri()}?{query}",
        uri=True,
        isolation_level=None,
        timeout=options.busy_timeout_s,
        factory=CallableConnection,
    )
    try:
        await connection.execute_fetchall(f"PRAGMA cache_size={-options.cache_kib}")
        await connection.execute_fetchall("SELECT 1 FROM sqlite_schema")  # only now does SQLite open its files
    except BaseException:
        await connection.close()
        raise
    return connection


async def connect_reader(path: Path, options: LogOptions) -> aiosqlite.Connection:
    """A connection that cannot write. A file on a read-only disk, where SQLite cannot keep the shared memory of its
    write-ahead log, is read as it stands.
    """
    try:
        connection = await connect(path, options, mode="ro")
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_CANTOPEN or not await asyncio.to_thread(_is_still, path):
            raise
        connection = await connect(path, options, mode="immutable")
    return connection


def _is_still(path: Path) -> bool:
    """Whether `path` is a whole log that nobody can be writing: on a read-only disk, with nothing left in its WAL."""
    wal = path.with_name(path.name + "-wal")
    return path.is_file() and not os.access(path.parent, os.W_OK) and not (wal.exists() and wal.stat().st_size)


async def connect_writer(
    path: Path, options: LogOptions, *, create: bool, work: WritingCommand | None = None
) -> aiosqlite.Connection:
    """The connection that writes. With `create`, an empty or missing file becomes a log; with `work`, one that is not
    finished. One that `work` has not finished is opened, too.

    Raises LogUnusable for a file that is no log of this format, sqlite3.Error for what SQLite says of it.
    """
    connection = await connect(path, options, mode="rwc" if create else "rw")
    try:
        fresh = await check_format(connection, path, work)
        await _use_wal(connection, path)
        for pragma in (*WRITER_PRAGMAS, f"journal_size_limit={options.wal_limit_bytes}"):
            await connection.execute_fetchall(f"PRAGMA {pragma}")
        if fresh:
            await _create(connection, FORMAT if work is None else work.format)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _use_wal(connection: aiosqlite.Connection, path: Path) -> None:
    ((mode,),) = await connection.execute_fetchall("PRAGMA journal_mode=WAL")
    if mode != "wal":
        raise LogUnusable(f"database {path}: its disk does not support a write-ahead log; choose a local disk")


async def check_format(connection: aiosqlite.Connection, path: Path, work: WritingCommand | None = None) -> bool:
    """Whether the file is still empty. Raises LogUnusable when it is another program's or a newer one's, or one that
    another command than `work` has not finished.
    """
    ((application_id, user_version, tables),) = await connection.execute_fetchall(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)"
        " FROM pragma_application_id, pragma_user_version"
    )
    if (application_id, tables) == (0, 0):
        return True
    if application_id != APPLICATION_ID:
        raise LogUnusable(f"database {path} belongs to another program: choose another DATABASE_URL")
    unfinished = writing_command_of(user_version)
    if unfinished is not None and unfinished is not work:
        raise LogIncomplete(path, unfinished)
    if user_version != FORMAT and unfinished is None:
        raise LogUnusable(
            f"database {path} was written by a newer version of this program (format {user_version}, this one reads"
            f" {FORMAT}): update the program or choose another DATABASE_URL"
        )
    return False


def mark(work: WritingCommand | None) -> str:
    """The statement after which the log is unfinished by `work`, or (None) finished. Part of a transaction."""
    return f"PRAGMA user_version={FORMAT if work is None else work.format}"


async def _create(connection: aiosqlite.Connection, format_number: int) -> None:
    statements = (
        TABLE,
        *TRIGGERS.values(),
        f"PRAGMA application_id={APPLICATION_ID}",
        f"PRAGMA user_version={format_number}",
    )
    await connection.execute_fetchall("BEGIN IMMEDIATE")
    for statement in statements:
        await connection.execute_fetchall(statement)
    await connection.execute_fetchall("COMMIT")


def unavailable(error: sqlite3.Error, path: Path) -> LogUnavailable | None:
    """The refusal that `error` means for one caller; None where `explain` has no words for it."""
    message = explain(error, path)
    if message is None:
        return None
    refusal = LogUnavailable(message)
    refusal.__cause__ = error
    return refusal
