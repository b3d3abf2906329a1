"""The schema of a log in SQLite: the table of its events, the triggers that make the table append-only, the mark that
tells a log from other databases, and the connections and statements that every user of the file shares.
"""

import asyncio
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TypeVar

import aiosqlite

from events.errors import LogUnusable, Remedy
from events.integrity.hash_chain import GENESIS
from events.options import LogOptions
from events.record import Columns, Head
from events.storage.database_lock import DatabaseLock
from events.storage.incomplete_log import LogIncomplete, WritingCommand, writing_command_of
from events.storage.media_references import references_in
from events.storage.sqlite.batched_connection import Call, CallableConnection, run_in_thread
from events.storage.sqlite.sqlite_errors import primary_code, unusable
from events.storage.sqlite.sqlite_media_schema import add_references, create_tables, has_tables, statements_in
from events.storage.sqlite.value_adapters import register_adapters

T = TypeVar("T")

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

# What is left of a redacted event is in the message_redacted, so that it goes with the session; this table has only
# numbers. By the trigger no writer can record a message_redacted without the erasure that it explains.
_NAMED = "version < NEW.version AND version IN (SELECT value FROM json_each(NEW.data, '$.versions'))"
REDACTION_TABLES = f"""
CREATE TABLE events_redacted (
    position    INTEGER PRIMARY KEY, -- of an event whose content is redacted
    redacted_by INTEGER NOT NULL     -- position of the message_redacted that has what is left of it
) STRICT;
CREATE TRIGGER events_redact AFTER INSERT ON events WHEN NEW.type = 'message_redacted' AND json_valid(NEW.data) BEGIN
    INSERT OR IGNORE INTO media_references -- first: a file without references is deleted
    SELECT media_id, NEW.position, NEW.stream_id, NULL FROM media_references JOIN media ON media.id = media_id
     WHERE holder = NEW.stream_id AND lower(hex(sha256)) IN (SELECT value FROM json_each(NEW.data, '$.files'));
    INSERT INTO events_redacted
    SELECT position, NEW.position FROM events WHERE stream_id = NEW.stream_id AND {_NAMED}
        ON CONFLICT (position) DO UPDATE SET redacted_by = excluded.redacted_by;
    UPDATE events SET data = NULL, salt = NULL WHERE stream_id = NEW.stream_id AND {_NAMED} AND data IS NOT NULL;
END;
"""  # noqa: S608  constants
_HAS_REDACTIONS = "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name = 'events_redact'"

WRITER_PRAGMAS = (
    "synchronous=FULL",  # NORMAL can lose acknowledged commits on power loss
    "fullfsync=ON",  # macOS: its fsync alone does not reach the platter
    "checkpoint_fullfsync=ON",
    "secure_delete=ON",  # erased content is overwritten with zeros
    "recursive_triggers=ON",  # without it INSERT OR REPLACE walks past the trigger that refuses DELETE
    "temp_store=MEMORY",  # no content in temporary files
    "wal_autocheckpoint=0",  # events/storage/sqlite/wal.py does it
)

STATEMENTS_MAX = 128  # as many as a connection of Python keeps prepared; up to 12 KiB each

_LAST = "SELECT position, digest FROM events ORDER BY position DESC LIMIT 1"
_ERASE = """
UPDATE events SET data = NULL, salt = NULL
 WHERE stream_id = ?1 AND version < ?2 AND data IS NOT NULL AND (
       NOT EXISTS (SELECT 1 FROM events WHERE stream_id = ?1 AND version = ?2 AND type = 'message_redacted')
       OR version IN (SELECT value FROM events AS redaction, json_each(redaction.data, '$.versions')
                       WHERE redaction.stream_id = ?1 AND redaction.version = ?2))
"""
_ROW = "(" + ",".join("?" * len(COLUMNS.split(","))) + ")"


def read_head(connection: sqlite3.Connection) -> Head:
    """The end of the log as `connection` sees it. In the connection's thread. Raises sqlite3.Error."""
    return next((Head(*row) for row in connection.execute(_LAST).fetchall()), Head(0, GENESIS))


def insert_rows(connection: sqlite3.Connection, rows: Sequence[Columns]) -> None:
    """Add `rows` in one statement, and their references to files. Part of a transaction, in the connection's thread.
    Raises sqlite3.Error.
    """
    if rows:
        connection.execute(insert_statement(len(rows)), list(chain.from_iterable(rows)))
        add_references(connection, references_in(rows))


@lru_cache(maxsize=STATEMENTS_MAX)
def insert_statement(rows: int) -> str:
    """The statement that adds so many rows."""
    return f"INSERT INTO events ({COLUMNS}) VALUES " + ",".join([_ROW] * rows)  # noqa: S608  constants


def erase_content(connection: sqlite3.Connection, erasures: Sequence[tuple[str, int]]) -> None:
    """For each (stream, version) erase the content of the stream's earlier events or, where a message_redacted is at
    that version, of those that it names. In the connection's thread. Raises sqlite3.Error.
    """
    for erasure in erasures:
        connection.execute(_ERASE, erasure)


def read_versions(streams: Sequence[str], connection: sqlite3.Connection) -> dict[str, int]:
    """The versions of `streams`, 0 for one that does not exist. In the connection's thread. Raises sqlite3.Error."""
    query = (
        "WITH named (stream_id) AS (VALUES " + ",".join(["(?)"] * len(streams)) + ")"  # noqa: S608  placeholders
        " SELECT stream_id, coalesce((SELECT max(version) FROM events WHERE stream_id = named.stream_id), 0) FROM named"
    )
    return dict(connection.execute(query, streams).fetchall())


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A write transaction: committed at the end of the block, rolled back where the block or the commit raises. In the
    connection's thread. Raises sqlite3.Error.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise


async def commit(connection: aiosqlite.Connection, write: Call[T]) -> T:
    """The result of `write`, run in one transaction. Raises what it raises, sqlite3.Error."""

    def run(raw: sqlite3.Connection) -> T:
        with transaction(raw):
            return write(raw)

    return await run_in_thread(connection, run)


async def connect(path: Path, options: LogOptions, *, mode: str) -> aiosqlite.Connection:
    """A connection; `mode` is SQLite's: `ro`, `rw`, `rwc`, or `immutable` for a copy that nothing can write."""
    if sqlite3.sqlite_version_info < SQLITE_MIN:
        raise LogUnusable(f"SQLite {sqlite3.sqlite_version} is too old: this program needs 3.37 or newer")
    register_adapters()
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
    """A connection that cannot write. On a read-only disk, where SQLite cannot create the shared memory of its
    write-ahead log, the file is opened as immutable.
    """
    try:
        connection = await connect(path, options, mode="ro")
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_CANTOPEN or not await asyncio.to_thread(_is_immutable, path):
            raise
        connection = await connect(path, options, mode="immutable")
    return connection


def _is_immutable(path: Path) -> bool:
    """Whether `path` is a complete log that no process can write: the disk is read-only, the write-ahead log empty."""
    wal = path.with_name(path.name + "-wal")
    return path.is_file() and not os.access(path.parent, os.W_OK) and not (wal.exists() and wal.stat().st_size)


async def connect_writer(
    path: Path, options: LogOptions, *, create: bool, command: WritingCommand | None = None
) -> aiosqlite.Connection:
    """A connection that may write. With `create`, an empty or missing file becomes a log; with `command`, a log that
    is marked as unfinished by it. A log that `command` has not finished is opened, too.

    Raises LogUnusable for a file that is not a log of this format, sqlite3.Error for what SQLite refuses.
    """
    connection = await connect(path, options, mode="rwc" if create else "rw")
    try:
        is_empty = await check_format(connection, path, command)
        await _use_wal(connection, path)
        for pragma in (*WRITER_PRAGMAS, f"journal_size_limit={options.wal_limit_bytes}"):
            await connection.execute_fetchall(f"PRAGMA {pragma}")
        if is_empty:
            await _create(connection, FORMAT if command is None else command.format)
        elif not await run_in_thread(connection, _has_all_tables):
            await commit(connection, _create_missing_tables)
    except BaseException:
        await connection.close()
        raise
    return connection


async def open_exclusive(
    path: Path, command: WritingCommand, *, create: bool
) -> tuple[aiosqlite.Connection, DatabaseLock]:
    """Lock the log in `path` for `command` and open it. The caller closes the connection, then releases the lock.
    Raises LogUnusable, of which LogInUse is one.
    """
    lock = DatabaseLock(path)
    await asyncio.to_thread(lock.acquire)
    try:
        return await connect_writer(path, LogOptions(), create=create, command=command), lock
    except BaseException as error:
        lock.release()
        if isinstance(error, sqlite3.Error):
            raise unusable(error, path) from error
        raise


async def _use_wal(connection: aiosqlite.Connection, path: Path) -> None:
    ((mode,),) = await connection.execute_fetchall("PRAGMA journal_mode=WAL")
    if mode != "wal":
        raise LogUnusable(f"database {path}: its disk does not support a write-ahead log; choose a local disk")


async def check_format(connection: aiosqlite.Connection, path: Path, command: WritingCommand | None = None) -> bool:
    """Whether the file is still empty. Raises LogUnusable for a file of another program or of a newer version, and for
    a log that another command than `command` has not finished.
    """
    ((application_id, user_version, tables),) = await connection.execute_fetchall(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)"
        " FROM pragma_application_id, pragma_user_version"
    )
    if (application_id, tables) == (0, 0):
        return True
    if application_id != APPLICATION_ID:
        raise LogUnusable(f"database {path} belongs to another program", remedy=Remedy.OTHER_DATABASE)
    unfinished = writing_command_of(user_version)
    if unfinished is not None and unfinished is not command:
        raise LogIncomplete(path, unfinished)
    if user_version != FORMAT and unfinished is None:
        raise LogUnusable(
            f"database {path} was written by a newer version of this program (format {user_version}, this one reads"
            f" {FORMAT})",
            remedy=Remedy.UPDATE_OR_OTHER_DATABASE,
        )
    return False


def mark(command: WritingCommand | None) -> str:
    """The statement that marks the log as unfinished by `command`, or (None) as finished. Part of a transaction."""
    return f"PRAGMA user_version={FORMAT if command is None else command.format}"


async def _create(connection: aiosqlite.Connection, format_number: int) -> None:
    statements = (
        TABLE,
        *TRIGGERS.values(),
        f"PRAGMA application_id={APPLICATION_ID}",
        f"PRAGMA user_version={format_number}",
    )

    def create(raw: sqlite3.Connection) -> None:
        for statement in statements:
            raw.execute(statement)
        _create_missing_tables(raw)

    await commit(connection, create)


def has_redactions(connection: sqlite3.Connection) -> bool:
    """Whether the log can have redactions: one that was last written by version 0.7 cannot. In the connection's thread.
    Raises sqlite3.Error.
    """
    return bool(connection.execute(_HAS_REDACTIONS).fetchall())


def _has_all_tables(connection: sqlite3.Connection) -> bool:
    return has_tables(connection) and has_redactions(connection)


def _create_missing_tables(connection: sqlite3.Connection) -> None:
    """Of a log that an earlier version has written. Part of a transaction; another process may have created them."""
    create_tables(connection)
    if not has_redactions(connection):
        for statement in statements_in(REDACTION_TABLES):
            connection.execute(statement)
