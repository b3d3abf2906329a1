"""Numbers with their nouns."""

import pytest

from chatbot.runtime.counted_noun import counted


@pytest.mark.parametrize(("number", "said"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1024, "1,024 files")])
def test_one_thing_has_a_singular(number: int, said: str) -> None:
    assert counted(number, "file") == said


def test_a_plural_may_be_any_words() -> None:
    assert [counted(number, "hold is", "holds are") for number in (1, 2)] == ["1 hold is", "2 holds are"]
