"""The connection that queries read through, beside the writer: those that wait share a hop to its thread."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from events.errors import LogBusy
from events.storage.sqlite.batched_connection import Call, CallableConnection, CallBatcher
from projections.errors import ProjectionsUnavailable, is_damage, is_passing

PAUSE_MAX_S = 5.0  # how long a query waits while one good file takes another's place

T = TypeVar("T")
Parameters = tuple[int | str | None, ...] | dict[str, int | str | None]


class ReadConnection:
    """Reads projections.db as it was at its last commit. Closed while the file is being replaced.

    Of its two connections one is for queries that may take long: those that take microseconds do not wait for them.
    """

    def __init__(self, path: Path, on_trouble: Callable[[str | None], None]) -> None:
        """`report` is told why the file must be replaced, or None when it only cannot be read: it may be gone."""
        self._path = path
        self._on_trouble = on_trouble
        self._batchers: tuple[CallBatcher, CallBatcher] | None = None  # for short queries, and for long ones
        self._is_available = asyncio.Event()  # not while paused
        self._is_available.set()

    async def open(self) -> None:
        """Open the file, which must exist. Raises sqlite3.Error."""
        short = await self._connect()
        try:
            # Long queries have a hop each: whoever asked first is not to wait for the others.
            self._batchers = CallBatcher(short), CallBatcher(await self._connect(), 1)
        except BaseException:
            await short.close()
            raise
        self._is_available.set()

    async def _connect(self) -> aiosqlite.Connection:
        database = f"{self._path.absolute().as_uri()}?mode=ro"
        connection = await aiosqlite.connect(database, uri=True, isolation_level=None, factory=CallableConnection)
        try:
            await connection.execute_fetchall("PRAGMA temp_store = MEMORY")
            await connection.execute_fetchall("SELECT 1 FROM meta")  # opens what lies beside the file, before it can go
        except BaseException:
            await connection.close()
            raise
        return connection

    async def pause(self) -> None:
        """As `close`, but queries wait for `open` instead of being refused, up to PAUSE_MAX_S."""
        self._is_available.clear()
        hops, self._batchers = self._batchers, None
        for batcher in hops or ():
            await batcher.close()

    async def close(self) -> None:
        """Let the queries that were asked end, and refuse others until `open`."""
        await self.pause()
        self._is_available.set()

    async def rows(self, query: str, parameters: Parameters = (), *, is_long: bool = False) -> list[tuple[Any, ...]]:
        """The rows of one query. Raises ProjectionsUnavailable when the file cannot be read now."""
        return await self.ask(lambda connection: connection.execute(query, parameters).fetchall(), is_long=is_long)

    async def ask(self, question: Call[T], *, is_long: bool = False) -> T:
        """What `question` makes of a connection, in its thread. Raises as `rows`."""
        if not self._is_available.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_MAX_S):
                    await self._is_available.wait()
        if self._batchers is None:
            raise ProjectionsUnavailable("the projections are being rebuilt")
        try:
            return await self._batchers[is_long].run(question)
        except LogBusy as error:
            raise ProjectionsUnavailable(str(error)) from error
        except sqlite3.Error as error:
            if is_damage(error):
                raise self.damaged(error) from error
            if is_passing(error):
                self._on_trouble(None)
                raise ProjectionsUnavailable(f"the projections cannot be read: {error}") from error
            raise  # a mistake in the query, which no other file would cure

    def damaged(self, error: Exception) -> ProjectionsUnavailable:
        """What to raise for `error`, which an undamaged file would not have made. Has the file replaced."""
        self._on_trouble(f"it is damaged ({error})")
        return ProjectionsUnavailable("the projections are being rebuilt")
