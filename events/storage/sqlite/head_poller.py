"""The head of a log to which other processes append, too: read when they notify, when a caller needs it, and at a slow
interval.
"""

import asyncio
import sqlite3
from contextlib import suppress

from events.errors import LogError
from events.record import Head
from events.storage.group_commit import HeadNotifier
from events.storage.shared_refresh import SharedRefresh
from events.storage.sqlite.notifier import Notifier
from events.storage.sqlite.sqlite_read_pool import SqliteReadPool
from events.storage.sqlite.sqlite_schema import read_head

POLL_S = 1.0  # between reads without a notification, should one ever be lost


class HeadPoller:
    """Advances `head` as the file grows, whichever process appends. `start` it, and `close` it."""

    def __init__(self, head: HeadNotifier, pool: SqliteReadPool, notifier: Notifier) -> None:
        self._head = head
        self._pool = pool
        self._notifier = notifier
        self._refresh = SharedRefresh(self._query)
        self._polling: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Subscribe to the other processes."""
        self._notifier.subscribe(self._refresh.request)
        self._polling = asyncio.create_task(self._poll(), name="log-head")

    async def latest(self) -> Head:
        """As EventLog.latest."""
        return await self._refresh.latest()

    async def close(self) -> None:
        """Unsubscribe, and end the query that is under way."""
        self._notifier.close()
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])
        await self._refresh.close("the log is closed")

    async def _query(self) -> Head:
        found = await self._pool.run(read_head)
        if found.position > self._head.current.position:  # our own commit may have been faster
            self._head.advance(found)
        return self._head.current

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            with suppress(LogError, sqlite3.Error):  # the callers of the log get the error
                await self.latest()
