"""What can go wrong with a log."""

from pathlib import Path


class LogError(Exception):
    """The event log could not do what was asked."""


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
    """The file is not an event log that this program can serve: says why, and what to do."""


class LogDamaged(LogUnusable):
    """The log is not as it was recorded: what it tells cannot be trusted, so nothing is built on it."""

    def __init__(self, path: object, reason: str) -> None:
        salvage = ", or copy what still holds into a new log with `chatbot salvage DEST`"
        rescue = salvage if isinstance(path, Path) else ""
        super().__init__(
            f"database {path} is damaged: {reason}. It is not served and was not changed. Restore a backup{rescue};"
            " `chatbot verify` tells more"
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
        self.fact = f"database {path} is in use by {user}"
        super().__init__(f"{self.fact}; stop it or choose another DATABASE_URL")
