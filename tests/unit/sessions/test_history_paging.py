"""How much of a branch one answer shows, and in which pieces."""

from chatbot.sessions.history_chunks import FORM_BYTES, newest_within_bytes, split_into_chunks
from projections.folds.message import COMPLETE, MessageRow


def rows(count: int) -> list[MessageRow]:
    """Messages m1, m2 ... whose texts are at positions 1, 2 ..."""
    return [
        MessageRow(n, f"m{n}", f"m{n - 1}" if n > 1 else None, n, "user", COMPLETE, n, n, 0, None, None, None)
        for n in range(1, count + 1)
    ]


def test_the_newest_that_fit_are_kept_and_the_last_always() -> None:
    four = rows(4)
    sizes = dict.fromkeys(range(1, 5), 1_000 - FORM_BYTES)
    for bytes_max, kept in ((10**9, 4), (4_000, 4), (3_999, 3), (2_000, 2), (1_999, 1), (1, 1)):
        assert list(newest_within_bytes(four, sizes, bytes_max)) == four[4 - kept :]
    assert list(newest_within_bytes([], {}, 1)) == []


def test_many_messages_without_text_have_a_size_too() -> None:
    assert len(newest_within_bytes(rows(100), {}, 10 * FORM_BYTES)) == 10


def test_pieces_are_everything_in_order_each_within_its_bound_or_one_message() -> None:
    ten = rows(10)
    sizes = {one.position: 100 * one.position for one in ten} | {3: 50_000}
    pieces = split_into_chunks(ten, lambda one: sizes[one.position], 3_000)
    assert [one for piece in pieces for one in piece] == ten
    for piece in pieces:
        assert len(piece) == 1 or sum(FORM_BYTES + sizes[one.position] for one in piece) <= 3_000
    assert [ten[2]] in pieces
    assert split_into_chunks([], lambda _: 0, 3_000) == []
