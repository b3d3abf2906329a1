"""A reader's place: whatever was recorded and wherever the reader was cut off, it gets each character once."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from chatbot.sessions.domain.commands import SERVICE
from chatbot.sessions.feeds.reader_cursor import ReaderCursor, advance, advance_live, continues
from chatbot.sessions.replies.growing_parts import Segment
from chatbot.sessions.replies.recorded_text import recorded_offset, recorded_reply
from chatbot.sessions.replies.reply import Reply
from events.catalogue import (
    ContentErased,
    Event,
    MessagePosted,
    Parameters,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnded,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyStarted,
    SessionAccessed,
    SessionCreated,
)
from events.record import RecordedEvent
from projections.folds.session import OpenReply
from tests.support.log.memory_log import MemoryLog
from tests.support.nightly import scaled

S = "session"


def started(reply_id: str, attempt: int = 1) -> ReplyStarted:
    return ReplyStarted(reply_id, "m", "node", "hand", "model", Parameters(), ("m",), attempt)


def completed(reply_id: str, content: str) -> ReplyCompleted:
    return ReplyCompleted(reply_id, content, "stop", "model", 1)


def text_of(segments: list[Segment]) -> str:
    assert all((one.part, one.kind) == (0, "text") for one in segments)
    return "".join(one.text for one in segments)


def told(place: ReaderCursor, *events: Event) -> tuple[ReaderCursor, list[str]]:
    """The place after `events`, and the text that each brought."""
    texts = []
    for event in events:
        recorded: Any = RecordedEvent(0, S, place.version + 1, "", 1, 77, None, event)  # type: ignore[arg-type]
        place, segments = advance(place, recorded)
        texts.append(text_of(segments))
    return place, texts


def test_checkpoints_and_the_end_bring_what_is_new_only() -> None:
    checkpoints = [ReplyProgressed("r", 0, "안녕"), ReplyProgressed("r", 1, "녕하")]
    place, texts = told(ReaderCursor(2), started("r"), *checkpoints, completed("r", "안녕하세요"))
    assert texts == ["", "안녕", "하", "세요"]
    assert (place.version, place.offset, place.reply_id, place.open_since) == (6, 0, None, 6)


def test_a_cursors_offset_is_of_the_reply_that_was_open_there_whichever_that_is() -> None:
    assert told(ReaderCursor(5, 3), completed("r", "012345"))[1] == ["345"]
    assert told(ReaderCursor(5, 3), ReplyProgressed("r", 2, "2345"), completed("r", "01234567"))[1] == ["345", "67"]
    assert told(ReaderCursor(5, 3), started("other"), completed("other", "012345"))[1] == ["", "012345"]


def test_a_waiting_reply_that_ends_disturbs_nothing() -> None:
    waiting = ReplyCancelled("waiting", "", "superseded")
    for place in (ReaderCursor(5, 3), ReaderCursor(5, 3, "r", 77)):
        after, texts = told(place, waiting, completed("r", "012345"))
        assert texts == ["", "345"]
        assert after.offset == 0


def test_a_reply_that_is_begun_anew_is_told_from_its_start() -> None:
    again = [ReplyInterrupted("r", "first", "shutdown"), started("r", 2), completed("r", "second")]
    assert told(ReaderCursor(5, 5), *again)[1] == ["", "", "second"]


def test_a_checkpoint_beyond_a_gap_is_left_to_the_end() -> None:
    assert told(ReaderCursor(5, 1), ReplyProgressed("r", 3, "345"), completed("r", "0123456"))[1] == ["", "123456"]


def test_a_reader_that_has_more_than_was_recorded_is_sent_nothing() -> None:
    events = [ReplyInterrupted("r", "0123", "crash"), started("s"), completed("s", "x")]
    assert told(ReaderCursor(5, 9), *events)[1] == ["", "", "x"]


def test_when_a_reply_started_is_known_until_it_ends() -> None:
    place, _ = told(ReaderCursor(2), started("r"), ReplyProgressed("r", 0, "a"))
    assert place.started_at_us == 77
    assert told(place, completed("r", "ab"))[0].started_at_us == 0


def growing(reply_id: str, version: int, text: str) -> Reply:
    reply = Reply("m", reply_id, Parameters(), SERVICE)
    if version:
        reply.start(version, 77, "model")
    reply.grow(text)
    return reply


def test_text_grows_at_the_place_of_its_own_reply_only() -> None:
    assert continues(ReaderCursor(5, 0), growing("r", 5, ""))
    assert continues(ReaderCursor(9, 0, "r"), growing("r", 5, ""))
    assert not continues(ReaderCursor(4, 0), growing("r", 5, "")), "its start is still to be told"
    assert not continues(ReaderCursor(9, 0, "other"), growing("r", 5, ""))
    assert not continues(ReaderCursor(9, 0), growing("r", 0, "")), "it waits its turn"
    after_end, _ = told(ReaderCursor(5, 2, "r"), completed("r", "text"))
    assert not continues(after_end, growing("r", 5, "text")), "its actor is about to learn that it has ended"


def test_an_actor_that_is_far_behind_the_log_repeats_no_text() -> None:
    old = growing("r", 5, "text")
    after_two, _ = told(ReaderCursor(5, 2, "r"), completed("r", "text"), started("s"), completed("s", "more"))
    assert not continues(after_two, old), "another reply has ended since"
    anew, _ = told(ReaderCursor(5, 2, "r"), ReplyInterrupted("r", "te", "crash"), started("r", 2))
    assert not continues(anew, old), "the reply was started again since"
    assert continues(anew, growing("r", 7, "")), "this is the attempt that is open"


def test_where_content_was_erased_no_reply_is_open() -> None:
    place, texts = told(ReaderCursor(5, 3, "r", 77), ContentErased("request", 5, 60))
    assert (place, texts) == (ReaderCursor(6), [""])


class RecordedTexts(Struct, frozen=True):
    """A history, the text of each reply, and how far that was written when each event was recorded."""

    events: list[RecordedEvent]
    texts: dict[str, str]


@st.composite
def histories(draw: st.DrawFn) -> RecordedTexts:
    log = MemoryLog()
    log.record(S, SessionCreated(None, {}, 60))
    texts: dict[str, str] = {}
    for number in range(draw(st.integers(1, 3))):
        reply_id, text = f"r{number}", draw(st.text(alphabet="aé안😀\u0301", max_size=12))
        texts[reply_id] = text
        log.record(S, MessagePosted(f"m{number}", None, "user", "hi", reply_id), started(reply_id))
        known = 0
        for _ in range(draw(st.integers(0, 4))):
            begin, end = draw(st.integers(0, known)), draw(st.integers(known, len(text)))
            between = [SessionAccessed(), ReplyCancelled("waiting", "", "client")]
            log.record(S, draw(st.sampled_from([ReplyProgressed(reply_id, begin, text[begin:end]), *between])))
            last = log.events[-1].event
            known = end if isinstance(last, ReplyProgressed) else known
        ending: Event = completed(reply_id, text)
        if draw(st.booleans()):
            ending = ReplyInterrupted(reply_id, text, "shutdown")
        log.record(S, ending)
    return RecordedTexts(log.events, texts)


class ReaderModel:
    """A reader that is sent events and live text, is cut off, and comes back with a cursor that it has text for."""

    def __init__(self, history: RecordedTexts, data: st.DataObject) -> None:
        self.history, self.data = history, data
        self.place = ReaderCursor(0)
        self.got = dict.fromkeys(history.texts, "")
        self.open: Reply | None = None

    def read(self) -> dict[str, str]:
        for recorded in self.history.events:
            self.maybe_cut()
            self.place, segments = advance(self.place, recorded)
            text = text_of(segments)
            event = recorded.event
            if isinstance(event, ReplyStarted):
                self.open = growing(event.reply_id, recorded.version, "")
            if text:
                assert isinstance(event, ReplyProgressed | ReplyEnded)
                self.got[event.reply_id] += text
            if isinstance(event, ReplyEnded) and self.open and event.reply_id == self.open.reply_id:
                self.open = None
            self.maybe_live()
        return self.got

    def maybe_live(self) -> None:
        if self.open is None or not self.data.draw(st.booleans()):
            return
        whole = self.history.texts[self.open.reply_id]
        self.open.grow(whole[self.open.length : self.data.draw(st.integers(self.open.length, len(whole)))])
        if continues(self.place, self.open):
            self.got[self.open.reply_id] += text_of(self.open.segments(self.place.offset, self.place.part))
            self.place = advance_live(self.place, self.open)

    def maybe_cut(self) -> None:
        if not self.data.draw(st.booleans()):
            return
        offset = self.data.draw(st.integers(0, self.place.offset))
        if self.open is not None:
            self.got[self.open.reply_id] = self.got[self.open.reply_id][:offset]
        self.place = ReaderCursor(self.place.version, offset)


@settings(max_examples=scaled(400), deadline=None)
@given(histories(), st.data())
def test_the_pieces_are_exactly_the_text_for_any_history_and_any_cuts(
    history: RecordedTexts, data: st.DataObject
) -> None:
    assert ReaderModel(history, data).read() == history.texts


# what the log alone tells


@settings(max_examples=scaled(200), deadline=None)
@given(histories())
async def test_after_a_version_comes_what_was_not_recorded_by_then(history: RecordedTexts) -> None:
    log = MemoryLog()
    log.events = history.events
    running: OpenReply | None = None
    for recorded in history.events:
        event, version = recorded.event, recorded.version
        if isinstance(event, ReplyStarted):
            running = OpenReply(event.reply_id, "m", version)
        elif isinstance(event, ReplyEnded) and running and running.reply_id == event.reply_id:
            running = None
        text = (await recorded_reply(log, S, running, page=2, up_to=version)).text if running else ""
        assert await recorded_offset(log, S, version) == len(text)
        assert not running or history.texts[running.reply_id].startswith(text)


async def test_the_way_back_is_walked_page_by_page() -> None:
    log = MemoryLog()
    log.record(S, started("r"), ReplyProgressed("r", 0, "text"), *[SessionAccessed()] * 200)
    assert await recorded_offset(log, S, 202) == 4
    assert await recorded_offset(log, S, 10**15) == 4
    assert await recorded_offset(log, "another", 10**15) == 0
    assert await recorded_offset(log, S, 1) == 0
    assert (await recorded_reply(log, S, OpenReply("r", "m", 1), page=7)).text == "text"


@pytest.mark.parametrize("version", [4, 5])
async def test_of_what_was_erased_nothing_is_left(version: int) -> None:
    log = MemoryLog()
    log.record(S, SessionCreated(None, {}, 60), started("r"), ReplyProgressed("r", 0, "text"), SessionAccessed())
    log.erase_now(S, ContentErased("request", 4, 60))
    assert await recorded_offset(log, S, version) == 0
