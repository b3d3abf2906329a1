"""A limit that owners share: while there is room anybody gets it, beyond that each owner only up to its equal part."""

from collections.abc import Mapping
from typing import Literal

Excess = Literal["over_share", "full"]
Owner = str | None  # the name of an API key; None: the service runs without keys


def find_excess(
    held: Mapping[Owner, int], total: int, owner: Owner, size: int, total_max: int, owner_max: int
) -> Excess | None:
    """As FairLimit.excess, of what the owners hold, and that in `total`."""
    own = held.get(owner, 0)
    if not own:
        return None
    if owner_max and own + size > owner_max:
        return "over_share"
    if total + size <= total_max or own + size <= total_max // len(held):
        return None
    return "over_share" if len(held) > 1 else "full"


class FairLimit:
    """Counts what each owner holds of at most `total_max`, of which one owner gets at most `owner_max` (0: all of it).

    An owner with nothing, or with less than `total_max` divided by the owners that hold something, is always admitted.
    So the total may exceed `total_max`: with n owners and a size of 1 it stays within `bound(n)`.
    """

    __slots__ = ("_held", "_owner_max", "_total_max", "total")

    def __init__(self, total_max: int, owner_max: int = 0) -> None:
        self.total = 0
        self._total_max = total_max
        self._owner_max = owner_max
        self._held: dict[Owner, int] = {}  # no entry for an owner that holds nothing

    @property
    def owners(self) -> int:
        """Owners that hold something."""
        return len(self._held)

    def held(self, owner: Owner) -> int:
        return self._held.get(owner, 0)

    def bound(self, owners: int) -> int:
        """The largest total of so many owners, each with sizes of 1: about total_max * (ln(owners) + 0.6)."""
        return sum(max(1, self._total_max // number) for number in range(1, owners + 1))

    def excess(self, owner: Owner, size: int = 1) -> Excess | None:
        """Why `owner` cannot have `size` more: it holds its share already, or there is no other; None: it can."""
        return find_excess(self._held, self.total, owner, size, self._total_max, self._owner_max)

    def add(self, owner: Owner, size: int = 1) -> None:
        self.total += size
        self._held[owner] = self._held.get(owner, 0) + size

    def remove(self, owner: Owner, size: int = 1) -> None:
        """Give back `size` of what `owner` holds."""
        self.total -= size
        left = self._held[owner] - size
        if left:
            self._held[owner] = left
        else:
            del self._held[owner]
