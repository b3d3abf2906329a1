"""What a long copy must remember of the streams and positions that it has met: in a private file, not in memory.

SQLite deletes the file when it is closed, also after `kill -9`. It holds ids and numbers, never a person's words. All
calls block for microseconds; they are for commands, not for the service.
"""

import sqlite3

_TABLES = """
CREATE TABLE streams (
    stream_id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,    -- the last one met without a gap
    unexplained INTEGER,         -- position of the first erased event with no reason after it; NULL: none
    skipped INTEGER NOT NULL     -- 1: this stream is not copied
) WITHOUT ROWID;
CREATE TABLE owed (stream_id TEXT, reply_id TEXT, PRIMARY KEY (stream_id, reply_id)) WITHOUT ROWID;
CREATE TABLE moved (old INTEGER PRIMARY KEY, new INTEGER NOT NULL);
"""


class ImportIndex:
    """Streams with the version reached, and where positions have moved to."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN; {_TABLES}")

    def version(self, stream_id: str) -> int:
        """The last version met of a stream, 0 for none."""
        return self._one("SELECT version FROM streams WHERE stream_id = ?", stream_id) or 0

    def reach(self, stream_id: str, version: int) -> None:
        self._database.execute(
            "INSERT INTO streams VALUES (?, ?, NULL, 0) ON CONFLICT DO UPDATE SET version = excluded.version",
            (stream_id, version),
        )

    def erased(self, stream_id: str, position: int) -> None:
        """The stream, met before, has an erased event at `position`."""
        self._database.execute(
            "UPDATE streams SET unexplained = coalesce(unexplained, ?) WHERE stream_id = ?", (position, stream_id)
        )

    def explained(self, stream_id: str) -> None:
        """A later event of the stream says why content is gone."""
        self._database.execute("UPDATE streams SET unexplained = NULL WHERE stream_id = ?", (stream_id,))

    def unexplained(self, limit: int) -> list[tuple[str, int, int]]:
        """Up to `limit` streams with content gone and no reason: id, version, position of the first such event."""
        return self._database.execute(
            "SELECT stream_id, version, unexplained FROM streams WHERE unexplained IS NOT NULL LIMIT ?", (limit,)
        ).fetchall()

    def add_owed_reply(self, stream_id: str, reply_id: str) -> None:
        """The stream has a reply that waits or runs."""
        self._database.execute("INSERT OR IGNORE INTO owed VALUES (?, ?)", (stream_id, reply_id))

    def remove_owed_replies(self, stream_id: str, reply_id: str | None = None) -> None:
        """That reply has ended, or all of the stream's."""
        which = "stream_id = ? AND reply_id = coalesce(?, reply_id)"
        self._database.execute(f"DELETE FROM owed WHERE {which}", (stream_id, reply_id))  # noqa: S608  constants

    def streams_owing_replies(self, after: str, limit: int) -> list[str]:
        """Up to `limit` streams beyond `after`, in order, that are copied and have replies without an end."""
        found = self._database.execute(
            "SELECT DISTINCT stream_id FROM owed JOIN streams USING (stream_id)"
            " WHERE stream_id > ? AND NOT skipped ORDER BY stream_id LIMIT ?",
            (after, limit),
        )
        return [stream_id for (stream_id,) in found]

    def skip(self, stream_id: str) -> None:
        """Do not copy this stream, met before."""
        self._database.execute("UPDATE streams SET skipped = 1 WHERE stream_id = ?", (stream_id,))

    def is_skipped(self, stream_id: str) -> bool:
        return bool(self._one("SELECT skipped FROM streams WHERE stream_id = ?", stream_id))

    def set_new_position(self, old: int, new: int) -> None:
        """The event that was at position `old` is at `new` now."""
        self._database.execute("INSERT OR REPLACE INTO moved VALUES (?, ?)", (old, new))

    def new_position_of(self, old: int) -> int | None:
        """The new position of what was at `old`; None when that was not copied."""
        return self._one("SELECT new FROM moved WHERE old = ?", old)

    def close(self) -> None:
        self._database.close()

    def _one(self, query: str, parameter: str | int) -> int | None:
        found = self._database.execute(query, (parameter,)).fetchone()
        return None if found is None else found[0]
