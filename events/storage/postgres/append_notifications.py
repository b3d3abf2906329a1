"""What this process is told of appends to a log in PostgreSQL: a connection that listens, and holds streams in batches.

A commit that concerns no stream held here is not notified to this process. A notification may be lost with the
connection, or while the server's queue is half full: so everything is held and looked at again after a new connection,
and the versions of the held streams are read every POLL_S. While there is no connection that listens, as where the
server takes no more connections, that is read over the connections for reading.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from events.errors import LogError, LogUnavailable
from events.log import AppendListener
from events.log_observer import LogObserver
from events.record import BROADCAST_STREAMS, BROADCAST_TYPES, EventHeader, Head
from events.storage.postgres.head_listener import HeadListener
from events.storage.postgres.postgres_connection import (
    ANSWER_TIMEOUT_S,
    FAILURES,
    Database,
    close_gracefully,
    unavailable,
)
from events.storage.postgres.postgres_read_pool import PostgresReadPool
from events.storage.postgres.stream_holders import CALL_HOLD, CHECK, END, FOLLOWS, HEARS, MISSED, VERSIONS
from events.subscriptions import AppendListeners

POLL_S = 2.0  # between looks at what a notification should have told
SILENT_POLLS = 3  # without a poll for so many times POLL_S, the connections for reading are used
MISSED_SPAN = 10_000  # positions that are looked through in one statement: some milliseconds
BATCH_MAX = 500  # streams that are held, released or looked at in one statement
RETRY_S = 0.5  # after the database could not be reached
QUEUE_FULL = 0.25  # of the server's queue of notifications: half of what makes it drop them
UNKNOWN = -1  # the version of a stream before its hold is in force

_Report = list[tuple[int, int, str, str]] | int | None  # position, version, type, stream; or the head; or: check all
_Fetch = Callable[..., Awaitable[list[Any]]]  # a query and its values
_decode = msgspec.json.Decoder(_Report).decode


class AppendNotifications:
    """Implements the subscriptions of one log. Connects when it is first used, after `start`. Must be closed."""

    def __init__(self, database: Database, pool: PostgresReadPool, head: HeadListener, observe: LogObserver) -> None:
        """`observe` is told why this process has no connection that listens, once until it has one again."""
        self._database = database
        self._pool = pool
        self._observe = observe
        self._head = head
        self._node: UUID | None = None
        self._listeners = AppendListeners()
        self._held: dict[str, int] = {}  # the version that the listeners know
        self._added: dict[str, None] = {}  # to be held
        self._removed: dict[str, None] = {}  # to be released
        self._followers = 0  # that wait for the log's end, whichever stream moves it
        self._followed = False  # somebody did so since the last poll
        self._unchecked = deque[str]()  # the streams whose versions are looked at next, before any is a second time
        self._queue_was_full = False  # at the last poll
        self._polled_s = 0.0  # the last poll on the connection that listens
        self._trouble = "it does not answer"
        self._told_until = 0  # what all are told of was reported up to this position, as far as it is certain
        self._next_told_until = 0
        self._wake = asyncio.Event()
        self._connection: asyncpg.Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, node: UUID) -> None:
        """The log is open, and this process registered as `node`."""
        self._node = node

    def hold(self, stream_id: str) -> None:
        """As EventLog.hold."""
        self._held.setdefault(stream_id, UNKNOWN)
        self._added[stream_id] = None
        self._removed.pop(stream_id, None)
        self._begin()
        self._wake.set()

    def release(self, stream_id: str) -> None:
        """As EventLog.release."""
        self._held.pop(stream_id, None)
        self._added.pop(stream_id, None)
        self._removed[stream_id] = None
        if len(self._removed) >= BATCH_MAX:
            self._wake.set()

    def listen(self, listener: AppendListener) -> None:
        """As EventLog.listen."""
        self._listeners.add(listener)
        self._begin()

    async def wait(self, position: int) -> Head:
        """As EventLog.wait: from now on this process is told of every commit, until a while after nobody waits."""
        head = self._head.head
        if head.current.position > position:
            return head.current
        self._followers += 1
        self._followed = True
        if FOLLOWS not in self._held:
            self.hold(FOLLOWS)
        try:
            return await head.wait(position)
        finally:
            self._followers -= 1

    async def close(self) -> None:
        """Report nothing more. The registry removes what this process holds."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        connection, self._connection = self._connection, None
        await close_gracefully(connection)

    def _begin(self) -> None:
        if not self._tasks and self._node is not None:
            self._told_until = self._next_told_until = self._head.head.current.position
            self._polled_s = asyncio.get_running_loop().time()
            self._tasks = [
                asyncio.create_task(self._run(self._node), name="log-notifications"),
                asyncio.create_task(self._replace_polls(), name="log-notifications-check"),
            ]

    async def _run(self, node: UUID) -> None:
        while True:
            try:
                await self._serve(node)
            except (*FAILURES, LogUnavailable) as error:
                self._trouble = str(
                    error if isinstance(error, LogUnavailable) else unavailable(error, self._database.label)
                )
                connection, self._connection = self._connection, None
                if connection is not None:
                    connection.terminate()
                await asyncio.sleep(RETRY_S)

    async def _replace_polls(self) -> None:
        """Look over the connections for reading, while there is no poll on the one that listens."""
        loop = asyncio.get_running_loop()
        is_notified = True
        while True:
            await asyncio.sleep(POLL_S)
            was_notified, is_notified = is_notified, loop.time() - self._polled_s < SILENT_POLLS * POLL_S
            if is_notified != was_notified:
                self._observe.notified(is_notified=is_notified)
            if is_notified:
                continue
            if was_notified:
                reason = f"what other nodes record is noticed late: {self._trouble}"
                self._observe.warned("notifications_lost", reason)
            with suppress(LogError):  # the callers of the log get the error
                rows = await self._pool.fetch(END)
                await self._report_missed(self._pool.fetch, rows[0][0])
                await self._check_versions(self._pool.fetch)

    async def _serve(self, node: UUID) -> None:
        """Until the connection is lost, which raises FAILURES, or LogUnavailable for another log."""
        connection = self._connection = await self._connect(node)
        loop = asyncio.get_running_loop()
        polled_s = 0.0  # on this connection
        while True:
            self._wake.clear()
            if connection.is_closed():
                raise ConnectionError("the connection was lost")
            await self._send_all(connection, node)
            if loop.time() - polled_s >= POLL_S:
                await self._poll(connection, node, is_first=not polled_s)
                polled_s = self._polled_s = loop.time()
            if not self._wake.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, polled_s + POLL_S - loop.time())):
                        await self._wake.wait()

    async def _connect(self, node: UUID) -> asyncpg.Connection:
        """Listens, and has all streams to be held again. Raises FAILURES, LogUnavailable."""
        connection = await self._database.connect()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._database.check_not_rewound(connection, self._head.head.current)
                table = await connection.fetchval("SELECT 'events'::regclass::oid")
                await connection.add_listener(f"events_{table}_{node.hex}", self._on_notification)
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(lambda _connection: self._wake.set())
        self._hold_all()
        return connection

    def _hold_all(self) -> None:
        self._added = dict.fromkeys([HEARS, *self._held])

    async def _send_all(self, connection: asyncpg.Connection, node: UUID) -> None:
        """Have everything held that is to be held. Raises FAILURES."""
        while self._added or len(self._removed) >= BATCH_MAX:
            await self._send(connection, node)

    async def _send(self, connection: asyncpg.Connection, node: UUID) -> None:
        """Have a batch held and released. Raises FAILURES."""
        added, removed = list(islice(self._added, BATCH_MAX)), list(islice(self._removed, BATCH_MAX))
        for stream_id in added:
            del self._added[stream_id]
        for stream_id in removed:
            del self._removed[stream_id]
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                versions = await connection.fetchval(CALL_HOLD, node, added, removed)
        except BaseException:
            again = [one for one in removed if one not in self._held]  # what is held, is held again anyhow
            self._removed = {**dict.fromkeys(again), **self._removed}
            raise
        for stream_id, version in zip(added, versions or (), strict=True):
            self._confirm(stream_id, version)

    def _confirm(self, stream_id: str, version: int) -> None:
        if stream_id == FOLLOWS:
            self._head.refresh()
        elif stream_id in self._held and stream_id not in self._added:
            self._held[stream_id] = max(version, self._held[stream_id])
            self._listeners.on_held(stream_id, version)

    async def _poll(self, connection: asyncpg.Connection, node: UUID, *, is_first: bool) -> None:
        """Look for what was not notified. Raises FAILURES."""
        if self._removed:
            await self._send(connection, node)
        if FOLLOWS in self._held and not self._followers and not self._followed:
            self.release(FOLLOWS)
        self._followed = self._followers > 0
        position, is_known, queue_usage = await self._fetchrow(connection, CHECK, node)
        if not is_known:  # other nodes took this one for dead, or the server has crashed
            self._hold_all()
            await self._send_all(connection, node)  # before the look at what was missed: nothing is between them

        async def fetch(query: str, *values: object) -> list[Any]:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                rows: list[Any] = await connection.fetch(query, *values)
            return rows

        is_full = queue_usage > QUEUE_FULL
        if is_first or not is_known or is_full or self._queue_was_full:  # some were lost since the last poll
            await self._report_missed(fetch, position)
        self._queue_was_full = is_full
        self._told_until = max(self._told_until, self._next_told_until)
        self._next_told_until = max(position, self._next_told_until)
        await self._check_versions(fetch)

    async def _report_missed(self, fetch: _Fetch, end: int) -> None:
        """Report what all are told of, after the position up to which that was certainly done, up to `end`."""
        types, streams = list(BROADCAST_TYPES), list(BROADCAST_STREAMS)
        while (start := self._told_until) < end:
            until = min(start + MISSED_SPAN, end)
            rows = await fetch(MISSED, start, until, types, streams)
            if rows:
                self._report([EventHeader(*row) for row in rows])
            self._told_until = max(until, self._told_until)

    async def _check_versions(self, fetch: _Fetch) -> None:
        """Of some of the held streams, at each call of the next ones."""
        if not self._unchecked:
            self._unchecked.extend(one for one in self._held if one != FOLLOWS)
        page: list[str] = []
        while self._unchecked and len(page) < BATCH_MAX:
            stream_id = self._unchecked.popleft()
            if stream_id in self._held:
                page.append(stream_id)
        if not page:
            return
        rows = await fetch(VERSIONS, page)
        for stream_id, (version,) in zip(page, rows, strict=True):
            known = self._held.get(stream_id)
            if known is not None and version > known:
                self._held[stream_id] = version
                self._listeners.on_held(stream_id, version)

    async def _fetchrow(self, connection: asyncpg.Connection, query: str, *values: object) -> tuple[int, bool, float]:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            row: tuple[int, bool, float] = await connection.fetchrow(query, *values)
        return row

    def _on_notification(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        """Any client may notify: what is no report of ours has everything looked at again."""
        try:
            told = _decode(str(payload))
        except msgspec.DecodeError:
            told = None
        if isinstance(told, int):
            self._head.hint(told)
        elif told is None:
            self._hold_all()
            self._wake.set()
        else:
            self._report([EventHeader(position, stream, version, kind) for position, version, kind, stream in told])

    def _report(self, headers: Sequence[EventHeader]) -> None:
        for one in headers:
            if one.stream_id in self._held:
                self._held[one.stream_id] = max(one.version, self._held[one.stream_id])
        self._listeners.on_appended(headers)
