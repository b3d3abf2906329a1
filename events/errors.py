"""Errors of the event log, and what an operator can do about each (`Remedy`)."""

from enum import Enum, auto
from pathlib import Path


class Remedy(Enum):
    """What an operator can do about an error. The program that uses the log puts it into words: it knows the commands
    and settings.
    """

    STOP_OR_OTHER_DATABASE = auto()
    UPDATE_OR_OTHER_DATABASE = auto()
    WRITABLE_DIRECTORY_OR_OTHER_DATABASE = auto()
    OTHER_DATABASE = auto()
    OTHER_DATABASE_OR_SCHEMA = auto()
    MOVED_SCHEMA = auto()
    MOVED_SCHEMA_OR_RESTORE = auto()
    PRIMARY_SERVER = auto()
    CREDENTIALS = auto()
    PASSWORD = auto()
    URL_PARAMETER = auto()
    URL_FORM = auto()
    RESTORE_AND_VERIFY = auto()
    RESTORE_SALVAGE_AND_VERIFY = auto()
    RESTORE_OR_SALVAGE = auto()
    RESTORE_OR_SALVAGE_OR_NEW_PROJECTIONS = auto()
    FINISH_MIGRATION = auto()
    FINISH_IMPORT = auto()
    FINISH_SALVAGE = auto()
    OWN_PROJECTIONS = auto()


class LogError(Exception):
    """Base of all errors of the event log. `remedy`: what to do; None if the message says it, or if nothing helps."""

    def __init__(self, *args: object, remedy: Remedy | None = None) -> None:
        super().__init__(*args)
        self.remedy = remedy


class VersionConflict(LogError):
    """Optimistic concurrency control: another event was appended to this stream first. Read it and decide again."""

    def __init__(self, stream_id: str, expected_version: int) -> None:
        super().__init__(f"stream {stream_id} is not at version {expected_version}")
        self.stream_id = stream_id
        self.expected_version = expected_version


class LogUnavailable(LogError):
    """The log cannot be written now (disk full, locked by another program, closing); nothing was recorded."""


class OutcomeUnknown(LogUnavailable):
    """The connection broke before the database answered: the append may be recorded or not. Read the stream again."""


class LogStopped(LogUnavailable):
    """A file of the log is damaged or was removed: nothing is recorded until the service is restarted."""


class NodesOutdated(LogUnavailable):
    """Another process over this log could not read these events: the message names it; nothing was recorded."""


class LogBusy(LogUnavailable):
    """Backpressure: too many appends are waiting. Nothing was recorded."""


class LogUnusable(LogError):
    """The file is not an event log that this program can serve: says why."""


class LogDamaged(LogUnusable):
    """The log is damaged or was changed, so it is not served: the message says where."""

    def __init__(self, path: object, reason: str) -> None:
        is_file = isinstance(path, Path)
        super().__init__(
            f"database {path} is damaged: {reason}. It is not served and was not changed",
            remedy=Remedy.RESTORE_SALVAGE_AND_VERIFY if is_file else Remedy.RESTORE_AND_VERIFY,
        )


class MigrationRefused(LogError):
    """This source cannot be migrated to this target: the message says why, and what to do."""


class UnknownEvent(LogError):
    """The log contains an event type or schema version that this program does not know: a newer version wrote it."""

    def __init__(self, event_type: str, schema_version: int) -> None:
        super().__init__(
            f"this program does not know event type {event_type!r} with schema version {schema_version}: update it"
        )
        self.event_type = event_type
        self.schema_version = schema_version


class LogInUse(LogUnusable):
    """Another process serves this log; two writers would break the chain."""

    def __init__(self, path: object, pid: str | None) -> None:
        """`pid` None: unknown, as that process has locked the database file and not the lock file."""
        unknown = "another process, which has locked the file itself, perhaps under another name"
        user = unknown if pid is None else f"process {pid}"
        super().__init__(f"database {path} is in use by {user}", remedy=Remedy.STOP_OR_OTHER_DATABASE)
