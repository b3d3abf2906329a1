"""Reading the files of a SQLite log, on connections of the pool or in a snapshot."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from events.media import CHUNKS_AT_ONCE, MEDIA_CHUNK_BYTES, MediaMissing, MediaReference, MediaStat
from events.storage.sqlite import sqlite_media_schema as schema
from events.storage.sqlite.batched_connection import Call

DIGESTS_MAX = 500  # in one query

_FILES = "SELECT sha256, media_type, bytes FROM media WHERE sha256 > ? ORDER BY sha256 LIMIT ?"
_REFERENCES = (
    "SELECT r.position, r.holder FROM media AS m JOIN media_references AS r ON r.media_id = m.id"
    " WHERE m.sha256 = ? ORDER BY r.position DESC LIMIT ?"
)
_REFERENCES_OF = (  # looked up by the holder: a file may have any number of other references
    "SELECT r.position, r.holder FROM media_references AS r JOIN media AS m ON m.id = r.media_id"
    " WHERE r.holder = ?3 AND m.sha256 = ?1 ORDER BY r.position DESC LIMIT ?2"
)
_CHUNKS = (
    "SELECT c.id - (m.id << 20), c.data FROM media AS m JOIN media_chunks AS c"
    " ON c.id >= (m.id << 20) + ?2 AND c.id < (m.id << 20) + ?3 WHERE m.sha256 = ?1 ORDER BY c.id"
)


class SqliteMediaReader:
    """Implements events.media.MediaReader. `run` runs a call in a connection's thread. A log that version 0.5 wrote
    last has no tables for files, unless `has_tables` says otherwise, and so no files.
    """

    def __init__(self, run: Callable[[Call[Any]], Awaitable[Any]], *, has_tables: bool = False) -> None:
        self._run = run
        self._has_tables = has_tables

    async def stat(self, sha256: Sequence[str]) -> dict[str, MediaStat]:
        """As MediaReader.stat."""
        found: dict[str, MediaStat] = {}
        for start in range(0, len(sha256), DIGESTS_MAX):
            digests = [bytes.fromhex(one) for one in sha256[start : start + DIGESTS_MAX]]
            query = f"SELECT sha256, media_type, bytes FROM media WHERE sha256 IN ({','.join('?' * len(digests))})"  # noqa: S608  placeholders
            for row in await self.fetch(query, digests):
                stat = _stat(*row)
                found[stat.sha256] = stat
        return found

    async def files(self, *, after: str = "", limit: int) -> list[MediaStat]:
        """As MediaReader.files."""
        return [_stat(*row) for row in await self.fetch(_FILES, (bytes.fromhex(after), limit))]

    async def read(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """As MediaReader.read."""
        found = (await self.stat([sha256])).get(sha256)
        if found is None:
            raise MediaMissing(sha256)
        digest, start = bytes.fromhex(sha256), max(start, 0)
        until = found.bytes if end is None else min(end, found.bytes)
        behind = -(-until // MEDIA_CHUNK_BYTES)  # the number of the chunk after the last
        for first in range(start // MEDIA_CHUNK_BYTES, behind, CHUNKS_AT_ONCE):
            after = min(first + CHUNKS_AT_ONCE, behind)
            chunks = dict(await self.fetch(_CHUNKS, (digest, first, after)))
            for number in range(first, after):
                if number not in chunks:  # it was deleted meanwhile
                    raise MediaMissing(sha256)
                offset = number * MEDIA_CHUNK_BYTES
                yield chunks.pop(number)[max(start - offset, 0) : until - offset]

    async def references(self, sha256: str, *, limit: int, holder: str | None = None) -> list[MediaReference]:
        """As MediaReader.references."""
        digest = bytes.fromhex(sha256)
        if holder is None:
            rows = await self.fetch(_REFERENCES, (digest, limit))
        else:
            rows = await self.fetch(_REFERENCES_OF, (digest, limit, holder))
        return [MediaReference(*row) for row in rows]

    async def left_bytes(self) -> int:
        """As MediaReader.left_bytes."""
        if not await self._knows_tables():
            return 0
        left: int = await self._run(schema.unused_bytes)
        return left

    async def fetch(self, query: str, values: Sequence[Any]) -> list[Any]:
        """The rows of `query`; none where the log has no tables for files."""
        if not await self._knows_tables():
            return []
        rows: list[Any] = await self._run(lambda raw: raw.execute(query, values).fetchall())
        return rows

    async def _knows_tables(self) -> bool:
        if not self._has_tables:
            self._has_tables = await self._run(schema.has_tables)
        return self._has_tables


def _stat(digest: bytes, media_type: str, size: int) -> MediaStat:
    return MediaStat(digest.hex(), media_type, size)
