"""Reading the files of a log in PostgreSQL, on connections of the pool or in a snapshot."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from events.media import CHUNKS_AT_ONCE, MEDIA_CHUNK_BYTES, MediaMissing, MediaReference, MediaStat

UNUSED_BYTES = "SELECT coalesce(sum(bytes), 0)::bigint FROM media WHERE sha256 IS NULL AND is_unused"
_HAS_TABLES = "SELECT to_regclass('media') IS NOT NULL"
_STAT = "SELECT sha256, media_type, bytes FROM media WHERE sha256 = ANY($1::bytea[])"
_FILES = "SELECT sha256, media_type, bytes FROM media WHERE sha256 > $1 ORDER BY sha256 LIMIT $2"
_REFERENCES = """
SELECT r.position, r.holder FROM media AS m JOIN media_references AS r ON r.media_id = m.id
 WHERE m.sha256 = $1 AND ($3::text IS NULL OR r.holder = $3) ORDER BY r.position DESC LIMIT $2
"""
_REFERENCES_OF = """
SELECT r.position, r.holder FROM media_references AS r JOIN media AS m ON m.id = r.media_id
 WHERE r.holder = $3 AND m.sha256 = $1 ORDER BY r.position DESC LIMIT $2
"""
_CHUNKS = """
SELECT c.number, c.data FROM media AS m JOIN media_chunks AS c ON c.media_id = m.id
 WHERE m.sha256 = $1 AND c.number >= $2 AND c.number < $3
"""


class PostgresMediaReader:
    """Implements events.media.MediaReader. `fetch` gives the rows of a query. A log that version 0.5 wrote last has no
    tables for files, and so no files.
    """

    def __init__(self, fetch: Callable[..., Awaitable[list[Any]]]) -> None:
        self._fetch = fetch
        self._has_tables = False

    async def stat(self, sha256: Sequence[str]) -> dict[str, MediaStat]:
        """As MediaReader.stat."""
        rows = await self.fetch(_STAT, [bytes.fromhex(one) for one in sha256]) if sha256 else []
        return {digest.hex(): MediaStat(digest.hex(), media_type, size) for digest, media_type, size in rows}

    async def files(self, *, after: str = "", limit: int) -> list[MediaStat]:
        """As MediaReader.files."""
        rows = await self.fetch(_FILES, bytes.fromhex(after), limit)
        return [MediaStat(digest.hex(), media_type, size) for digest, media_type, size in rows]

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
            chunks = dict(map(tuple, await self.fetch(_CHUNKS, digest, first, after)))
            for number in range(first, after):
                if number not in chunks:  # it was deleted meanwhile
                    raise MediaMissing(sha256)
                offset = number * MEDIA_CHUNK_BYTES
                yield chunks.pop(number)[max(start - offset, 0) : until - offset]

    async def references(self, sha256: str, *, limit: int, holder: str | None = None) -> list[MediaReference]:
        """As MediaReader.references."""
        query = _REFERENCES if holder is None else _REFERENCES_OF
        return [MediaReference(*row) for row in await self.fetch(query, bytes.fromhex(sha256), limit, holder)]

    async def left_bytes(self) -> int:
        """As MediaReader.left_bytes."""
        return sum(row[0] for row in await self.fetch(UNUSED_BYTES))

    async def fetch(self, query: str, *values: Any) -> list[Any]:
        """The rows of `query`; none where the log has no tables for files."""
        if not self._has_tables:
            ((self._has_tables,),) = await self._fetch(_HAS_TABLES)
            if not self._has_tables:
                return []
        return await self._fetch(query, *values)
