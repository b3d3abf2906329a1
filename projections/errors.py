"""Errors of the projections."""

from events.errors import Remedy


class ProjectionError(Exception):
    """Base of all errors of the projections. `remedy`: what helps; None where the message says it, or nothing."""

    def __init__(self, *args: object, remedy: Remedy | None = None) -> None:
        super().__init__(*args)
        self.remedy = remedy


class ProjectionLag(ProjectionError):
    """The projections have not caught up with the log in time; retry shortly."""

    def __init__(self, wanted: int, reached: int) -> None:
        super().__init__(f"the projections are at position {reached}, not yet at {wanted}")
        self.wanted = wanted
        self.reached = reached


class ProjectionsStopped(ProjectionError):
    """The projections no longer follow the log: the service is stopping, or an event cannot be folded."""


class ProjectionsUnavailable(ProjectionError):
    """The projections cannot be read or written now (a rebuild, a full disk, a lost connection); retry shortly."""


class ProjectionsInUse(ProjectionError):
    """Another process has these projections open; give each service a path of its own."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} belongs to another running process", remedy=Remedy.OWN_PROJECTIONS)


class ProjectionsUnusable(ProjectionError):
    """The store cannot be opened: the message says why, and what to do."""


class LogReplaced(ProjectionError):
    """The projections have folded events that the log does not have: they were lost, or it is another log."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(
            f"the log does not have what its projections ({path}) were made from: {reason}. Events were lost (a"
            " write-ahead log deleted, a file cut or replaced)",
            remedy=Remedy.RESTORE_OR_SALVAGE_OR_NEW_PROJECTIONS,
        )
        self.path = path


class InvalidProjection(ProjectionError):
    """The content does not agree with the log: the message says why. The runner replaces it and folds the log again."""


class InvalidRebuild(ProjectionError):
    """A finished rebuild cannot be adopted: the message says why. The present store stays."""
