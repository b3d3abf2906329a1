"""Readers of a reply with parts: whatever was recorded, wherever they were cut off, each gets every part once."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import asdict

from chatbot.llm.resilient_provider import ReplyTooLong
from chatbot.sessions.domain.commands import SERVICE
from chatbot.sessions.feeds.reader_cursor import ReaderCursor, advance, advance_live, continues
from chatbot.sessions.replies.growing_parts import NO_PART, PartKind, Segment, segment_of
from chatbot.sessions.replies.recorded_text import recorded_offset, recorded_reply
from chatbot.sessions.replies.reply import Outcome, Reply
from events.catalogue import Event, Parameters, ReplyCompleted, ReplyInterrupted, ReplyProgressed, ReplyStarted
from events.record import RecordedEvent
from events.schema.parts import PARTS_MAX, Parts, Reasoning, Refusal, Text, ToolCall, flat, parts_of, text_of
from projections.folds.session import OpenReply
from tests.support.log.memory_log import MemoryLog
from tests.support.nightly import scaled

S = "session"


class Piece(Struct, frozen=True):
    """What a model sends next."""

    kind: PartKind
    text: str
    call_id: str = ""
    name: str = ""


texts = st.text(alphabet="aé안😀\u0301", min_size=1, max_size=4)
calls = st.builds(lambda number, text: Piece("tool_call", text, f"c{number}", f"f{number}"), st.integers(0, 9), texts)
begun = st.builds(lambda number: Piece("tool_call", "", f"c{number}", f"f{number}"), st.integers(0, 9))
pieces = st.one_of(st.builds(Piece, st.sampled_from(["text", "text", "reasoning", "refusal"]), texts), calls, begun)


def reply_of(*given_pieces: Piece, version: int = 1) -> Reply:
    reply = Reply("m", "r", Parameters(), SERVICE)
    reply.start(version, 77, "model")
    for piece in given_pieces:
        grow(reply, piece)
    return reply


def grow(reply: Reply, piece: Piece) -> None:
    if piece.kind == "text" and reply.last_part == NO_PART:
        reply.grow(piece.text)
    else:
        reply.grow_part(piece.kind, piece.text, piece.call_id, piece.name)


def expected_parts(given_pieces: list[Piece]) -> list[dict[str, str]]:
    """What was sent, pieces that follow each other of one kind and call joined."""
    joined: list[dict[str, str]] = []
    for piece in given_pieces:
        head = {"kind": piece.kind, "call_id": piece.call_id, "name": piece.name}
        if joined and {**joined[-1], "text": ""} == {**head, "text": ""}:
            joined[-1]["text"] += piece.text
        else:
            joined.append({**head, "text": piece.text})
    return joined


def shown(parts: Parts) -> list[dict[str, str]]:
    return [
        {
            "kind": str(part.__struct_config__.tag),
            "call_id": getattr(part, "call_id", ""),
            "name": getattr(part, "name", ""),
            "text": flat(part),
        }
        for part in parts
    ]


class PartClient:
    """A correct client: it has parts by their numbers, and fails where it is sent something twice or out of order."""

    def __init__(self) -> None:
        self.cursor = ReaderCursor(0)
        self.parts: list[dict[str, str]] = []

    @property
    def length(self) -> int:
        return sum(len(part["text"]) for part in self.parts)

    def take(self, segments: list[Segment]) -> None:
        for one in segments:
            head = {"kind": one.kind, "call_id": one.call_id, "name": one.name}
            if one.part == len(self.parts):
                self.parts.append({**head, "text": ""})
            assert {**self.parts[one.part], "text": ""} == {**head, "text": ""}
            if one.text:
                assert one.part == len(self.parts) - 1, "text of a part that another one follows"
                assert one.offset == self.length
                self.parts[one.part]["text"] += one.text

    def copy(self) -> "PartClient":
        """As it is on its way back, with nothing but the cursor that it shows."""
        copy = PartClient()
        copy.cursor = ReaderCursor(self.cursor.version, self.cursor.offset)
        copy.parts = [dict(part) for part in self.parts]
        return copy


class OneReply:
    """A reply that grows and is recorded from time to time, and a client that is sent it from the log or live."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.reply = Reply("m", "r", Parameters(), SERVICE)
        self.record(ReplyStarted("r", "m", "node", "hand", "model", Parameters(), ("m",)))
        self.reply.start(1, 77, "model")
        self.sent: list[Piece] = []
        self.offset, self.part = 0, NO_PART
        self.client = PartClient()
        self.handed_out = [self.client.copy()]

    def record(self, *events: Event) -> None:
        self.log.record(S, *events)

    def grow(self, piece: Piece) -> None:
        self.sent.append(piece)
        grow(self.reply, piece)

    def checkpoint(self) -> None:
        for one in self.reply.segments(self.offset, self.part):
            self.record(ReplyProgressed("r", one.offset, one.text, one.part, one.kind, one.call_id, one.name))
            self.offset, self.part = one.end, one.part

    def read_log(self) -> None:
        events: list[RecordedEvent] = [one for one in self.log.events if one.version > self.client.cursor.version]
        for recorded in events:
            self.client.cursor, segments = advance(self.client.cursor, recorded)
            self.client.take(segments)
        self.handed_out.append(self.client.copy())

    def read_live(self) -> None:
        if continues(self.client.cursor, self.reply):
            before = self.client.cursor
            self.client.cursor = advance_live(before, self.reply)
            self.client.take(self.reply.segments(before.offset, before.part))
            assert advance_live(self.client.cursor, self.reply) is self.client.cursor, "nothing is new twice"
            assert self.client.parts == shown_reply(self.reply)
        self.handed_out.append(self.client.copy())


def shown_reply(reply: Reply) -> list[dict[str, str]]:
    copy = Reply("m", "r", Parameters(), SERVICE)
    for one in reply.segments(0):
        copy.extend(one)
    frozen = copy.freeze()
    return shown(frozen.parts or ((Text(frozen.content),) if frozen.content else ()))


@settings(max_examples=scaled(400), deadline=None)
@given(st.lists(st.tuples(pieces, st.sampled_from(["", "checkpoint", "log", "live", "cut"])), max_size=25), st.data())
def test_each_reader_gets_every_part_once_for_any_cuts(steps: list[tuple[Piece, str]], data: st.DataObject) -> None:
    scene = OneReply()
    for piece, then in steps:
        scene.grow(piece)
        match then:
            case "checkpoint":
                scene.checkpoint()
            case "log":
                scene.read_log()
            case "live":
                scene.read_live()
            case "cut":
                scene.client = data.draw(st.sampled_from(scene.handed_out)).copy()
            case _:
                pass
    frozen = scene.reply.freeze()
    ended = ReplyCompleted("r", frozen.content, "stop", "model", 1, parts=frozen.parts)
    scene.record(ended)
    for client in (scene.client, *scene.handed_out):
        scene.client = client.copy()
        scene.read_log()
        assert scene.client.parts == shown(parts_of(ended)) == expected_parts(scene.sent)
    assert ended.content == text_of(parts_of(ended))


@settings(max_examples=scaled(200), deadline=None)
@given(st.lists(st.tuples(pieces, st.booleans()), max_size=20))
async def test_a_crash_leaves_the_parts_of_the_checkpoints(steps: list[tuple[Piece, bool]]) -> None:
    scene = OneReply()
    recorded: list[Piece] = []
    for piece, is_recorded in steps:
        scene.grow(piece)
        if is_recorded:
            scene.checkpoint()
            recorded = list(scene.sent)
            offset = await recorded_offset(scene.log, S, scene.log.events[-1].version)
            assert offset == sum(len(one.text) for one in recorded)
    scene.read_live()
    found = await recorded_reply(scene.log, S, OpenReply("r", "m", 1), page=2)
    ended = ReplyInterrupted("r", found.content, "crash", parts=found.parts)
    assert shown(parts_of(ended)) == expected_parts(recorded)
    had = scene.client.copy()
    scene.record(ended)
    scene.client = PartClient()
    scene.read_log()
    assert scene.client.parts == expected_parts(recorded)
    for mine, kept in zip(had.parts, expected_parts(recorded), strict=False):
        assert mine["text"].startswith(kept["text"]), "a reader cuts its parts to the lengths that are kept"


@settings(max_examples=scaled(200), deadline=None)
@given(st.lists(st.tuples(pieces, st.booleans(), st.integers(0, 9)), max_size=20))
def test_a_copy_grows_as_the_reply_whichever_source_is_ahead(steps: list[tuple[Piece, bool, int]]) -> None:
    """A mirror is told by the log and by the node that writes, and either may be behind."""
    scene, copy = OneReply(), reply_of()
    for piece, is_recorded, back in steps:
        scene.grow(piece)
        if is_recorded:
            scene.checkpoint()
            for recorded in scene.log.events:
                if isinstance(recorded.event, ReplyProgressed):
                    copy.extend(segment_of(recorded.event))
        else:
            for one in scene.reply.segments(max(0, copy.length - back)):
                copy.extend(one)
    for one in scene.reply.segments(copy.length):
        copy.extend(one)
    assert copy.freeze() == scene.reply.freeze()
    assert (copy.length, copy.last_part, copy.part_lengths) == (
        scene.reply.length,
        scene.reply.last_part,
        scene.reply.part_lengths,
    )


def test_a_reply_of_text_has_no_parts() -> None:
    reply = reply_of(Piece("text", "a"), Piece("text", "b"))
    assert (reply.last_part, reply.part_lengths, reply.freeze().parts) == (NO_PART, (), ())
    assert reply.segments(1) == [Segment(1, "b")]


def test_parts_are_in_order_and_content_is_the_text_alone() -> None:
    reply = reply_of(
        Piece("reasoning", "hm"),
        Piece("reasoning", "m"),
        Piece("text", "Look"),
        Piece("tool_call", "", "c1", "weather"),
        Piece("tool_call", "{}", "c1", "weather"),
        Piece("tool_call", "", "c2", "time"),
        Piece("text", "?"),
        Piece("refusal", "No."),
    )
    reply.durations_us[0] = 5
    frozen = reply.freeze()
    assert frozen.content == "Look?"
    assert frozen.parts == (
        Reasoning("hmm", 5),
        Text("Look"),
        ToolCall("c1", "weather", "{}"),
        ToolCall("c2", "time", ""),
        Text("?"),
        Refusal("No."),
    )
    assert reply.part_lengths == (3, 4, 2, 0, 1, 3)
    assert [(one.part, one.text) for one in reply.segments(8)] == [(2, "}"), (3, ""), (4, "?"), (5, "No.")]
    assert [(one.part, one.text) for one in reply.segments(9)] == [(3, ""), (4, "?"), (5, "No.")]
    assert [(one.part, one.text) for one in reply.segments(9, 3)] == [(4, "?"), (5, "No.")]
    assert reply.segments(99) == []


def test_what_the_end_has_replaces_the_parts_that_were_shown() -> None:
    reply = reply_of(Piece("reasoning", "hm"), Piece("text", "more"))
    kept: Parts = (Reasoning("h"),)
    reply.end(Outcome("interrupted", "", 9, 0, parts=kept))
    assert (reply.text, reply.last_part, reply.part_lengths) == ("h", 0, (1,))
    plain = reply_of(Piece("text", "a"), Piece("refusal", "b"))
    plain.end(Outcome("interrupted", "a", 9, 0))
    assert (plain.text, plain.last_part, plain.part_lengths) == ("a", NO_PART, ())


def test_a_reply_has_no_more_parts_than_an_event_may_hold() -> None:
    numbers = range(PARTS_MAX)
    reply = reply_of(*[Piece("tool_call", "", f"c{number}", "f") for number in numbers])
    with pytest.raises(ReplyTooLong):
        reply.grow_part("text", "more")
    reply.grow_part("tool_call", "{}", f"c{numbers[-1]}", "f")
    assert len(reply.freeze().parts) == PARTS_MAX


def test_nothing_grows_after_the_reply_is_frozen() -> None:
    reply = reply_of(Piece("reasoning", "hm"))
    frozen = reply.freeze()
    reply.grow_part("reasoning", "m")
    reply.grow_part("tool_call", "", "c1", "f")
    reply.extend(Segment(2, "m", 0, "reasoning"))
    assert reply.freeze() == frozen


def test_a_gap_is_left_to_the_one_who_can_fill_it() -> None:
    reply = reply_of(Piece("text", "ab"))
    for segment in (Segment(3, "d"), Segment(2, "x", 2, "refusal"), Segment(1, "x", 1, "refusal")):
        reply.extend(segment)
    assert reply.freeze().content == "ab"


def test_a_copy_begins_no_part_before_its_first_text_but_a_call() -> None:
    copy = reply_of()
    copy.extend(Segment(0, "", 0, "reasoning"))
    assert (copy.last_part, copy.segments(0)) == (NO_PART, [])
    copy.extend(Segment(0, "hm", 0, "reasoning"))
    copy.extend(Segment(2, "", 1, "tool_call", "c", "f"))
    assert [(one.part, one.text) for one in copy.segments(0)] == [(0, "hm"), (1, "")]


def test_readers_hear_of_a_call_that_has_begun() -> None:
    heard: list[str] = []
    reply, copy = reply_of(), reply_of()
    reply.signal.listeners.add(lambda: heard.append("reply"))
    copy.signal.listeners.add(lambda: heard.append("copy"))
    reply.grow_part("tool_call", "", "c", "f")
    copy.extend(Segment(0, "", 0, "tool_call", "c", "f"))
    assert heard == ["reply", "copy"]


def test_segments_say_all_that_an_event_does() -> None:
    event: Any = ReplyProgressed("r", 3, "text", 2, "tool_call", "c", "f")
    assert asdict(segment_of(event)) == {k: v for k, v in asdict(event).items() if k != "reply_id"}
