"""What can go wrong with projections."""

import sqlite3


class ProjectionError(Exception):
    """The projections could not do what was asked."""


class ProjectionLag(ProjectionError):
    """The projections have not caught up with the log in time; ask again shortly."""

    def __init__(self, wanted: int, reached: int) -> None:
        super().__init__(f"the projections are at position {reached}, not yet at {wanted}")
        self.wanted = wanted
        self.reached = reached


class ProjectionsStopped(ProjectionError):
    """The projections no longer follow the log: the service is stopping, or it met something it cannot fold."""


class ProjectionsUnavailable(ProjectionError):
    """The projections cannot be read just now (being rebuilt, or the disk refuses); ask again shortly."""


class ProjectionsInUse(ProjectionError):
    """Another process keeps its projections in this file; give each service a path of its own."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} belongs to another running process; give each service a file of its own"
            " with CHATBOT_DATABASE_PROJECTIONS_PATH"
        )


class ProjectionsUnusable(ProjectionError):
    """The file or its folder cannot serve: says why, and what to do."""


class LogReplaced(ProjectionError):
    """The projections have folded events that the log does not have: it has lost them, or is another log."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(
            f"the log does not have what its projections ({path}) were made from: {reason}. Events were lost (a"
            " write-ahead log deleted, a file cut or replaced): restore a backup, or see `chatbot salvage`. If you"
            f" replaced the log on purpose, delete {path} and start again"
        )


class InvalidProjection(ProjectionError):
    """The file does not tell what the log tells: says why. Answered by deleting it and folding the log again."""


class InvalidRebuild(ProjectionError):
    """The file that a rebuild has offered cannot take the present one's place: says why. The present one stays."""


# The disk or another program stands in the way: to be tried again, with the file left as it is.
_PASSING = frozenset(
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


# A page that makes no sense. Python has no code for a text that is no UTF-8.
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_DISORDER = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH})


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_passing(error: sqlite3.Error) -> bool:
    """Whether `error` may be gone at the next try."""
    return _code(error) in _PASSING


def is_damage(error: sqlite3.Error) -> bool:
    """Whether `error` says that the file is damaged, and folding the log again cures it."""
    return _code(error) in _DAMAGE or (_code(error) == 0 and isinstance(error, sqlite3.OperationalError))


def is_corrupt_or_inconsistent(error: sqlite3.Error) -> bool:
    """Whether a statement that fits the schema met tables that do not: damage, or rows that break its rules."""
    return is_damage(error) or _code(error) in _DISORDER
