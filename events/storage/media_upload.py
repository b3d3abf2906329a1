"""An upload in pieces, each of which a store writes in a transaction of its own: the part that all stores share."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any, Protocol

from events.errors import LogUnavailable
from events.media import CHUNKS_AT_ONCE, FILE_BYTES_MAX, MEDIA_CHUNK_BYTES, MediaStat, MediaTooLarge
from events.schema.parts import MEDIA_TYPE_MAX_CHARS

PIECE_BYTES = CHUNKS_AT_ONCE * MEDIA_CHUNK_BYTES  # what one upload holds in memory, and adds in one transaction
PIECES_MAX = 64  # that may wait to be written, each up to half a megabyte; the next is refused with LogBusy
EXPIRED_AT_ONCE = 100  # uploads that one transaction gives up
ARRIVAL_MAX_US = 3_600_000_000  # an upload that got nothing for an hour was cut off by a crash


class Upload(Protocol):
    """A file that arrives in a store. The methods raise LogUnavailable."""

    async def begin(self, media_type: str) -> None:
        """Once, before the first piece."""
        ...

    async def add(self, number: int, chunks: list[bytes]) -> None:
        """Keep `chunks`, of which the first has this number, from 0."""
        ...

    async def finish(self, sha256: bytes) -> MediaStat:
        """The file is complete. One that has the same bytes takes its place where there is one."""
        ...

    def abandon(self) -> None:
        """The rest will not come: have what has arrived deleted, without waiting for that."""
        ...


async def run_upload(upload: Upload, media_type: str, chunks: AsyncIterator[bytes], bytes_max: int) -> MediaStat:
    """As MediaStore.put."""
    if not 1 <= len(media_type) <= MEDIA_TYPE_MAX_CHARS:
        raise ValueError(f"a media type has between 1 and {MEDIA_TYPE_MAX_CHARS} characters")
    digest, size, number = hashlib.sha256(), 0, 0
    try:
        async for piece in _pieces(chunks, min(bytes_max, FILE_BYTES_MAX)):
            if not size:
                await upload.begin(media_type)
            await asyncio.to_thread(digest.update, piece)
            split = [piece[start : start + MEDIA_CHUNK_BYTES] for start in range(0, len(piece), MEDIA_CHUNK_BYTES)]
            await upload.add(number, split)
            size, number = size + len(piece), number + len(split)
        return await upload.finish(digest.digest())
    except BaseException:
        upload.abandon()
        raise


async def _pieces(chunks: AsyncIterator[bytes], bytes_max: int) -> AsyncIterator[bytes]:
    """The same bytes in pieces of PIECE_BYTES, the last one perhaps shorter. Raises MediaTooLarge."""
    held, total = bytearray(), 0
    async for chunk in chunks:
        total += len(chunk)
        if total > bytes_max:
            raise MediaTooLarge(bytes_max)
        held += chunk
        while len(held) >= PIECE_BYTES:
            yield bytes(held[:PIECE_BYTES])
            del held[:PIECE_BYTES]
    if not total:
        raise ValueError("the file is empty")
    if held:
        yield bytes(held)


def given_up() -> LogUnavailable:
    """What has arrived of an upload was deleted: nothing more had come for ARRIVAL_MAX_US."""
    return LogUnavailable("the upload took too long, and was given up")


def mark_retrieved(future: asyncio.Future[Any]) -> None:
    """For what nobody waits for: that it failed is not an error of the program."""
    if not future.cancelled():
        future.exception()
