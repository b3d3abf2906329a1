"""The observer that is told what the projections do: metrics, logs and an operator's progress display."""

from typing import Protocol


class ProjectionObserver(Protocol):
    """Told what the projections do: metrics, logs and an operator's progress display. Called on the event loop. Must
    neither block nor raise.
    """

    def applied(self, events: int, seconds: float) -> None:
        """A batch of `events` was folded and written."""
        ...

    def progress(self, position: int, head: int) -> None:
        """Called after each batch while catching up, at start and in a rebuild: `position` of `head` is done."""
        ...

    def rebuilt(self, reason: str) -> None:
        """The store is being emptied, to fold the log again from its first event."""
        ...

    def adopted(self, position: int) -> None:
        """A store that was rebuilt elsewhere, folded up to `position`, has replaced the present one."""
        ...

    def failed(self, error: BaseException) -> None:
        """An error occurred. It is retried, unless the runner's `failure` is set."""
        ...


class NoObserver:
    """Ignores everything."""

    def applied(self, events: int, seconds: float) -> None:
        """As ProjectionObserver.applied."""

    def progress(self, position: int, head: int) -> None:
        """As ProjectionObserver.progress."""

    def rebuilt(self, reason: str) -> None:
        """As ProjectionObserver.rebuilt."""

    def adopted(self, position: int) -> None:
        """As ProjectionObserver.adopted."""

    def failed(self, error: BaseException) -> None:
        """As ProjectionObserver.failed."""
