"""Reasoning that a server leaves in the text, between tags."""

from itertools import groupby, pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.llm.providers.think_tags import HELD_MAX_CHARS, ThinkTagSplitter

Mode = Literal["tagged", "opened"]


def split(mode: Mode, *pieces: str) -> list[tuple[str, str]]:
    splitter = ThinkTagSplitter(mode)
    found = [one for piece in pieces for one in splitter.split(piece)]
    found += splitter.end()
    assert all(text for _, text in found)
    return [(kind, "".join(text for _, text in group)) for kind, group in groupby(found, lambda one: one[0])]


@pytest.mark.parametrize(
    ("mode", "text", "parts"),
    [
        ("tagged", "<think>hm</think>\n\nHello", [("reasoning", "hm"), ("text", "Hello")]),
        ("tagged", "\n <think>\nhm\n</think>Hello", [("reasoning", "hm\n"), ("text", "Hello")]),
        ("tagged", "<think>\n\n</think>\n\nHello", [("text", "Hello")]),
        ("tagged", "<think>hm</think>\n\n\n\nHello", [("reasoning", "hm"), ("text", "\n\nHello")]),
        ("tagged", "Hello <think>no</think>", [("text", "Hello <think>no</think>")]),
        ("tagged", "<think>a</think>b<think>c</think>", [("reasoning", "a"), ("text", "b<think>c</think>")]),
        ("tagged", "<thin", [("text", "<thin")]),
        ("tagged", "<thinly>", [("text", "<thinly>")]),
        ("tagged", "  Hello", [("text", "  Hello")]),
        ("tagged", "<think>a </thi", [("reasoning", "a </thi")]),
        ("tagged", "<think>a </b> < </think>c", [("reasoning", "a </b> < "), ("text", "c")]),
        ("tagged", "", []),
        ("opened", "hm</think>\n\nHello", [("reasoning", "hm"), ("text", "Hello")]),
        ("opened", "<think>hm</think>Hello", [("reasoning", "hm"), ("text", "Hello")]),
        ("opened", "only thoughts", [("reasoning", "only thoughts")]),
        ("opened", "<thi", [("reasoning", "<thi")]),
    ],
)
def test_tags_at_the_beginning_tell_reasoning_from_text(mode: Mode, text: str, parts: list[tuple[str, str]]) -> None:
    assert split(mode, text) == parts
    assert split(mode, *text) == parts, "one character at a time"


TEXTS = st.text(st.sampled_from("<>/think \na"), max_size=40)


@given(mode=st.sampled_from(("tagged", "opened")), text=TEXTS, cuts=st.lists(st.integers(0, 40), max_size=6))
def test_pieces_of_any_size_give_the_same_parts(mode: Mode, text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    assert split(mode, *pieces) == split(mode, text)


def test_only_what_may_be_a_tag_is_held_back() -> None:
    splitter = ThinkTagSplitter("tagged")
    assert list(splitter.split(" " * HELD_MAX_CHARS)) == []
    assert list(splitter.split(" ")) == [("text", " " * (HELD_MAX_CHARS + 1))]
    splitter = ThinkTagSplitter("tagged")
    assert list(splitter.split("<think>a </thin")) == [("reasoning", "a ")]
    assert list(splitter.split("g")) == [("reasoning", "</thing")]
    assert list(splitter.split("</think>b </th")) == [("text", "b </th")]


def test_text_after_reasoning_that_the_server_has_told_apart_is_text() -> None:
    splitter = ThinkTagSplitter("opened")
    splitter.stop()
    assert list(splitter.split("Hello")) == [("text", "Hello")]
