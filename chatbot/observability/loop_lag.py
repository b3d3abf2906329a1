"""Measures the lag of the event loop: a callback that blocks it delays all requests and streams."""

import asyncio
import time
from collections.abc import Callable

import structlog

INTERVAL_S = 0.1  # between measurements: ten wake-ups a second cost about a thousandth of a core
IDLE_INTERVAL_S = 1.0  # the same after an interval in which the process did next to nothing
IDLE_SHARE = 0.01  # of a core: a process that uses less is idle
LATE_S = 0.05  # people notice such a delay: it is logged
QUIET_S = 10.0  # between two such log lines: a loop that is always late must not flood the log


async def measure_loop_lag(observe: Callable[[float], None], logger: structlog.stdlib.BoundLogger) -> None:
    """Sleep repeatedly, and pass to `observe` how many seconds late the loop has woken the sleeper. Never returns.

    A delay shorter than INTERVAL_S may pass unnoticed between two measurements, in an idle process one shorter than
    IDLE_INTERVAL_S. All threads count: one that holds Python's lock delays the loop, too.
    """
    quiet_until_s, unsaid = 0.0, 0
    interval_s, used_s = INTERVAL_S, time.process_time()
    while True:
        due_s = time.monotonic() + interval_s
        await asyncio.sleep(interval_s)
        now_s = time.monotonic()
        late_s = max(0.0, now_s - due_s)
        observe(late_s)
        used_before_s, used_s = used_s, time.process_time()
        is_idle = late_s <= LATE_S and used_s - used_before_s < IDLE_SHARE * interval_s
        interval_s = IDLE_INTERVAL_S if is_idle else INTERVAL_S
        if late_s <= LATE_S:
            continue
        if now_s < quiet_until_s:
            unsaid += 1
            continue
        logger.warning("loop.late", late_s=round(late_s, 3), unsaid=unsaid)
        quiet_until_s, unsaid = now_s + QUIET_S, 0
