"""A queue that takes from each owner in turn (round robin), and within an owner in order of arrival."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Generic, TypeVar

T = TypeVar("T")
Key = str | None
SERVED_MAX = 1_000  # in a round: endless new keys (end users) would fill the memory, and those served once would starve


class Rounds:
    """The order of those that wait. Each is served once in a round; a newcomer joins the round unless it was served in
    it, or SERVED_MAX were. So between two turns of one that waits, each other gets at most one.
    """

    __slots__ = ("_next", "_now", "_served")

    def __init__(self) -> None:
        self._now: OrderedDict[Key, None] = OrderedDict()  # not yet served in this round
        self._next: OrderedDict[Key, None] = OrderedDict()
        self._served: set[Key] = set()  # in this round

    def __len__(self) -> int:
        return len(self._now) + len(self._next)

    def __iter__(self) -> Iterator[Key]:
        return chain(self._now, self._next)

    def add(self, key: Key) -> None:
        """`key` begins to wait."""
        is_late = key in self._served or len(self._served) >= SERVED_MAX
        (self._next if is_late else self._now)[key] = None

    def remove(self, key: Key) -> None:
        """`key` does not wait any more."""
        self._now.pop(key, None)
        self._next.pop(key, None)

    def begin(self, served: Iterable[Key]) -> None:
        """Begin a round in which these had their turn. For when nobody waits."""
        self._served = set(served)

    def serve(self, key: Key) -> None:
        """Count a turn of `key`, and remove it."""
        if not self._now:
            self._now, self._next = self._next, self._now
            self._served.clear()
        self.remove(key)
        self._served.add(key)


class FairQueue(Generic[T]):
    """Items under paths of keys, such as (owner, end user): round robin between the keys of each level, first in first
    out below the last. All operations take constant time. Only what waits has entries; `total` is how many items wait.
    """

    __slots__ = ("_children", "_items", "_rounds", "total")

    def __init__(self) -> None:
        self.total = 0
        self._rounds = Rounds()
        self._children: dict[Key, FairQueue[T]] = {}
        self._items: OrderedDict[T, None] = OrderedDict()  # below the last key

    @property
    def keys(self) -> Rounds:
        """The keys of the first level with waiting items, the next one first."""
        return self._rounds

    def size(self, key: Key) -> int:
        """Items that wait under a key of the first level."""
        child = self._children.get(key)
        return child.total if child is not None else 0

    def push(self, path: Sequence[Key], item: T) -> None:
        """Add an item, which is hashable and not in the queue."""
        self.total += 1
        if not path:
            self._items[item] = None
            return
        key = path[0]
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = FairQueue()
            self._rounds.add(key)
        child.push(path[1:], item)

    def pop(self, key: Key) -> T:
        """Take the next item under a key of the first level, which has some: its turn in the round."""
        self.total -= 1
        child = self._children[key]
        item = child._pop_next()
        self._rounds.serve(key)
        if child.total:
            self._rounds.add(key)
        else:
            del self._children[key]
        return item

    def begin_round(self, served: Iterable[Key]) -> None:
        """Begin a round in which these keys of the first level had their turn, without waiting. For an empty queue."""
        self._rounds.begin(served)

    def remove(self, path: Sequence[Key], item: T) -> None:
        """Take out an item that was pushed with this path."""
        self.total -= 1
        if not path:
            del self._items[item]
            return
        key = path[0]
        child = self._children[key]
        child.remove(path[1:], item)
        if not child.total:
            del self._children[key]
            self._rounds.remove(key)

    def _pop_next(self) -> T:
        if self._children:
            return self.pop(next(iter(self._rounds)))
        self.total -= 1
        return self._items.popitem(last=False)[0]
