"""A limit of a rate (token bucket): so many at once, and so many in each minute."""

import time
from collections.abc import Callable


class RateLimit:
    """`per_minute` may come at once after a pause. For one event loop."""

    def __init__(self, per_minute: int, timer: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._timer = timer
        self._left = float(per_minute)
        self._counted_s = timer()

    def take(self) -> bool:
        """Whether there may be one more now."""
        now_s = self._timer()
        self._left = min(self._per_minute, self._left + (now_s - self._counted_s) * self._per_minute / 60)
        self._counted_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
