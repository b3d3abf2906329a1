"""Tool calls in all the forms in which servers send their pieces; parts never interleave."""

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.llm.provider import LlmFailed
from chatbot.llm.providers import tool_call_assembler
from chatbot.llm.providers.json_progress import JsonProgress
from chatbot.llm.providers.tool_call_assembler import ToolCallAssembler
from chatbot.llm.resilient_provider import ReplyTooLong
from events.schema.parts import (
    CALL_ID_MAX_CHARS,
    NAME_MAX_CHARS,
    PARTS_MAX,
    Parts,
    Reasoning,
    Text,
    ToolCall,
    calls_of,
    find_faults,
)
from tests.support.model.provider_client import PartsSink

Delta = dict[str, Any]


def delta(arguments: Any = None, *, name: str | None = None, id_: str | None = None, index: int | None = None) -> Delta:
    fields = {"index": index, "id": id_}
    return {key: value for key, value in fields.items() if value is not None} | {
        "function": {"name": name, "arguments": arguments}
    }


def assembled(*deltas: Delta | str, held_max_chars: int = 1000) -> tuple[Parts, PartsSink]:
    """What comes of these deltas; a string is text between them."""
    sink, numbers = PartsSink(), count(1)
    assembler = ToolCallAssembler(sink, held_max_chars, lambda: f"made_{next(numbers)}")
    for one in deltas:
        if isinstance(one, str):
            assembler.text(one)
        else:
            assembler.add_call(one)
    assembler.end()
    assert list(find_faults(sink.parts)) == []
    return sink.parts, sink


A, B = ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", '{"y":2}')
A_BEGUN = ToolCall("a", "f", '{"x":')


@pytest.mark.parametrize(
    "deltas",
    [
        # OpenAI: a head, then pieces by the index
        [
            delta("", name="f", id_="a", index=0),
            delta('{"x":', index=0),
            delta("1}", index=0),
            delta("", name="g", id_="b", index=1),
            delta('{"y":2}', index=1),
        ],
        # each call whole, the index always 0
        [delta('{"x":1}', name="f", id_="a", index=0), delta('{"y":2}', name="g", id_="b", index=0)],
        # no index at all
        [
            delta('{"x":', name="f", id_="a"),
            delta("1}"),
            delta('{"y":', name="g", id_="b"),
            delta("2}"),
        ],
        # the name and the id in each delta
        [
            delta('{"x"', name="f", id_="a", index=0),
            delta(":1}", name="f", id_="a", index=0),
            delta("", name="f", id_="a", index=0),
            delta('{"y"', name="g", id_="b", index=1),
            delta(":2}", name="g", id_="b", index=1),
        ],
        # interleaved
        [
            delta("", name="f", id_="a", index=0),
            delta("", name="g", id_="b", index=1),
            delta('{"x":', index=0),
            delta('{"y":', index=1),
            delta("1}", index=0),
            delta("2}", index=1),
        ],
        # interleaved by id, white space late
        [
            delta('{"x":1}', name="f", id_="a"),
            delta('{"y":', name="g", id_="b"),
            delta("\n", id_="a"),
            delta("2}", id_="b"),
        ],
        # another id in each delta of a call
        [
            delta('{"x":', name="f", id_="a", index=0),
            delta("1}", id_="other", index=0),
            delta({"y": 2}, name="g", id_="b", index=1),
        ],
        # arguments before the name
        [delta('{"x":', id_="a", index=0), delta("1}", name="f", index=0), delta({"y": 2}, name="g", id_="b")],
    ],
)
def test_two_calls_are_put_together_whatever_names_their_pieces(deltas: list[Delta]) -> None:
    parts, _ = assembled(*deltas)
    calls = calls_of(parts)
    assert [(call.call_id, call.name) for call in calls] == [("a", "f"), ("b", "g")]
    assert [json.loads(call.arguments) for call in calls] == [{"x": 1}, {"y": 2}]


def test_the_first_call_streams_and_the_next_one_waits_for_its_end() -> None:
    sink = PartsSink()
    assembler = ToolCallAssembler(sink, 100)
    assembler.add_call(delta("", name="f", id_="a", index=0))
    assert sink.calls == [("tool_call", "a", "f", "")]
    assembler.add_call(delta('{"x":', index=0))
    assembler.add_call(delta('{"y":', name="g", id_="b", index=1))
    assert list(sink.parts) == [A_BEGUN]
    assembler.add_call(delta("1}", index=0))
    assembler.add_call(delta("2}", index=1))
    assembler.end()
    assert list(sink.parts) == [A, B]


@pytest.mark.parametrize("space", ["", "\n"])
def test_a_call_that_begins_after_a_whole_one_streams_at_once(space: str) -> None:
    sink = PartsSink()
    assembler = ToolCallAssembler(sink, 100)
    assembler.add_call(delta('{"x":1}', name="f", id_="a"))
    assembler.add_call(delta(space, id_="a"))
    assembler.add_call(delta('{"y":', name="g", id_="b"))
    assert sink.parts == (ToolCall("a", "f", '{"x":1}' + space), ToolCall("b", "g", '{"y":'))


@pytest.mark.parametrize(
    ("deltas", "ids"),
    [
        ([delta("{}", name="f"), delta("{}", name="f")], ["made_1", "made_2"]),
        ([delta("{}", name="f", index=0), delta("{}", name="f", index=0)], ["made_1", "made_2"]),
        ([delta("{}", name="f", id_="a"), delta("{}", name="f", id_="a")], ["a", "made_1"]),
        ([delta("{}", name="f", id_="")], ["made_1"]),
        ([delta("{", name="f", id_="x" * (CALL_ID_MAX_CHARS + 1)), delta("}", id_="x" * 257)], ["made_1"]),
        ([{"id": 7, "function": {"name": "f", "arguments": "{}"}}], ["made_1"]),
        ([{"name": "f", "arguments": {}}], ["made_1"]),
    ],
)
def test_a_call_without_an_id_of_its_own_gets_one(deltas: list[Delta], ids: list[str]) -> None:
    parts, _ = assembled(*deltas)
    assert list(parts) == [ToolCall(id_, "f", "{}") for id_ in ids]


def test_calls_without_arguments_follow_each_other() -> None:
    parts, sink = assembled(delta("", name="f", id_="a", index=0), delta(None, name="g", id_="b", index=1))
    assert parts == (ToolCall("a", "f", ""), ToolCall("b", "g", ""))
    assert len(sink.calls) == 2


def test_text_among_calls_is_a_part_of_its_own() -> None:
    begin, end = delta('{"x":', name="f", id_="a"), delta("1}", id_="a")
    second = delta('{"y":2}', name="g", id_="b")
    assert assembled(begin, end, "and", " then", second)[0] == (A, Text("and then"), B)
    assert assembled(begin, "and", end, " then", second)[0] == (A, Text("and then"), B)
    assert assembled(begin, "and", second, end)[0] == (A, Text("and"), B)


def test_reasoning_among_calls_is_told_apart_from_text() -> None:
    sink = PartsSink()
    assembler = ToolCallAssembler(sink, 100)
    assembler.add_call(delta('{"x":1}', name="f", id_="a"))
    assembler.reasoning("hm")
    assembler.text("so")
    assembler.end()
    assert sink.parts == (A, Reasoning("hm"), Text("so"))


@pytest.mark.parametrize(
    "deltas",
    [
        [delta("{}", name="f", id_="a"), delta("{}", name="g", id_="b"), delta("more", id_="a")],
        [delta('{"x":', name="f", id_="a"), delta({"x": 1}, id_="a")],
        [delta("{}", id_="a")],
        [delta(7, name="f", id_="a")],
        [delta("{}", name="f" * (NAME_MAX_CHARS + 1), id_="a")],
    ],
)
def test_what_cannot_be_told_apart_fails_the_reply(deltas: list[Delta]) -> None:
    with pytest.raises(LlmFailed, match="malformed"):
        assembled(*deltas)


def test_what_is_held_is_bounded() -> None:
    begin = delta('{"x":', name="f", id_="a")
    assert assembled(begin, "x" * 10, held_max_chars=10)[0][1] == Text("x" * 10)
    with pytest.raises(ReplyTooLong):
        assembled(begin, "x" * 5, "x" * 6, held_max_chars=10)
    nameless = delta("x" * 10, id_="a")
    with pytest.raises(ReplyTooLong):
        assembled(nameless, nameless, held_max_chars=15)
    end = delta("1}", id_="a")
    texts = (begin, "x" * 10, end, delta('{"y":', name="g", id_="b"), "y" * 10)
    assert assembled(*texts, held_max_chars=10)[0][1] == Text("x" * 10), "what was passed on is not held"


def test_the_number_of_parts_is_bounded() -> None:
    calls = [delta("{}", name="f", id_=str(number)) for number in range(PARTS_MAX + 1)]
    assert len(assembled(*calls[:-1])[0]) == PARTS_MAX
    with pytest.raises(ReplyTooLong):
        assembled(*calls)


def test_characters_that_are_split_over_pieces_are_joined() -> None:
    sink = PartsSink()
    assembler = ToolCallAssembler(sink, 100)
    for piece in ('{"x":"\ud83d', '\ude42"}'):
        assembler.add_call(delta(piece, name="f", id_="a"), is_clean=False)
    assembler.end()
    assert sink.parts == (ToolCall("a", "f", '{"x":"\U0001f642"}'),)
    sink = PartsSink()
    assembler = ToolCallAssembler(sink, 100)
    assembler.add_call(delta("{}", name="f\udcff", id_="a\udcff"), is_clean=False)
    assert sink.parts == (ToolCall("a\ufffd", "f\ufffd", "{}"),)


ARGUMENTS = st.recursive(st.text(max_size=5) | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=5)


@given(
    calls=st.lists(st.dictionaries(st.text(max_size=3), ARGUMENTS, max_size=3), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=10),
    data=st.data(),
)
def test_any_mixture_of_pieces_gives_the_calls_in_their_order(
    calls: list[dict[str, Any]], cuts: list[int], data: st.DataObject
) -> None:
    pieces: list[list[Delta]] = []
    for number, call in enumerate(calls):
        arguments, at, deltas = json.dumps(call), 0, []
        for cut in cuts * len(arguments):
            deltas.append(delta(arguments[at : at + cut], index=number))
            at += cut
            if at >= len(arguments):
                break
        pieces.append([delta("", name=f"f{number}", id_=f"call_{number}", index=number), *deltas])
    mixed = [one.pop(0) for one in pieces]
    while left := [one for one in pieces if one]:
        mixed.append(data.draw(st.sampled_from(left)).pop(0))
    parts, _ = assembled(*mixed, held_max_chars=10_000)
    assert parts == tuple(
        ToolCall(f"call_{number}", f"f{number}", json.dumps(call)) for number, call in enumerate(calls)
    )


@pytest.mark.parametrize("piece", ["}", "[]", " ", "1]", '"}', "\\}"])
@pytest.mark.parametrize("names", ["f", "fg"])
def test_a_call_of_very_many_pieces_is_parsed_a_few_times(
    piece: str, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers that name the function in every piece make the assembler look for the call's end in every piece."""
    count = 2_000
    looked_at = 0

    def decode(text: str) -> Any:
        nonlocal looked_at
        looked_at += len(text)
        return json.loads(text)

    monkeypatch.setattr(tool_call_assembler, "_decode_json", decode)
    assembler = ToolCallAssembler(PartsSink(), 100_000)
    assembler.add_call(delta("[", name="f", index=0))
    for number in range(count):
        assembler.add_call(delta(piece, name=names[number % len(names)], index=0))
    assert looked_at <= 3 * len(piece) * count


values = st.recursive(
    st.none() | st.integers() | st.text(alphabet='{}[]"\\ x', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.one_of(values.map(json.dumps), st.text(alphabet='{}[]"\\ ,1', max_size=12)), st.data())
def test_where_arguments_end_does_not_depend_on_how_they_are_cut(text: str, data: st.DataObject) -> None:
    progress, sent = JsonProgress(), ""
    was_broken = False
    while sent != text:
        piece = text[len(sent) : data.draw(st.integers(len(sent) + 1, len(text)))]
        progress.add(piece)
        sent += piece
        try:
            is_valid = isinstance(json.loads(sent), dict | list)
        except ValueError:
            is_valid = False
        assert not (is_valid and (was_broken or not progress.has_closed))
        was_broken |= progress.has_closed and not is_valid
