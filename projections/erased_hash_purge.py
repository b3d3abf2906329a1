"""When a store of the projections is purged of erased hashes."""

import asyncio
import time

from events.errors import LogError
from projections.errors import ProjectionsUnavailable, ProjectionsUnusable
from projections.observer import ProjectionObserver
from projections.port import ProjectionStore

PURGE_INTERVAL_S = 5.0  # between two purges of erased hashes, at least
PURGE_REST_RATIO = 50.0  # seconds without a purge for each second that one took
PURGE_RETRY_S = 60.0  # after a purge that failed


class ErasedHashPurge:
    """Purges a store of erased hashes, with pauses in proportion to what a purge takes."""

    def __init__(self, store: ProjectionStore, observer: ProjectionObserver) -> None:
        self._store = store
        self._observer = observer
        self._next_at_s = float("-inf")
        self._task: asyncio.Task[None] | None = None  # of a purge while folding goes on

    @property
    def wait_s(self) -> float | None:
        """Seconds until the next purge is due; None if there is nothing to purge."""
        if not self._store.has_erased_hashes:
            return None
        if self._task is not None and not self._task.done():
            return PURGE_INTERVAL_S
        return max(0.0, self._next_at_s - time.monotonic())

    async def run_if_due(self) -> None:
        """Purge if it is time, while folding goes on if the store can. Errors, such as a full disk, are reported, and
        do not keep the runner from folding.
        """
        if self.wait_s != 0.0:
            return
        if self._store.purges_while_folding:
            self._task = asyncio.create_task(self._run_beside(), name="projections-purge")
        else:
            await self.run()

    async def _run_beside(self) -> None:
        try:
            await self.run()
        except Exception as error:  # noqa: BLE001  a defect, or tables that are being replaced: report it
            self._next_at_s = time.monotonic() + PURGE_RETRY_S
            self._observer.failed(error)

    async def stop(self) -> None:
        """Purge a last time. A purge that runs while folding goes on is ended: the next process that folds begins it
        again.
        """
        if not self._store.purges_while_folding:
            await self.run()
        elif self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def run(self) -> None:
        """Purge now, if there is something to purge. Reports errors as `run_if_due`."""
        if not self._store.has_erased_hashes:
            return
        began_s, is_done = time.monotonic(), False
        try:
            is_done = await self._store.purge_erased_hashes()
        except (ProjectionsUnavailable, ProjectionsUnusable, LogError) as error:
            self._observer.failed(error)
        took_s = time.monotonic() - began_s
        pause_s = max(PURGE_INTERVAL_S if is_done else PURGE_RETRY_S, PURGE_REST_RATIO * took_s)
        self._next_at_s = began_s + took_s + pause_s
