"""The reading side of shared projections: another process of this machine folds the log into their file."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from events.errors import LogUnavailable, UnknownEvent
from events.log import EventLog
from projections.errors import ProjectionError, ProjectionLag, ProjectionsStopped, ProjectionsUnavailable
from projections.port import OnChanged
from projections.shared import follower_messages as messages
from projections.shared.follower_messages import ListsRequest, StatusPush, TroubleReport, WaitRequest
from projections.shared.shared_progress import SharedProgress
from projections.shared.shared_read_connection import SharedReadConnection
from projections.sqlite.queries import SqliteQueries

RETRY_S = 0.05  # between two requests to a process that is being replaced
LISTS_RETRY_S = 0.5  # after the process could not be told whether there are readers of lists
REPORTS_MAX = 16  # reports of trouble under way: the others say the same


class Writer(Protocol):
    """The process that keeps the projections."""

    async def request(self, name: str, body: bytes = b"", *, timeout_s: float | None = None) -> bytes:
        """The answer. Raises LogUnavailable."""
        ...

    def on_push(self, name: str, callback: Callable[[bytes], None]) -> None:
        """Have `callback` called with the body of each message of this name."""
        ...

    def on_connected(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after each connect, and now if it is connected."""
        ...


class ProjectionFollower:
    """Implements port.ProjectionStatus and, in `queries`, port.ProjectionQueries, with a file that `writer` keeps."""

    def __init__(self, path: Path, log: EventLog, writer: Writer, progress: SharedProgress, *, wait_s: float) -> None:
        self.failure: BaseException | None = None
        self.trouble: Exception | None = None
        self._log = log
        self._writer = writer
        self._progress = progress
        self._wait_s = wait_s
        self._reader = SharedReadConnection(path, progress, self._report_trouble)
        self.queries = SqliteQueries(self._reader)
        self._listeners: list[OnChanged] = []
        self._has_list_readers = False
        self._is_stopped = False
        self._requests: set[asyncio.Task[None]] = set()
        self._registering: asyncio.Task[None] | None = None

    @property
    def position(self) -> int:
        """As Projections.position."""
        return self._progress.position

    @property
    def lag(self) -> int:
        """As ProjectionStatus.lag."""
        return max(0, self._log.head().position - self.position)

    @property
    def rebuilding(self) -> bool:
        """As Projections.rebuilding."""
        return self._progress.rebuilding

    @property
    def unknown_event(self) -> UnknownEvent | None:
        """As ProjectionStatus.unknown_event."""
        return self.failure if isinstance(self.failure, UnknownEvent) else None

    async def start(self) -> None:
        """Begin to follow; the file is opened by the first query."""
        self._writer.on_push(messages.STATUS, self._note_status)
        self._writer.on_push(messages.CHANGED, self._note_changed)
        self._writer.on_connected(self._register)

    async def stop(self) -> None:
        """Release all waiters and close the file."""
        self._is_stopped = True
        for task in self._requests:
            task.cancel()  # `_registering`, too
        if self._requests:
            await asyncio.wait(self._requests)
        await self._reader.close()

    async def wait_for(self, position: int, *, timeout_s: float | None = None) -> None:
        """As Projections.wait_for. Asks the writer only if `position` is not folded yet."""
        if self.position >= position:
            return
        try:
            async with asyncio.timeout(self._wait_s if timeout_s is None else timeout_s) as bound:
                await self._request_until_folded(position, bound)
        except TimeoutError:
            raise ProjectionLag(position, self.position) from None

    async def _request_until_folded(self, position: int, bound: asyncio.Timeout) -> None:
        loop, end_s = asyncio.get_running_loop(), bound.when()
        while self.position < position:
            if self.failure is not None:
                raise ProjectionsStopped(f"the projections stopped at position {self.position}") from self.failure
            if self._is_stopped:
                raise ProjectionsStopped("the service is stopping")
            left_s = self._wait_s if end_s is None else max(0.0, end_s - loop.time())
            with suppress(LogUnavailable):  # no writer now, or one that is being replaced
                await self._writer.request(messages.WAIT, messages.encode(WaitRequest(position, left_s)))
            if self.position < position:
                await asyncio.sleep(RETRY_S)

    def retry(self) -> None:
        """As Projections.retry."""
        self._send(messages.RETRY, b"")

    def on_changed(self, listener: OnChanged) -> None:
        """As Projections.on_changed. Called only while `set_list_readers` says that there are readers."""
        self._listeners.append(listener)

    def set_list_readers(self, *, has_readers: bool) -> None:
        """As Projections.set_list_readers. Once the writer knows of the first, `on_changed` is called with what may
        have been missed.
        """
        if has_readers != self._has_list_readers:
            self._has_list_readers = has_readers
            self._register()

    def _register(self) -> None:
        """Tell the writer what this process wants to be told; it answers with the status, too."""
        if self._registering is not None:
            self._registering.cancel()
        self._registering = asyncio.create_task(self._send_lists(), name="projections-lists")
        self._keep(self._registering)

    async def _send_lists(self) -> None:
        request = ListsRequest(self._has_list_readers)
        while True:
            try:
                answer = await self._writer.request(messages.LISTS, messages.encode(request))
                break
            except LogUnavailable:  # too many requests may wait
                await asyncio.sleep(LISTS_RETRY_S)
        if request.has_readers:
            self._notify(None, messages.decode_answer(answer).position)

    def _note_status(self, body: bytes) -> None:
        status: StatusPush = messages.decode_status(body)
        self.trouble = None if status.trouble is None else ProjectionsUnavailable(status.trouble)
        if status.failure is None:
            self.failure = None
        elif status.unknown_event is not None:
            self.failure = UnknownEvent(status.unknown_event.event_type, status.unknown_event.schema_version)
        else:
            self.failure = ProjectionError(status.failure)

    def _note_changed(self, body: bytes) -> None:
        changed = messages.decode_changed(body)
        self._notify(changed.owners, changed.position)

    def _notify(self, owners: frozenset[str] | None, position: int) -> None:
        for listener in self._listeners:
            listener(owners, position)

    def _report_trouble(self, reason: str | None) -> None:
        if len(self._requests) < REPORTS_MAX:
            generation = self._reader.generation or self._progress.generation  # 0: it could not be opened
            self._send(messages.TROUBLE, messages.encode(TroubleReport(generation, reason)))

    def _send(self, name: str, body: bytes) -> None:
        """Send without waiting for the answer."""

        async def send() -> None:
            with suppress(LogUnavailable):  # a new process looks for itself
                await self._writer.request(name, body)

        self._keep(asyncio.create_task(send(), name="projections-request"))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
