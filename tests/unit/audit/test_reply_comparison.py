"""A recorded turn compared with the answer of today."""

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from chatbot.audit.model_calls import ModelCall
from chatbot.audit.reply_comparison import WORDS_MAX, AnswerCall, compare, render_comparison, similarity
from events.record import Metadata, RecordedEvent
from events.schema.parts import Text, ToolCall
from tests.support.log.event_builders import completed, started


def turn() -> ModelCall:
    recorded = RecordedEvent(3, "s", 3, "reply_started", 1, 0, Metadata(), None)
    return ModelCall(recorded, started("r", "m"), (), completed=completed("r"))


@pytest.mark.parametrize(
    ("before", "after", "alike"),
    [
        ("the same", "the same", 1.0),
        ("", "", 1.0),
        ("a b c d", "", 0.0),
        ("a b c d", "a b c d e f", 0.8),
        ("안녕 하세요", "안녕 하십니까", 0.5),
        ("one two", "three four", 0.0),
    ],
)
def test_similarity_is_the_share_of_words_in_the_same_order(before: str, after: str, alike: float) -> None:
    assert similarity(before, after) == pytest.approx(alike)
    assert similarity(after, before) == pytest.approx(alike)


def test_the_longest_texts_are_compared_in_bounded_time() -> None:
    words = [f"w{number}" for number in range(50 * WORDS_MAX)]
    assert similarity(" ".join(words), " ".join(words[1:])) > 0.99


def test_the_same_text_is_identical_whatever_else_differs() -> None:
    one = compare(turn(), replace(completed("r"), model="other", duration_us=5))
    assert (one.identical, one.similarity, one.diff) == (True, 1.0, ())
    assert "the same text" in render_comparison(one)
    assert "other" in render_comparison(one)


def test_calls_of_tools_are_compared_by_name_and_arguments() -> None:
    first = ToolCall("call_1", "weather", '{"city": "Seoul", "unit": "C"}')
    recorded = replace(completed("r"), parts=(Text(completed("r").content), first))
    asked = ModelCall(turn().recorded, turn().started, (), completed=recorded)
    again = replace(recorded, parts=(*recorded.parts[:1], ToolCall("call_9", "weather", '{"unit":"C","city":"Seoul"}')))
    same = compare(asked, again)
    assert same.identical
    assert same.recorded.calls == [AnswerCall("weather", first.arguments)]
    other = compare(asked, replace(recorded, parts=(*recorded.parts[:1], ToolCall("call_1", "weather", "{"))))
    assert not other.identical
    assert other.diff[-1] == "+[call weather {]"
    assert compare(turn(), completed("r")).recorded.calls is UNSET


def test_a_turn_that_could_not_be_asked_says_why() -> None:
    one = compare(turn(), error="no \x1b[2J server")
    assert (one.identical, one.now) == (False, None)
    assert render_comparison(one) == "reply r of session s: FAILED, no \\x1b[2J server"


def test_a_turn_that_did_not_complete_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="did not complete"):
        compare(ModelCall(turn().recorded, turn().started, ()))
