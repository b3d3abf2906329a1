"""What tells those who listen that there is something new: no queue, no value, only "look again"."""

import asyncio
from collections.abc import Callable


class Signal:
    """Calls everyone who listens at that moment, there and then. Nobody else hears it: look first, then listen.

    A listener is quick and raises nothing: it is called by whoever has made the news.
    """

    def __init__(self) -> None:
        self.listeners: set[Callable[[], None]] = set()

    def notify(self) -> None:
        for listener in tuple(self.listeners):  # one that has heard enough may leave
            listener()


async def wait_any(*signals: Signal) -> None:
    """Return when any of `bells` rings. Nothing is missed as long as no await lies between looking and this."""
    notified: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not notified.done():
            notified.set_result(None)

    for signal in signals:
        signal.listeners.add(wake)
    try:
        await notified
    finally:
        for signal in signals:
            signal.listeners.discard(wake)
