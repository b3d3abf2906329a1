"""Bounds of a history response: how many messages fit, and the chunks in which their texts are read. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from projections.folds.message import MessageRow

T = TypeVar("T")

UNMEASURED_MAX = 10  # messages that are read without a query for their sizes first: most requests want no more
PIECE_BYTES = 65_536  # of texts that are read and encoded at once
FORM_BYTES = 500  # approximate size of a message in a response without its text


def newest_within_bytes(rows: Sequence[MessageRow], sizes: Mapping[int, int], bytes_max: int) -> Sequence[MessageRow]:
    """The longest tail of `rows` with at most `bytes_max` in total, and at least one row."""
    taken = 0
    for kept, row in enumerate(reversed(rows)):
        taken += FORM_BYTES + sizes.get(row.position, 0)
        if taken > bytes_max and kept:
            return rows[-kept:]
    return rows


def split_into_chunks(
    messages: Sequence[T], size_of: Callable[[T], int], bytes_max: int = PIECE_BYTES
) -> list[list[T]]:
    """`messages` in chunks of up to `bytes_max` and at least one message; `size_of`: bytes of a message's text."""
    chunks: list[list[T]] = []
    room = 0
    for message in messages:
        size = FORM_BYTES + size_of(message)
        if size > room:
            chunks.append([])
            room = bytes_max
        chunks[-1].append(message)
        room -= size
    return chunks
