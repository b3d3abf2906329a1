"""The stores that the contract holds for. A store is a place that can be opened again and again."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from events.log import EventLog
from events.options import LogOptions
from events.sqlite import SqliteLog
from events.writer import LogObserver, NoObserver
from tests.support.shared_log import SharedLogs

START_US = 1_700_000_000_000_000


class Ticks:
    """A clock that moves one second at each look."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        self.now_us += 1_000_000
        return self.now_us


class SqliteStores:
    """Logs in one file of a test's own directory, all closed at its end."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "log.db"
        self.clock: Callable[[], int] = Ticks()
        self._opened: list[SqliteLog] = []

    async def open(self, options: LogOptions | None = None, observe: LogObserver | None = None) -> EventLog:
        log = await SqliteLog.open(self.path, options, clock=self.clock, observe=observe or NoObserver())
        self._opened.append(log)
        return log

    async def close(self) -> None:
        for log in self._opened:
            await log.close()


class SharedSqliteStores(SqliteStores):
    """The same for a file to which others may append, too."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._shared = SharedLogs(self.path, slots=2)

    async def open(self, options: LogOptions | None = None, observe: LogObserver | None = None) -> EventLog:
        return await self._shared.open(0, options, observe, self.clock)

    async def close(self) -> None:
        await self._shared.close()


@pytest.fixture(params=[SqliteStores, SharedSqliteStores], ids=["sqlite", "sqlite-shared"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqliteStores]:
    opened = request.param(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def log(stores: SqliteStores) -> EventLog:
    return await stores.open()
