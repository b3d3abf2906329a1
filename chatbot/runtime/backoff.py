"""Exponential backoff: how long to wait before the next attempt."""

from msgspec import Struct

DOUBLINGS_MAX = 32  # the cap is reached long before; a float would overflow after a thousand


class Backoff(Struct, frozen=True):
    """The delay after the first failure is `first_s` seconds; it doubles with each further one, up to `max_s`."""

    first_s: float
    max_s: float

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row; 0 after none."""
        if failures < 1:
            return 0.0
        return min(self.first_s * 2.0 ** min(failures - 1, DOUBLINGS_MAX), self.max_s)
