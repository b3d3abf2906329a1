"""Where a repeated request continues in the stream of a reply, by the last frame that its client has."""

import pytest

from chatbot.api.streaming.reply_writer import ReplyPhase, resume_point
from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.feeds.reader_cursor import ReaderCursor
from chatbot.sessions.replies.reply import Outcome, Reply
from events.catalogue import Parameters

REQUESTED, STARTED, ENDED = 4, 7, 9


def make_reply(*, version: int = STARTED, ended: bool = False) -> Reply:
    """A reply with six code points of text; `version` 0: it is queued."""
    reply = Reply("message", "reply", Parameters(), Caller())
    reply.posted_version = REQUESTED
    if version:
        reply.start(version, 1, "model")
        reply.grow("abcdef")
    if ended:
        reply.outcome = Outcome("complete", "abcdef", ENDED, 1)
    return reply


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (None, (ReplyPhase.START, 0)),
        (ReaderCursor(REQUESTED, 3), (ReplyPhase.START, 0)),
        (ReaderCursor(STARTED, 0), (ReplyPhase.TEXT, 0)),
        (ReaderCursor(STARTED, 3), (ReplyPhase.TEXT, 3)),
        (ReaderCursor(ENDED - 1, 3), (ReplyPhase.TEXT, 3)),
    ],
)
def test_a_running_reply_continues_after_the_cursor(
    after: ReaderCursor | None, expected: tuple[ReplyPhase, int]
) -> None:
    assert resume_point(make_reply(), after) == expected


def test_the_offset_at_a_queued_reply_counts_the_text_of_another_one() -> None:
    assert resume_point(make_reply(version=0), ReaderCursor(REQUESTED, 3)) == (ReplyPhase.TEXT, 0)
    assert resume_point(make_reply(version=0), ReaderCursor(REQUESTED - 1, 3)) == (ReplyPhase.START, 0)


def test_nothing_is_left_for_a_reader_that_has_the_end() -> None:
    assert resume_point(make_reply(ended=True), ReaderCursor(ENDED, 0))[0] is ReplyPhase.ENDED
    assert resume_point(make_reply(ended=True), ReaderCursor(ENDED - 1, 6)) == (ReplyPhase.TEXT, 6)
