"""A moment in a session's life, and how people write one. Pure."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from msgspec import Struct

from events.record import RecordedEvent

_VERSION = re.compile(r"[0-9]{1,18}")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIME = re.compile(rf"{_DAY.pattern}[Tt ]\d{{2}}:\d{{2}}:\d{{2}}(\.\d{{1,9}})?([Zz]|[+-]\d{{2}}:\d{{2}})", re.ASCII)
INVALID_POINT_IN_TIME = (
    "must be a version such as 12, a time with its zone such as 2026-01-31T09:30:00Z, or a day such as 2026-01-31"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PointInTime(Struct, frozen=True):
    """How far to read: up to and with this version, or this time (unix microseconds); neither: all."""

    version: int | None = None
    at_us: int | None = None

    def covers(self, recorded: RecordedEvent) -> bool:
        """Whether `recorded` had happened by then, as its own version or time says."""
        if self.version is not None and recorded.version > self.version:
            return False
        return self.at_us is None or recorded.recorded_at_us <= self.at_us


def timestamp(us: int) -> str:
    """Unix microseconds as RFC 3339 in UTC, to the microsecond. Raises ValueError or OverflowError beyond year 9999."""
    seconds, rest = divmod(us, 1_000_000)
    return f"{_format_second(seconds)}.{rest:06d}Z"


@lru_cache(1024)
def _format_second(seconds: int) -> str:
    """Most times that are told lie in the same few seconds."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def parse_point_in_time(text: str) -> PointInTime:
    """The moment that `text` names: a version (a whole number), a time as RFC 3339 has it, or a day.

    A time must say its zone. Finer than a microsecond is cut off. A day is the whole of it in UTC, to its last
    microsecond: "as it stood on that day" includes what was said on it.
    Raises ValueError; its text is a sentence for whoever wrote the moment.
    """
    if _VERSION.fullmatch(text):
        return PointInTime(version=int(text))
    is_day = _DAY.fullmatch(text) is not None
    if not is_day and not _TIME.fullmatch(text):
        raise ValueError(INVALID_POINT_IN_TIME)
    try:
        at = datetime.fromisoformat(f"{text}T23:59:59.999999Z" if is_day else text.upper())
        return PointInTime(at_us=(at - _EPOCH) // timedelta(microseconds=1))
    except (ValueError, OverflowError):
        raise ValueError("names a day or an hour that no calendar has") from None
