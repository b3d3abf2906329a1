"""A log in one SQLite file that another process writes. Implements events.log.EventLog.

Reads use the file itself; appends, erasures and files are sent to the process that writes it (append_server.py).
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from events.catalogue import Event
from events.compatibility import EventTypeGate, OtherNodes, has_new_types, name_of_process
from events.errors import LogError, LogStopped, LogUnavailable, LogUnusable
from events.log import AppendListener
from events.log_observer import LogObserver, NoObserver
from events.options import LogOptions
from events.record import BROADCAST_STREAMS, BROADCAST_TYPES, EventHeader, Head, Metadata, RecordedEvent, StreamVersion
from events.remote.head_follower import HeadFollower
from events.remote.log_requests import NAMES, AwaitCleanWal, AwaitHead, Probe
from events.remote.remote_media import RemoteMedia
from events.remote.shared_positions import SharedPositions
from events.remote.wire_format import Welcome, encoder
from events.remote.writer_connection import WriterConnection
from events.storage.append_batch import AppendContext, buffered_random_bytes, erasure, now_us, prepare
from events.storage.database_lock import database_file
from events.storage.erasure_rules import check_erasure_explained, is_erasing_all
from events.storage.file_lock import identity
from events.storage.sqlite.sqlite_errors import unusable
from events.storage.sqlite.sqlite_queries import SqliteQueries
from events.storage.sqlite.sqlite_read_pool import SqliteReadPool

OTHER_FILE = (
    "the process that writes the log has another file open than this process, which reads the one that was at the"
    " database's path when it started: restart the service"
)
MISSED_RETRY_S = 0.5  # after the events that were missed could not be read

_TYPES, _STREAMS = sorted(BROADCAST_TYPES), sorted(BROADCAST_STREAMS)
_MISSED = (
    "SELECT position, stream_id, version, type FROM events WHERE position > ?"  # noqa: S608  placeholders
    f" AND (type IN ({','.join('?' * len(_TYPES))})"
    f" OR stream_id IN ({','.join('?' * len(_STREAMS))}))"
    " ORDER BY position"
)


class RemoteLog(SqliteQueries):
    """Made by `open`; every instance must be closed."""

    def __init__(
        self,
        pool: SqliteReadPool,
        connection: WriterConnection,
        positions: SharedPositions,
        options: LogOptions,
        sources: tuple[Callable[[], int], Callable[[int], bytes]],
        gate: EventTypeGate | None,
    ) -> None:
        super().__init__(pool)
        self._connection = connection
        self._positions = positions
        self._options = options
        self._file = connection.file  # which this process reads, too
        self._mismatch: str | None = None  # why the last writer that was met must not be used
        self._clock, self._random_bytes = sources
        self._gate = gate
        self._closed: asyncio.Task[None] | None = None
        self._newest_read = 0  # a position: the writer publishes it soon after readers can see it
        self._missed: asyncio.Task[None] | None = None  # reports events that were appended without a connection
        self._missed_after: int | None = None  # the position after which it begins
        self._follower = HeadFollower(positions.head, self._await_head)
        self.media = RemoteMedia(pool, self._clock, self._ask)

    @classmethod
    async def open(  # noqa: PLR0913  each has a default that suits
        cls,
        path: Path,
        address: str,
        positions: SharedPositions,
        options: LogOptions | None = None,
        *,
        clock: Callable[[], int] = now_us,
        random_bytes: Callable[[int], bytes] | None = None,
        observe: LogObserver | None = None,
        other_nodes: OtherNodes | None = None,
        program: str = "unknown",
    ) -> "RemoteLog":
        """Open the log in `path`, whose writer listens at `address` and publishes its `positions`. Waits for it for
        `busy_timeout_s` at most. Otherwise as SqliteLog.open.
        """
        options, observe = options or LogOptions(), observe or NoObserver()
        connection, pool = WriterConnection(address, options, observe, name_of_process(), program), None
        try:
            await connection.open()  # first: the writer may have to create the file
            database = await asyncio.to_thread(database_file, path, read_only=True)
            pool = SqliteReadPool(database, options)
            await pool.open()
            await asyncio.to_thread(_check_file, database, connection.file)
        except BaseException as error:
            await connection.close()
            if pool is not None:
                await pool.close()
            if isinstance(error, sqlite3.Error):
                raise unusable(error, path) from error
            if isinstance(error, LogUnavailable):
                raise LogUnusable(str(error)) from error
            raise
        gate = None if other_nodes is None else EventTypeGate(other_nodes, observe)
        sources = clock, random_bytes or buffered_random_bytes()
        log = cls(pool, connection, positions, options, sources, gate)
        connection.newest = log.head().position
        connection.find_mismatch = log._find_mismatch
        connection.on_connected.append(log._on_reconnected)
        return log

    @property
    def is_connected(self) -> bool:
        """Whether there is a process that writes the log."""
        return self._connection.is_connected

    @property
    def failure(self) -> str | None:
        """The last exception in the writer that only a bug can cause; it refused one batch."""
        return self._connection.status.failure

    @property
    def damage(self) -> str | None:
        """As EventLog.damage."""
        return self._pool.damage or self._mismatch or self._connection.status.damage

    @property
    def erasure_pending(self) -> bool:
        """As SqliteLog.erasure_pending."""
        return self._connection.status.erasure_pending

    @property
    def oldest_append_s(self) -> float:
        """As EventLog.oldest_append_s."""
        return self._connection.oldest_append_s

    async def append(
        self, stream_id: str, expected_version: int, events: Sequence[Event], metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        """As EventLog.append. Raises ValueError for text that is not Unicode or more events than a batch may hold. A
        LogUnavailable that cannot tell whether the events were recorded says so (OutcomeUnknown).
        """
        self._check_undamaged()
        context = AppendContext(stream_id, expected_version, metadata, self._clock())
        pending = prepare(events, context, self._random_bytes)
        if self._gate is not None and has_new_types(pending.contents):
            await self._gate.admit(events)
        return await self._connection.submit(pending)

    async def erase(
        self,
        stream_id: str,
        expected_version: int,
        event: Event,
        metadata: Metadata,
        *,
        unchanged: StreamVersion | None = None,
    ) -> tuple[RecordedEvent, ...]:
        """As EventLog.erase; waits as SqliteLog.erase does."""
        erases_all = is_erasing_all(event)
        self._check_undamaged()
        if self._gate is not None:
            await self._gate.admit([event])
        context = AppendContext(stream_id, expected_version, metadata, self._clock(), erases_all, unchanged)
        recorded = await self._connection.submit(prepare([event], context, self._random_bytes))
        await self._await_clean_wal()
        return recorded

    async def admits(self, versions: Mapping[str, int]) -> bool:
        """As EventLog.admits."""
        return self._gate is None or await self._gate.admits(versions)

    async def finish_erasure(self, stream_id: str, version: int) -> None:
        """As EventLog.finish_erasure; `erasure_pending` as after `erase`."""
        await check_erasure_explained(self, stream_id, version)
        self._check_undamaged()
        await self._connection.submit(erasure(stream_id, version))
        await self._await_clean_wal()

    def head(self) -> Head:
        """As EventLog.head: that of all processes."""
        return self._positions.head()

    async def latest(self) -> Head:
        """As EventLog.latest: the head has everything that was acknowledged or read by this process before. Raises
        LogUnavailable where no writer has published that within `busy_timeout_s`.
        """
        head = self.head()
        if head.position >= self._newest_read:
            return head
        try:
            async with asyncio.timeout(self._options.busy_timeout_s):
                return await self.wait(self._newest_read - 1)
        except TimeoutError as error:
            reason = f"the process that writes the log has not confirmed position {self._newest_read} yet"
            raise LogUnavailable(reason) from error

    @property
    def is_shared(self) -> bool:
        """As EventLog.is_shared."""
        return True

    async def check_writable(self) -> None:
        """As EventLog.check_writable. Waits for a writer as `append` does."""
        self._check_undamaged()
        await self._ask(Probe(), None)

    async def wait(self, position: int) -> Head:
        """As EventLog.wait. Raises LogUnavailable when the log closes first."""
        return await self._follower.wait(position)

    def hold(self, stream_id: str) -> None:
        """As EventLog.hold."""
        self._connection.hold(stream_id)

    def release(self, stream_id: str) -> None:
        """As EventLog.release."""
        self._connection.release(stream_id)

    def listen(self, listener: AppendListener) -> None:
        """As EventLog.listen."""
        self._connection.listeners.add(listener)

    async def request(self, name: str, body: bytes = b"", *, timeout_s: float | None = None) -> bytes:
        """The answer of the writer's process to a request that one of its handlers serves. It may get it twice. Raises
        LogUnavailable after `busy_timeout_s` without a writer or after `timeout_s`, and what the handler raises.
        """
        return await self._connection.request(name, body, timeout_s)

    def on_push(self, name: str, callback: Callable[[bytes], None]) -> None:
        """Call `callback` with each message of that name that the writer's process sends on its own."""
        self._connection.on_push[name] = callback

    def on_connected(self, callback: Callable[[], None]) -> None:
        """Call `callback` now, if connected, and whenever a new connection is made."""
        self._connection.on_connected.append(callback)
        if self.is_connected:
            callback()

    async def close(self) -> None:
        """As EventLog.close. A second call waits for the first."""
        self._connection.refuse()
        if self._closed is None:
            self._closed = asyncio.create_task(self._release(), name="log-close")
        await asyncio.shield(self._closed)

    async def _release(self) -> None:
        try:
            if self._missed is not None:
                self._missed.cancel()
                await asyncio.wait([self._missed])
            await self._connection.close()
            await self._follower.close("the log is closed")
            await self.media.close()
        finally:
            await self._pool.close()

    def _check_undamaged(self) -> None:
        """Raises LogStopped."""
        status = self._connection.status
        damage = self._pool.damage or self._mismatch or (status.damage if status.stopped else None)
        if damage is not None:
            raise LogStopped(damage)

    async def _events(
        self, query: str, values: Sequence[Any], *, is_long: bool, bytes_max: int | None = None
    ) -> list[RecordedEvent]:
        events = await super()._events(query, values, is_long=is_long, bytes_max=bytes_max)
        if events:
            self._newest_read = max(self._newest_read, events[0].position, events[-1].position)
        return events

    async def _await_head(self, position: int) -> None:
        await self._ask(AwaitHead(position), None)

    async def _await_clean_wal(self) -> None:
        """Wait until no file holds erased content, for `erase_wait_s` at most."""
        with suppress(LogUnavailable):  # the event is recorded; a new writer begins with this
            await self._ask(AwaitCleanWal(self._options.erase_wait_s), None)

    async def _ask(self, request: Struct, answer: Any) -> Any:
        """The writer's answer, of the type `answer`."""
        encoded = await self._connection.request(NAMES[type(request)], encoder.encode(request))
        return msgspec.msgpack.decode(encoded, type=answer)

    def _find_mismatch(self, welcome: Welcome) -> str | None:
        newest = self._connection.newest
        if welcome.file != self._file:
            self._mismatch = OTHER_FILE
        elif welcome.position < newest:
            self._mismatch = (
                f"the log has lost events that were recorded: it ends at position {welcome.position}, and this process"
                f" knows of position {newest}: stop the service and restore a copy"
            )
        else:
            self._mismatch = None
        return self._mismatch

    def _on_reconnected(self) -> None:
        if not self._connection.listeners:
            return
        if self._missed_after is None:
            self._missed_after = self._connection.newest  # before anything that comes over this connection
        if self._missed is None or self._missed.done():
            self._missed = asyncio.create_task(self._report_missed(), name="log-missed-events")

    async def _report_missed(self) -> None:
        """Report what every process is told of and was appended while there was no connection."""
        while (after := self._missed_after) is not None:
            self._missed_after = None  # a connection that breaks meanwhile begins another round
            try:
                headers = await self._pool.run(partial(_select_missed, after), is_long=True)
            except (LogError, sqlite3.Error):
                self._missed_after = after
                await asyncio.sleep(MISSED_RETRY_S)
                continue
            if headers:
                self._connection.listeners.on_appended(headers)


def _check_file(database: Path, of_writer: tuple[int, int] | None) -> None:
    """Raises LogUnusable."""
    try:
        file = identity(database)
    except OSError as error:
        raise LogUnusable(f"database {database} cannot be opened: {error.strerror}") from error
    if file != of_writer:
        raise LogUnusable(OTHER_FILE)


def _select_missed(after: int, connection: sqlite3.Connection) -> list[EventHeader]:
    with closing(connection.execute(_MISSED, (after, *_TYPES, *_STREAMS))) as rows:
        return [EventHeader(*row) for row in rows]
