"""The events of a response follow from its parts and its end, however its text arrives."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from chatbot.api.openai_responses.delta_rules import MAX_CHARS, cut_by_rule_1
from chatbot.api.openai_responses.response_events import EventView
from chatbot.api.openai_responses.response_objects import RequestedResponse
from chatbot.sessions.domain.commands import SERVICE
from chatbot.sessions.replies.growing_parts import NO_PART, PartKind
from chatbot.sessions.replies.reply import Outcome, Reply
from events.catalogue import Parameters
from events.schema.parts import Part, Parts, Reasoning, Refusal, Text, ToolCall, flat, stored_parts, text_of

SESSION, REPLY = "6f1c1f0e-1f39-4b4c-9a57-0c5a8f0b7d11", "c4a1e2d7-2f60-4c58-8b0e-7e9d6b5a4f33"
REQUESTED = RequestedResponse(SESSION, REPLY, 1_769_851_800_000_000, "small", Parameters())
texts = st.text(st.sampled_from("ab 안\n\t　。"), min_size=1, max_size=60)


def as_part(kind: str, text: str, number: int) -> Part:
    match kind:
        case "tool_call":
            return ToolCall(f"call_{number}", "weather", text[1:])  # a call may have no arguments
        case "reasoning":
            return Reasoning(text)
        case "refusal":
            return Refusal(text)
        case _:
            return Text(text)


@st.composite
def replies(draw: st.DrawFn) -> Parts:
    """Parts as a model sends them: no two of one kind follow each other, but calls may."""
    kinds = draw(st.lists(st.sampled_from(["text", "reasoning", "refusal", "tool_call"]), min_size=1, max_size=4))
    kept = [kind for index, kind in enumerate(kinds) if kind == "tool_call" or kind not in kinds[index - 1 : index]]
    return tuple(as_part(kind, draw(texts), number) for number, kind in enumerate(kept))


parts = replies()


def ended(said: Parts, status: str = "complete") -> Outcome:
    return Outcome(status, text_of(said), 4, 1, parts=stored_parts(said), finish_reason="stop")


def events(encoded: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in encoded.decode().split("\n") if line.startswith("data: {")]


def play(said: Parts, cuts: list[int], after: int = -1, status: str = "complete") -> list[dict[str, Any]]:
    """The events for a reader after `after`, of a reply whose parts arrive cut at these offsets."""
    view, reply, offset, last = EventView(REQUESTED, after), Reply("m", REPLY, Parameters(), SERVICE), 0, NO_PART
    encoded = view.start(1, 0)
    for part in said:
        text = flat(part)
        places = sorted({0, *(cut % (len(text) + 1) for cut in cuts), len(text)})
        pieces = [text[start:end] for start, end in pairwise(places)] or [""]
        for piece in pieces:
            if isinstance(part, ToolCall):
                reply.grow_part("tool_call", piece, part.call_id, part.name)
            else:
                reply.grow_part(kind_of(part), piece)
            if reply.last_part == NO_PART:
                encoded += view.text(reply.since(offset), 1, reply.length)
            else:
                encoded += view.segments(reply.segments(offset, last), 1)
            offset, last = reply.length, reply.last_part
    return events(encoded + view.end(ended(said, status), 0))


def kind_of(part: Part) -> PartKind:
    return "reasoning" if isinstance(part, Reasoning) else "refusal" if isinstance(part, Refusal) else "text"


@given(texts)
def test_deltas_join_to_the_text_and_are_short(text: str) -> None:
    cut = cut_by_rule_1(text)
    assert "".join(cut.deltas) + cut.rest == text
    assert all(0 < len(delta) <= MAX_CHARS for delta in cut.deltas)
    assert len(cut.rest) <= MAX_CHARS


@given(texts, texts)
def test_what_follows_changes_no_delta(text: str, more: str) -> None:
    deltas = cut_by_rule_1(text).deltas
    assert cut_by_rule_1(text + more).deltas[: len(deltas)] == deltas


def test_rule_1_cuts_after_white_space_and_at_twelve() -> None:
    assert cut_by_rule_1("one  two\n\nthree-and-a-half four").deltas == ["one  ", "two\n\n", "three-and-a-", "half "]


@given(parts, st.lists(st.integers(0, 300), max_size=8))
def test_events_do_not_depend_on_when_text_arrives(said: Parts, cuts: list[int]) -> None:
    whole = play(said, [])
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    assert play(said, cuts) == whole


@given(parts, st.data())
def test_a_reader_gets_exactly_what_follows_its_number(said: Parts, data: st.DataObject) -> None:
    whole = play(said, [])
    after = data.draw(st.integers(-1, len(whole) - 1))
    assert play(said, [], after) == whole[after + 1 :]


@given(parts)
def test_deltas_join_to_each_item(said: Parts) -> None:
    whole = play(said, [])
    for index, item in enumerate(whole[-1]["response"]["output"]):
        deltas = "".join(event["delta"] for event in whole if "delta" in event and event["output_index"] == index)
        shown = (
            item.get("arguments")
            if item["type"] == "function_call"
            else "".join(part.get("text") or part.get("refusal") for part in item["content"])
        )
        assert deltas == shown
        assert [event["item"] for event in whole if event["type"].endswith("item.done")][index] == item


@pytest.mark.parametrize("lost", [3, 40])
def test_a_reader_beyond_what_a_crash_left_gets_only_the_end(lost: int) -> None:
    """Whatever it had seen: the number after its own, and none of the events that the record has before."""
    whole = play((Text("one two three"),), [], status="interrupted")
    last_delta = max(event["sequence_number"] for event in whole if "delta" in event)
    (only,) = play((Text("one two three"),), [], last_delta + lost, status="interrupted")
    assert (only["type"], only["sequence_number"]) == ("response.failed", last_delta + lost + 1)
    assert only["response"]["output"][0]["content"][0]["text"] == "one two three"


@given(parts, st.data())
def test_no_reader_gets_events_after_others_than_it_has_had(said: Parts, data: st.DataObject) -> None:
    """A crash leaves the beginning of what was sent: one number may have another text in what is left."""
    last = data.draw(st.integers(0, len(said) - 1))
    left = (*said[:last], beginning(said[last], data.draw(st.integers(1, len(flat(said[last])) + 1))))
    sent = play(said, [])[:-1]
    recorded = play(left, [], status="interrupted")
    near = len(recorded) + data.draw(st.integers(-8, 4))  # of the last text and the events that close it
    after = min(max(near, -1), len(sent) - 1)
    got = play(left, [], after, status="interrupted")
    if sent[: after + 1] == recorded[: after + 1]:
        assert got == recorded[after + 1 :] or is_only_the_end(got, after)
    else:
        assert is_only_the_end(got, after)


def beginning(part: Part, length: int) -> Part:
    if isinstance(part, ToolCall):
        return replace(part, arguments=part.arguments[:length])
    return replace(part, text=flat(part)[:length])


def is_only_the_end(got: list[dict[str, Any]], after: int) -> bool:
    return [(event["type"], event["sequence_number"]) for event in got] == [("response.failed", after + 1)]


def test_a_reader_of_the_last_text_before_a_crash_gets_only_the_end() -> None:
    left = (Text("one tw"),)
    deltas = [event for event in play(left, [], status="interrupted") if "delta" in event]
    assert deltas[-1]["delta"] == "tw", "it was sent as two or twice, perhaps"
    number = deltas[-1]["sequence_number"]
    assert is_only_the_end(play(left, [], number, status="interrupted"), number)
    assert len(play(left, [], number - 1, status="interrupted")) > 1


def test_a_reader_that_has_the_end_gets_nothing_more() -> None:
    whole = play((Text("one two"),), [])
    assert play((Text("one two"),), [], len(whole) - 1) == []
