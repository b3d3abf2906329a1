"""The files of a log that another process writes. Implements events.media.MediaStore."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec import Struct

from events.errors import LogError
from events.media import MediaStat
from events.remote.log_requests import AbandonUpload, AddChunks, BeginUpload, DeleteDue, FinishUpload
from events.storage.media_upload import given_up, run_upload
from events.storage.sqlite.sqlite_media import UPLOADED
from events.storage.sqlite.sqlite_media_reader import SqliteMediaReader
from events.storage.sqlite.sqlite_read_pool import SqliteReadPool

Ask = Callable[[Struct, Any], Awaitable[Any]]  # (request, type of the answer) -> the writer's answer


class RemoteMedia(SqliteMediaReader):
    """`clock` gives microseconds, UTC."""

    def __init__(self, pool: SqliteReadPool, clock: Callable[[], int], ask: Ask) -> None:
        super().__init__(partial(pool.run, is_long=True), has_tables=True)
        self._clock = clock
        self._ask = ask
        self._abandoning: set[asyncio.Task[None]] = set()

    async def put(
        self, media_type: str, chunks: AsyncIterator[bytes], *, holder: str, due_at_us: int, bytes_max: int
    ) -> MediaStat:
        """As MediaStore.put. Raises LogBusy when too many pieces wait."""
        upload = _Upload(self._ask, self._clock, (holder, due_at_us), self._abandoning)
        return await run_upload(upload, media_type, chunks, bytes_max)

    async def unused_bytes(self, holder: str) -> int:
        """As MediaStore.unused_bytes."""
        return sum(size for (size,) in await self.fetch(UPLOADED, (holder, self._clock())))

    async def delete_due(self, now_us: int) -> int:
        """As MediaStore.delete_due. Waits for the deletion as SqliteLog.erase does."""
        size: int = await self._ask(DeleteDue(now_us), int)
        return size

    async def close(self) -> None:
        """Have the writer know of uploads that were just abandoned."""
        if self._abandoning:
            await asyncio.wait(self._abandoning)


class _Upload:
    """Implements Upload. `holder` are the owner, and when the upload is due."""

    def __init__(
        self, ask: Ask, clock: Callable[[], int], holder: tuple[str, int], abandoning: set[asyncio.Task[None]]
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._holder = holder
        self._abandoning = abandoning
        self._beginning: asyncio.Task[int] | None = None
        self._id = 0

    async def begin(self, media_type: str) -> None:
        """Not cut off when the caller is cancelled: `abandon` needs the id."""
        self._beginning = asyncio.create_task(self._begin(media_type), name="log-upload-begin")
        self._id = await asyncio.shield(self._beginning)

    async def _begin(self, media_type: str) -> int:
        media_id: int = await self._ask(BeginUpload(media_type, self._clock()), int)
        return media_id

    async def add(self, number: int, chunks: list[bytes]) -> None:
        if not await self._ask(AddChunks(self._id, number, chunks, self._clock()), bool):
            raise given_up()

    async def finish(self, sha256: bytes) -> MediaStat:
        request = FinishUpload(self._id, sha256, *self._holder)
        stat: MediaStat | None = await self._ask(request, MediaStat | None)
        if stat is None:
            raise given_up()
        return stat

    def abandon(self) -> None:
        """What has been sent of the upload reaches the writer before this."""
        if self._beginning is not None:
            task = asyncio.create_task(self._abandon(self._beginning), name="log-upload-abandon")
            self._abandoning.add(task)
            task.add_done_callback(self._abandoning.discard)

    async def _abandon(self, beginning: asyncio.Task[int]) -> None:
        with suppress(LogError):  # then it is deleted when it has got nothing for an hour
            await self._ask(AbandonUpload(await beginning), None)
