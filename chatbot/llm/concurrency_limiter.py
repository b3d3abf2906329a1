"""Limits concurrent replies (bulkhead) and shares their slots between owners: a reply gets a slot, or waits for its
owner's turn in a bounded queue, or its request is refused before anything is recorded.
"""

import asyncio
import time
from collections.abc import Callable

from msgspec import Struct

from chatbot.llm.queue_places import Path, QueuePlaces
from chatbot.runtime.fair_limit import Excess, Owner
from chatbot.runtime.fair_queue import FairQueue

NEWEST_WEIGHT = 0.1  # of the newest reply in the moving average: about the last twenty count


class OwnerLimits(Struct, frozen=True):
    """Replies of one owner that run, and that wait; 0: as many as of all owners."""

    concurrent_max: int = 0
    queue_max: int = 0


NO_OWNER_LIMITS = OwnerLimits()


class Reservation(Struct, frozen=True):
    """What is kept for a reply: a free slot, if `is_slot`, else a place in the queue."""

    path: Path
    is_slot: bool


class Slot:
    """A reply's slot: waiting, then running, then released. Made by ConcurrencyLimiter.acquire()."""

    __slots__ = ("_granted", "_limiter", "_released", "_started_s", "path")

    def __init__(self, limiter: "ConcurrencyLimiter", path: Path, granted: asyncio.Future[None] | None) -> None:
        self.path = path
        self._limiter = limiter
        self._started_s = limiter.now() if granted is None else None
        self._granted = granted  # None: there was a free slot
        self._released = False

    async def ready(self) -> None:
        """Wait until this reply may run. Cancellation releases the slot."""
        if self._granted is None:
            return
        try:
            # shielded: release() sees in the future whether the slot was granted; only the limiter may resolve it
            await asyncio.shield(self._granted)
        except asyncio.CancelledError:
            self.release()
            raise
        self._started_s = self._limiter.now()

    def release(self) -> None:
        """Pass the slot on to the next reply. May be called at any time and any number of times."""
        if self._released:
            return
        self._released = True
        if self._granted is None or self._granted.done():
            if self._started_s is not None:
                self._limiter._record_duration(self._limiter.now() - self._started_s)
            self._limiter._release(self)
        else:
            self._limiter._withdraw(self)

    def _grant(self) -> None:
        if self._granted is not None:
            self._granted.set_result(None)


class ConcurrencyLimiter:
    """`concurrent_max` replies run and `queue_max` wait, round robin by owner, then by end user of the owner.

    Owners are known by name; None is one, too: a service without keys has no other. While others wait, an owner that
    has its equal part of the slots gets no further one. A slot is free only if no reply waits, but for those of owners
    at their own limit. Acquiring and releasing take constant time, and a step for each waiting owner with its part.

    Refusals come before a turn is recorded, in `reserve`. From then on the turn has its place: `acquire` never refuses.
    So these may wait beyond `queue_max`: what QueuePlaces admits of other owners, and one reply of each session with
    queued messages.
    """

    def __init__(
        self,
        concurrent_max: int,
        queue_max: int,
        now: Callable[[], float] = time.monotonic,
        owner_limits: OwnerLimits = NO_OWNER_LIMITS,
    ) -> None:
        self.now = now  # seconds
        self.mean_s = 0.0  # that a reply takes, as an exponential moving average; 0 until the first has ended
        self._concurrent_max = concurrent_max
        self._owner_concurrent_max = owner_limits.concurrent_max or concurrent_max
        self._running = 0
        self._running_of: dict[Owner, int] = {}  # no entry for an owner without running replies
        self._queue: FairQueue[Slot] = FairQueue()
        self._places = QueuePlaces(queue_max, owner_limits.queue_max)  # of what waits, or is to wait once recorded
        self._reserved: dict[str, Reservation] = {}  # by reply
        self._reserved_slots: dict[Owner, int] = {}  # no entry for an owner without any

    @property
    def running(self) -> int:
        """Replies that run."""
        return self._running

    @property
    def waiting(self) -> int:
        """Replies in the queue."""
        return self._queue.total

    @property
    def owners_waiting(self) -> int:
        """Owners with replies in the queue."""
        return len(self._queue.keys)

    def expected_wait_s(self, owner: Owner = None) -> float:
        """Seconds that the next reply of `owner` would wait, estimated from recent ones."""
        if self._has_slot(owner):
            return 0.0
        own = self._queue.size(owner)
        before = own + sum(min(self._queue.size(one), own + 1) for one in self._queue.keys if one != owner)
        return self.mean_s * (before + 1) / self._concurrent_max

    def reserve(self, reply_id: str, owner: Owner = None, end_user: str | None = None) -> Excess | None:
        """A place for a reply whose request is about to be recorded, until `acquire` or `cancel`; or why there is none.

        May be called again for the same reply. Without other owners and end users the reason is "full".
        """
        if reply_id in self._reserved:
            return None
        path = (owner, end_user)
        if self._can_reserve_slot(owner):
            self._reserved_slots[owner] = self._reserved_slots.get(owner, 0) + 1
            self._reserved[reply_id] = Reservation(path, is_slot=True)
            return None
        excess = self._places.excess(path)
        if excess is None:
            self._places.add(path)
            self._reserved[reply_id] = Reservation(path, is_slot=False)
        return excess

    def cancel(self, reply_id: str) -> None:
        """Give the reply's reservation back, if it has one: nothing was recorded."""
        if reply_id not in self._reserved:
            return
        reservation = self._reserved.pop(reply_id)
        if not reservation.is_slot:
            self._places.remove(reservation.path)
            return
        owner = reservation.path[0]
        left = self._reserved_slots[owner] - 1
        if left:
            self._reserved_slots[owner] = left
        else:
            del self._reserved_slots[owner]

    def acquire(self, owner: Owner = None, end_user: str | None = None, *, reply_id: str = "") -> Slot:
        """The slot of a reply that is recorded; `reply_id` may have a reservation. Returns immediately."""
        self.cancel(reply_id)
        path = (owner, end_user)
        if self._has_slot(owner):
            self._count_running(owner)
            return Slot(self, path, None)
        if not self._queue.total:  # those that run something have had their turn: one that runs nothing comes first
            self._queue.begin_round(self._running_of)
        slot = Slot(self, path, asyncio.get_running_loop().create_future())
        self._places.add(path)
        self._queue.push(path, slot)
        return slot

    def _has_slot(self, owner: Owner) -> bool:
        """Whether the next reply of `owner` would run. Nothing waits then that could run."""
        return self._running < self._concurrent_max and self._running_of.get(owner, 0) < self._owner_concurrent_max

    def _can_reserve_slot(self, owner: Owner) -> bool:
        """Whether there is a slot for `owner` that no reply has or is to have."""
        of_owner = self._running_of.get(owner, 0) + self._reserved_slots.get(owner, 0)
        is_free = self._running + sum(self._reserved_slots.values()) < self._concurrent_max
        return is_free and of_owner < self._owner_concurrent_max

    def _count_running(self, owner: Owner) -> None:
        self._running += 1
        self._running_of[owner] = self._running_of.get(owner, 0) + 1

    def _record_duration(self, duration_s: float) -> None:
        """Update the average with a reply's duration."""
        self.mean_s += (duration_s - self.mean_s) * (NEWEST_WEIGHT if self.mean_s else 1.0)

    def _release(self, slot: Slot) -> None:
        """A running reply has ended: its slot goes to the next owner that has less than its part of the slots."""
        owner = slot.path[0]
        self._running -= 1
        left = self._running_of[owner] - 1
        if left:
            self._running_of[owner] = left
        else:
            del self._running_of[owner]
        if not self._queue.total:
            return
        # Rounded up, so that not all that wait can have their part while a slot is free.
        part = -(-self._concurrent_max // len(self._queue.keys))
        owner_max = min(part, self._owner_concurrent_max)
        for one in self._queue.keys:
            if self._running_of.get(one, 0) < owner_max:
                following = self._queue.pop(one)
                self._places.remove(following.path)
                self._count_running(one)
                following._grant()
                return

    def _withdraw(self, slot: Slot) -> None:
        """A waiting reply is not wanted any more."""
        self._places.remove(slot.path)
        self._queue.remove(slot.path, slot)
