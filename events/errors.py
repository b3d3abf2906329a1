"""What can go wrong with a log, and what helps."""

from enum import Enum, auto
from pathlib import Path


class Remedy(Enum):
    """What an operator can do about an error. Which command or setting that means, the program knows that uses the log:
    it adds the words.
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
    """The event log could not do what was asked. `remedy`: what helps; None where the message says it, or nothing."""

    def __init__(self, *args: object, remedy: Remedy | None = None) -> None:
        super().__init__(*args)
        self.remedy = remedy


class VersionConflict(LogError):
    """Another event was appended to this stream first; read its tail and decide again."""

    def __init__(self, stream_id: str, expected_version: int) -> None:
        super().__init__(f"stream {stream_id} is not at version {expected_version}")
        self.stream_id = stream_id
        self.expected_version = expected_version


class LogUnavailable(LogError):
    """The log cannot be written just now (disk full, locked by another program, closing); nothing was recorded."""


class OutcomeUnknown(LogUnavailable):
    """A database went away before it answered: whether this was recorded is unknown; read the stream again."""


class LogStopped(LogUnavailable):
    """A file of the log is damaged or was removed: nothing is recorded until the service is restarted."""


class NodesOutdated(LogUnavailable):
    """Another process over this log cannot read what would be recorded: says which; nothing was recorded."""


class LogBusy(LogUnavailable):
    """Too many appends wait already; nothing was recorded."""


class LogUnusable(LogError):
    """The file is not an event log that this program can serve: says why."""


class LogDamaged(LogUnusable):
    """The log is not as it was recorded: what it tells cannot be trusted, so nothing is built on it."""

    def __init__(self, path: object, reason: str) -> None:
        is_file = isinstance(path, Path)
        super().__init__(
            f"database {path} is damaged: {reason}. It is not served and was not changed",
            remedy=Remedy.RESTORE_SALVAGE_AND_VERIFY if is_file else Remedy.RESTORE_AND_VERIFY,
        )


class MigrationRefused(LogError):
    """These two cannot be made one log: says why, and what to do."""


class UnknownEvent(LogError):
    """The log holds an event that this program does not know: it was written by a newer version."""

    def __init__(self, event_type: str, schema_version: int) -> None:
        super().__init__(
            f"this program does not know event type {event_type!r} with schema version {schema_version}: update it"
        )
        self.event_type = event_type
        self.schema_version = schema_version


class LogInUse(LogUnusable):
    """Another process serves this log; two writers would break the chain."""

    def __init__(self, path: object, pid: str | None) -> None:
        """`pid` None: that process has locked the file itself, and is not known."""
        unknown = "another process, which has locked the file itself, perhaps under another name"
        user = unknown if pid is None else f"process {pid}"
        super().__init__(f"database {path} is in use by {user}", remedy=Remedy.STOP_OR_OTHER_DATABASE)
