"""The event loop that the service runs on: uvloop if installed."""

import asyncio
from collections.abc import Callable


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop if uvloop is installed; None: asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415  not for every platform and Python
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
