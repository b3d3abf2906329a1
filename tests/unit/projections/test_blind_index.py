"""Labels stand for metadata without holding it."""

import pytest

from projections.folds.blind_index import compute_label, compute_labels, metadata_matches, scalar_text

KEY, OTHER = b"a" * 32, b"b" * 32


@pytest.mark.parametrize(
    ("value", "text"),
    [("sea", "sea"), (1, "1"), (1.5, "1.5"), (True, "true"), (None, "null"), ("바다", "바다"), ([1], None), ({}, None)],
)
def test_a_value_is_compared_as_a_query_writes_it(value: object, text: str | None) -> None:
    assert scalar_text(value) == text


def test_a_label_fits_a_signed_64_bit_column_and_depends_on_key_name_and_text() -> None:
    made = {
        compute_label(KEY, "a", "b"),
        compute_label(OTHER, "a", "b"),
        compute_label(KEY, "b", "a"),
        compute_label(KEY, "ab", ""),
    }
    assert len(made) == 4
    assert all(-(2**63) <= label < 2**63 for label in made)


def test_lists_and_objects_have_no_label() -> None:
    assert compute_labels(KEY, {"a": "1", "b": [1], "c": {"d": 1}}) == (compute_label(KEY, "a", "1"),)


def test_two_entries_that_share_a_label_are_told_apart_by_the_metadata() -> None:
    assert metadata_matches({"user": 7, "more": "x"}, {"user": "7"})
    assert not metadata_matches({"user": 8}, {"user": "7"})
    assert not metadata_matches({}, {"user": "null"})
    assert not metadata_matches({"user": [7]}, {"user": "7"})


@pytest.mark.parametrize(
    ("one", "other"),
    [("\u00e9", "e\u0301"), ("\ubbfc\uc544", "\u1106\u1175\u11ab\u110b\u1161"), ("\u212b", "A\u030a")],
)
def test_the_two_forms_of_a_letter_are_one_in_names_and_values(one: str, other: str) -> None:
    for wanted, had in ((one, other), (other, one)):
        assert compute_label(KEY, "user", wanted) == compute_label(KEY, "user", had)
        assert compute_label(KEY, wanted, "x") == compute_label(KEY, had, "x")
        assert metadata_matches({"user": had, had: 1}, {"user": wanted, wanted: "1"})
    assert not metadata_matches({"user": "e"}, {"user": "\u00e9"})


def test_of_two_names_that_are_one_either_value_matches() -> None:
    metadata = {"\u00e9": "a", "e\u0301": "b"}
    assert metadata_matches(metadata, {"\u00e9": "a"})
    assert metadata_matches(metadata, {"\u00e9": "b"})
    assert not metadata_matches(metadata, {"\u00e9": "c"})
