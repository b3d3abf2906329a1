"""A log as of one moment: rows that are read page by page, and do not change while it is read.

Between two pages of EventLog.rows a session may be deleted: an earlier page then has its texts, and a later one the
event that explains their erasure. From one snapshot come either the texts without that event, or that event without the
texts.

The port of the event log: what every store promises. One contract suite (tests/contract) holds them to it.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from events.catalogue import Event
from events.record import EventHeader, Head, Metadata, RecordedEvent, StoredRow


class Snapshot(Protocol):
    """Held open by a transaction of its own: while it is, SQLite's write-ahead file cannot shrink, and PostgreSQL keeps
    old versions of rows.
    """

    @property
    def head(self) -> Head:
        """The end of the log at that moment."""
        ...

    async def rows(self, *, after: int = 0, limit: int) -> list[StoredRow]:
        """As EventLog.rows. Raises LogUnavailable where the transaction is lost."""
        ...


class EventLog(Protocol):
    """An append-only log of streams. Positions are gapless from 1, in commit order; so are versions per stream."""

    async def append(
        self, stream_id: str, expected_version: int, events: Sequence[Event], metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        """Record `events` after `expected_version` (0: a new stream), all or none, and return once they are on disk.

        Raises VersionConflict when the stream is at another version, LogBusy when too many appends wait,
        LogUnavailable when the store cannot be written; in each case nothing was recorded, but for OutcomeUnknown.
        """
        ...

    async def erase(
        self, stream_id: str, expected_version: int, event: Event, metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        """Record `event` (of a type in EXPLAINS_ERASURE) and erase the content of all earlier events of the stream,
        in one transaction. Returns once no file of the store holds that content. Raises as `append` does.
        """
        ...

    async def finish_erasure(self, stream_id: str, version: int) -> None:
        """Erase the content of events before `version`, where an event of a type in EXPLAINS_ERASURE is recorded.

        Returns as `erase` does. Raises ValueError where no such event is there, LogUnavailable.
        """
        ...

    async def read(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None, backwards: bool = False
    ) -> list[RecordedEvent]:
        """Up to `limit` events of one stream with version > `after`, oldest first, or newest first if `backwards`.

        With `bytes_max` the page ends with the event whose content brings it to about that many bytes: fewer than
        `limit` may then come before the end, but at least one does.
        """
        ...

    async def read_all(self, *, after: int = 0, limit: int) -> list[RecordedEvent]:
        """Up to `limit` events of all streams with position > `after`, in order; fewer only at the log's end."""
        ...

    async def event_headers(self, *, after: int = 0, limit: int) -> list[EventHeader]:
        """As `read_all`, without contents: cheap for who wants to know only which streams have moved."""
        ...

    async def read_at(self, positions: Sequence[int]) -> dict[int, RecordedEvent]:
        """The events at these positions, by position; positions that do not exist are absent."""
        ...

    async def sizes(self, positions: Sequence[int]) -> dict[int, int]:
        """The bytes of content of the events at these positions, 0 once erased; absent as in `read_at`."""
        ...

    async def rows(self, *, after: int = 0, limit: int, bytes_max: int | None = None) -> list[StoredRow]:
        """As `read_all`, undecoded, with salt, commitment and digest: for proof. `bytes_max` as in `read`."""
        ...

    async def stream_rows(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None
    ) -> list[StoredRow]:
        """Up to `limit` rows of one stream with version > `after`, oldest first: as `rows`, for its trail."""
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """The log as of the moment of entering. Raises LogUnavailable."""
        ...

    def head(self) -> Head:
        """The last committed position and digest, as far as this process knows."""
        ...

    async def latest(self) -> Head:
        """The head at some moment after this call began, whoever appended. Raises LogUnavailable.

        `head` may be behind it by what other processes have just committed.
        """
        ...

    @property
    def is_shared(self) -> bool:
        """Whether other processes append to it, too."""
        ...

    @property
    def erasure_pending(self) -> bool:
        """Whether some file of the store may still hold erased content, because another program is reading it."""
        ...

    @property
    def damage(self) -> str | None:
        """What of the store was found damaged while it was in use, None for nothing: from then on appends are
        refused with LogUnavailable.
        """
        ...

    async def check_writable(self) -> None:
        """Commit nothing, behind the appends that wait. Raises LogUnavailable where an append would be refused now."""
        ...

    async def wait(self, position: int) -> Head:
        """The head, once it is past `position`, whoever appended."""
        ...

    async def close(self) -> None:
        """Write what waits, refuse what comes, release the files."""
        ...
