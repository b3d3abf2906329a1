"""Who has how many places in the queue of replies: each owner, and within its part each of its end users."""

from chatbot.runtime.fair_limit import Excess, FairLimit, Owner

Path = tuple[Owner, str | None]  # an owner and one of its end users; None: the owner itself


class QueuePlaces:
    """`queue_max` places, of which one owner gets at most `owner_max` (0: all), as in a FairLimit. An owner with its
    part gets further places for an end user with less than an equal part of that: a front end has one key for many.
    """

    def __init__(self, queue_max: int, owner_max: int = 0) -> None:
        self._queue_max = queue_max
        self._owner_max = owner_max or queue_max
        self._owners = FairLimit(queue_max, owner_max)
        self._users: dict[Owner, FairLimit] = {}  # no entry for an owner without places

    @property
    def total(self) -> int:
        return self._owners.total

    @property
    def owners(self) -> int:
        """Owners with places."""
        return self._owners.owners

    def bound(self, owners: int, users: int) -> int:
        """The largest total of so many owners with so many end users each."""
        return sum(FairLimit(self._queue_max // number).bound(users) for number in range(1, owners + 1))

    def excess(self, path: Path) -> Excess | None:
        """Why there is no further place for this end user; None: there is one."""
        owner, user = path
        if not self._queue_max:
            return "full"
        excess, users = self._owners.excess(owner), self._users.get(owner)
        if excess is None or users is None:
            return excess
        held = users.held(user)
        number = users.owners + (0 if held else 1)
        part = min(self._owner_max, self._queue_max // self._owners.owners)
        if number > 1 and held < part // number:
            return None
        return "over_share" if number > 1 and held else excess

    def add(self, path: Path) -> None:
        owner, user = path
        self._owners.add(owner)
        users = self._users.get(owner)
        if users is None:
            users = self._users[owner] = FairLimit(self._queue_max)
        users.add(user)

    def remove(self, path: Path) -> None:
        """Give a place of this end user back."""
        owner, user = path
        self._owners.remove(owner)
        users = self._users[owner]
        users.remove(user)
        if not users.total:
            del self._users[owner]
