"""The search for erased texts: every way to write them, at any place in a file, whole or cut in two."""

import io
import json
import re
import unicodedata
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.audit import text_search
from chatbot.audit.text_search import Pattern, patterns_of, search

TEXT = 'Jürgen said: "바다\\산 \U0001f44b"\n\tand left'


def found_in(content: bytes, *texts: str) -> list[tuple[int, int, bool]]:
    """Check, offset and whether it is a piece only."""
    finds = search(io.BytesIO(content).read, patterns_of(texts))
    return [(pattern.check, offset, pattern.is_piece) for offset, pattern in finds]


ESCAPED = json.dumps(TEXT)[1:-1]
WAYS = {
    "as it is": TEXT,
    "as msgspec writes it": msgspec.json.encode(TEXT)[1:-1].decode(),
    "escaped": ESCAPED,
    "escaped in capitals": re.sub(r"(?<=\\u)[0-9a-f]{4}", lambda found: found[0].upper(), ESCAPED),
    "decomposed": unicodedata.normalize("NFD", TEXT),
}


@pytest.mark.parametrize("written", WAYS.values(), ids=WAYS)
def test_a_text_is_found_however_it_was_written(written: str) -> None:
    assert len(set(WAYS.values())) == len(WAYS)
    assert (1, 7, False) in found_in(b"before " + written.encode() + b" after", TEXT)


@given(st.integers(0, 200), st.integers(1, 40), st.sampled_from([1, 7, 16, 64, 1 << 20]))
def test_every_place_is_found_once_wherever_the_reads_are_cut(before: int, size: int, chunk: int) -> None:
    text = "".join(chr(97 + n % 26) for n in range(size))
    content = b"." * before + text.encode() + b"-" * 50 + text.encode() + b"." * 30
    original, text_search.CHUNK_BYTES = text_search.CHUNK_BYTES, chunk
    try:
        whole = [offset for _, offset, is_piece in found_in(content, text) if not is_piece]
    finally:
        text_search.CHUNK_BYTES = original
    assert whole == [before, before + size + 50] or size == 1


@given(st.integers(32, 9000), st.data())
def test_a_text_cut_in_two_anywhere_is_found_by_a_piece(size: int, data: st.DataObject) -> None:
    """As SQLite cuts it: what does not fit a page goes on in another, behind four bytes that name the next."""
    random = Random(size)
    text = "".join(random.choice("abcdefghijklmnop ") for _ in range(size))
    cut = data.draw(st.integers(1, size - 1))
    content = text[:cut].encode() + b"\0\0\0\7" + b"OTHER PAGE" + text[cut:].encode()
    assert any(is_piece for _, _, is_piece in found_in(content, text))


def test_a_short_text_is_not_looked_for_in_pieces() -> None:
    assert not any(pattern.is_piece for pattern in patterns_of(["fifteen letters"]))
    assert found_in(b"fifteen apples and some letters", "fifteen letters") == []


def test_texts_are_told_apart_by_their_number() -> None:
    assert found_in(b"one two", "two", "one") == [(1, 4, False), (2, 0, False)]


def test_pieces_of_a_whole_match_are_not_told() -> None:
    text = "a text that is long enough to be looked for in pieces, too"
    assert found_in(b"--" + text.encode() + b"--", text) == [(1, 2, False)]


def test_a_pattern_is_bytes_to_look_for() -> None:
    assert Pattern(1, b"x") in patterns_of(["x"])
