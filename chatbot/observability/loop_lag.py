"""How late the event loop is: whatever holds it up, holds up every reader and every request."""

import asyncio
import time
from collections.abc import Callable

import structlog

INTERVAL_S = 0.1  # between looks: ten wake-ups a second cost about a thousandth of a core
LATE_S = 0.05  # from here on a person notices, and a log line says so
QUIET_S = 10.0  # between two such lines: a loop that is always late must not fill the log as well


async def measure_loop_lag(observe: Callable[[float], None], logger: structlog.stdlib.BoundLogger) -> None:
    """Until cancelled: sleep, and tell `observe` how many seconds late the loop woke the sleeper.

    A hold-up shorter than INTERVAL_S may fall between two looks; its share of all time is its chance to be seen.
    """
    quiet_until_s, unsaid = 0.0, 0
    while True:
        due_s = time.monotonic() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        now_s = time.monotonic()
        late_s = max(0.0, now_s - due_s)
        observe(late_s)
        if late_s <= LATE_S:
            continue
        if now_s < quiet_until_s:
            unsaid += 1
            continue
        logger.warning("loop.late", late_s=round(late_s, 3), unsaid=unsaid)
        quiet_until_s, unsaid = now_s + QUIET_S, 0
