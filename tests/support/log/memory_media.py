"""Files in memory: a MediaStore for tests of what works with them. References are made by hand: no log is here."""

import hashlib
from collections.abc import AsyncIterator, Sequence

from msgspec import Struct

from events.media import MEDIA_CHUNK_BYTES, MediaMissing, MediaReference, MediaStat, MediaTooLarge
from events.record import RecordedEvent
from events.schema.parts import MEDIA_TYPE_MAX_CHARS, Media, media_of
from tests.support.log.memory_log import START_US

DUE_US = 2**62  # of an upload that stays
PNG = "image/png"


class _File(Struct):
    """A file and what keeps it. `due` is when each owner's upload goes."""

    media_type: str
    content: bytes
    due: dict[str, int] = {}
    references: list[MediaReference] = []


class MemoryMedia:
    """As `MediaStore`. `refer` and `release` are what a log's appends and erasures do."""

    def __init__(self) -> None:
        self.now_us = START_US
        self._files: dict[str, _File] = {}

    def keep(self, content: bytes, *, media_type: str = PNG, name: str | None = None, holder: str = "") -> Media:
        """An upload of `content` that stays, as a part of a message."""
        part = part_of(content, media_type=media_type, name=name)
        kept = self._files.setdefault(part.sha256, _File(media_type, content))
        kept.due[holder] = DUE_US
        return part

    def refer(self, recorded: RecordedEvent) -> None:
        """The event refers to the files of its parts, in place of its actor's uploads. Raises MediaMissing."""
        for part in dict.fromkeys(media_of(getattr(recorded.event, "parts", ()))):
            if part.sha256 not in self._files:
                raise MediaMissing(part.sha256)
            kept = self._files[part.sha256]
            kept.references.append(MediaReference(recorded.position, recorded.stream_id))
            kept.due.pop(recorded.metadata.actor or "", None)

    def release(self, stream_id: str) -> None:
        """The content of the stream is erased."""
        for kept in self._files.values():
            kept.references = [one for one in kept.references if one.holder != stream_id]
        self._drop_unused()

    async def put(
        self, media_type: str, chunks: AsyncIterator[bytes], *, holder: str, due_at_us: int, bytes_max: int
    ) -> MediaStat:
        if not 1 <= len(media_type) <= MEDIA_TYPE_MAX_CHARS:
            raise ValueError("the media type is too long, or empty")
        content = b""
        async for chunk in chunks:
            content += chunk
            if len(content) > bytes_max:
                raise MediaTooLarge(bytes_max)
        if not content:
            raise ValueError("the file is empty")
        sha256 = hashlib.sha256(content).hexdigest()
        kept = self._files.setdefault(sha256, _File(media_type, content))
        kept.due[holder] = max(due_at_us, kept.due.get(holder, 0))
        return _stat(sha256, kept)

    async def stat(self, sha256: Sequence[str]) -> dict[str, MediaStat]:
        return {one: _stat(one, self._files[one]) for one in sha256 if one in self._files}

    async def files(self, *, after: str = "", limit: int) -> list[MediaStat]:
        found = sorted(sha256 for sha256 in self._files if sha256 > after)[:limit]
        return [_stat(sha256, self._files[sha256]) for sha256 in found]

    async def read(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        if sha256 not in self._files:
            raise MediaMissing(sha256)
        content = self._files[sha256].content[max(start, 0) : end]
        for offset in range(0, len(content), MEDIA_CHUNK_BYTES):
            yield content[offset : offset + MEDIA_CHUNK_BYTES]

    async def references(self, sha256: str, *, limit: int, holder: str | None = None) -> list[MediaReference]:
        kept = self._files.get(sha256)
        if kept is None:
            return []
        newest = sorted(kept.references, key=lambda one: one.position, reverse=True)
        held = [*newest, *(MediaReference(0, owner) for owner in kept.due)]
        return [one for one in held if holder in (None, one.holder)][:limit]

    async def unused_bytes(self, holder: str) -> int:
        owned = [kept for kept in self._files.values() if not kept.references and kept.due.get(holder, 0) > self.now_us]
        return sum(len(kept.content) for kept in owned)

    async def left_bytes(self) -> int:
        return 0

    async def delete_due(self, now_us: int) -> int:
        for kept in self._files.values():
            kept.due = {owner: due_us for owner, due_us in kept.due.items() if due_us > now_us}
        return self._drop_unused()

    def _drop_unused(self) -> int:
        unused = [sha256 for sha256, kept in self._files.items() if not kept.due and not kept.references]
        return sum(len(self._files.pop(sha256).content) for sha256 in unused)


def part_of(content: bytes, *, media_type: str = PNG, name: str | None = None) -> Media:
    """The part of a message that refers to a file with this content."""
    return Media(hashlib.sha256(content).hexdigest(), media_type, len(content), name)


def _stat(sha256: str, kept: _File) -> MediaStat:
    return MediaStat(sha256, kept.media_type, len(kept.content))
