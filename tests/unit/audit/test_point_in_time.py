"""How people write a moment, and what it covers."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.audit.point_in_time import PointInTime, parse_point_in_time
from chatbot.runtime.clock import timestamp
from events.record import Metadata, RecordedEvent

NINE_US = 1_769_850_000_000_000  # 2026-01-31T09:00:00Z


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("0", PointInTime(version=0)),
        ("12", PointInTime(version=12)),
        ("2026", PointInTime(version=2026)),  # a bare number is never a year
        ("20260131", PointInTime(version=20_260_131)),
        ("2026-01-31T09:00:00Z", PointInTime(at_us=NINE_US)),
        ("2026-01-31t09:00:00z", PointInTime(at_us=NINE_US)),
        ("2026-01-31 09:00:00Z", PointInTime(at_us=NINE_US)),
        ("2026-01-31T18:00:00+09:00", PointInTime(at_us=NINE_US)),
        ("2026-01-31T09:00:00.5Z", PointInTime(at_us=NINE_US + 500_000)),
        ("2026-01-31T09:00:00.123456789Z", PointInTime(at_us=NINE_US + 123_456)),
        ("2026-01-31", PointInTime(at_us=NINE_US + 15 * 3_600_000_000 - 1)),
        ("1969-12-31", PointInTime(at_us=-1)),
    ],
)
def test_a_moment_is_a_version_a_time_or_the_end_of_a_day(text: str, moment: PointInTime) -> None:
    assert parse_point_in_time(text) == moment


@pytest.mark.parametrize(
    "text",
    ["", "-1", "+1", "1.0", "12 ", "v12", "yesterday", "2026-01", "2026-01-31T09:00Z", "2026-01-31T09:00:00",
     "2026-01-31T09:00:00 09:00", "2026-W05-6", "٣", "1" * 19, "2026-01-31T09:00:00.Z", "2026-01-31\n"],
)  # fmt: skip
def test_what_is_no_moment_is_refused_with_a_sentence_that_says_what_is_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a version such as 12, .*2026-01-31T09:30:00Z, [^%]*$"):
        parse_point_in_time(text)


@pytest.mark.parametrize(
    "text", ["2026-02-30", "2026-13-01", "2026-01-31T24:00:01Z", "2026-01-31T23:59:60Z", "0000-01-01"]
)
def test_what_no_calendar_has_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="calendar"):
        parse_point_in_time(text)


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 12, 31)))
def test_every_time_that_an_answer_shows_is_read_back_to_the_microsecond(at: datetime) -> None:
    us = (at.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert parse_point_in_time(timestamp(us)) == PointInTime(at_us=us)


@pytest.mark.parametrize(
    ("moment", "covered"),
    [
        (PointInTime(), True),
        (PointInTime(version=2), False),
        (PointInTime(version=3), True),
        (PointInTime(at_us=NINE_US - 1), False),
        (PointInTime(at_us=NINE_US), True),
    ],
)
def test_a_moment_covers_what_was_recorded_up_to_and_with_it(moment: PointInTime, *, covered: bool) -> None:
    recorded = RecordedEvent(7, "s", 3, "message_posted", 1, NINE_US, Metadata(), None)
    assert moment.covers(recorded) is covered
