"""From a bell to a socket without waking a task: each reader that keeps up is written to where the news is made."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from chatbot.sessions.bell import Bell

Look = Callable[[], bytes | None]


class Outlet(Protocol):
    """Where one reader's frames go."""

    def push(self, frames: bytes) -> bool:
        """Write at once. False: there was no room for all; wait for `room` before the next. Raises ConnectionError."""
        ...

    async def room(self) -> None:
        """Return when all that was pushed is gone. Raises ConnectionError."""
        ...


class _Turn:
    """One stretch in which the reader keeps up. `ended`: True when there is nothing more to look for."""

    def __init__(self, outlet: Outlet, look: Look) -> None:
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._outlet = outlet
        self._look = look

    def ring(self) -> None:
        if self.ended.done():
            return
        try:
            frames = self._look()
            if frames is None:
                self.ended.set_result(True)
            elif frames and not self._outlet.push(frames):
                self.ended.set_result(False)
        except Exception as error:  # noqa: BLE001  the reader's own trouble: raised in its handler, not where text grows
            self.ended.set_exception(error)


async def pour(outlet: Outlet, look: Look, *bells: Bell) -> None:
    """Whenever one of `bells` rings, write what `look` gives, in the ringer's own callback; return when it gives None.

    `look` gives everything new as bytes, b"" when there is nothing. A reader that is behind is not looked for: once its
    socket has room it gets all that is new by then, as one. Raises ConnectionError when the reader has left.
    """
    is_over = False
    while not is_over:
        turn = _Turn(outlet, look)
        for bell in bells:
            bell.listeners.add(turn.ring)
        try:
            turn.ring()
            is_over = await turn.ended
        finally:
            for bell in bells:
                bell.listeners.discard(turn.ring)
        if not is_over:
            await outlet.room()
