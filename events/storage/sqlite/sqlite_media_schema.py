"""The tables of a log in SQLite that keep files, and the statements on them. Functions run in a connection's thread and
raise sqlite3.Error.

A file has `sha256` from the moment when it is complete until its last reference goes; then it `is_unused`, and its
bytes are deleted a few at a time. References come with rows by `insert_rows` of sqlite_schema, and go with their
content by a trigger, so that no writer of events can forget them.
"""

import sqlite3
from collections.abc import Iterable, Sequence

from events.media import CHUNKS_AT_ONCE, MediaStat
from events.storage.media_upload import ARRIVAL_MAX_US, EXPIRED_AT_ONCE

CHUNK_BITS = 20  # of a chunk's id: its number in the file; the bits above are the file's id

# SQLite keeps the first 489 bytes of such a row, of which 7 are a header, in a page that it shares with other rows and
# may rearrange, leaving copies behind; the rest in pages of its own, which it overwrites when the row is deleted. It
# does so for rows whose length is 489 and a multiple of 4092. https://www.sqlite.org/fileformat2.html#ovflpgs
FILLER_BYTES = 482
OVERFLOW_BYTES = 4092  # of content in a page of 4096

TABLES = """
CREATE TABLE media (
    id         INTEGER PRIMARY KEY AUTOINCREMENT, -- of a deleted file, too, it is never used again
    sha256     BLOB    UNIQUE CHECK (length(sha256) = 32), -- NULL while the file arrives, and once it is unused
    media_type TEXT    NOT NULL,
    bytes      INTEGER NOT NULL,
    touched_at INTEGER NOT NULL, -- microseconds, UTC: of the last piece that has arrived
    is_unused  INTEGER NOT NULL DEFAULT 0, -- 1: nothing refers to it, its bytes are being deleted
    CHECK (is_unused = 0 OR sha256 IS NULL)
) STRICT;
CREATE INDEX media_incomplete ON media (is_unused, touched_at) WHERE sha256 IS NULL;
CREATE TABLE media_chunks (
    id     INTEGER PRIMARY KEY, -- media.id << 20 | number, from 0
    filler BLOB    NOT NULL,
    data   BLOB    NOT NULL -- of the last chunk with zeros behind it: what counts are media.bytes
) STRICT;
CREATE TABLE media_references (
    media_id INTEGER NOT NULL,
    position INTEGER NOT NULL, -- of the event; 0: an upload
    holder   TEXT    NOT NULL, -- the event's stream; of an upload its owner, '' where none is known
    due_at   INTEGER,          -- microseconds, UTC: of an upload, when it goes
    PRIMARY KEY (media_id, position, holder)
) STRICT, WITHOUT ROWID;
CREATE INDEX media_references_by_holder ON media_references (holder, position);
CREATE INDEX media_uploads_due ON media_references (due_at) WHERE position = 0;
CREATE TRIGGER media_refuse_update BEFORE UPDATE ON media WHEN NOT (
    NEW.id = OLD.id AND OLD.is_unused = 0 AND (
        OLD.sha256 IS NULL
        OR NEW.is_unused = 1 AND NEW.bytes = OLD.bytes
           AND NOT EXISTS (SELECT 1 FROM media_references WHERE media_id = OLD.id))
) BEGIN
    SELECT RAISE(ABORT, 'media: a file cannot be changed');
END;
CREATE TRIGGER media_refuse_delete BEFORE DELETE ON media WHEN OLD.is_unused = 0 BEGIN
    SELECT RAISE(ABORT, 'media: a file that is in use cannot be deleted');
END;
CREATE TRIGGER media_chunks_refuse_update BEFORE UPDATE ON media_chunks BEGIN
    SELECT RAISE(ABORT, 'media: a file cannot be changed');
END;
CREATE TRIGGER media_chunks_refuse_delete BEFORE DELETE ON media_chunks
WHEN EXISTS (SELECT 1 FROM media WHERE id = OLD.id >> 20 AND is_unused = 0) BEGIN
    SELECT RAISE(ABORT, 'media: a file that is in use cannot be deleted');
END;
CREATE TRIGGER media_references_refuse_delete BEFORE DELETE ON media_references
WHEN EXISTS (SELECT 1 FROM events WHERE position = OLD.position AND data IS NOT NULL) BEGIN
    SELECT RAISE(ABORT, 'media: an event refers to this file');
END;
CREATE TRIGGER media_references_refuse_update BEFORE UPDATE ON media_references WHEN NOT (
    NEW.media_id = OLD.media_id AND NEW.position = OLD.position AND NEW.holder = OLD.holder AND OLD.position = 0
) BEGIN
    SELECT RAISE(ABORT, 'media: a reference cannot be changed');
END;
CREATE TRIGGER events_release_media AFTER UPDATE ON events WHEN NEW.data IS NULL BEGIN
    DELETE FROM media_references WHERE holder = OLD.stream_id AND position = OLD.position;
END;
CREATE TRIGGER media_references_release AFTER DELETE ON media_references
WHEN NOT EXISTS (SELECT 1 FROM media_references WHERE media_id = OLD.media_id) BEGIN
    UPDATE media SET sha256 = NULL, is_unused = 1 WHERE id = OLD.media_id;
END;
"""

_HAS_TABLES = "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name = 'media_references_release'"
_REFER = "INSERT OR IGNORE INTO media_references SELECT id, ?2, ?3, NULL FROM media WHERE sha256 = ?1"
_CONSUME = (
    "DELETE FROM media_references WHERE position = 0 AND holder = ?2"
    " AND media_id = (SELECT id FROM media WHERE sha256 = ?1)"
)
_HOLD = (
    "INSERT INTO media_references VALUES (?, 0, ?, ?)"
    " ON CONFLICT (media_id, position, holder) DO UPDATE SET due_at = max(due_at, excluded.due_at)"
)
_EXPIRE = (
    "DELETE FROM media_references WHERE position = 0 AND (media_id, holder) IN"
    " (SELECT media_id, holder FROM media_references WHERE position = 0 AND due_at <= ? LIMIT ?)"
)
_GIVE_UP = "UPDATE media SET is_unused = 1 WHERE sha256 IS NULL AND is_unused = 0 AND touched_at < ?"
_DELETE_CHUNKS = "DELETE FROM media_chunks WHERE id IN (SELECT id FROM media_chunks WHERE id BETWEEN ? AND ? LIMIT ?)"


def has_tables(connection: sqlite3.Connection) -> bool:
    """Whether the log has these tables: one that was last written by version 0.5 has none."""
    return bool(connection.execute(_HAS_TABLES).fetchall())


def create_tables(connection: sqlite3.Connection) -> None:
    """Part of a transaction. Another process may have created them."""
    if not has_tables(connection):
        for statement in statements_in(TABLES):
            connection.execute(statement)


def statements_in(script: str) -> Iterable[str]:
    """The statements of a script, one by one: SQLite's module would commit before it runs a whole script."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def find_missing(digests: Iterable[bytes], connection: sqlite3.Connection) -> frozenset[bytes]:
    """Those of `digests`, SHA-256 of files, that the log does not have."""
    query = "SELECT 1 FROM media WHERE sha256 = ?"
    return frozenset(one for one in digests if not connection.execute(query, (one,)).fetchall())


def add_references(connection: sqlite3.Connection, references: Iterable[tuple[bytes, int, str]]) -> None:
    """Those of (SHA-256, position, stream) whose file the log has."""
    connection.executemany(_REFER, references)


def consume_uploads(connection: sqlite3.Connection, uploads: Iterable[tuple[bytes, str]]) -> None:
    """The uploads (SHA-256, owner) of files that an event of the same transaction refers to."""
    connection.executemany(_CONSUME, uploads)


def begin_arrival(connection: sqlite3.Connection, media_type: str, now_us: int) -> int:
    """The id of a new file."""
    insert = "INSERT INTO media (media_type, bytes, touched_at) VALUES (?, 0, ?) RETURNING id"
    ((media_id,),) = connection.execute(insert, (media_type, now_us)).fetchall()
    return int(media_id)


def add_chunks(
    connection: sqlite3.Connection, media_id: int, number: int, chunks: Sequence[bytes], now_us: int
) -> bool:
    """Whether the file still arrives: one that got nothing for long is deleted. A second time, for a caller that had no
    answer, it changes nothing.
    """
    first = media_id << CHUNK_BITS | number
    if connection.execute("SELECT 1 FROM media_chunks WHERE id = ?", (first,)).fetchall():
        return True
    update = "UPDATE media SET bytes = bytes + ?, touched_at = ? WHERE id = ? AND sha256 IS NULL AND is_unused = 0"
    if not connection.execute(update, (sum(map(len, chunks)), now_us, media_id)).rowcount:
        return False
    rows = [(first + index, FILLER_BYTES, _padded(chunk)) for index, chunk in enumerate(chunks)]
    connection.executemany("INSERT INTO media_chunks VALUES (?, zeroblob(?), ?)", rows)
    return True


def _padded(chunk: bytes) -> bytes:
    return chunk + bytes(-len(chunk) % OVERFLOW_BYTES)


def finish_arrival(
    connection: sqlite3.Connection, media_id: int, sha256: bytes, upload: tuple[str, int]
) -> MediaStat | None:
    """The file is complete, and an `upload` (owner, due) holds it, or the one that has these bytes already. None where
    it does not arrive any more. A second time, for a caller that had no answer, it changes nothing.
    """
    earlier = connection.execute("SELECT id FROM media WHERE sha256 = ?", (sha256,)).fetchall()
    update = "is_unused = 1 WHERE id = ?" if earlier else "sha256 = ?2 WHERE id = ?1"
    values = (media_id,) if earlier else (media_id, sha256)
    query = f"UPDATE media SET {update} AND sha256 IS NULL AND is_unused = 0"  # noqa: S608  constants
    if not connection.execute(query, values).rowcount and not earlier:
        return None
    kept = earlier[0][0] if earlier else media_id
    connection.execute(_HOLD, (kept, *upload))
    ((media_type, size),) = connection.execute("SELECT media_type, bytes FROM media WHERE id = ?", (kept,)).fetchall()
    return MediaStat(sha256.hex(), media_type, size)


def abandon_arrival(connection: sqlite3.Connection, media_id: int) -> None:
    connection.execute("UPDATE media SET is_unused = 1 WHERE id = ? AND sha256 IS NULL AND is_unused = 0", (media_id,))


def has_due(connection: sqlite3.Connection, now_us: int) -> bool:
    """Whether `expire` or `delete_unused` would do anything."""
    query = (
        "SELECT EXISTS (SELECT 1 FROM media_references WHERE position = 0 AND due_at <= ?)"
        " OR EXISTS (SELECT 1 FROM media WHERE sha256 IS NULL AND (is_unused = 1 OR touched_at < ?))"
    )
    ((found,),) = connection.execute(query, (now_us, now_us - ARRIVAL_MAX_US)).fetchall()
    return bool(found)


def expire(connection: sqlite3.Connection, now_us: int) -> bool:
    """Give up some of the uploads that are due, and arrivals that were cut off. Whether there may be more."""
    expired = connection.execute(_EXPIRE, (now_us, EXPIRED_AT_ONCE)).rowcount
    connection.execute(_GIVE_UP, (now_us - ARRIVAL_MAX_US,))
    return expired == EXPIRED_AT_ONCE


def unused_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of files that nothing refers to."""
    query = "SELECT coalesce(sum(bytes), 0) FROM media WHERE sha256 IS NULL AND is_unused = 1"
    ((size,),) = connection.execute(query).fetchall()
    return int(size)


def delete_unused(connection: sqlite3.Connection) -> bool:
    """Delete up to CHUNKS_AT_ONCE chunks of a file that nothing refers to. Whether there may be more to delete."""
    found = connection.execute("SELECT id FROM media WHERE sha256 IS NULL AND is_unused = 1 LIMIT 1").fetchall()
    if not found:
        return False
    media_id = found[0][0]
    span = media_id << CHUNK_BITS, (media_id + 1 << CHUNK_BITS) - 1
    if connection.execute(_DELETE_CHUNKS, (*span, CHUNKS_AT_ONCE)).rowcount < CHUNKS_AT_ONCE:
        connection.execute("DELETE FROM media WHERE id = ?", (media_id,))
    return True
