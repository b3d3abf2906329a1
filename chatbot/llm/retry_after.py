"""How long a server asks to be left alone (RFC 9110, 10.2.3). Pure."""

import math
from collections.abc import Callable
from email.utils import parsedate_to_datetime


def read_retry_after(header: Callable[[str], str | None], now_s: float) -> float | None:
    """Seconds, from `header` (a header's value by its name): `retry-after-ms`, else `Retry-After` in seconds, decimals
    or as a date. None where it says nothing that can be understood.

    A date is compared with the answer's own Date: the server's clock may be wrong. `now_s`, unix seconds, is for
    answers without one.
    """
    milliseconds = _number(header("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    told = header("retry-after")
    seconds = _number(told)
    if seconds is not None:
        return seconds
    until_s = _moment(told)
    if until_s is None:
        return None
    sent_s = _moment(header("date"))
    return max(0.0, until_s - (now_s if sent_s is None else sent_s))


def _number(told: str | None) -> float | None:
    try:
        number = float(told or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _moment(told: str | None) -> float | None:
    try:
        return parsedate_to_datetime(told or "").timestamp()
    except (ValueError, OverflowError, OSError):
        return None
