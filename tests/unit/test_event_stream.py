"""The timer that watches over one reader's stream."""

import asyncio
from typing import Any, cast

from chatbot.api.event_stream import EventStream


class Stuck:
    """A socket with no room, and the answer that writes to it."""

    def __init__(self) -> None:
        self.aborted = asyncio.Event()

    async def write(self, _: bytes) -> None:
        await self.aborted.wait()
        raise ConnectionResetError

    def abort(self) -> None:
        self.aborted.set()


async def test_a_reader_that_stalls_late_is_let_go_in_time_however_rare_the_pings() -> None:
    stuck = cast(Any, Stuck())
    stream = EventStream(stuck, stuck, 60.0, 0.1)
    try:
        await asyncio.sleep(0.25)  # the first looks find nothing wrong
        stalled = asyncio.create_task(stream.send(b"data: x\n\n"))
        async with asyncio.timeout(2):
            await asyncio.wait((stalled,))
        assert isinstance(stalled.exception(), ConnectionResetError)
    finally:
        stream.release()
