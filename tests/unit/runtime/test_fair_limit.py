"""Owners share a limit: who has less than its part is admitted, and who has more is told why not."""

import pytest

from chatbot.runtime.fair_limit import FairLimit


def fill(limit: FairLimit, owner: str) -> int:
    """Take one after the other until there is no more."""
    taken = 0
    while limit.excess(owner) is None:
        limit.add(owner)
        taken += 1
    return taken


def test_an_owner_alone_may_have_all_and_is_then_refused_as_full() -> None:
    limit = FairLimit(3)
    assert (fill(limit, "a"), limit.excess("a")) == (3, "full")


def test_others_get_their_parts_beyond_the_limit_within_its_bound() -> None:
    limit = FairLimit(12)
    assert [fill(limit, owner) for owner in ("a", "b", "c", "d")] == [12, 6, 4, 3]
    assert limit.total == limit.bound(4) == 25
    assert {limit.excess(owner) for owner in ("a", "b", "c", "d")} == {"over_share"}


def test_an_owner_with_nothing_is_admitted_however_many_there_are() -> None:
    limit = FairLimit(2)
    assert [fill(limit, str(number)) for number in range(6)] == [2, 1, 1, 1, 1, 1]
    assert limit.total == limit.bound(6) == 7


def test_a_large_size_counts_as_what_it_is() -> None:
    limit = FairLimit(100)
    limit.add("a", 90)
    assert limit.excess("a", 20) == "full"
    assert limit.excess("b", 70) is None
    limit.add("b", 70)
    assert [limit.excess(owner, 10) for owner in ("a", "b")] == ["over_share", "over_share"]
    limit.remove("a", 90)
    assert (limit.excess("b", 30), limit.owners) == (None, 1)


def test_an_owners_own_limit_counts_while_there_is_room() -> None:
    limit = FairLimit(10, owner_max=2)
    assert (fill(limit, "a"), limit.excess("a"), limit.excess("b")) == (2, "over_share", None)


@pytest.mark.parametrize("rounds", [1, 3])
def test_nothing_is_kept_of_an_owner_that_gave_all_back(rounds: int) -> None:
    limit = FairLimit(5)
    for number in range(rounds):
        limit.add(str(number), 2)
        limit.remove(str(number), 2)
    assert (limit.total, limit.owners, limit._held) == (0, 0, {})
