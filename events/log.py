"""The port of the event log (event store): append with optimistic concurrency, read, subscribe (`wait`), erase.

Every store guarantees the same; one contract suite (tests/contract) is run on each.

A snapshot is the log at a point in time, read page by page. Without one, a session may be deleted between two pages of
EventLog.rows: an earlier page then has its texts, and a later one the event that explains their erasure. A snapshot has
either the texts without that event, or that event without the texts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar, runtime_checkable

from events.catalogue import Event
from events.media import MediaReader, MediaStore
from events.record import (
    Envelope,
    EventHeader,
    Head,
    Metadata,
    RawColumns,
    RecordedEvent,
    StoredRow,
    StreamVersion,
)

T = TypeVar("T")


class Snapshot(Protocol):
    """A read transaction. While it is open, SQLite's write-ahead log cannot shrink, and PostgreSQL keeps old rows."""

    @property
    def head(self) -> Head:
        """The end of the log at that point in time."""
        ...

    async def rows(self, *, after: int = 0, limit: int) -> list[StoredRow]:
        """As EventLog.rows. Raises LogUnavailable if the transaction is lost."""
        ...

    @property
    def media(self) -> MediaReader:
        """The files that messages refer to."""
        ...


class AppendListener(Protocol):
    """Is told of appends by an EventLog, on the event loop: its methods must be quick and must not raise."""

    def on_appended(self, headers: Sequence[EventHeader]) -> None:
        """Appended to streams that are held, or of those that every process is told of (events/subscriptions.py).

        In the order of each stream, each event once or more; events of this process may be among them.
        """
        ...

    def on_held(self, stream_id: str, version: int) -> None:
        """The hold is in force, and the stream is at `version` (0: it does not exist): earlier events may have been
        reported or not, later ones will be. Called again whenever reports may have been lost.
        """
        ...


class EventLog(Protocol):
    """An append-only log of streams. Positions are gapless from 1, in commit order; so are versions per stream."""

    async def append(
        self, stream_id: str, expected_version: int, events: Sequence[Event], metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        """Record `events` after `expected_version` (0: a new stream), all or none, and return once they are on disk.

        Raises VersionConflict when the stream is at another version, LogBusy when too many appends wait, LogUnavailable
        when the store cannot be written. Nothing was recorded then, except that after OutcomeUnknown it may have been.
        """
        ...

    async def erase(
        self,
        stream_id: str,
        expected_version: int,
        event: Event,
        metadata: Metadata,
        *,
        unchanged: StreamVersion | None = None,
    ) -> tuple[RecordedEvent, ...]:
        """Record `event` (of a type in ERASURE_TYPES) and erase the content of all earlier events of the stream, in one
        transaction; of a message_redacted, only of those that it names. Returns once no file of the store holds that
        content. Raises as `append`.

        `unchanged`: a stream on which the caller's decision depends. If it has another version in that transaction,
        nothing is erased and VersionConflict is raised.
        """
        ...

    async def finish_erasure(self, stream_id: str, version: int) -> None:
        """Erase once more what the event at `version` erases, which is as in `erase`.

        Returns as `erase`. Raises ValueError if the event at `version` is not of such a type, LogUnavailable.
        """
        ...

    async def admits(self, versions: Mapping[str, int]) -> bool:
        """Whether every process over the log reads events of these types in these schema versions, as far as is known:
        otherwise `append` refuses them. Raises LogUnavailable.
        """
        ...

    @property
    def media(self) -> MediaStore:
        """The files that messages refer to."""
        ...

    async def read(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None, backwards: bool = False
    ) -> list[RecordedEvent]:
        """Up to `limit` events of one stream with version > `after`, oldest first, or newest first if `backwards`. Of a
        redacted event it has what is left, as `read_all` and `read_at` have.

        With `bytes_max` the page ends with the event whose content brings it to about that many bytes: it may then have
        fewer than `limit` events before the end of the stream, but at least one.
        """
        ...

    async def read_all(self, *, after: int = 0, limit: int) -> list[RecordedEvent]:
        """Up to `limit` events of all streams with position > `after`, in order; fewer only at the log's end."""
        ...

    async def event_headers(self, *, after: int = 0, limit: int) -> list[EventHeader]:
        """As `read_all`, without contents: cheap for callers that need only the streams that have changed."""
        ...

    async def envelopes(self, *, after: int = 0, limit: int) -> list[Envelope]:
        """As `read_all`, without contents and undecoded, for searches by time, type and metadata."""
        ...

    async def read_at(self, positions: Sequence[int]) -> dict[int, RecordedEvent]:
        """The events at these positions, by position; positions that do not exist are absent."""
        ...

    async def sizes(self, positions: Sequence[int]) -> dict[int, int]:
        """The bytes of content of the events at these positions, 0 once erased; of a redacted one a bound of what is
        left. Absent as in `read_at`.
        """
        ...

    async def rows(self, *, after: int = 0, limit: int, bytes_max: int | None = None) -> list[StoredRow]:
        """As `read_all`, undecoded, with salt, commitment and digest, for verification. `bytes_max` as in `read`."""
        ...

    async def rows_at(self, positions: Sequence[int]) -> dict[int, StoredRow]:
        """The rows at these positions, by position; positions that do not exist are absent."""
        ...

    async def stream_rows(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None
    ) -> list[StoredRow]:
        """Up to `limit` rows of one stream with version > `after`, oldest first, otherwise as `rows`."""
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """The log at the point in time of entering. Raises LogUnavailable."""
        ...

    def head(self) -> Head:
        """The last committed position and digest, as far as this process knows."""
        ...

    async def latest(self) -> Head:
        """The head at some moment after this call began, including commits of other processes, which `head` may not
        know yet. Raises LogUnavailable.
        """
        ...

    @property
    def is_shared(self) -> bool:
        """Whether other processes append to the log, too."""
        ...

    @property
    def erasure_pending(self) -> bool:
        """Whether some file of the store may still hold erased content, because another program reads the file."""
        ...

    @property
    def oldest_append_s(self) -> float:
        """How long the oldest append has waited that has no outcome yet; 0 if none waits."""
        ...

    @property
    def damage(self) -> str | None:
        """The damage of the store that was found while it was in use, or None. With damage, appends are refused with
        LogUnavailable.
        """
        ...

    async def check_writable(self) -> None:
        """Commit nothing, after the appends that wait. Raises LogUnavailable where an append would be refused now."""
        ...

    async def wait(self, position: int) -> Head:
        """The head, once it is past `position`, whichever process appends."""
        ...

    def hold(self, stream_id: str) -> None:
        """Have the listeners told what other processes append to the stream, from AppendListener.on_held on, until
        `release`. Waits for nothing. Not counted: a stream that is held already is reported to be so once more.
        """
        ...

    def release(self, stream_id: str) -> None:
        """End what `hold` began; a few more reports may come."""
        ...

    def listen(self, listener: AppendListener) -> None:
        """Report appends of other processes to `listener`, until the log closes. Nothing is reported of a log that no
        other process writes.
        """
        ...

    async def close(self) -> None:
        """Refuse new appends, write those that wait, close the files."""
        ...


class NotifyingLog(EventLog, Protocol):
    """A log that tells this process when its head moves, so that no task has to wait for that."""

    def watch_head(self, position: int, listener: Callable[[], None]) -> None:
        """Have `listener` called, on the event loop, when `head` moves beyond `position`, and each time that it moves
        afterwards: at commits of this process, and when it learns of those of others. Must be quick and must not raise.
        """
        ...

    def unwatch_head(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        ...


@runtime_checkable
class RowScanner(Protocol):
    """A log whose rows can be processed in the thread that reads them, so that bulk work leaves the event loop free."""

    async def scan_rows(self, consume: Callable[[Iterator[RawColumns]], T], *, after: int = 0, limit: int) -> T:
        """The result of `consume` for the rows of EventLog.rows, in another thread; each row is a tuple of raw columns.

        Between two rows the event loop has priority. If the caller is cancelled, `consume` may go on.
        """
        ...
