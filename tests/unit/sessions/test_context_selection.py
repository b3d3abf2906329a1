"""Which messages the model is shown."""

from hypothesis import given
from hypothesis import strategies as st

from chatbot.llm.provider import ChatMessage
from chatbot.sessions.domain.context import (
    CONTEXT_LOOK_BACK,
    ContextLimits,
    ContextMessage,
    Unanswered,
    select_context,
)
from chatbot.sessions.domain.model_request import join_consecutive


def chain(*contents: str) -> dict[str, ContextMessage]:
    """A conversation of user and assistant in turn, with ids 0, 1, 2, ..."""
    return {
        str(n): ContextMessage(str(n), str(n - 1) if n else None, "assistant" if n % 2 else "user", content)
        for n, content in enumerate(contents)
    }


def select(
    recent: dict[str, ContextMessage], leaf: str | None, limit: int, unanswered: Unanswered
) -> tuple[ContextMessage, ...] | None:
    context = select_context(recent, leaf, ContextLimits(limit, unanswered))
    return None if context is None else context.messages


def test_a_gap_is_reported_rather_than_bridged() -> None:
    recent = chain("a", "b", "c")
    del recent["1"]
    assert select(recent, "2", 10, "omit") is None


def test_a_gap_beyond_the_limit_does_not_matter() -> None:
    recent = chain("a", "b", "c")
    del recent["0"]
    context = select(recent, "2", 2, "omit")
    assert context is not None
    assert [said.message_id for said in context] == ["2"]


turns = st.lists(st.tuples(st.just("question"), st.sampled_from(["answer", ""])), max_size=15)


@given(turns.map(lambda turns: [text for turn in turns for text in turn]), st.booleans(), st.integers(1, 12))
def test_joined_the_context_is_the_newest_part_in_order_and_starts_with_a_question(
    contents: list[str], asks: bool, limit: int
) -> None:
    contents = [*contents, "question"] if asks else contents
    leaf = str(len(contents) - 1) if contents else None
    context = select(chain(*contents), leaf, limit, "join")
    assert context is not None
    ids = [int(said.message_id) for said in context]
    spoken = [n for n, content in enumerate(contents) if content]
    newest = spoken[-limit:]
    assert ids == newest[next((i for i, n in enumerate(newest) if n % 2 == 0), len(newest)) :]
    roles = [message.role for message in join_consecutive(ChatMessage(said.role, said.content) for said in context)]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"] * (len(roles) % 2)


@given(turns.map(lambda turns: [text for turn in turns for text in turn]), st.booleans(), st.integers(1, 12))
def test_what_got_no_reply_is_left_out_but_for_the_newest_question(contents: list[str], asks: bool, limit: int) -> None:
    contents = [*contents, "question"] if asks else contents
    leaf = str(len(contents) - 1) if contents else None
    context = select(chain(*contents), leaf, limit, "omit")
    assert context is not None
    ids = [int(said.message_id) for said in context]
    assert ids == sorted(ids)
    assert len(ids) <= limit
    assert [said.role for said in context] == ["user", "assistant"] * (len(ids) // 2) + ["user"] * (len(ids) % 2)
    questions = list(range(0, len(contents), 2))
    if questions and (asks or not contents[-1]):
        assert ids[-1] == questions[-1]
    answered = [n for n in range(1, len(contents), 2) if contents[n]]
    within = [n for n in answered if n > len(contents) - CONTEXT_LOOK_BACK * limit]
    assert [n for n in ids if n % 2] == within[len(within) - sum(n % 2 for n in ids) :]


def test_joined_messages_of_one_role_have_a_blank_line_between_them() -> None:
    said = [ChatMessage(role, text) for role, text in (("system", "s"), ("user", "a"), ("user", "b\n"), ("user", "c"))]
    answered = [*said, ChatMessage("assistant", "d"), ChatMessage("user", "e")]
    assert [(one.role, one.content) for one in join_consecutive(answered)] == [
        ("system", "s"), ("user", "a\n\nb\n\n\nc"), ("assistant", "d"), ("user", "e"),
    ]  # fmt: skip
    assert join_consecutive(()) == ()
