"""A page that is taken from a session's newest messages is the one that all of its messages give."""

from hypothesis import given, settings
from hypothesis import strategies as st

from projections.folds.message import MessageRow
from projections.postgres.message_window import SIBLINGS_MAX, Columns, page_in_window

TREES = st.lists(st.integers(0, 3), min_size=0, max_size=30)


def tree(steps: list[int]) -> list[MessageRow]:
    """Each message follows the one so many places before it; the first ones, none."""
    rows: list[MessageRow] = []
    for no, step in enumerate(steps, start=1):
        parent = rows[-step] if 0 < step <= len(rows) else None
        parent_id, depth = (parent.message_id, parent.depth + 1) if parent else (None, 1)
        rows.append(MessageRow(no, f"m{no}", parent_id, depth, "user", "complete", no, no, no, None, None, None))
    return rows


def expected_page(rows: list[MessageRow], leaf: str | None, limit: int) -> list[MessageRow]:
    """By walking the whole tree."""
    by_id, page = {row.message_id: row for row in rows}, list[MessageRow]()
    while leaf in by_id and len(page) < limit:
        row = by_id[leaf]
        siblings = tuple(one.message_id for one in rows if one.parent_id == row.parent_id)
        page.insert(0, MessageRow(*(*columns(row), siblings)))
        leaf = row.parent_id
    return page


def columns(row: MessageRow) -> Columns:
    return [getattr(row, name) for name in MessageRow.__struct_fields__[:-1]]


def page_of(rows: list[MessageRow], leaf: str | None, limit: int, rows_max: int) -> list[MessageRow] | None:
    window = [columns(row) for row in rows[::-1][:rows_max]]
    return page_in_window(window, leaf, limit=limit, is_whole=len(rows) < rows_max)


@settings(deadline=None)
@given(steps=TREES, leaf_no=st.integers(0, 31), limit=st.integers(1, 8), more=st.integers(0, 6))
def test_a_page_is_that_of_the_whole_tree_or_none(steps: list[int], leaf_no: int, limit: int, more: int) -> None:
    rows = tree(steps)
    leaf = f"m{leaf_no}" if leaf_no else None
    page = page_of(rows, leaf, limit, limit + more)
    assert page is None or page == expected_page(rows, leaf, limit)
    assert page_of(rows, leaf, limit, len(rows) + 1) == expected_page(rows, leaf, limit)


def test_the_newest_page_of_a_conversation_needs_no_other_messages() -> None:
    rows = tree([1] * 40)
    assert page_of(rows, "m40", 10, 11) == expected_page(rows, "m40", 10)


def test_a_page_whose_siblings_may_be_missing_is_not_given() -> None:
    rows = tree([1] * 40)
    assert page_of(rows, "m40", 10, 10) is None
    assert page_of(rows, "m12", 10, 14) is None
    assert page_of(tree([0, 0, 0]), "m3", 1, 2) is None, "there may be more roots"


def test_not_more_siblings_are_listed_than_the_bound() -> None:
    rows = tree([0] * (SIBLINGS_MAX + 1))
    (row,) = page_of(rows, "m1001", 1, SIBLINGS_MAX + 2) or []
    assert (len(row.siblings), row.siblings[0]) == (SIBLINGS_MAX, "m1")
