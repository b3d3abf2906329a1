"""The read connections of projections.db: queries that wait are batched into one hop to the connection's thread."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from events.errors import LogBusy
from events.storage.sqlite.batched_connection import Call, CallableConnection, CallBatcher
from projections.errors import ProjectionsUnavailable
from projections.sql.parameters import QueryParameters
from projections.sqlite.schema import SCHEMA_VERSION
from projections.sqlite.sqlite_errors import is_damage, is_transient

PAUSE_MAX_S = 5.0  # how long a query waits while a rebuilt file replaces a valid one

T = TypeVar("T")


class OtherVersion(ProjectionsUnavailable):
    """Another version of this program has made the file; no file of it is damaged."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the projections have tables of version {version}, this program reads {SCHEMA_VERSION}")


class ReadConnection:
    """Reads projections.db as of its last commit. Closed while the file is being replaced.

    It has a connection for short queries and one for long ones, so that those of microseconds do not wait for those of
    milliseconds.
    """

    def __init__(self, path: Path, on_trouble: Callable[[str | None], None]) -> None:
        """`on_trouble` is called with the reason to replace the file, or with None if it only cannot be read now."""
        self._path = path
        self._on_trouble = on_trouble
        self._batchers: tuple[CallBatcher, CallBatcher] | None = None  # of the short queries, of the long ones
        self._is_available = asyncio.Event()  # cleared while paused
        self._is_available.set()

    async def open(self) -> None:
        """Open the file, which must exist. Raises OtherVersion, sqlite3.Error."""
        short = await self._connect()
        try:
            # Long queries take a hop each, so that the first does not wait for the last.
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
            await _check_version(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def pause(self) -> None:
        """As `close`, but queries wait for `open` instead of being refused, up to PAUSE_MAX_S."""
        self._is_available.clear()
        batchers, self._batchers = self._batchers, None
        for batcher in batchers or ():
            await batcher.close()

    async def close(self) -> None:
        """Wait for the queries under way, and refuse others until `open`."""
        await self.pause()
        self._is_available.set()

    async def rows(
        self, query: str, parameters: QueryParameters = (), *, is_long: bool = False
    ) -> list[tuple[Any, ...]]:
        """The rows of one query. Raises ProjectionsUnavailable when the file cannot be read now."""
        return await self.ask(lambda connection: connection.execute(query, parameters).fetchall(), is_long=is_long)

    async def ask(self, question: Call[T], *, is_long: bool = False) -> T:
        """The result of `question` with the connection, called in its thread. Raises as `rows`."""
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
            if is_transient(error):
                self._on_trouble(None)
                raise ProjectionsUnavailable(f"the projections cannot be read: {error}") from error
            raise  # a defect in the query, which no other file would cure

    def damaged(self, error: Exception) -> ProjectionsUnavailable:
        """The exception to raise for `error`, which shows that the file is damaged. Has the file replaced."""
        self._on_trouble(f"it is damaged ({error})")
        return ProjectionsUnavailable("the projections are being rebuilt")


async def _check_version(connection: aiosqlite.Connection) -> None:
    """Raises OtherVersion. Also opens the write-ahead files: now, while they exist."""
    for (version,) in await connection.execute_fetchall("SELECT schema_version FROM meta"):
        if version != SCHEMA_VERSION:
            raise OtherVersion(version)
