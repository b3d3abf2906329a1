"""Damaged input: valid bytes with a few changes, which gets further into a parser than random bytes, and any cuts."""

from collections.abc import Iterator, Sequence

from hypothesis import strategies as st

NASTY = (
    b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\ud83d", b"\r", b"\n", b"\r\n\r\n", b"\n\n", b'"', b"\\",
    b"{", b"}", b"[", b"[" * 2000, b'{"a":' * 2000, b",", b"-", b"1e999", b"9" * 400, b"NaN", b"null", b"true",
    b"data:", b"event: error\n", b"[DONE]", b"<think>", b"</think>", "안".encode()[:2], b"\xf0\x9f", b"%", b"=", b"..",
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, samples: Sequence[bytes], changes_max: int = 4) -> bytes:
    """One of `samples` with up to `changes_max` places replaced, removed, repeated or filled with nasty bytes."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, changes_max))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from((0, 0, 1, 2, 7, 40))))
        piece = draw(st.sampled_from(NASTY) | st.binary(max_size=6) | st.just(data[start:end] * 3))
        data = data[:start] + piece + data[end:]
    return data


def cut(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """`data` in pieces of these sizes, over and over; in one piece without sizes."""
    start, number = 0, 0
    while start < len(data):
        size = sizes[number % len(sizes)] if sizes else len(data)
        yield data[start : start + size]
        start, number = start + size, number + 1


SIZES = st.lists(st.integers(1, 30), max_size=5)
