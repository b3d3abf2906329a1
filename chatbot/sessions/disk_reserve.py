"""Room on the log's disk that is kept for erasures: on a full disk people can still be forgotten.

An erasure rewrites the pages that hold a session's texts, through the write-ahead file, and the projections fold it. On
a full disk neither has room. So a file beside the log takes some in good time; it is deleted while something is erased
and made again afterwards. What is erased gives the room back, as the write-ahead file is emptied.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

SHARE = 8  # of the free room at most so much, one part in: a small disk is there for the log
MIN_BYTES = 65_536  # less would not take the pages of one session


class DiskReserve:
    """One for a process; those of several workers share the file. `database` None, or `size` 0: there is none."""

    def __init__(self, database: Path | None, size: int) -> None:
        """`size` in bytes: what is kept, and less free room than that is too little to erase in."""
        self._path = None if database is None or not size else database.with_name(database.name + "-reserve")
        self._size = size
        self._users = 0
        self._released = 0  # bytes
        self._logger = structlog.get_logger("disk")

    async def allocate(self) -> None:
        """Take the room, as far as there is some to spare."""
        if self._path is not None:
            await asyncio.to_thread(self._allocate, self._path, 0)

    @contextlib.asynccontextmanager
    async def released_if_full(self) -> AsyncIterator[bool]:
        """Have room to erase in; whether the disk was so full that the reserve was given for it."""
        if self._path is None:
            yield False
            return
        self._users += 1
        try:
            released = await asyncio.to_thread(self._release, self._path)
            if released:
                self._released = released
                self._logger.warning("disk.reserve_used", bytes=released)
            yield bool(self._released)
        finally:
            self._users -= 1
            if self._released and not self._users:
                again, self._released = self._released, 0
                await asyncio.to_thread(self._allocate, self._path, again)

    def _release(self, path: Path) -> int:
        """The bytes given back; 0 where there is room, or no reserve."""
        try:
            if _free(path.parent) >= self._size:
                return 0
            size = path.stat().st_size
            path.unlink()
        except OSError:  # a sibling has given it, or the folder is gone: the erasure will tell
            return 0
        return size

    def _allocate(self, path: Path, again: int) -> None:
        """Make the file: as large as it was (`again`), or as the disk can spare; smaller where that does not fit."""
        with contextlib.suppress(OSError):
            if path.exists():
                return
            wanted = min(self._size, max(again, _free(path.parent) // SHARE))
            while wanted >= MIN_BYTES:
                if _try_allocate(path, wanted):
                    return
                wanted //= 2


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _fill(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    written = 0  # macOS has none
    while written < size:
        written += os.write(descriptor, bytes(min(size - written, MIN_BYTES)))


def _try_allocate(path: Path, size: int) -> bool:
    """Whether a file of `size` bytes that really takes them could be made."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        _fill(descriptor, size)
    except OSError:
        path.unlink()
        return False
    else:
        return True
    finally:
        os.close(descriptor)
