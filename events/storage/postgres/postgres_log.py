"""The event log in a PostgreSQL database, for many nodes at once. Implements events.log.EventLog.

The database decides every version, so any number of nodes may append. A node learns the head from its own commits, from
the notifications of the others, and by reading it.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import asyncpg

from events.catalogue import Event
from events.compatibility import EventTypeGate, NodeVersion, name_of_process, own_version
from events.errors import LogUnavailable, LogUnusable
from events.log import AppendListener
from events.log_observer import LogObserver, NoObserver
from events.options import LogOptions
from events.record import Head, Metadata, RecordedEvent, StreamVersion
from events.storage.append_batch import AppendContext, now_us, prepare
from events.storage.erasure_rules import check_erasure_explained, is_erasing_all
from events.storage.group_commit import GroupCommit
from events.storage.media_sweeper import MediaSweeper
from events.storage.postgres.append_notifications import AppendNotifications
from events.storage.postgres.head_listener import HeadListener, server_process
from events.storage.postgres.node_registry import NodeRegistry
from events.storage.postgres.postgres_batch_store import PostgresBatchStore
from events.storage.postgres.postgres_connection import FAILURES, Database, unavailable
from events.storage.postgres.postgres_media import PostgresMedia
from events.storage.postgres.postgres_queries import PostgresQueries
from events.storage.postgres.postgres_read_pool import PostgresReadPool
from events.storage.postgres.postgres_schema import check_format, create
from events.storage.postgres.vacuum import Vacuum


class PostgresLog(PostgresQueries):
    """An event log in one table. Made by `open`; every instance must be closed."""

    def __init__(
        self,
        database: Database,
        sources: tuple[Callable[[], int], Callable[[int], bytes]],
        observe: LogObserver,
        version: NodeVersion | None,
    ) -> None:
        super().__init__(PostgresReadPool(database))
        self._database = database
        self._clock, self._random_bytes = sources
        self._head = HeadListener(database)
        self._vacuum = Vacuum(database, partial(observe.warned, "erasure_waits"))
        self._registry: NodeRegistry | None = None
        self._gate: EventTypeGate | None = None
        if version is not None:
            self._registry = NodeRegistry(self._pool, version)
            self._gate = EventTypeGate(self._registry, observe)
        self._store = PostgresBatchStore(database, self._head, self._vacuum)
        self._notifications = AppendNotifications(database, self._pool, self._head, observe)
        self._writer: GroupCommit | None = None
        self._closed: asyncio.Task[None] | None = None
        self.media = PostgresMedia(database, self._pool, self._head, self._vacuum, self._clock)
        self._media_sweeper: MediaSweeper | None = None

    @classmethod
    async def open(  # noqa: PLR0913  each has a default that suits
        cls,
        url: str,
        options: LogOptions | None = None,
        *,
        read_only: bool = False,
        clock: Callable[[], int] = now_us,
        random_bytes: Callable[[int], bytes] = os.urandom,
        observe: LogObserver | None = None,
        program: str = "unknown",
    ) -> "PostgresLog":
        """Open the log in the database (and schema) that `url` names; its table is created if missing.

        Waits for a server that is just starting, for `busy_timeout_s` at most. With `read_only` nothing is written;
        `head` is then the end of the log at this moment. `clock` gives microseconds, UTC; `random_bytes` the salts.
        `program` is the version of this program, for other nodes.
        Raises LogUnusable, which says what to do about it.
        """
        database = Database(url, options or LogOptions(), read_only=read_only)
        observe = observe or NoObserver()
        version = None if read_only else own_version(name_of_process(), program)
        log = cls(database, (clock, random_bytes), observe, version)
        try:
            await log._begin(observe, read_only=read_only)
        except BaseException as error:
            await log._release()
            if isinstance(error, LogUnavailable):
                raise LogUnusable(str(error), remedy=error.remedy) from error
            raise
        return log

    @property
    def database(self) -> Database:
        """Where the log is, and how to connect to it."""
        return self._database

    @property
    def pool(self) -> PostgresReadPool:
        """The connections for reading."""
        return self._pool

    @property
    def failure(self) -> BaseException | None:
        """The last exception in the writer that only a bug can cause; it refused one batch."""
        return None if self._writer is None else self._writer.failure

    @property
    def damage(self) -> str | None:
        """As EventLog.damage; also for a database that lacks what it had acknowledged."""
        return self._pool.damage or self._store.damage or self._head.damage

    @property
    def erasure_pending(self) -> bool:
        """Whether old versions of rows may still hold what this node has erased: until a VACUUM after the last
        transaction that can see them. See events/storage/postgres/vacuum.py for what a VACUUM leaves.
        """
        return not self._vacuum.clean.is_set()

    @property
    def oldest_append_s(self) -> float:
        """As EventLog.oldest_append_s."""
        return 0.0 if self._writer is None else self._writer.oldest_append_s

    async def append(
        self, stream_id: str, expected_version: int, events: Sequence[Event], metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        """As EventLog.append. Raises ValueError for text that PostgreSQL cannot hold or more events than a batch may
        hold. A LogUnavailable that cannot tell whether the events were recorded says so.
        """
        return await self._record(events, AppendContext(stream_id, expected_version, metadata, self._clock()))

    async def erase(
        self,
        stream_id: str,
        expected_version: int,
        event: Event,
        metadata: Metadata,
        *,
        unchanged: StreamVersion | None = None,
    ) -> tuple[RecordedEvent, ...]:
        """As EventLog.erase. Waits `erase_wait_s` at most for the VACUUM; then `erasure_pending` is true until it has
        run (no query shows the content). Free space of pages, the write-ahead log and backups are not checked.
        """
        erases_all = is_erasing_all(event)
        context = AppendContext(stream_id, expected_version, metadata, self._clock(), erases_all, unchanged)
        recorded = await self._record([event], context)
        await self._wait_for_vacuum()
        return recorded

    async def admits(self, versions: Mapping[str, int]) -> bool:
        """As EventLog.admits."""
        return self._gate is None or await self._gate.admits(versions)

    async def finish_erasure(self, stream_id: str, version: int) -> None:
        """As EventLog.finish_erasure; `erasure_pending` as after `erase`."""
        if self._writer is None:
            raise LogUnavailable("the log was opened for reading only")
        await check_erasure_explained(self, stream_id, version)
        try:
            await self._store.erase_before(stream_id, version)
        except FAILURES as error:
            raise unavailable(error, self._database.label) from error
        await self._wait_for_vacuum()

    async def _wait_for_vacuum(self) -> None:
        """Wait for the VACUUM, for `erase_wait_s` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._database.options.erase_wait_s):
                await self._vacuum.clean.wait()

    def head(self) -> Head:
        """As EventLog.head."""
        return self._head.head.current

    async def latest(self) -> Head:
        """As EventLog.latest; of a log that is only read, the head when it was opened."""
        return self.head() if self._writer is None else await self._head.latest()

    @property
    def is_shared(self) -> bool:
        """As EventLog.is_shared."""
        return True

    async def wait(self, position: int) -> Head:
        """As EventLog.wait. Raises LogUnavailable when the log closes first."""
        return await self._notifications.wait(position)

    def watch_head(self, position: int, listener: Callable[[], None]) -> None:
        """As NotifyingLog.watch_head."""
        self._head.head.listeners[listener] = position

    def unwatch_head(self, listener: Callable[[], None]) -> None:
        """As NotifyingLog.unwatch_head."""
        self._head.head.listeners.pop(listener, None)

    def hold(self, stream_id: str) -> None:
        """As EventLog.hold."""
        self._notifications.hold(stream_id)

    def release(self, stream_id: str) -> None:
        """As EventLog.release."""
        self._notifications.release(stream_id)

    def listen(self, listener: AppendListener) -> None:
        """As EventLog.listen."""
        self._notifications.listen(listener)

    async def close(self) -> None:
        """As EventLog.close. A second call waits for the first."""
        if self._writer is not None:
            self._writer.refuse()
        if self._closed is None:
            self._closed = asyncio.create_task(self._release(), name="log-close")
        await asyncio.shield(self._closed)

    async def _begin(self, observe: LogObserver, *, read_only: bool) -> None:
        """Raises LogUnusable, LogUnavailable."""
        await self._database.retry(partial(self._prepare, read_only=read_only))
        if read_only:
            await self._head.close("the log was opened for reading only")
        else:
            self._head.start()
            if self._registry is not None:
                self._registry.start()
                self._store.sender = self._registry.node
                self._notifications.start(self._registry.node)
            self._writer = GroupCommit(self._store, self._database.options, observe)
            self.media.open_to_writes()
            self._media_sweeper = MediaSweeper(self.media, self._clock)

    async def _prepare(self, *, read_only: bool) -> None:
        """Raises FAILURES, LogUnusable."""
        connection = await self._database.connect()
        try:
            if self._registry is not None:
                await create(connection, self._database.label)
                await self._registry.register(connection)
            elif await check_format(connection, self._database.label):
                raise LogUnusable(f"database {self._database.label} holds no log: nothing was recorded in it")
            await self._head.open()
            await self._check_pooling(connection)
            if not read_only:
                await self._vacuum.start(connection)
        finally:
            connection.terminate()

    async def _check_pooling(self, connection: asyncpg.Connection) -> None:
        """Two idle connections that one process of the server serves are a pooler's, in transaction mode. Raises
        FAILURES, LogUnusable.
        """
        if await server_process(connection) == await self._head.server_process():
            raise LogUnusable(
                f"database {self._database.label} is behind a pooler in transaction mode,"
                " in which settings and LISTEN are lost: have it use pool_mode = session, or connect to the server"
                " itself"
            )

    async def check_writable(self) -> None:
        """As EventLog.check_writable."""
        await self._require_writer().probe()

    def _require_writer(self) -> GroupCommit:
        if self._writer is None:
            raise LogUnavailable("the log was opened for reading only")
        if self.damage is not None:
            raise LogUnavailable(self.damage)
        return self._writer

    async def _record(self, events: Sequence[Event], context: AppendContext) -> tuple[RecordedEvent, ...]:
        writer = self._require_writer()
        if "\0" in context.stream_id:
            raise ValueError("a stream's name cannot hold a NUL")
        if self._gate is not None:
            await self._gate.admit(events)
        return await writer.submit(prepare(events, context, self._random_bytes))

    async def _release(self) -> None:
        await self._notifications.close()
        if self._media_sweeper is not None:
            await self._media_sweeper.close()
        await self.media.close()
        if self._writer is not None:
            await self._writer.close()
        await self._vacuum.close()
        if self._registry is not None:
            await self._registry.close()
        await self._pool.close()
        await self._head.close("the log is closed")
        await self._store.close()
