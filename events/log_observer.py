"""Observers of a log: metrics and warnings leave the log through this port."""

from typing import Protocol


class LogObserver(Protocol):
    """Receives what the log does, for metrics and log messages. Called in the writer's task: must be quick."""

    def appended(self, batch_events: int, append_s: float, commit_s: float) -> None:
        """A batch is on disk. `append_s`: from the arrival of its oldest append; `commit_s`: in the store only."""

    def refused(self, reason: str) -> None:
        """An append was refused: `busy`, `closing`, `conflict`, `missing` (a file that it refers to), `outdated` or
        `unavailable`.
        """

    def refused_by_writer(self) -> None:
        """The process that writes the log for this one cannot write just now. It has counted the refused append."""

    def stalled(self, seconds: float) -> None:
        """An append has waited for so long, as the disk or the database does not answer. Called once for each stall."""

    def notified(self, *, is_notified: bool) -> None:
        """Whether this process is told what others record, or has to look itself, as it has no connection for that."""

    def failed(self, error: Exception) -> None:
        """The writer caught an exception that no store should raise: a bug."""

    def warned(self, subject: str, reason: str) -> None:
        """An operator should know; called once for each reason. `erasure_waits`: erased content cannot leave the
        store's pages for now. `nodes_outdated`: events were refused, as another process over the log cannot read them.
        `notifications_lost`: this process is not told what others record, and looks itself.
        """

    def files_lost(self, reason: str) -> None:
        """A file of the log was deleted or replaced while it was open."""


class NoObserver:
    """Ignores everything."""

    def appended(self, batch_events: int, append_s: float, commit_s: float) -> None: ...

    def refused(self, reason: str) -> None: ...

    def refused_by_writer(self) -> None: ...

    def stalled(self, seconds: float) -> None: ...

    def notified(self, *, is_notified: bool) -> None: ...

    def failed(self, error: Exception) -> None: ...

    def warned(self, subject: str, reason: str) -> None: ...

    def files_lost(self, reason: str) -> None: ...
