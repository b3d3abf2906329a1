"""Every test of the contract runs on every store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.log import EventLog
from tests.support.log.stores import PostgresStores, RemoteSqliteStores, SqliteStores, Stores


@pytest.fixture(params=["sqlite", "sqlite-remote", pytest.param("postgres", marks=pytest.mark.real_part)])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    opened: Stores
    if request.param == "sqlite":
        opened = SqliteStores(tmp_path)
    elif request.param == "sqlite-remote":
        opened = RemoteSqliteStores(tmp_path)
    else:
        opened = PostgresStores(await request.getfixturevalue("postgres").schema())
    yield opened
    await opened.close()


@pytest.fixture
async def log(stores: Stores) -> EventLog:
    return await stores.open()
