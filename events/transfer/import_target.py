"""The target of an import or a recovery: appends events of another log while no service runs on the file.

Versions, times and content stay; the chain is new. Each copied event names its source in its envelope (`imported`). A
fork's `history_adopted` refers to other events by position: those become the new positions, so its content, salt and
commitment change, too. The position of a text that was not copied becomes 0, which no event has.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

import aiosqlite
import msgspec
from msgspec.structs import astuple, replace

from events.catalogue import MESSAGE_TYPES
from events.errors import LogError
from events.integrity.hash_chain import link
from events.media import MediaStat
from events.options import LogOptions
from events.record import Columns, Head, StoredRow
from events.storage.database_lock import DatabaseLock
from events.storage.erasure_rules import without_erased
from events.storage.incomplete_log import WritingCommand, writing_command_of
from events.storage.media_references import references_in
from events.storage.sqlite.batched_connection import run_in_thread
from events.storage.sqlite.sqlite_errors import unusable
from events.storage.sqlite.sqlite_media_copy import SqliteMediaCopy
from events.storage.sqlite.sqlite_media_schema import find_missing
from events.storage.sqlite.sqlite_schema import (
    APPLICATION_ID,
    commit,
    connect,
    erase_content,
    insert_rows,
    mark,
    open_exclusive,
    read_head,
)
from events.transfer.changed_rows import with_data
from events.transfer.import_index import ImportIndex

ROWS_MAX = 500  # in one transaction and statement: 11 values each, and SQLite binds at most 32,766
HISTORY_ADOPTED = "history_adopted"

NOTE_FILE = "CREATE TABLE IF NOT EXISTS unfinished (sha256 TEXT NOT NULL) STRICT"  # beside the mark, until the end
_FIND = (
    "WITH asked (stream_id, version) AS (VALUES {})"
    " SELECT stream_id, version, position, commitment, metadata FROM asked JOIN events USING (stream_id, version)"
)


class ImportRefused(LogError):
    """These events cannot be copied into this log: says why, and what to do."""


class PresentEvent(msgspec.Struct, frozen=True):
    """An event that the log has already."""

    position: int
    commitment: bytes
    imported: str | None


class ImportTarget:
    """A log to copy into, locked. Created by `open`; must be closed."""

    def __init__(
        self, connection: aiosqlite.Connection, lock: DatabaseLock, head: Head, command: WritingCommand
    ) -> None:
        self.head = head
        self._command = command
        self.index = ImportIndex()
        self.added = 0
        self.is_resumed = False  # whether an earlier run of the command was interrupted
        self._interrupted_file: str | None = None  # SHA-256 of the file that the interrupted run was copying
        self._begin_statements: list[tuple[str, Sequence[object]]] = [(mark(command), ())]  # of the next transaction
        self.without_text = 0  # adopted messages whose text was not copied
        self.without_file = 0  # references of events to files that were not copied
        self._connection = connection
        self._media = SqliteMediaCopy(connection)
        self._lock = lock
        self._created_path: Path | None = None

    @classmethod
    async def open(cls, path: Path, command: WritingCommand) -> "ImportTarget":
        """Lock and open the log in `path`, created if missing. From the first row on it is marked as incomplete, until
        `mark_complete`. Raises LogInUse while a server runs, LogUnusable.
        """
        path = await asyncio.to_thread(path.resolve)
        connection, lock = await open_exclusive(path, command, create=True)
        target = cls(connection, lock, await run_in_thread(connection, read_head), command)
        ((number,),) = await connection.execute_fetchall("PRAGMA user_version")
        target.is_resumed = not lock.is_new_database and writing_command_of(number) is command
        target._interrupted_file = await _source_file(connection)
        target._created_path = path if lock.is_new_database else None
        return target

    def begin_file(self, sha256: str) -> None:
        """The next rows are of the file with this digest. Raises ImportRefused where an interrupted import was copying
        another file.
        """
        if self._interrupted_file not in (None, sha256):
            raise ImportRefused(
                f"nothing was written: the import that was interrupted was of another file"
                f" (SHA-256 {self._interrupted_file}, this one {sha256}): import that one with --resume,"
                " or accept what is there with --accept-partial"
            )
        self._begin_statements += [
            (NOTE_FILE, ()),
            ("DELETE FROM unfinished", ()),
            ("INSERT INTO unfinished VALUES (?)", (sha256,)),
        ]

    async def present(self, rows: Sequence[StoredRow]) -> dict[tuple[str, int], PresentEvent]:
        """The log's events with the stream and version of `rows` (at most ROWS_MAX), by stream and version."""
        if not rows:
            return {}
        query = _FIND.format(",".join(["(?,?)"] * len(rows)))
        asked = [value for row in rows for value in (row.stream_id, row.version)]
        found = await self._connection.execute_fetchall(query, asked)
        return {(one[0], one[1]): PresentEvent(one[2], one[3], _source(one[4])) for one in found}

    async def missing_media(self, digests: Collection[bytes]) -> frozenset[bytes]:
        """As FileTarget.missing_media, but raises sqlite3.Error."""
        return await self._media.missing(digests)

    async def add_media(self, stat: MediaStat, pieces: AsyncIterator[bytes]) -> None:
        """Keep a file that rows to come refer to; `pieces` are not read where the log has it. Raises ImportRefused,
        MediaDamaged, and what `pieces` raises.
        """
        try:
            if await self._media.missing([bytes.fromhex(stat.sha256)]):
                await self._commit([], [])  # the mark
                self._begin_statements = []
                await self._media.add(stat, pieces)
        except sqlite3.Error as error:
            raise ImportRefused(f"the log cannot be written: {error}") from error

    async def add(self, rows: Sequence[StoredRow], origin: str) -> None:
        """Append `rows` (at most ROWS_MAX) of the log `origin`, and erase content that an event among them erases, in
        one transaction. Raises ImportRefused.
        """
        if not rows:
            return
        placed: list[Columns] = []
        head = self.head
        for row in rows:
            one = _chain_row(self._with_new_positions(row, head.position + 1), head, f"{origin}:{row.position}")
            head = Head(one.position, one.digest)
            placed.append(astuple(one))
        written, erasures = without_erased(placed)
        await self._commit(written, erasures)
        self._begin_statements = []
        self.head = head
        self.added += len(rows)

    async def _commit(self, rows: Sequence[Columns], erasures: Sequence[tuple[str, int]]) -> None:
        """Write `rows` and erase `erasures` in one transaction. Raises ImportRefused."""

        def write(raw: sqlite3.Connection) -> None:
            for statement, values in self._begin_statements:
                raw.execute(statement, values)
            insert_rows(raw, rows)
            erase_content(raw, erasures)
            digests = [sha256 for sha256, _, _ in references_in(rows)]
            missing = find_missing(digests, raw)
            self.without_file += sum(sha256 in missing for sha256 in digests)

        try:
            await commit(self._connection, write)
        except sqlite3.IntegrityError as error:
            raise ImportRefused(f"after position {self.head.position} of the log: {error}") from error
        except sqlite3.Error as error:
            raise ImportRefused(f"the log cannot be written: {error}") from error

    def note_present(self, row: StoredRow, position: int) -> None:
        """`row` is in the log already, at `position`."""
        if row.type in MESSAGE_TYPES:
            self.index.set_new_position(row.position, position)

    async def close(self, *, refused: bool = False) -> None:
        """Empty the write-ahead log, close the file and release the lock.

        Where the import was `refused`, a log that was created for it and is empty is deleted.
        """
        unused: Path | None = None
        try:
            if (
                refused
                and self._created_path
                and not await self._connection.execute_fetchall("SELECT 1 FROM events LIMIT 1")
            ):
                unused = self._created_path
            await self._connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.index.close()
            await self._connection.close()
            if unused is not None:
                await asyncio.to_thread(unused.unlink, missing_ok=True)
            self._lock.release(remove=unused is not None and self._lock.is_new)

    def _with_new_positions(self, row: StoredRow, position: int) -> StoredRow:
        """`row` with the new positions that it refers to; its own new `position` is added to the index."""
        if row.type in MESSAGE_TYPES:
            self.index.set_new_position(row.position, position)
        if row.type != HISTORY_ADOPTED or row.data is None:
            return row
        data = msgspec.json.decode(row.data)
        positions = [message["position"] for message in data["messages"]]
        new = [self.index.new_position_of(position) or 0 for position in positions]
        self.without_text += new.count(0)
        if new == positions:
            return row
        for message, new_position in zip(data["messages"], new, strict=True):
            message["position"] = new_position
        return with_data(row, msgspec.json.encode(data), os.urandom)


async def mark_complete(path: Path, command: WritingCommand) -> None:
    """Mark the log in `path`, which `command` has written, as complete: it may be served. Raises LogUnusable."""
    path = await asyncio.to_thread(path.resolve)
    connection, lock = await open_exclusive(path, command, create=False)
    try:
        try:
            await SqliteMediaCopy(connection).finish()
            await commit(
                connection, lambda raw: [raw.execute(one) for one in ("DROP TABLE IF EXISTS unfinished", mark(None))]
            )
            await connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            await connection.close()
    except sqlite3.Error as error:
        raise unusable(error, path) from error
    finally:
        lock.release()


async def is_incomplete(path: Path, command: WritingCommand) -> bool:
    """Whether `path` is a log that `command` has begun and not completed."""
    query = "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version"
    try:
        connection = await connect(await asyncio.to_thread(path.resolve), LogOptions(), mode="ro")
    except sqlite3.Error:
        return False
    try:
        ((application_id, number),) = await connection.execute_fetchall(query)
    finally:
        await connection.close()
    return application_id == APPLICATION_ID and writing_command_of(number) is command


async def _source_file(connection: aiosqlite.Connection) -> str | None:
    """The digest of the file that an interrupted import was copying; None where there is none."""
    if not await connection.execute_fetchall("SELECT 1 FROM sqlite_schema WHERE name = 'unfinished'"):
        return None
    rows = await connection.execute_fetchall("SELECT sha256 FROM unfinished")
    return next((str(sha256) for (sha256,) in rows), None)


def discard(path: Path) -> None:
    """Delete the log in `path`, which must not be open. Blocks. Raises LogInUse, LogUnusable."""
    lock = DatabaseLock(path.resolve())
    lock.acquire()
    try:
        for suffix in ("-wal", "-shm", ""):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    finally:
        lock.release()


def _chain_row(row: StoredRow, head: Head, source: str) -> StoredRow:
    """`row` at the end of the chain, with its source in its envelope."""
    metadata = msgspec.json.encode({**msgspec.json.decode(row.metadata), "imported": source}).decode()
    position = head.position + 1
    numbers = (position, row.version, row.schema_version, row.recorded_at_us)
    digest = link(head.digest, numbers, (row.stream_id, row.type, metadata), row.commitment)
    return replace(row, position=position, metadata=metadata, digest=digest)


def _source(metadata: str) -> str | None:
    source = msgspec.json.decode(metadata).get("imported")
    return source if isinstance(source, str) else None
