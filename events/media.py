"""The port of the media store (content-addressed): files that messages refer to by the SHA-256 of their bytes.

A file is kept while something refers to it (reference counting): an event that is not erased, or an upload that is not
due. Nothing else deletes it.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from msgspec import Struct

from events.errors import LogError, LogUnavailable

MEDIA_CHUNK_BYTES = 65_472  # of one row: less than a millisecond, so appends hardly wait; 16 pages of SQLite's
FILE_BYTES_MAX = MEDIA_CHUNK_BYTES << 20  # SQLite's ids of chunks have 20 bits for their number: 64 GiB
CHUNKS_AT_ONCE = 8  # rows in one transaction
COPY_HOLDER = "(copy)"  # holds files whose events are about to be copied: no owner's name has brackets


class MediaStat(Struct, frozen=True):
    """The metadata of a file. `sha256` is 64 lower-case hexadecimal digits."""

    sha256: str
    media_type: str
    bytes: int


class MediaReference(Struct, frozen=True):
    """A reference to a file: by the event at `position` in the stream `holder`, or, with position 0, by an upload of
    the owner `holder` (empty: no owner is known).
    """

    position: int
    holder: str


class MediaTooLarge(LogError):
    """The file exceeds the limit; nothing of it is stored."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"the file has more than {bytes_max:,} bytes")
        self.bytes_max = bytes_max


class MediaMissing(LogError):
    """The log does not have a file of this SHA-256; an append that refers to it was not recorded."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"the log has no file with the SHA-256 {sha256}")
        self.sha256 = sha256


class MediaDamaged(LogError):
    """The bytes are not those of the file; nothing of them is kept."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"the bytes of the file with the SHA-256 {sha256} were changed, or some are missing")
        self.sha256 = sha256


class MediaReader(Protocol):
    """Reads the files of a log, or of one moment of it. Raises LogUnavailable."""

    async def stat(self, sha256: Sequence[str]) -> dict[str, MediaStat]:
        """The metadata of these files, by SHA-256; files that do not exist are absent. Raises LogUnavailable."""
        ...

    async def files(self, *, after: str = "", limit: int) -> list[MediaStat]:
        """Up to `limit` files with a SHA-256 beyond `after`, in that order."""
        ...

    def read(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to, not including, `end`, in pieces of at most MEDIA_CHUNK_BYTES.

        Raises MediaMissing, also between two pieces, if the last reference is removed meanwhile; LogUnavailable.
        """
        ...

    async def references(self, sha256: str, *, limit: int, holder: str | None = None) -> list[MediaReference]:
        """Up to `limit` references to a file, those of the newest events first, uploads last. With `holder`, only those
        of this stream or owner.
        """
        ...

    async def left_bytes(self) -> int:
        """Bytes of files that nothing refers to and that are not deleted yet: `delete_due` does that."""
        ...


class MediaStore(MediaReader, Protocol):
    """Stores files and counts references. Appends add the references of their events' parts, and erasures remove them,
    in the same transaction, so callers need not do this.
    """

    async def put(
        self, media_type: str, chunks: AsyncIterator[bytes], *, holder: str, due_at_us: int, bytes_max: int
    ) -> MediaStat:
        """Store the file that consists of `chunks`, which may be of any size, as an upload of the owner `holder`, until
        `due_at_us`. A file that exists already keeps its media type. Returns once it is on disk.

        Raises MediaTooLarge beyond `bytes_max`, ValueError for an empty file, LogUnavailable, and what `chunks` raises.
        """
        ...

    async def unused_bytes(self, holder: str) -> int:
        """The total size of the owner's uploads that are not due yet and that no event refers to."""
        ...

    async def delete_due(self, now_us: int) -> int:
        """Delete uploads that are due and files without references. Returns the number of bytes freed."""
        ...


class NoMedia:
    """A null media store, for logs that store no files."""

    async def put(
        self, media_type: str, chunks: AsyncIterator[bytes], *, holder: str, due_at_us: int, bytes_max: int
    ) -> MediaStat:
        raise LogUnavailable("this log keeps no files")

    async def stat(self, sha256: Sequence[str]) -> dict[str, MediaStat]:
        return {}

    async def files(self, *, after: str = "", limit: int) -> list[MediaStat]:
        return []

    async def read(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        raise MediaMissing(sha256)
        yield b""  # makes this an iterator

    async def references(self, sha256: str, *, limit: int, holder: str | None = None) -> list[MediaReference]:
        return []

    async def unused_bytes(self, holder: str) -> int:
        return 0

    async def left_bytes(self) -> int:
        return 0

    async def delete_due(self, now_us: int) -> int:
        return 0
