"""Which messages the model is shown."""

from hypothesis import given
from hypothesis import strategies as st

from chatbot.sessions.context import context_of
from chatbot.sessions.state import Remembered


def chain(*contents: str) -> dict[str, Remembered]:
    """A conversation of user and assistant in turn, with ids 0, 1, 2, ..."""
    return {
        str(n): Remembered(str(n), str(n - 1) if n else None, "assistant" if n % 2 else "user", content)
        for n, content in enumerate(contents)
    }


def test_a_gap_is_reported_rather_than_bridged() -> None:
    recent = chain("a", "b", "c")
    del recent["1"]
    assert context_of(recent, "2", 10) is None


def test_a_gap_beyond_the_limit_does_not_matter() -> None:
    recent = chain("a", "b", "c")
    del recent["0"]
    context = context_of(recent, "2", 2)
    assert context is not None
    assert [said.message_id for said in context] == ["2"]


turns = st.lists(st.tuples(st.just("question"), st.sampled_from(["answer", ""])), max_size=15)


@given(turns.map(lambda turns: [text for turn in turns for text in turn]), st.booleans(), st.integers(1, 12))
def test_the_context_is_the_newest_part_in_order_and_starts_with_a_question(
    contents: list[str], asks: bool, limit: int
) -> None:
    contents = [*contents, "question"] if asks else contents
    recent = chain(*contents)
    leaf = str(len(contents) - 1) if contents else None
    context = context_of(recent, leaf, limit)
    assert context is not None
    ids = [int(said.message_id) for said in context]
    assert ids == sorted(ids)
    assert len(ids) <= limit
    assert all(said.content for said in context)
    assert not context or context[0].role == "user"
    spoken = [n for n, content in enumerate(contents) if content]
    newest = spoken[-limit:]
    expected = newest[next((i for i, n in enumerate(newest) if n % 2 == 0), len(newest)) :]
    assert ids == expected
