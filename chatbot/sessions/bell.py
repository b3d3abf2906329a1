"""What wakes those who wait: no queue, no value, only "look again"."""

import asyncio


class Bell:
    """Rings for everyone who waits at that moment. Nobody else hears it: look first, then wait."""

    def __init__(self) -> None:
        self.waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        for listener in self.waiting:
            if not listener.done():
                listener.set_result(None)


async def heard(*bells: Bell) -> None:
    """Return when any of `bells` rings. Nothing is missed as long as no await lies between looking and this."""
    listener: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for bell in bells:
        bell.waiting.add(listener)
    try:
        await listener
    finally:
        for bell in bells:
            bell.waiting.discard(listener)
