"""The beat on which a crowd of replies is read: what many model connections bring is taken together, a few at once."""

import asyncio
from typing import Protocol

CROWD = 64  # replies that are being written: with fewer, there is nothing to save
CROWD_FULL = 128  # so many are read at the slowest beat


class Rider(Protocol):
    """A connection whose reply has begun to come."""

    def go_on(self) -> None:
        """Read again."""
        ...


class Beat:
    """Shared by all connections to a model server.

    A connection that has just been read is left alone until the next beat; the kernel keeps what comes meanwhile. So
    each is read once for two or three tokens, and all of a beat's news goes out in one round of writes: a token costs
    half, and waits for `max_s` at most. The beat slows down as the crowd grows; a few replies have none.
    """

    def __init__(self, max_s: float) -> None:
        self.riders = 0  # replies that have begun to come and have not ended
        self._max_s = max_s
        self._held: list[Rider] = []

    @property
    def is_on(self) -> bool:
        """Whether there are enough replies for a beat."""
        return self.riders >= CROWD and self._max_s > 0

    def hold(self, rider: Rider) -> None:
        """The rider has stopped reading: have it go on at the next beat."""
        if not self._held:
            interval_s = self._max_s * min(self.riders / CROWD_FULL, 1.0)
            asyncio.get_running_loop().call_later(interval_s, self._strike)
        self._held.append(rider)

    def _strike(self) -> None:
        held, self._held = self._held, []
        for rider in held:
            rider.go_on()
