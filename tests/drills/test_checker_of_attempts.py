"""The checker judges reads of a reply that was interrupted and requested once more by what was on record then."""

import pytest

from tests.drills.checker import check
from tests.drills.drill_record import DrillRecord
from tests.drills.test_checker import S, logged, operation, sound


def read_between_attempts(version: int, status: str, content: str) -> DrillRecord:
    """A reply with two attempts, and what a client has read of it at `version`."""
    record = sound()
    logged(record.log, S, "message_posted", message_id="m3", role="user", content="?", reply_id="r3")  # version 10
    logged(record.log, S, "reply_started", reply_id="r3")
    logged(record.log, S, "reply_progressed", reply_id="r3", offset=0, text="One")
    logged(record.log, S, "reply_interrupted", reply_id="r3", content="One")
    logged(record.log, S, "reply_requested", reply_id="r3")  # version 14
    logged(record.log, S, "reply_started", reply_id="r3")
    logged(record.log, S, "reply_progressed", reply_id="r3", offset=0, text="Two")
    logged(record.log, S, "reply_completed", reply_id="r3", content="Two")
    for one in record.seen:
        one.histories[S] = {"version": 17}
    shown = {"message_id": "r3", "role": "assistant", "status": status, "content": content}
    read_s = 9.2  # after everything was recorded
    record.operations.append(operation("read", 0.7, read_s, version=version, messages=[shown]))
    return record


@pytest.mark.parametrize(
    ("version", "status", "content"),
    [
        (12, "streaming", "One"),
        (13, "interrupted", "One"),
        (14, "queued", ""),
        (15, "streaming", ""),
        (16, "streaming", "Two"),
        (17, "complete", "Two"),
    ],
)
def test_a_read_shows_the_text_of_the_present_attempt(version: int, status: str, content: str) -> None:
    assert check(read_between_attempts(version, status, content)) == []


@pytest.mark.parametrize(("version", "status"), [(14, "queued"), (15, "streaming")])
def test_a_read_may_not_show_the_text_of_an_earlier_attempt(version: int, status: str) -> None:
    assert {one.rule for one in check(read_between_attempts(version, status, "One"))} == {"reads"}
