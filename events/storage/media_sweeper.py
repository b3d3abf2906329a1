"""Has a log delete the files that nothing keeps any more, for as long as the log is open."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from events.errors import LogUnavailable
from events.media import MediaStore

SWEEP_S = 60.0  # an upload that is due goes within a minute


class MediaSweeper:
    """One task. Must be closed before the log."""

    def __init__(self, media: MediaStore, clock: Callable[[], int]) -> None:
        self._task = asyncio.create_task(_sweep(media, clock), name="log-media-sweep")

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def _sweep(media: MediaStore, clock: Callable[[], int]) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        with suppress(LogUnavailable):  # as appends report, too; the next round tries again
            await media.delete_due(clock())
