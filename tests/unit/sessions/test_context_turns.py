"""Contexts with tool calls, tokens and files: what is sent, and what is said to be left out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.sessions.domain.context import (
    Context,
    ContextLimits,
    ContextMessage,
    Unanswered,
    estimate_tokens,
    select_context,
)
from events.schema.parameters import ContextLeftOut
from events.schema.parts import Media, Part, Parts, Reasoning, Refusal, Text, ToolCall, ToolResult

CALL, RESULT = ToolCall("call", "weather", "{}"), ToolResult("call", (Text("21 °C"),))


class Conversation:
    """A branch that grows; `leaf` is its newest message."""

    def __init__(self) -> None:
        self.recent: dict[str, ContextMessage] = {}
        self.leaf: str | None = None

    def add(self, role: str, content: str = "", parts: Parts = (), calls: str | None = None) -> None:
        depth = len(self.recent) + 1
        message = ContextMessage(str(depth), self.leaf, role, content, parts, calls, depth)
        self.recent[message.message_id], self.leaf = message, message.message_id

    def turn(self, rounds: int = 0, *, is_answered: bool = True) -> None:
        """A message of a person, so many rounds of tool calls, and the answer."""
        self.add("user", "question")
        for _ in range(rounds):
            self.add("assistant", "", (CALL,), "answered")
            self.add("tool", "", (RESULT,))
        self.add("assistant", "answer" if is_answered else "")

    def select(self, limits: ContextLimits) -> Context:
        context = select_context(self.recent, self.leaf, limits)
        assert context is not None
        return context

    def ids(self, limits: ContextLimits) -> list[int]:
        return [int(message.message_id) for message in self.select(limits).messages]


turns = st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=6)


@given(turns, st.integers(0, 3), st.integers(1, 12), st.sampled_from(["omit", "join"]))
def test_no_call_is_cut_from_its_result(
    earlier: list[tuple[int, bool]], rounds: int, limit: int, unanswered: Unanswered
) -> None:
    spoken = Conversation()
    for done, is_answered in earlier:
        spoken.turn(done, is_answered=is_answered)
    spoken.turn(rounds)
    del spoken.recent[str(len(spoken.recent))]  # the reply that is asked for
    spoken.leaf = str(len(spoken.recent))
    context = spoken.select(ContextLimits(limit, unanswered))
    roles = [message.role for message in context.messages]
    assert roles[0] == "user"
    assert context.messages[-1].message_id == spoken.leaf
    for index, role in enumerate(roles):
        if role == "tool":
            assert roles[index - 1] == "assistant"
        if context.messages[index].calls is not None:
            assert roles[index + 1] == "tool"
    newest_turn = 2 * rounds + 1
    assert len(roles) <= max(limit, newest_turn)
    older = int(context.messages[0].message_id) - 1
    left_out = context.left_out
    assert left_out is None or (left_out.messages == older and left_out.limit in {"messages", "look_back"})


def test_the_newest_turn_is_sent_whole_and_older_ones_while_there_is_room() -> None:
    spoken = Conversation()
    spoken.turn(1)  # 1 to 4
    spoken.turn(0)  # 5, 6
    spoken.turn(2)  # 7 to 12
    assert spoken.ids(ContextLimits(3)) == [7, 8, 9, 10, 11, 12]
    assert spoken.ids(ContextLimits(8)) == [5, 6, 7, 8, 9, 10, 11, 12]
    assert spoken.ids(ContextLimits(11)) == [5, 6, 7, 8, 9, 10, 11, 12]
    assert spoken.ids(ContextLimits(12)) == list(range(1, 13))
    assert spoken.select(ContextLimits(12)).left_out is None
    assert spoken.select(ContextLimits(8)).left_out == ContextLeftOut(4, "messages")


def test_a_turn_longer_than_the_search_begins_with_a_reply() -> None:
    spoken = Conversation()
    spoken.turn(9)
    limits = ContextLimits(2, tool_rounds=3)
    context = spoken.select(limits)
    assert context.messages[0].role == "assistant"
    assert len(context.messages) <= limits.tools_look_back
    assert context.left_out is not None
    assert (context.left_out.limit, context.left_out.messages) == ("look_back", 20 - len(context.messages))


def test_a_gap_within_a_turn_is_reported() -> None:
    spoken = Conversation()
    spoken.turn(3)
    del spoken.recent["2"]
    assert select_context(spoken.recent, "7", ContextLimits(1)) is None


@given(turns, st.integers(0, 3), st.integers(1, 12), st.sampled_from(["omit", "join"]), st.integers(0, 40))
def test_what_is_loaded_for_the_message_before_is_enough_for_the_next_one(
    earlier: list[tuple[int, bool]], rounds: int, limit: int, unanswered: Unanswered, missing: int
) -> None:
    spoken = Conversation()
    for done, is_answered in [*earlier, (rounds, True)]:
        spoken.turn(done, is_answered=is_answered)
    limits = ContextLimits(limit, unanswered)
    parent = spoken.leaf
    for key in list(spoken.recent)[:missing]:
        del spoken.recent[key]
    is_enough = select_context(spoken.recent, parent, limits) is not None
    spoken.recent["next"] = ContextMessage("next", parent, "user", "and now?")
    assert not is_enough or select_context(spoken.recent, "next", limits) is not None


def test_what_a_plain_context_leaves_out_is_counted_from_the_root() -> None:
    spoken = Conversation()
    for _ in range(20):
        spoken.turn()
    assert spoken.select(ContextLimits(4)).left_out == ContextLeftOut(36, "messages")
    assert spoken.select(ContextLimits(40)).left_out is None
    for key in list(spoken.recent)[:30]:
        del spoken.recent[key]  # not loaded
    assert spoken.select(ContextLimits(4)).left_out == ContextLeftOut(36, "messages")


def test_empty_replies_in_a_row_end_the_search() -> None:
    spoken = Conversation()
    spoken.turn()
    for _ in range(5):
        spoken.turn(is_answered=False)
    left_out = spoken.select(ContextLimits(3, "omit")).left_out
    assert left_out is not None
    assert (left_out.limit, left_out.messages) == ("look_back", 10)


def test_older_turns_make_room_for_the_reply() -> None:
    spoken = Conversation()
    for _ in range(4):
        spoken.turn()  # 11 tokens a question, 10 an answer: 21 a turn
    limits = ContextLimits(100, size_tokens=100, reply_tokens=30, other_tokens=2)
    context = spoken.select(limits)  # 100 tokens without 30 for the reply and 5 to spare: three turns of 21, 2 others
    assert [int(message.message_id) for message in context.messages] == [3, 4, 5, 6, 7, 8]
    assert context.left_out == ContextLeftOut(2, "tokens", 100, 65)
    less = ContextLimits(100, size_tokens=100, reply_tokens=30, other_tokens=3)
    assert spoken.select(less).left_out == ContextLeftOut(4, "tokens", 100, 45)
    assert spoken.select(ContextLimits(100, size_tokens=1000)).left_out is None


def test_the_newest_turn_is_sent_even_if_it_is_too_much() -> None:
    spoken = Conversation()
    spoken.turn()
    spoken.add("user", "x" * 300)
    context = spoken.select(ContextLimits(10, size_tokens=50))
    assert [message.content for message in context.messages] == ["x" * 300]
    assert context.left_out == ContextLeftOut(2, "tokens", 50, 108)


def test_files_beyond_the_bytes_of_a_request_are_left_out_oldest_first() -> None:
    spoken = Conversation()
    images = [Media(str(n) * 64, "image/png", 4) for n in range(4)]
    spoken.add("user", "", (images[0], images[1]))
    spoken.add("assistant", "nice")
    spoken.add("user", "and?", (Text("and?"), images[2], images[3]))
    assert spoken.select(ContextLimits(10, media_bytes=16)).left_out is None
    assert spoken.select(ContextLimits(10, media_bytes=15)).left_out == ContextLeftOut(0, "media", media=1)
    assert spoken.select(ContextLimits(10, media_bytes=8)).left_out == ContextLeftOut(0, "media", media=2)
    left_out = spoken.select(ContextLimits(1, media_bytes=4)).left_out
    assert left_out == ContextLeftOut(2, "messages", media=1)


@pytest.mark.parametrize(
    ("parts", "is_sent"),
    [
        ((Reasoning("hm"),), False),
        ((CALL,), False),  # of a reply that was cut within it
        ((Refusal("no"),), True),
        ((Reasoning("hm"), Text("yes")), True),
    ],
)
def test_a_reply_of_which_nothing_is_sent_is_passed_over(parts: tuple[Part, ...], *, is_sent: bool) -> None:
    spoken = Conversation()
    spoken.add("user", "question")
    content = "".join(part.text for part in parts if isinstance(part, Text))
    spoken.add("assistant", content, parts)
    spoken.add("user", "again")
    assert spoken.ids(ContextLimits(10)) == ([1, 2, 3] if is_sent else [3])
    if isinstance(parts[0], Reasoning):
        assert spoken.ids(ContextLimits(10, send_reasoning=True)) == [1, 2, 3]


def test_an_estimate_counts_bytes_images_calls_and_results() -> None:
    limits = ContextLimits(10, image_tokens=100)

    def tokens(*parts: Part, calls: str | None = None) -> int:
        return estimate_tokens(ContextMessage("m", None, "user", "", parts, calls), limits)

    assert estimate_tokens(ContextMessage("m", None, "user", "abcd"), limits) == 8 + 2
    assert estimate_tokens(ContextMessage("m", None, "user", "안녕"), limits) == 8 + 2
    assert tokens(Text("abc"), Media("0" * 64, "image/png", 1)) == 8 + 1 + 100
    assert tokens(Reasoning("x" * 300), Text("abc")) == 8 + 1
    assert tokens(CALL, calls="open") == 8 + 3 + 1
    assert tokens(RESULT) == 8 + 8 + 2
