"""The hash chain: its encoding is part of the format, so it is checked against values computed by hand."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from events.integrity.hash_chain import GENESIS, SALT_BYTES, commit, link

NUMBERS = (1, 2, 3, 1_700_000_000_000_000)
TEXTS = ("stream", "message_posted", '{"actor":"a"}')


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def test_a_commitment_is_the_hash_of_salt_and_data() -> None:
    assert commit(b"s" * SALT_BYTES, b"data") == hashlib.sha256(b"s" * SALT_BYTES + b"data").digest()


def test_a_digest_is_the_hash_of_the_previous_digest_and_every_column() -> None:
    commitment = bytes(range(32))
    encoded = GENESIS + b"".join(map(number, NUMBERS))
    for text in TEXTS:
        encoded += number(len(text.encode())) + text.encode()
    assert link(GENESIS, NUMBERS, TEXTS, commitment) == hashlib.sha256(encoded + commitment).digest()


def test_the_encoding_of_version_one_never_changes() -> None:
    digest = link(GENESIS, NUMBERS, ("바다", "t", "{}"), commit(b"0" * 16, "글".encode()))
    assert digest.hex() == "cadb0a02fcb1a2d0455d047bcde71b21a073ab747b8672756764acffc92e8ae4"


integers = st.integers(0, 2**64 - 1)
rows = st.tuples(
    st.binary(min_size=32, max_size=32),
    st.tuples(integers, integers, integers, integers),
    st.tuples(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5)),
    st.binary(min_size=32, max_size=32),
)


@given(rows, rows)
def test_no_two_rows_share_a_digest(
    one: tuple[bytes, tuple[int, int, int, int], tuple[str, str, str], bytes],
    other: tuple[bytes, tuple[int, int, int, int], tuple[str, str, str], bytes],
) -> None:
    assert (link(*one) == link(*other)) is (one == other)


def test_moving_a_letter_between_texts_changes_the_digest() -> None:
    commitment = bytes(32)
    assert link(GENESIS, NUMBERS, ("ab", "c", ""), commitment) != link(GENESIS, NUMBERS, ("a", "bc", ""), commitment)
