"""A snapshot shows the log as of one moment, whatever is appended and erased while it is read."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from chatbot.cli.maintenance.export_import import export_log
from events.log import EventLog
from events.options import LogOptions
from events.record import Head, StoredRow
from events.transfer.export_format import ExportReader
from tests.support.log.log_texts import ALL, fill
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.log.stores import Stores


async def test_nothing_moves_in_a_snapshot(stores: Stores) -> None:
    log = await stores.open(BRIEF)
    await fill(log, "a", "1", "2", "3")
    await fill(log, "b", "1", "2")
    before, head = await log.rows(limit=ALL), log.head()
    async with log.snapshot() as snapshot:
        assert snapshot.head == head
        pages = await snapshot.rows(limit=2)
        await log.erase("a", 3, deleted(), ASKED)
        await fill(log, "c", "1")
        while page := await snapshot.rows(after=pages[-1].position, limit=2):
            pages += page
        assert pages == before
        assert await snapshot.rows(after=head.position, limit=ALL) == []
    after = await log.rows(limit=ALL)
    assert [row.data is None for row in after] == [True] * 3 + [False] * 4
    async with log.snapshot() as snapshot:
        assert await snapshot.rows(limit=ALL) == after


async def test_a_snapshot_of_an_empty_log_is_empty(log: EventLog) -> None:
    async with log.snapshot() as snapshot:
        assert (snapshot.head, await snapshot.rows(limit=1)) == (log.head(), [])


class Deleting:
    """A log of which a session is deleted after each page of a snapshot."""

    def __init__(self, log: EventLog, sessions: list[str]) -> None:
        self._log = log
        self._sessions = sessions

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["Deleting"]:
        async with self._log.snapshot() as self._snapshot:
            self.media = self._snapshot.media
            yield self

    @property
    def head(self) -> Head:
        return self._snapshot.head

    async def rows(self, *, after: int = 0, limit: int) -> list[StoredRow]:
        page = await self._snapshot.rows(after=after, limit=limit)
        if page and self._sessions:
            name = self._sessions.pop()
            await self._log.erase(name, EACH, deleted(), ASKED)
        return page


EACH = 3
BRIEF = LogOptions(erase_wait_s=0.01)  # SQLite's write-ahead log cannot be emptied while a snapshot is read


async def test_an_export_holds_no_text_before_its_deletion(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each session has events in every page."""
    monkeypatch.setattr("chatbot.cli.maintenance.export_import.PAGE", 3)
    log = await stores.open(BRIEF)
    sessions = ["a", "b", "c"]
    for version in range(EACH):
        for name in sessions:
            await log.append(name, version, [posted(f"text of {name}")], ASKED)
    for _ in range(2):
        out = io.BytesIO()
        await export_log(cast(EventLog, Deleting(log, sessions)), None, out)
        out.seek(0)
        rows = [row for _, row in ExportReader(out).rows()]
        gone = {row.stream_id for row in rows if row.type == "session_deleted"}
        assert {row.stream_id for row in rows if row.data is None} == gone
        assert all(row.data is None for row in rows if row.stream_id in gone and row.version <= EACH)
    assert gone == {"a", "b", "c"}, "all are gone by the second export"
