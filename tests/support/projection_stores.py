"""The stores of projections under test by the contract suite. A second store joins with a class like the one here."""

from pathlib import Path
from typing import Protocol

from events.log import EventLog
from events.options import LogOptions
from events.storage.postgres.postgres_connection import Database
from events.storage.postgres.postgres_read_pool import PostgresReadPool
from projections.port import ProjectionStore
from projections.postgres.projection_tables import ProjectionTables
from projections.postgres.table_rebuild import rebuild_tables
from projections.sqlite.projection_file import ProjectionFile
from projections.sqlite.rebuild import rebuild


class ProjectionStores(Protocol):
    """Stores over one location, as several processes would open them."""

    def make(self) -> ProjectionStore:
        """Another store over the same location, not opened yet."""
        ...

    async def rebuild_elsewhere(self, log: EventLog) -> None:
        """Fold `log` as another process does while a store is open, and make the result ready for `adopt`."""
        ...

    async def close(self) -> None:
        """Close what the stores share."""
        ...


class SqliteProjectionStores:
    """Implements ProjectionStores over a file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "projections.db"

    def make(self) -> ProjectionStore:
        return ProjectionFile(self.path)

    async def rebuild_elsewhere(self, log: EventLog) -> None:
        _, is_in_place = await rebuild(log, self.path, 100, lambda _: None)
        assert not is_in_place, "no store is open"

    async def close(self) -> None:
        pass


class PostgresProjectionStores:
    """Implements ProjectionStores in a schema of a test's own."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, LogOptions())
        self.pool = PostgresReadPool(self.database)

    def make(self) -> ProjectionStore:
        return ProjectionTables(self.database, self.pool)

    async def rebuild_elsewhere(self, log: EventLog) -> None:
        _, is_in_place = await rebuild_tables(self.database, log, 100, lambda _: None)
        assert not is_in_place, "no store is open"

    async def close(self) -> None:
        await self.pool.close()
