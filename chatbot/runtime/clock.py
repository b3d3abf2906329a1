"""Time: the clock for deadlines, which is the wall clock protected against jumps, and moments as text.

A resumed virtual machine, a wrong NTP answer or an empty battery moves the wall clock by days, and an expired or erased
session cannot be restored. So a jump relative to the boot clock is trusted only after ten minutes. Until then the clock
continues as if there had been no jump, or follows the wall clock if that is earlier: sessions expire late, never early.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

from msgspec import Struct

JUMP_US = 5_000_000  # more than drift, which NTP corrects by at most 0.5 ms a second
BELIEVED_AFTER_US = 600_000_000  # ten minutes: NTP and hypervisors have corrected a wrong clock by then
STEADY_US = 1_000  # a smaller change since the newest offset is drift, which need not be followed at each reading
_NO_DEADLINE_US = 2**62  # of what never expires
GAP_US = 3_600_000_000  # since the newest event, at start: more means a long stop or a wrong clock

_BOOT_CLOCK = getattr(
    time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC
)  # on other systems a suspended machine seems to jump


class Reading(Struct, frozen=True):
    """Both clocks at one moment, in microseconds: since 1970 (UTC), and since the machine's boot."""

    wall_us: int
    boot_us: int


class ClockTrust(Struct, frozen=True):
    """Offsets of the wall clock from the boot clock: `believed_us` is used for deadlines, `offset_us` is the newest,
    which has not jumped since `since_us` on the boot clock.
    """

    believed_us: int
    offset_us: int
    since_us: int


def initial_trust(reading: Reading, newest_us: int | None) -> tuple[ClockTrust, int]:
    """The trust at start, and how far the clock is behind the log's newest event, at `newest_us`: negative, 0 if it is
    not. After a long stop, or with a clock far ahead, the deadline clock continues where the log ends.
    """
    offset_us = reading.wall_us - reading.boot_us
    ahead_us = 0 if newest_us is None else reading.wall_us - newest_us
    believed_us = offset_us - ahead_us if ahead_us > GAP_US else offset_us
    return ClockTrust(believed_us, offset_us, reading.boot_us), ahead_us if ahead_us <= -JUMP_US else 0


def updated_trust(trust: ClockTrust, reading: Reading) -> tuple[ClockTrust, int]:
    """The trust after `reading`, and how far the wall clock has jumped since the previous reading (0: no jump)."""
    offset_us = reading.wall_us - reading.boot_us
    moved_us = offset_us - trust.offset_us
    has_jumped = abs(moved_us) >= JUMP_US
    since_us = reading.boot_us if has_jumped else trust.since_us
    is_believed = (
        abs(offset_us - trust.believed_us) < JUMP_US  # no jump, or it has jumped back
        or reading.boot_us - since_us >= BELIEVED_AFTER_US
    )
    believed_us = offset_us if is_believed else trust.believed_us
    return ClockTrust(believed_us, offset_us, since_us), moved_us if has_jumped else 0


def system_reading() -> Reading:
    """The machine's clocks now."""
    return Reading(time.time_ns() // 1000, time.clock_gettime_ns(_BOOT_CLOCK) // 1000)


class DeadlineClock:
    """Call it for the time to compare deadlines with. `on_jump` gets each jump in seconds, negative if backwards.

    For one event loop. Must be called at least once a minute, as the expiry timer does.
    """

    def __init__(self, read: Callable[[], Reading], newest_us: int | None, on_jump: Callable[[float], None]) -> None:
        self._read = read
        self._on_jump = on_jump
        self._trust, behind_us = initial_trust(read(), newest_us)
        if behind_us:
            on_jump(behind_us / 1e6)

    def __call__(self) -> int:
        reading = self._read_clocks()
        return min(reading.wall_us, self._trust.believed_us + reading.boot_us)

    def is_consistent(self, hours: float) -> bool:
        """Whether the last jump, or the start, is at least `hours` ago."""
        return self._read_clocks().boot_us - self._trust.since_us >= hours * 3_600_000_000

    def _read_clocks(self) -> Reading:
        reading = self._read()
        trust, offset_us = self._trust, reading.wall_us - reading.boot_us
        if trust.believed_us == trust.offset_us and -STEADY_US < offset_us - trust.offset_us < STEADY_US:
            return reading
        self._trust, moved_us = updated_trust(self._trust, reading)
        if moved_us:
            self._on_jump(moved_us / 1e6)
        return reading


class NextDeadline:
    """The earliest deadline that the timer knows, from the projections and from what it is told meanwhile."""

    def __init__(self) -> None:
        self._earliest_us = _NO_DEADLINE_US
        self._earlier = asyncio.Event()

    def notify(self, deadline_us: int) -> None:
        """A session has this deadline (2**62: none), which is recorded already. Costs nothing if one is earlier."""
        if deadline_us < self._earliest_us:
            self._earliest_us = deadline_us
            self._earlier.set()

    def forget(self) -> None:
        """Deadlines notified before are in the projections, or will be, before the timer asks them."""
        self._earliest_us = _NO_DEADLINE_US

    async def sleep(self, until_us: int, clock: Callable[[], int], most_s: float) -> None:
        """Until `until_us`, an earlier deadline of which it was or is told, or `most_s` from now."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + most_s
        self.notify(until_us)
        while True:
            self._earlier.clear()
            left_s = min((self._earliest_us - clock()) / 1e6, end_s - loop.time())
            if left_s <= 0:
                return
            try:
                async with asyncio.timeout(left_s):
                    await self._earlier.wait()
            except TimeoutError:
                return


def timestamp(us: int) -> str:
    """Unix microseconds as RFC 3339 in UTC, to the microsecond. Raises ValueError or OverflowError beyond year 9999."""
    seconds, rest = divmod(us, 1_000_000)
    return f"{_format_second(seconds)}.{rest:06d}Z"


@lru_cache(1024)
def _format_second(seconds: int) -> str:
    """Cached: most times that are formatted together are in the same few seconds."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
