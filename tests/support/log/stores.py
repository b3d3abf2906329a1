"""The stores that the contract holds for. A store is a place that can be opened again and again."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from events.log import EventLog
from events.log_observer import LogObserver, NoObserver
from events.options import LogOptions
from events.storage.postgres.postgres_log import PostgresLog
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.log_service import LogService

START_US = 1_700_000_000_000_000


class SteppingClock:
    """A clock that moves one second at each look."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        self.now_us += 1_000_000
        return self.now_us


class Stores(Protocol):
    """Logs in one place of a test's own, all closed at its end."""

    clock: Callable[[], int]

    async def open(self, options: LogOptions | None = None, observe: LogObserver | None = None) -> EventLog: ...

    async def close(self) -> None: ...


class SqliteStores:
    """In one file of a test's own directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "log.db"
        self.clock: Callable[[], int] = SteppingClock()
        self._opened: list[SqliteLog] = []

    async def open(self, options: LogOptions | None = None, observe: LogObserver | None = None) -> EventLog:
        log = await SqliteLog.open(self.path, options, clock=self.clock, observe=observe or NoObserver())
        self._opened.append(log)
        return log

    async def close(self) -> None:
        for log in self._opened:
            await log.close()


class RemoteSqliteStores:
    """The same for a file that one writer serves to the others. It has the options of the log that is opened first, and
    the observer of the one that is opened last.
    """

    def __init__(self, directory: Path) -> None:
        self.clock: Callable[[], int] = SteppingClock()
        self._service = LogService(directory / "log.db", self._now_us)
        self._observer = _Delegate()
        self._starting = asyncio.Lock()

    def _now_us(self) -> int:
        return self.clock()  # a test may replace it

    async def open(self, options: LogOptions | None = None, observe: LogObserver | None = None) -> EventLog:
        self._observer.target = observe or NoObserver()
        async with self._starting:
            if self._service.log is None:
                await self._service.start(options, self._observer)
        return await self._service.connect(options, observe)

    async def close(self) -> None:
        await self._service.close()


class _Delegate:
    """An observer that passes everything on to another one."""

    target: LogObserver = NoObserver()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)


class PostgresStores:
    """In one schema of a test's own; each log is another node's."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock: Callable[[], int] = SteppingClock()
        self._opened: list[PostgresLog] = []

    async def open(self, options: LogOptions | None = None, observe: LogObserver | None = None) -> PostgresLog:
        log = await PostgresLog.open(self.url, options, clock=self.clock, observe=observe or NoObserver())
        self._opened.append(log)
        return log

    async def close(self) -> None:
        for log in self._opened:
            await log.close()
