"""What SQLite's error codes mean: in words for an operator, and for whether a connection or the file can be trusted."""

import sqlite3
from pathlib import Path

from events.errors import LogUnavailable, LogUnusable, Remedy

_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_BUSY: "another program keeps it locked",
    sqlite3.SQLITE_LOCKED: "another program keeps it locked",
    sqlite3.SQLITE_PROTOCOL: "another program keeps it locked",
    sqlite3.SQLITE_IOERR: "reading or writing the file failed: look at the disk",
    sqlite3.SQLITE_READONLY: "the file cannot be written: look at its permissions",
    sqlite3.SQLITE_PERM: "the file cannot be written: look at its permissions",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened: look at its path and permissions",
    sqlite3.SQLITE_CORRUPT: "the file is damaged",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database",
    sqlite3.SQLITE_NOMEM: "out of memory",
}

_REMEDIES = {sqlite3.SQLITE_CORRUPT: Remedy.RESTORE_OR_SALVAGE, sqlite3.SQLITE_NOTADB: Remedy.OTHER_DATABASE}

# After these the connection itself cannot be trusted.
CONNECTION_ERRORS = frozenset({
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN,
})  # fmt: skip


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code, 0 for an error that Python's module raises by itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_connection_error(error: sqlite3.Error) -> bool:
    """Whether the connection that raised `error` must be replaced."""
    return primary_code(error) in CONNECTION_ERRORS


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether `error` means that the content of the file is invalid, which no retry will repair."""
    return primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def explain(error: sqlite3.Error, path: Path) -> str | None:
    """The cause in words for an operator; None for an error that only a bug in this program can cause."""
    reason = _REASONS.get(primary_code(error))
    return reason and f"database {path}: {reason} ({getattr(error, 'sqlite_errorname', 'unknown')})"


def unavailable(error: sqlite3.Error, path: Path) -> LogUnavailable | None:
    """The refusal that `error` means for one caller; None where `explain` has no words for it."""
    message = explain(error, path)
    if message is None:
        return None
    refusal = LogUnavailable(message, remedy=_REMEDIES.get(primary_code(error)))
    refusal.__cause__ = error
    return refusal


def unusable(error: sqlite3.Error, path: Path) -> LogUnusable:
    """The refusal of the whole file that `error` means."""
    message = explain(error, path) or f"database {path}: {error}"
    return LogUnusable(message, remedy=_REMEDIES.get(primary_code(error)))
