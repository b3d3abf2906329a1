"""A ballast file on the log's disk: it reserves room for erasures, so that content can be erased on a full disk.

An erasure rewrites the pages that hold a session's texts, through the write-ahead log, and the projections fold it. On
a full disk neither has room. So a file next to the log reserves some beforehand; it is deleted during an erasure and
created again afterwards. The erasure itself frees the room again when the write-ahead log is truncated.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

SHARE = 8  # at most 1/8 of the free room is reserved: a small disk is there for the log
MIN_BYTES = 65_536  # less would not hold the pages of one session


class DiskReserve:
    """One per process; workers share the file. With `database` None or `size` 0 it does nothing."""

    def __init__(self, database: Path | None, size: int) -> None:
        """`size` in bytes: of the reserve, and the free room below which the reserve is released."""
        self._path = None if database is None or not size else database.with_name(database.name + "-reserve")
        self._size = size
        self._users = 0
        self._released = 0  # bytes
        self._logger = structlog.get_logger("disk")

    async def allocate(self) -> None:
        """Create the reserve, as large as the disk can spare."""
        if self._path is not None:
            await asyncio.to_thread(self._allocate, self._path, 0)

    @contextlib.asynccontextmanager
    async def released_if_full(self) -> AsyncIterator[bool]:
        """Room for an erasure; yields whether the disk was so full that the reserve had to be released."""
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
        """The bytes released; 0 if there is room enough, or no reserve."""
        try:
            if _free(path.parent) >= self._size:
                return 0
            size = path.stat().st_size
            path.unlink()
        except OSError:  # another worker has released it, or the folder is gone: then the erasure fails
            return 0
        return size

    def _allocate(self, path: Path, again: int) -> None:
        """Create the file: as large as it was (`again`) or as the disk can spare; smaller if that does not fit."""
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
    written = 0  # macOS does not have it
    while written < size:
        written += os.write(descriptor, bytes(min(size - written, MIN_BYTES)))


def _try_allocate(path: Path, size: int) -> bool:
    """Create a file of `size` allocated bytes; False if that failed."""
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
