"""Temporary index of the streams and positions that an import or a recovery has processed: on disk, not in memory.

An anonymous SQLite database, which the system deletes when it is closed, also after `kill -9`. It contains ids and
numbers, never content. Calls block for microseconds: for commands, not for the service.
"""

import sqlite3
from collections.abc import Iterable

_TABLES = """
CREATE TABLE streams (
    stream_id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,    -- the last one processed, without a gap
    skipped INTEGER NOT NULL     -- 1: this stream is not copied
) WITHOUT ROWID;
CREATE TABLE erased (            -- events without content that no later event explains so far
    stream_id TEXT,
    version INTEGER,
    position INTEGER NOT NULL,
    PRIMARY KEY (stream_id, version)
) WITHOUT ROWID;
CREATE TABLE owed (stream_id TEXT, reply_id TEXT, PRIMARY KEY (stream_id, reply_id)) WITHOUT ROWID;
CREATE TABLE moved (old INTEGER PRIMARY KEY, new INTEGER NOT NULL);
"""


class ImportIndex:
    """Streams with the version reached, their open replies, and the new positions of copied events."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN; {_TABLES}")

    def version(self, stream_id: str) -> int:
        """The last version of the stream that was processed, 0 for none."""
        return self._query_one("SELECT version FROM streams WHERE stream_id = ?", stream_id) or 0

    def set_version(self, stream_id: str, version: int) -> None:
        self._database.execute(
            "INSERT INTO streams VALUES (?, ?, 0) ON CONFLICT DO UPDATE SET version = excluded.version",
            (stream_id, version),
        )

    def mark_erased(self, stream_id: str, version: int, position: int) -> None:
        """The stream, which is in the index, has an erased event."""
        self._database.execute("INSERT OR IGNORE INTO erased VALUES (?, ?, ?)", (stream_id, version, position))

    def mark_explained(self, stream_id: str, versions: Iterable[int] | None = None) -> None:
        """A later event of the stream explains its erased events (None: all of them)."""
        if versions is None:
            self._database.execute("DELETE FROM erased WHERE stream_id = ?", (stream_id,))
        else:
            delete = "DELETE FROM erased WHERE stream_id = ? AND version = ?"
            self._database.executemany(delete, [(stream_id, version) for version in versions])

    def unexplained(self, limit: int) -> list[tuple[str, int, int]]:
        """Up to `limit` streams with unexplained erased events: id, version, position of the first such event."""
        return self._database.execute(
            "SELECT stream_id, streams.version, min(position) FROM erased JOIN streams USING (stream_id)"
            " GROUP BY stream_id LIMIT ?",
            (limit,),
        ).fetchall()

    def add_owed_reply(self, stream_id: str, reply_id: str) -> None:
        """The stream has an open reply."""
        self._database.execute("INSERT OR IGNORE INTO owed VALUES (?, ?)", (stream_id, reply_id))

    def remove_owed_replies(self, stream_id: str, reply_id: str | None = None) -> None:
        """This reply has ended; None: all replies of the stream have."""
        which = "stream_id = ? AND reply_id = coalesce(?, reply_id)"
        self._database.execute(f"DELETE FROM owed WHERE {which}", (stream_id, reply_id))  # noqa: S608  constants

    def streams_owing_replies(self, after: str, limit: int) -> list[str]:
        """Up to `limit` copied streams with open replies, ordered by id, beyond `after`."""
        found = self._database.execute(
            "SELECT DISTINCT stream_id FROM owed JOIN streams USING (stream_id)"
            " WHERE stream_id > ? AND NOT skipped ORDER BY stream_id LIMIT ?",
            (after, limit),
        )
        return [stream_id for (stream_id,) in found]

    def skip(self, stream_id: str) -> None:
        """Do not copy this stream, which is in the index."""
        self._database.execute("UPDATE streams SET skipped = 1 WHERE stream_id = ?", (stream_id,))

    def is_skipped(self, stream_id: str) -> bool:
        return bool(self._query_one("SELECT skipped FROM streams WHERE stream_id = ?", stream_id))

    def set_new_position(self, old: int, new: int) -> None:
        """The event at position `old` of the source is at `new` in the target."""
        self._database.execute("INSERT OR REPLACE INTO moved VALUES (?, ?)", (old, new))

    def new_position_of(self, old: int) -> int | None:
        """The new position of the event that was at `old`; None where that was not copied."""
        return self._query_one("SELECT new FROM moved WHERE old = ?", old)

    def close(self) -> None:
        self._database.close()

    def _query_one(self, query: str, parameter: str | int) -> int | None:
        found = self._database.execute(query, (parameter,)).fetchone()
        return None if found is None else found[0]
