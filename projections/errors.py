"""What can go wrong with projections. Each class's docstring is its message."""


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
        super().__init__(f"{path} belongs to another running process; give each service a projections path of its own")


class ProjectionsUnusable(ProjectionError):
    """The file or its folder cannot serve: says why, and what to do."""


class Unfit(ProjectionError):
    """The file does not tell what the log tells: says why. Answered by deleting it and folding the log again."""
