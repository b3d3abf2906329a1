"""Exponential backoff: the pauses between attempts."""

from collections.abc import Iterator


def backoff_delays(first_s: float, longest_s: float) -> Iterator[float]:
    """Seconds to wait after each failed attempt: `first_s`, doubled each time up to `longest_s`. Never ends."""
    delay_s = first_s
    while True:
        yield delay_s
        delay_s = min(2 * delay_s, longest_s)
