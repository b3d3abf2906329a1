"""Selects part of a log for export: the streams of one owner, or some streams, and the fork sources that they read.

A stream's owner is in its session_created or, once that is erased, in the event that erased it. A fork's texts are in
the events of its source session: that is selected, too, and so is that session's own source, provided that they belong
to the same owner or have none. (A session without an owner can be read by every client that knows its id.)
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from events.options import LogOptions
from events.record import StoredRow, stored_row
from events.storage.sqlite.sqlite_read_pool import SqliteSnapshot, open_snapshot
from events.storage.sqlite.sqlite_schema import RAW_COLUMNS

PAGE = 500  # rows read at once while the streams are selected

_CREATE_TABLE = """
CREATE TEMP TABLE streams (
    stream_id TEXT PRIMARY KEY,
    taken INTEGER NOT NULL,      -- 1: its events are selected
    owner TEXT,                  -- its owner, by the newest event that tells it
    wanted_by TEXT               -- the owner of a fork that reads it
) WITHOUT ROWID
"""
_OWNER_TYPES = ("content_erased", "session_created", "session_deleted")


class _OwnerFields(Struct):
    """The fields of the events that tell an owner."""

    owner: str | None = None
    forked_from: dict[str, Any] | None = None
    type: str | None = None  # None: the event is erased


class ExportFilter:
    """The rows of the selected streams, in one snapshot of the log. Created by `open`.

    One pass over the log selects, newest event first, so that a fork comes before its source. The streams are in a
    temporary table, not in memory.
    """

    def __init__(self, snapshot: SqliteSnapshot) -> None:
        self.head = snapshot.head
        self.media = snapshot.media
        self._connection = snapshot.connection

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, *, owner: str | None = None, sessions: Collection[str] | None = None
    ) -> AsyncIterator["ExportFilter"]:
        """Select by `owner` or by `sessions`, in a snapshot of the log file `path`. Raises sqlite3.Error."""
        async with open_snapshot(await asyncio.to_thread(path.resolve), LogOptions()) as snapshot:
            selection = cls(snapshot)
            await selection._connection.execute_fetchall(_CREATE_TABLE)
            await selection._choose_streams(owner, sessions)
            yield selection

    async def rows(self, *, after: int, limit: int) -> list[StoredRow]:
        """As EventLog.rows, of the selected streams."""
        query = (
            f"SELECT {RAW_COLUMNS} FROM events WHERE position > ?"  # noqa: S608  constants
            " AND +stream_id IN (SELECT stream_id FROM temp.streams WHERE taken) ORDER BY position LIMIT ?"
        )
        return [stored_row(tuple(row)) for row in await self._connection.execute_fetchall(query, (after, limit))]

    async def count(self) -> int:
        """The number of selected streams."""
        ((taken,),) = await self._connection.execute_fetchall("SELECT count(*) FROM temp.streams WHERE taken")
        return int(taken)

    async def _choose_streams(self, owner: str | None, sessions: Collection[str] | None) -> None:
        kinds = ",".join(f"'{kind}'" for kind in _OWNER_TYPES)
        query = (
            f"SELECT position, stream_id, type, data FROM events WHERE position < ? AND type IN ({kinds})"  # noqa: S608  constants
            " ORDER BY position DESC LIMIT ?"
        )
        before = 2**63 - 1
        while page := list(await self._connection.execute_fetchall(query, (before, PAGE))):
            for _, stream_id, kind, data in page:
                fields = msgspec.json.decode(data, type=_OwnerFields) if data is not None else _OwnerFields()
                await self._classify_stream(stream_id, (kind, fields), owner, sessions)
            before = page[-1][0]

    async def _classify_stream(
        self, stream_id: str, event: tuple[str, _OwnerFields], owner: str | None, sessions: Collection[str] | None
    ) -> None:
        """Process one event of a stream. The first one processed is the stream's newest, which tells the owner."""
        kind, fields = event
        rows = await self._connection.execute_fetchall(
            "SELECT taken, owner, wanted_by IS NOT NULL, wanted_by FROM temp.streams WHERE stream_id = ?", (stream_id,)
        )
        known = next(iter(rows), None)
        if known is None or known[0] == 0:
            has_texts = fields.type == "session_created"  # an erased source has no texts that a fork could read
            is_wanted = known is not None and known[2] and has_texts and fields.owner in (None, known[3])
            is_selected = stream_id in sessions if sessions is not None else fields.owner == owner
            taken = is_selected or is_wanted
            await self._save_stream(stream_id, taken=taken, owner=fields.owner)
        else:
            taken, fields.owner = True, known[1]
        if taken and kind == "session_created" and fields.forked_from is not None:
            await self._add_fork_source(str(fields.forked_from["session_id"]), fields.owner)

    async def _save_stream(self, stream_id: str, *, taken: bool, owner: str | None) -> None:
        await self._connection.execute_fetchall(
            "INSERT INTO temp.streams VALUES (?, ?, ?, NULL)"
            " ON CONFLICT DO UPDATE SET taken = excluded.taken, owner = excluded.owner",
            (stream_id, int(taken), owner),
        )

    async def _add_fork_source(self, stream_id: str, owner: str | None) -> None:
        await self._connection.execute_fetchall(
            "INSERT INTO temp.streams VALUES (?, 0, NULL, ?) ON CONFLICT DO NOTHING", (stream_id, owner or "")
        )
