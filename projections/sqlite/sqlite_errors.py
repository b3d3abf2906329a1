"""What SQLite's error codes mean for projections.db: retry, or rebuild."""

import sqlite3

# Caused by the disk or by another program: to be retried, with the file left as it is.
_TRANSIENT = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
    }
)
# Malformed pages. For a text that is not UTF-8, Python gives no code.
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_INCONSISTENT = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH})


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_transient(error: sqlite3.Error) -> bool:
    """Whether a retry may succeed."""
    return _code(error) in _TRANSIENT


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, which a rebuild cures."""
    return _code(error) in _DAMAGE or (_code(error) == 0 and isinstance(error, sqlite3.OperationalError))


def is_corrupt_or_inconsistent(error: sqlite3.Error) -> bool:
    """Whether a statement that is right for the schema failed on the file: damage, or rows that violate the schema."""
    return is_damage(error) or _code(error) in _INCONSISTENT
