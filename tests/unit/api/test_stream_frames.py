"""Frames of a stream: whatever a reply says, each frame is one id line and one data line that says exactly that."""

import json
import re

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatbot.api.streaming.frames import (
    Branch,
    CallsClosed,
    Chunk,
    Complete,
    Deleted,
    Draining,
    Error,
    Expired,
    FeedChunk,
    FeedFrame,
    Frame,
    Message,
    ReasoningChunk,
    RefusalChunk,
    Resync,
    Session,
    Start,
    ToolCallChunk,
    feed_growth_frame,
    growth_frame,
)
from chatbot.api.streaming.reply_writer import FrameView
from chatbot.api.streaming.response_stream import DONE, PING, encode_frame
from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.replies.growing_parts import Segment
from chatbot.sessions.replies.reply import Reply
from events.catalogue import Parameters, Usage
from events.schema.parts import Text, ToolResult

TEXT = st.text(max_size=200)
CURSOR = st.tuples(st.integers(1, 2**53), st.integers(0, 2**31))
FRAMES: list[Frame] = [
    Start("s", "m", "u", 6, None),
    Chunk("a\nb\r\nc\rd"),
    Chunk("a\nb", 2),
    ReasoningChunk("a\nb", 0),
    RefusalChunk("a\nb", 1),
    ToolCallChunk("call\n1", "f", "{}\n", 1),
    Complete("m", "line\nline", "stop", Usage(1, 2, 3), "2026-01-01T00:00:00.000000Z", 8, "", 9, 3),
    Complete("m", "", None, None, "2026-01-01T00:00:00.000000Z", 8, "", 9, None),
    Error("failed", "LLM server failed", "two\nlines", "two\nlines", "m", 8, 9),
    Error("failed", "LLM server failed", "x", "x", "m", 8, 9, (4, 9)),
]
FEED_FRAMES: list[FeedFrame] = [
    FeedChunk("a\nb\r\nc\rd", "m"),
    ReasoningChunk("a\nb", 0, "m"),
    RefusalChunk("a\nb", 1, "m"),
    ToolCallChunk("call\n1", "f", "{}\n", 1, "m"),
    CallsClosed("m", ["call_1"], "cancelled", 3),
    Message("m", None, "user", "line\nline", "2026-01-01T00:00:00.000000Z", None, 2),
    Message("m", "r", "tool", "", "2026-01-01T00:00:00.000000Z", None, 2, (ToolResult("call_1", (Text("21"),)),)),
    Session("s", "two\nlines", {"key": "two\nlines"}, 1),
    Branch("m", 3),
    Expired(3),
    Deleted(3),
    Resync(3),
    Draining(3),
]


def read(stream: bytes) -> list[tuple[str | None, str]]:
    """The id and data of each event, as the WHATWG's algorithm reads them: lines end with CR LF, CR or LF."""
    found: list[tuple[str | None, str]] = []
    last_id, data = None, list[str]()
    for line in re.split("\r\n|\r|\n", stream.decode()):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            last_id = value
        elif name == "data":
            data.append(value)
        elif not line and data:
            found.append((last_id, "\n".join(data)))
            data = []
    return found


@given(text=TEXT, cursor=CURSOR)
@example(text="\r\n\r\ndata: [DONE]\n\n", cursor=(1, 0))
@example(text="\u2028\u2029\x85\x0b\x0c\x00", cursor=(1, 0))
@example(text="e\u0301 👩‍👩‍👧‍👦 שלום 안녕", cursor=(1, 0))
def test_any_text_comes_through_a_chunk_unchanged(text: str, cursor: tuple[int, int]) -> None:
    version, offset = cursor
    ((found_id, data),) = read(encode_frame(Chunk(text), version, offset))
    assert json.loads(data) == {"type": "chunk", "content": text}
    assert found_id == f"{version}:{offset}"


@given(pieces=st.lists(TEXT, max_size=6))
def test_frames_in_one_write_are_read_one_by_one(pieces: list[str]) -> None:
    ends = [sum(map(len, pieces[: number + 1])) for number in range(len(pieces))]
    stream = b"".join(encode_frame(Chunk(piece), 7, end) for piece, end in zip(pieces, ends, strict=True))
    events = read(PING + stream + PING + DONE)
    assert [json.loads(data)["content"] for _, data in events[:-1]] == pieces
    assert [found_id for found_id, _ in events[:-1]] == [f"7:{end}" for end in ends]
    assert events[-1][1] == "[DONE]"


@pytest.mark.parametrize("frame", [*FRAMES, *FEED_FRAMES], ids=lambda frame: type(frame).__name__)
def test_no_frame_has_a_line_break_inside_its_data(frame: Frame | FeedFrame) -> None:
    encoded = encode_frame(frame, 12, 34)
    assert re.fullmatch(rb"id: 12:34\ndata: [^\r\n]+\n\n", encoded)
    assert msgspec.json.decode(read(encoded)[0][1], type=type(frame)) == frame


@pytest.mark.parametrize("frame", [*FRAMES, *FEED_FRAMES], ids=lambda frame: type(frame).__name__)
def test_each_frame_says_what_it_is(frame: Frame | FeedFrame) -> None:
    said = json.loads(read(encode_frame(frame, 1, 0))[0][1])
    words = re.findall("[A-Z][a-z]+", type(frame).__name__.removeprefix("Feed"))
    assert said["type"] == "_".join(words).lower().removesuffix("_chunk")
    fields = [one for one in msgspec.structs.fields(frame) if one.required or getattr(frame, one.name) != one.default]
    assert set(said) == {"type", *(one.name for one in fields)}


@pytest.mark.parametrize(
    ("segment", "frame", "feed_frame"),
    [
        (Segment(7, "hi"), Chunk("hi"), FeedChunk("hi", "r")),
        (Segment(7, "hi", 1), Chunk("hi", 1), FeedChunk("hi", "r", 1)),
        (Segment(0, "hm", 0, "reasoning"), ReasoningChunk("hm", 0), ReasoningChunk("hm", 0, "r")),
        (Segment(3, "no", 1, "refusal"), RefusalChunk("no", 1), RefusalChunk("no", 1, "r")),
        (
            Segment(3, "{", 2, "tool_call", "c", "f"),
            ToolCallChunk("c", "f", "{", 2),
            ToolCallChunk("c", "f", "{", 2, "r"),
        ),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_each_piece_of_a_reply_has_its_frame(segment: Segment, frame: Frame, feed_frame: FeedFrame) -> None:
    assert (growth_frame(segment), feed_growth_frame(segment, "r")) == (frame, feed_frame)


def test_the_time_to_come_back_is_in_the_frames_own_block() -> None:
    encoded = encode_frame(Draining(3), 3, 0, retry_ms=1500)
    assert encoded.startswith(b"retry: 1500\nid: 3:0\ndata: ")
    assert len(read(encoded)) == 1, "a block of its own would be an empty event to some readers"


def test_a_ping_is_a_comment_that_readers_pass_over() -> None:
    assert PING.startswith(b":")
    assert PING.endswith(b"\n\n")
    assert read(PING) == []


@given(TEXT, CURSOR)
@example("a\nb\r\nc\x00\u2028\U0001f600", (1, 0))
def test_the_text_of_a_reply_is_made_in_one_step_as_the_frame_it_is(text: str, cursor: tuple[int, int]) -> None:
    view = FrameView("s", Reply("m", "r", Parameters(), Caller()), 1_000)
    assert view.text(text, *cursor) == encode_frame(Chunk(text), *cursor)
