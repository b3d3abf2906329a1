"""Copies the files that events refer to, each before the first event that does."""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Protocol

from msgspec import Struct

from events.media import MediaDamaged, MediaMissing, MediaStat
from events.record import Columns
from events.storage.media_references import references_in

LOST_MAX = 1000  # files that are named; all are counted


class FileSource(Protocol):
    """Part of events.media.MediaReader. Raises LogUnavailable."""

    async def stat(self, sha256: Sequence[str]) -> dict[str, MediaStat]: ...

    def read(self, sha256: str) -> AsyncIterator[bytes]: ...


class FileTarget(Protocol):
    """What a copied log keeps files with."""

    async def missing_media(self, digests: Collection[bytes]) -> frozenset[bytes]:
        """Those of `digests`, SHA-256 of files, that the target does not have. Raises LogUnavailable."""
        ...

    async def add_media(self, stat: MediaStat, pieces: AsyncIterator[bytes]) -> None:
        """Keep a file that rows to come refer to. Raises MediaDamaged where `pieces` are not its bytes, what they
        raise, and LogUnavailable.
        """
        ...


class LostFile(Struct, frozen=True):
    """A file that could not be copied, and the position of an event that refers to it."""

    sha256: str
    position: int


class FileCopier:
    """A file that is missing or damaged in the source is noted as lost, and does not stop the copying."""

    def __init__(self, source: FileSource, target: FileTarget) -> None:
        self.lost: dict[str, LostFile] = {}  # by SHA-256
        self.lost_unnamed = 0  # others
        self._source = source
        self._target = target

    async def copy_for(self, rows: Sequence[Columns]) -> None:
        """Copy what `rows` refer to and the target lacks. Raises LogUnavailable."""
        wanted = {digest.hex(): position for digest, position, _ in references_in(rows)}
        if not wanted:
            return
        missing = await self._target.missing_media([bytes.fromhex(sha256) for sha256 in wanted])
        for sha256 in sorted(digest.hex() for digest in missing):
            try:
                await self._copy(sha256)
            except (MediaMissing, MediaDamaged):
                self._note_lost(LostFile(sha256, wanted[sha256]))

    async def _copy(self, sha256: str) -> None:
        stat = (await self._source.stat([sha256])).get(sha256)
        if stat is None:
            raise MediaMissing(sha256)
        await self._target.add_media(stat, self._source.read(sha256))

    def _note_lost(self, lost: LostFile) -> None:
        if lost.sha256 in self.lost or len(self.lost) < LOST_MAX:
            self.lost[lost.sha256] = lost
        else:
            self.lost_unnamed += 1
