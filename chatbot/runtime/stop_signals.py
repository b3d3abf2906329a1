"""Signal handlers for graceful shutdown: the first signal drains, a second SIGINT or SIGTERM quits immediately."""

import asyncio
import signal
from collections.abc import Callable

import structlog

STOPPING = (signal.SIGINT, signal.SIGTERM)


def handle_stop_signals(
    stop: asyncio.Event,
    quit_at_once: Callable[[], None],
    logger: structlog.stdlib.BoundLogger,
    *,
    hangup: bool = False,
) -> None:
    """Set `stop` at the first signal. With `hangup`, SIGHUP counts too, unless the process ignores it (nohup)."""

    def caught(number: signal.Signals) -> None:
        if not stop.is_set():
            logger.info("stop.asked", signal=number.name, hint="a second Ctrl-C or SIGTERM quits immediately")
            stop.set()
        elif number in STOPPING:
            quit_at_once()

    loop = asyncio.get_running_loop()
    for number in STOPPING:
        loop.add_signal_handler(number, caught, number)
    if hangup and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, caught, signal.SIGHUP)
