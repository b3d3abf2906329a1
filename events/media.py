"""Media: files that messages refer to by the SHA-256 of their bytes. The port of the part of a log that keeps them.

Bytes are kept as long as something refers to them: an event that is not erased, or an upload until it is due. Nothing
else deletes them.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from msgspec import Struct

from events.errors import LogError, LogUnavailable

MEDIA_CHUNK_BYTES = 65_472  # of one row: less than a millisecond, so appends hardly wait; 16 pages of SQLite's
CHUNKS_AT_ONCE = 8  # rows of one transaction


class MediaStat(Struct, frozen=True):
    """What is known of a file besides its bytes. `sha256` is 64 lower-case hexadecimal digits."""

    sha256: str
    media_type: str
    bytes: int


class MediaReference(Struct, frozen=True):
    """What keeps a file: the event at `position` of the stream `holder`; at position 0 an upload of the owner `holder`,
    which is empty where no owner is known.
    """

    position: int
    holder: str


class MediaTooLarge(LogError):
    """The file is larger than it may be; nothing of it is kept."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"the file has more than {bytes_max:,} bytes")
        self.bytes_max = bytes_max


class MediaMissing(LogError):
    """The log does not have a file of this SHA-256; an append that refers to it was not recorded."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"the log has no file with the SHA-256 {sha256}")
        self.sha256 = sha256


class MediaStore(Protocol):
    """An append refers to the files that its events' parts name, and an erasure takes these references away, each in
    its own transaction: no caller has to think of them.
    """

    async def put(
        self, media_type: str, chunks: AsyncIterator[bytes], *, holder: str, due_at_us: int, bytes_max: int
    ) -> MediaStat:
        """Keep the file that `chunks` are the pieces of, of any size, as an upload of the owner `holder` until
        `due_at_us`; one that is there already keeps its media type. Returns once it is on disk.

        Raises MediaTooLarge beyond `bytes_max`, ValueError for an empty file, LogUnavailable, and what `chunks` raises.
        """
        ...

    async def stat(self, sha256: Sequence[str]) -> dict[str, MediaStat]:
        """By SHA-256; files that the log does not have are absent."""
        ...

    def read(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` to before `end`, in pieces of at most MEDIA_CHUNK_BYTES. Raises MediaMissing, in the
        middle too, where the last reference goes meanwhile; LogUnavailable.
        """
        ...

    async def references(self, sha256: str, *, limit: int, holder: str | None = None) -> list[MediaReference]:
        """Up to `limit`, those of the newest events first, uploads last; with `holder` only what this stream or owner
        holds.
        """
        ...

    async def unused_bytes(self, holder: str) -> int:
        """Bytes of the owner's uploads that are not due yet and that no event refers to."""
        ...

    async def delete_due(self, now_us: int) -> int:
        """Delete uploads that are due and files that nothing refers to any more; how many bytes that freed."""
        ...


class NoMedia:
    """A log that keeps no files."""

    async def put(
        self, media_type: str, chunks: AsyncIterator[bytes], *, holder: str, due_at_us: int, bytes_max: int
    ) -> MediaStat:
        raise LogUnavailable("this log keeps no files")

    async def stat(self, sha256: Sequence[str]) -> dict[str, MediaStat]:
        return {}

    async def read(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        raise MediaMissing(sha256)
        yield b""  # makes this an iterator

    async def references(self, sha256: str, *, limit: int, holder: str | None = None) -> list[MediaReference]:
        return []

    async def unused_bytes(self, holder: str) -> int:
        return 0

    async def delete_due(self, now_us: int) -> int:
        return 0
