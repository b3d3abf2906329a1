"""Anchors in a folder, such as one on an append-only (`chattr +a`) or write-once file system, or of another machine.

A file is created under its own name and written once: no rename, link or deletion, which such file systems refuse.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

from chatbot.anchors.anchor_target import NOTE_MAX_BYTES, ORIGINS_MAX, TargetUnavailable

T = TypeVar("T")


class FolderStore:
    """Implements ObjectStore. The folder itself must exist: a missing one may be a file system that is not mounted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        return str(self._folder)

    async def create(self, name: str, content: bytes) -> bool:
        """As ObjectStore.create."""
        return await self._run(lambda: self._create(self._folder / name, content))

    async def read(self, name: str) -> bytes | None:
        """As ObjectStore.read."""
        return await self._run(lambda: self._read(name))

    async def read_many(self, names: list[str]) -> list[bytes | None]:
        """As ObjectStore.read_many."""
        return await self._run(lambda: [self._read(name) for name in names])

    async def names(self, origin: str) -> list[str]:
        """As ObjectStore.names."""
        return await self._run(lambda: self._names(origin))

    async def origins(self) -> list[str]:
        """As AnchorTarget.origins: folders in folders, as an origin of this service has one slash."""
        return await self._run(self._origins)

    async def close(self) -> None: ...

    async def _run(self, work: Callable[[], T]) -> T:
        def checked() -> T:
            if not self._folder.is_dir():
                raise TargetUnavailable("there is no such folder")
            try:
                return work()
            except OSError as error:
                raise TargetUnavailable(error.strerror or type(error).__name__) from error

        return await asyncio.to_thread(checked)

    def _create(self, path: Path, content: bytes) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o444)
        except FileExistsError:
            return False
        try:
            if os.write(descriptor, content) != len(content):
                raise TargetUnavailable("there is no space left for a whole anchor")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        for folder in (path.parent, path.parent.parent, self._folder):
            _sync_folder(folder)
        return True

    def _read(self, name: str) -> bytes | None:
        try:
            with (self._folder / name).open("rb") as file:
                return file.read(NOTE_MAX_BYTES)
        except FileNotFoundError:
            return None

    def _names(self, origin: str) -> list[str]:
        try:
            return sorted(f"{origin}/{entry.name}" for entry in os.scandir(self._folder / origin))
        except FileNotFoundError:
            return []

    def _origins(self) -> list[str]:
        found = (path.relative_to(self._folder) for path in self._folder.glob("*/*") if path.is_dir())
        return sorted(map(str, islice(found, ORIGINS_MAX)))


def _sync_folder(path: Path) -> None:
    """Make a new name durable. Some file systems of other machines refuse it, and keep names by themselves."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
