"""The end of a log to which other processes append, too: asked for when they tell, or when somebody must know."""

import asyncio
import sqlite3
from contextlib import suppress

from events.errors import LogError
from events.integrity.hash_chain import GENESIS
from events.record import Head
from events.storage.head_notifier import HeadNotifier
from events.storage.sqlite.notifier import Notifier
from events.storage.sqlite.sqlite_readers import SqliteReaders

POLL_S = 1.0  # between looks that nobody asked for: should a wake-up ever be lost
LAST = "SELECT position, digest FROM events ORDER BY position DESC LIMIT 1"


class HeadPoller:
    """Moves `live` on as the file grows, whoever appends. `start` it, and `close` it."""

    def __init__(self, live: HeadNotifier, readers: SqliteReaders, notifier: Notifier) -> None:
        self._live = live
        self._readers = readers
        self._notifier = notifier
        self._next: asyncio.Task[Head] | None = None  # a look that has not begun: who comes now may share it
        self._newest: asyncio.Task[Head] | None = None
        self._polling: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen to the others."""
        self._notifier.subscribe(self._refresh_soon)
        self._polling = asyncio.create_task(self._poll(), name="log-head")

    async def latest(self) -> Head:
        """As EventLog.latest. All who come before a look begins share it."""
        return await asyncio.shield(self._refresh_soon())

    async def close(self) -> None:
        """Listen no more, and let the look that is under way end."""
        self._notifier.close()
        for task in (self._polling, self._newest):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    def _refresh_soon(self) -> asyncio.Task[Head]:
        if self._next is None:
            self._next = asyncio.create_task(self._refresh(self._newest), name="log-head-look")
            self._next.add_done_callback(_mark_retrieved)
            self._newest = self._next
        return self._next

    async def _refresh(self, before: asyncio.Task[Head] | None) -> Head:
        if before is not None and not before.done():
            await asyncio.wait([before])
        self._next = None
        rows = await self._readers.ask(_query_head)
        if rows and rows[0][0] > self._live.current.position:  # our own commit may have been faster
            self._live.advance(Head(*rows[0]))
        return self._live.current

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            with suppress(LogError, sqlite3.Error):  # whoever reads the log is told
                await self.latest()


def read_head(connection: sqlite3.Connection) -> Head:
    """The end of the log as `connection` sees it."""
    return next((Head(*row) for row in _query_head(connection)), Head(0, GENESIS))


def _query_head(connection: sqlite3.Connection) -> list[tuple[int, bytes]]:
    return connection.execute(LAST).fetchall()


def _mark_retrieved(look: asyncio.Task[Head]) -> None:
    if not look.cancelled():
        look.exception()  # raised wherever it was waited for
