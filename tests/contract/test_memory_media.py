"""The files in memory that other tests work with keep what the port says."""

from collections.abc import AsyncIterator

import pytest

from events.catalogue import MessagePosted, SessionDeleted
from events.media import MEDIA_CHUNK_BYTES, MediaMissing, MediaReference, MediaStore, MediaTooLarge
from tests.support.log.memory_log import MemoryLog
from tests.support.log.memory_media import PNG, MemoryMedia, part_of

PICTURE = bytes(range(256)) * 1000


async def pieces(content: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def content_of(media: MediaStore, sha256: str, start: int = 0, end: int | None = None) -> bytes:
    found = [piece async for piece in media.read(sha256, start, end)]
    assert all(0 < len(piece) <= MEDIA_CHUNK_BYTES for piece in found)
    return b"".join(found)


async def test_a_file_comes_back_as_it_was_put_and_goes_when_it_is_due() -> None:
    media: MediaStore = MemoryMedia()
    stat = await media.put(PNG, pieces(PICTURE), holder="alice", due_at_us=2**61, bytes_max=len(PICTURE))
    assert await media.stat([stat.sha256, "0" * 64]) == {stat.sha256: stat}
    assert await content_of(media, stat.sha256) == PICTURE
    assert await content_of(media, stat.sha256, 70_000, 140_001) == PICTURE[70_000:140_001]
    assert (await media.unused_bytes("alice"), await media.unused_bytes("bob")) == (len(PICTURE), 0)
    assert await media.delete_due(2**61) == len(PICTURE)
    with pytest.raises(MediaMissing):
        await content_of(media, stat.sha256)


async def test_what_is_too_large_or_empty_is_refused() -> None:
    media = MemoryMedia()
    with pytest.raises(MediaTooLarge):
        await media.put(PNG, pieces(PICTURE), holder="", due_at_us=1, bytes_max=len(PICTURE) - 1)
    with pytest.raises(ValueError, match="empty"):
        await media.put(PNG, pieces(b""), holder="", due_at_us=1, bytes_max=1)


async def test_a_message_keeps_a_file_until_it_is_erased() -> None:
    media, log = MemoryMedia(), MemoryLog()
    part = media.keep(PICTURE)
    (posted,) = log.record("session", MessagePosted("m", None, "user", "", parts=(part,)))
    media.refer(posted)
    assert await media.references(part.sha256, limit=9) == [MediaReference(1, "session")]
    assert await media.references(part.sha256, limit=9, holder="") == []
    log.erase_now("session", SessionDeleted(reason="asked"))
    media.release("session")
    assert await media.stat([part_of(PICTURE).sha256]) == {}
