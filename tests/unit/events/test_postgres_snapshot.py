"""A snapshot of a log in PostgreSQL whose server has vanished."""

import asyncio
from typing import Any, Self, cast

import pytest

from events.integrity.hash_chain import GENESIS
from events.storage.postgres import postgres_read_pool
from events.storage.postgres.postgres_connection import Database
from events.storage.postgres.postgres_read_pool import open_snapshot


class Vanishing:
    """A connection whose server answers nothing once the transaction has begun; also the place that it leads to."""

    def __init__(self) -> None:
        self.is_closed = False

    async def connect(self, **_: str) -> Self:
        return self

    def transaction(self, **_: Any) -> Self:
        return self

    async def start(self) -> None:
        """The transaction."""

    async def fetchrow(self, *_: object) -> tuple[int, bytes]:
        return 1, GENESIS

    async def fetch(self, *_: object) -> None:
        await asyncio.Event().wait()

    async def close(self, **_: Any) -> None:
        self.is_closed = True


async def test_an_answer_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_read_pool, "ANSWER_TIMEOUT_S", 0.01)
    connection = Vanishing()
    async with asyncio.timeout(20) as patience:
        async with open_snapshot(cast(Database, connection)) as snapshot:
            with pytest.raises(TimeoutError):
                await snapshot.rows(limit=1)
    assert not patience.expired()
    assert connection.is_closed
