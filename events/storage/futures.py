"""How whoever waits on a future is answered."""

import asyncio
from typing import Any


def resolve(future: asyncio.Future[Any], outcome: Any) -> None:
    """Give `outcome` to whoever waits, unless they have left; an exception is raised where they wait."""
    if future.done():  # its caller was cancelled
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
