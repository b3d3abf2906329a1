"""Characters that a model server splits over JSON documents, however it does, and what stays invalid."""

from typing import Any

import pytest

from chatbot.llm.http.lenient_json import TextJoiner, load, text_of, without_surrogates

TEXT = "a\U0001f642é안\U0001f468\u200d\U0001f469z"


def joined(*pieces: str) -> str:
    joiner = TextJoiner()
    return "".join([*map(joiner.join, pieces), joiner.end()])


def documents(units: list[bytes]) -> list[list[bytes]]:
    """`units` as strings of JSON, two of them, cut between any two units; and each unit as a string of its own."""
    cuts = [[b"".join(units[:at]), b"".join(units[at:])] for at in range(len(units) + 1)]
    return [[b'"%b"' % piece for piece in cut] for cut in [*cuts, units]]


UNITS = {
    "bytes of UTF-8": [bytes([each]) for each in TEXT.encode()],
    "escapes of UTF-16": [b"\\u%02x%02x" % pair for pair in zip(*[iter(TEXT.encode("utf-16-be"))] * 2, strict=True)],
}


@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)
def test_a_character_may_be_cut_anywhere(units: list[bytes]) -> None:
    for cut in documents(units):
        assert joined(*map(load, cut)) == TEXT


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([b'"\\udcaf there"'], "\ufffd there"),
        ([b'"\\ud83d"', b'"x"'], "\ufffdx"),
        ([b'"\\ud83d"'], "\ufffd"),
        ([b'"\\ud83d"', b'""', b'"\\ude42"'], "\U0001f642"),
        ([b'"\\ud83d\\ud83d"', b'"\\ude42"'], "\ufffd\U0001f642"),
        ([b'"\\ude42\\ud83d"', b'"\\udc80"'], "\ufffd\U0001f480"),
        ([b'"Hi \xff there"'], "Hi \ufffd there"),
        ([b'"\xec\x95"', b'"x"'], "\ufffdx"),
        ([b'"\xec\x95"'], "\ufffd"),
        ([b'"\xed\xa0\xbd"'], "\ufffd\ufffd\ufffd"),
        ([b'"\\u0000"', b'"\xeb\x85\x95"'], "\0녕"),
    ],
)
def test_what_stays_invalid_is_replaced_and_nothing_else(pieces: list[bytes], text: str) -> None:
    assert joined(*map(load, pieces)) == text


def test_no_joined_text_holds_a_surrogate() -> None:
    for first in ("\ud800", "\udbff", "\udc00", "\udc80", "\udcff", "\udfff", "é", ""):
        for second in ("\ud800", "\udc7f", "\udc80", "\udfff", "x"):
            assert joined(first, second, first).encode()


def test_a_joiner_has_a_rest_only_between_the_halves() -> None:
    joiner = TextJoiner()
    joiner.join("\ud83d")
    assert joiner.has_partial
    joiner.join("\ude42")
    assert not joiner.has_partial
    joiner.join(load(b'"\xec"'))
    assert joiner.has_partial


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a", "a"),
        (None, ""),
        ([], ""),
        ({}, ""),
        (["a", {"type": "text", "text": "b"}, {"text": "c"}, {"type": "output_text", "text": "d"}], "abcd"),
        ({"type": "text", "text": {"value": "a"}}, "a"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}], "a"),
        ([{"type": "text", "text": None}, {"type": "image_url", "image_url": "x"}, 7, None], ""),
        (7, None),
        (True, None),
    ],
)
def test_the_text_of_a_content_in_parts(content: Any, text: str | None) -> None:
    assert text_of(content) == text


def test_a_byte_order_mark_is_no_json() -> None:
    assert load(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_a_text_without_surrogates_is_left_as_it_is() -> None:
    assert without_surrogates(TEXT) == TEXT
    assert without_surrogates("a\ud83d\udcffb") == "a\ufffd\ufffdb"
