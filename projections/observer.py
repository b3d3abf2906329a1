"""Who is told what the projections do: metrics, logs and the progress that an operator watches."""

from typing import Protocol


class ProjectionObserver(Protocol):
    """Called on the event loop. Must neither block nor raise."""

    def applied(self, events: int, seconds: float) -> None:
        """A batch of `events` was folded and written."""
        ...

    def progress(self, position: int, head: int) -> None:
        """After each batch while catching up, at start and in a rebuild: how far, of how much."""
        ...

    def rebuilt(self, reason: str) -> None:
        """The file is being deleted and the log folded again from its first event."""
        ...

    def adopted(self, position: int) -> None:
        """The file that a rebuild has made, folded up to `position`, has taken the present one's place."""
        ...

    def failed(self, error: BaseException) -> None:
        """Something went wrong. It is tried again, unless the runner's `failure` is set."""
        ...


class NoObserver:
    """Tells nobody."""

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
