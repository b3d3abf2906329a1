"""Read connections of a projections file that another process keeps, and may replace."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from events.storage.sqlite.batched_connection import Call
from projections.errors import ProjectionsUnavailable
from projections.shared.shared_progress import SharedProgress
from projections.sqlite.read_connection import PAUSE_MAX_S, OtherVersion, ReadConnection
from projections.sqlite.sqlite_errors import is_damage

POLL_S = 0.01  # between two looks at a file that is being replaced, which takes milliseconds

T = TypeVar("T")


class SharedReadConnection(ReadConnection):
    """As ReadConnection; opens the file with the first query, and again when it was replaced. `generation` is that of
    the open file; 0: none is open.
    """

    def __init__(self, path: Path, progress: SharedProgress, on_trouble: Callable[[str | None], None]) -> None:
        super().__init__(path, on_trouble)
        self.generation = 0
        self._progress = progress
        self._opening = asyncio.Lock()
        self._other_version: tuple[int, OtherVersion] | None = None  # of the file of this generation

    async def ask(self, question: Call[T], *, is_long: bool = False) -> T:
        """As ReadConnection.ask. Raises ProjectionsUnavailable if no file can be opened for PAUSE_MAX_S, or if it is of
        another version of this program.
        """
        if self.generation != self._progress.generation:
            await self._reopen()
        return await super().ask(question, is_long=is_long)

    async def _reopen(self) -> None:
        if self._other_version is not None and self._other_version[0] == self._progress.generation:
            raise ProjectionsUnavailable(str(self._other_version[1]))
        loop = asyncio.get_running_loop()
        end_s = loop.time() + PAUSE_MAX_S
        async with self._opening:
            while (generation := self._progress.generation) != self.generation:
                if generation % 2 == 0 and generation:
                    self.generation = 0
                    await self.pause()
                    try:
                        await self.open()
                        self.generation = generation  # of before: a file that was replaced meanwhile is opened again
                        continue
                    except OtherVersion as error:
                        self._other_version = generation, error
                        raise
                    except sqlite3.Error as error:
                        if is_damage(error):
                            raise self.damaged(error) from error
                        if loop.time() >= end_s:
                            self._on_trouble(None)
                            raise ProjectionsUnavailable(f"the projections cannot be opened: {error}") from error
                if loop.time() >= end_s:
                    raise ProjectionsUnavailable("the projections are being rebuilt")
                await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        """As ReadConnection.close."""
        self.generation = 0
        await super().close()
