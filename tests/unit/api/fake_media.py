"""A store of files in memory. References of events are made by hand, as no log writes to it."""

import hashlib
from collections.abc import AsyncIterator, Sequence

from events.media import MEDIA_CHUNK_BYTES, MediaMissing, MediaReference, MediaStat, MediaTooLarge


class FakeMedia:
    """`due` has the uploads: when each is due, by file and owner."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[MediaStat, bytes]] = {}
        self.due: dict[tuple[str, str], int] = {}
        self.held: list[tuple[str, MediaReference]] = []

    def refer(self, sha256: str, position: int, stream_id: str) -> None:
        """As an event at `position` of the stream that refers to the file."""
        self.held.append((sha256, MediaReference(position, stream_id)))

    async def put(
        self, media_type: str, chunks: AsyncIterator[bytes], *, holder: str, due_at_us: int, bytes_max: int
    ) -> MediaStat:
        data = b""
        async for piece in chunks:
            data += piece
            if len(data) > bytes_max:
                raise MediaTooLarge(bytes_max)
        if not data:
            raise ValueError("the file is empty")
        sha256 = hashlib.sha256(data).hexdigest()
        stat, _ = self.files.setdefault(sha256, (MediaStat(sha256, media_type, len(data)), data))
        self.due[sha256, holder] = due_at_us
        return stat

    async def stat(self, sha256: Sequence[str]) -> dict[str, MediaStat]:
        return {one: self.files[one][0] for one in sha256 if one in self.files}

    async def read(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        if sha256 not in self.files:
            raise MediaMissing(sha256)
        data = self.files[sha256][1][start:end]
        for at in range(0, len(data), MEDIA_CHUNK_BYTES):
            yield data[at : at + MEDIA_CHUNK_BYTES]

    async def references(self, sha256: str, *, limit: int, holder: str | None = None) -> list[MediaReference]:
        found = [one for name, one in self.held if name == sha256]
        found.sort(key=lambda one: -one.position)
        found += [MediaReference(0, owner) for name, owner in self.due if name == sha256]
        return [one for one in found if holder in (None, one.holder)][:limit]

    async def unused_bytes(self, holder: str) -> int:
        used = {name for name, _ in self.held}
        return sum(self.files[name][0].bytes for name, owner in self.due if owner == holder and name not in used)

    async def delete_due(self, now_us: int) -> int:
        self.due = {key: due_at_us for key, due_at_us in self.due.items() if due_at_us > now_us}
        kept = {name for name, _ in (*self.due, *self.held)}
        gone = [name for name in self.files if name not in kept]
        return sum(self.files.pop(name)[0].bytes for name in gone)
