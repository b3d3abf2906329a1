"""How long a server asks to be left alone, in all ways of saying it."""

import pytest

from chatbot.llm.http.error_mapping import read_retry_after

NOW_S = 1_445_412_480.0  # Wed, 21 Oct 2015 07:28:00 GMT
LATER = "Wed, 21 Oct 2015 07:28:30 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1.0),
        ({"retry-after": LATER}, 30.0),
        ({"retry-after": LATER, "date": "Wed, 21 Oct 2015 07:28:10 GMT"}, 20.0),
        ({"retry-after": LATER, "date": "Wed, 21 Oct 2015 08:00:00 GMT"}, 0.0),
        ({"retry-after": LATER, "date": "yesterday"}, 30.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 99 Oct 2015 07:28:30 GMT"}, None),
    ],
)
def test_seconds_decimals_dates_and_milliseconds_are_understood(headers: dict[str, str], seconds: float | None) -> None:
    assert read_retry_after(headers.get, NOW_S) == seconds
