"""Timestamps: times as RFC 3339 texts in UTC. Pure."""

from datetime import UTC, datetime
from functools import lru_cache


def timestamp(us: int) -> str:
    """Unix microseconds as RFC 3339 in UTC, to the microsecond. Raises ValueError or OverflowError beyond year 9999."""
    seconds, rest = divmod(us, 1_000_000)
    return f"{_format_second(seconds)}.{rest:06d}Z"


@lru_cache(1024)
def _format_second(seconds: int) -> str:
    """Cached: most times that are formatted together are in the same few seconds."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
