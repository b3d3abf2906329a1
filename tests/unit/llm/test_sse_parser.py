"""The parser of server-sent events: the same events however the bytes were cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.llm.http.http_response import EventTooLong, SseParser

LINE = st.sampled_from(
    ["data: a", "data:b", "data", "data:  two", ": ping", "event: x", "id: 1", "", "", "데이터", "data: 안녕 🙂"]
)
LINE_END = st.sampled_from(["\n", "\r\n", "\r"])
STREAM = st.lists(st.tuples(LINE, LINE_END), max_size=30).map(
    lambda lines: "".join(line + end for line, end in lines).encode()
)

# What model servers write: mostly whole events of one line, seldom anything else.
USUAL = st.lists(
    st.one_of(
        st.sampled_from(["data: a\n\n", "data: 안녕 🙂\n\n", "data: \n\n", "data: data: a\n\n"]),
        st.sampled_from(
            ["data:a\n\n", ": ping\n\n", "\n", "data: a\ndata: b\n\n", "x\n\n", "data: a\r\n\r\n", "data: a\n"]
        ),
    ),
    max_size=8,
).map(lambda events: "".join(events).encode())


def parse(pieces: list[bytes], line_max_bytes: int = 1000) -> list[bytes]:
    parser = SseParser(line_max_bytes)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.end()


def expected(stream: bytes) -> list[bytes]:
    """The specification's algorithm on the whole text at once, written as plainly as can be."""
    events: list[bytes] = []
    data: list[bytes] = []
    text = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for line in [*text.split(b"\n"), b""]:
        name, _, value = line.partition(b":")
        if not line:
            if data:
                events.append(b"\n".join(data))
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))
    return events


@given(STREAM | USUAL, st.lists(st.integers(0, 400), max_size=40))
def test_any_split_of_the_bytes_gives_the_events_of_the_specification(stream: bytes, cuts: list[int]) -> None:
    marks = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(marks)]
    assert parse(pieces) == expected(stream)


@given(USUAL)
def test_events_that_come_in_one_read_are_those_of_the_specification(stream: bytes) -> None:
    assert parse([stream]) == expected(stream)


@given(STREAM)
def test_a_byte_at_a_time_gives_the_same_events(stream: bytes) -> None:
    assert parse([bytes([byte]) for byte in stream]) == expected(stream)


def test_a_character_cut_in_two_arrives_whole() -> None:
    data = "data: 안\n\n".encode()
    parser = SseParser(100)
    assert [parser.feed(data[:7]), parser.feed(data[7:])] == [[], ["안".encode()]]


def test_an_event_is_given_as_soon_as_its_blank_line_ends_with_a_carriage_return() -> None:
    parser = SseParser(100)
    assert parser.feed(b"data: a\r\r") == [b"a"]
    assert parser.feed(b"\ndata: b\r\n\r\n") == [b"b"]


def test_a_byte_order_mark_at_the_start_is_no_part_of_the_first_line() -> None:
    assert parse([b"\xef\xbb", b"\xbfdata: a\n\n"]) == [b"a"]


def test_a_last_event_without_a_blank_line_is_not_lost() -> None:
    assert parse([b"data: a"]) == [b"a"]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("line", [b"data: " + b"x" * 100, b": " + b"x" * 100, b"data: x\n" * 20])
def test_what_exceeds_the_bound_is_refused_however_it_is_cut(line: bytes, size: int) -> None:
    stream = line + b"\n\n"
    with pytest.raises(EventTooLong):
        parse([stream[start : start + size] for start in range(0, len(stream), size)], line_max_bytes=99)


def test_a_line_without_end_is_refused_as_soon_as_it_exceeds_the_bound() -> None:
    parser = SseParser(99)
    parser.feed(b"x" * 99)
    with pytest.raises(EventTooLong):
        parser.feed(b"x")


def test_a_line_of_just_the_bound_is_accepted() -> None:
    assert SseParser(100).feed(b"data: " + b"x" * 94 + b"\n\n") == [b"x" * 94]
