"""A point in time of a session's history ("as of"): a version or a time, and its text form. Pure."""

import re
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from events.record import RecordedEvent

_VERSION = re.compile(r"[0-9]{1,18}")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIME = re.compile(rf"{_DAY.pattern}[Tt ]\d{{2}}:\d{{2}}:\d{{2}}(\.\d{{1,9}})?([Zz]|[+-]\d{{2}}:\d{{2}})", re.ASCII)
INVALID_POINT_IN_TIME = (
    "must be a version such as 12, a time with its zone such as 2026-01-31T09:30:00Z, or a day such as 2026-01-31"
)
INVALID_TIME = "must be a time with its zone such as 2026-01-31T09:30:00Z, or a day such as 2026-01-31"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PointInTime(Struct, frozen=True):
    """How far to read: up to and including `version`, or up to the time `at_us` (unix microseconds); neither: all."""

    version: int | None = None
    at_us: int | None = None

    def covers(self, recorded: RecordedEvent) -> bool:
        """Whether `recorded` had happened by then, by its own version or time."""
        if self.version is not None and recorded.version > self.version:
            return False
        return self.at_us is None or recorded.recorded_at_us <= self.at_us


def parse_point_in_time(text: str) -> PointInTime:
    """Parse a version (a whole number), a time in RFC 3339 format, or a day.

    A time must include its zone; fractions of a microsecond are cut off. A day in UTC covers everything up to its last
    microsecond: "as it stood on that day" includes what was said on it.
    Raises ValueError; its text is a sentence for the person who wrote `text`.
    """
    if _VERSION.fullmatch(text):
        return PointInTime(version=int(text))
    if not _DAY.fullmatch(text) and not _TIME.fullmatch(text):
        raise ValueError(INVALID_POINT_IN_TIME)
    return PointInTime(at_us=parse_time_bound(text, is_end=True))


def parse_time_bound(text: str, *, is_end: bool) -> int:
    """Parse one end of a range of times, in RFC 3339 format or a day: unix microseconds.

    A day in UTC begins with its first and ends with its last microsecond. Raises ValueError as `parse_point_in_time`.
    """
    is_day = _DAY.fullmatch(text) is not None
    if not is_day and not _TIME.fullmatch(text):
        raise ValueError(INVALID_TIME)
    of_day = "23:59:59.999999" if is_end else "00:00:00"
    try:
        at = datetime.fromisoformat(f"{text}T{of_day}Z" if is_day else text.upper())
        return (at - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        raise ValueError("names a day or an hour that no calendar has") from None
