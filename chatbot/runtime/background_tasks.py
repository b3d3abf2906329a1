"""Background tasks that run as long as the service."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog


@asynccontextmanager
async def run_in_background(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Run `work` in the background. It must not end by itself: if it does, that is logged as critical."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            structlog.get_logger("run").critical("task.ended", task=name, exc_info=task.exception())

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(ended)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])  # one that ended by itself was logged then


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancel `task` and wait until it has ended. Raises what it raises, except CancelledError."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
