"""How much of a branch one answer shows, and in which pieces its texts are read. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from projections.folds.message import MessageRow

T = TypeVar("T")

UNMEASURED_MAX = 10  # messages that are read without asking for their sizes first: the newest few, as nearly always
PIECE_BYTES = 65_536  # of texts that are read, and made into one piece of an answer, at once
FORM_BYTES = 500  # of a message in an answer beside its text, about


def newest_within_bytes(rows: Sequence[MessageRow], sizes: Mapping[int, int], bytes_max: int) -> Sequence[MessageRow]:
    """The last of `rows` that have up to `bytes_max` together, and the last one in any case."""
    taken = 0
    for kept, row in enumerate(reversed(rows)):
        taken += FORM_BYTES + sizes.get(row.position, 0)
        if taken > bytes_max and kept:
            return rows[-kept:]
    return rows


def split_into_chunks(
    messages: Sequence[T], size_of: Callable[[T], int], bytes_max: int = PIECE_BYTES
) -> list[list[T]]:
    """`messages` in pieces of up to `bytes_max`, of one message at least; `size_of` is that of a message's text."""
    pieces: list[list[T]] = []
    room = 0
    for message in messages:
        size = FORM_BYTES + size_of(message)
        if size > room:
            pieces.append([])
            room = bytes_max
        pieces[-1].append(message)
        room -= size
    return pieces
