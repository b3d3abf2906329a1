"""What an append may hold, as found before it reaches a batch."""

import os

import pytest

from events.catalogue import Event, MessagePosted
from events.schema.parts import PARTS_MAX, Media, Parts, Reasoning, Text
from events.storage.append_batch import AppendContext, PendingAppend, prepare
from tests.support.log.sample_events import ASKED, EVENTS_WITH_PARTS, posted


def prepared(*events: Event) -> PendingAppend:
    return prepare(events, AppendContext("s", 0, ASKED, 0), os.urandom)


def message(content: str, *parts: Text | Reasoning | Media) -> MessagePosted:
    return MessagePosted("m", None, "user", content, parts=parts)


@pytest.mark.parametrize(
    ("event", "fault"),
    [
        (message("x", Text("x")), "left out"),
        (message("x", Text("x"), Text("y")), r"\$\.content must be the text of the parts"),
        (message("", Text(""), Reasoning("y")), r"\$\.parts\[0\]\.text must not be empty"),
        (message("", Media("00", "image/png", 1)), r"\$\.parts\[0\]\.sha256"),
        (message("x" * (PARTS_MAX + 1), *[Text("x")] * (PARTS_MAX + 1)), rf"at most {PARTS_MAX} parts"),
        (message("", Reasoning("\ud83d")), "surrogates"),
    ],
)
def test_parts_that_no_log_holds_are_refused(event: Event, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        prepared(event)


def test_each_part_has_a_salt_and_plain_events_have_one() -> None:
    for event in EVENTS_WITH_PARTS:
        parts: Parts = getattr(event, "parts", ())
        assert len(prepared(event).contents[0].salt) == 16 + 16 * len(parts)
    assert len(prepared(posted("x")).contents[0].salt) == 16


def test_as_many_parts_as_may_be_are_taken() -> None:
    assert len(prepared(message("x" * PARTS_MAX, *[Text("x")] * PARTS_MAX)).contents[0].salt) == 16 * (PARTS_MAX + 1)
