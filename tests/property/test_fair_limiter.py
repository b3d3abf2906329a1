"""The limiter of replies under any order of reserving, starting, cancelling and releasing: no slot is lost, owners
take turns, and the queue has its bound.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from math import ceil
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from chatbot.llm.concurrency_limiter import ConcurrencyLimiter, OwnerLimits, Slot

OWNERS = ("a", "b", "c", "d")
Path = tuple[str, str | None]

STEPS = ("ask", "ask", "ask", "reserve", "start", "cancel", "release", "release", "leave")
STEPS_MAX = 200


def random_steps(seed: int) -> Iterator[tuple[str, Path, int]]:
    """Phases with more requests than ends, and the other way round, of few owners and of all."""
    chance = Random(seed)
    while True:
        weights = [chance.random() for _ in STEPS]
        owners = chance.sample(OWNERS, chance.randint(1, len(OWNERS)))
        for _ in range(chance.randint(5, 40)):
            step = chance.choices(STEPS, weights)[0]
            yield step, (chance.choice(owners), chance.choice((None, "u", "v"))), chance.randrange(100)


@dataclass
class Reference:
    """What the limiter must agree with: plain lists of what runs and waits, and who was served since whom."""

    limiter: ConcurrencyLimiter
    concurrent_max: int
    owner_max: int
    running: list[tuple[Path, Slot]] = field(default_factory=list)
    waiting: list[tuple[Path, Slot]] = field(default_factory=list)
    reserved: list[tuple[Path, str]] = field(default_factory=list)
    passed: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def runs(self, owner: str) -> int:
        return sum(path[0] == owner for path, _ in self.running)

    @property
    def waiting_owners(self) -> set[str]:
        return {path[0] for path, _ in self.waiting}

    def reserve(self, path: Path, reply_id: str, queue_max: int) -> bool:
        places, (owner, user) = self.limiter._places, path
        held, users = places._owners.held(owner), places._users.get(owner)
        own = users.held(user) if users else 0
        owners = places.owners + (0 if held else 1)
        of_owner = (users.owners if users else 0) + (0 if own else 1)
        excess = self.limiter.reserve(reply_id, *path)
        if excess is None:
            self.reserved.append((path, reply_id))
        else:  # only one that has its part is refused, and it has part of others' only where there are others
            assert held >= max(1, queue_max // owners)
            assert own >= queue_max // owners // of_owner
            assert (excess == "over_share") == (owners > 1 or (of_owner > 1 and own > 0))
        return excess is None

    def start(self, path: Path, reply_id: str) -> None:
        may_run = len(self.running) < self.concurrent_max and self.runs(path[0]) < self.owner_max
        if path[0] not in self.waiting_owners:
            self.passed.pop(path[0], None)
        slot = self.limiter.acquire(*path, reply_id=reply_id)
        (self.running if may_run else self.waiting).append((path, slot))
        assert (self.limiter.running, self.limiter.waiting) == (len(self.running), len(self.waiting))

    def release(self, index: int) -> None:
        before = {id(slot) for _, slot in self.waiting if not granted(slot)}
        self.running.pop(index % len(self.running))[1].release()
        part = min(self.owner_max, ceil(self.concurrent_max / max(1, len(self.waiting_owners))))
        eligible = {owner for owner in self.waiting_owners if self.runs(owner) < part}
        served = [one for one in self.waiting if id(one[1]) in before and granted(one[1])]
        assert len(served) == (1 if eligible else 0)
        for path, slot in served:
            self.check_turn(path, slot, eligible)

    def leave(self, index: int) -> None:
        """A reply that waits is cancelled."""
        (owner, _), slot = self.waiting.pop(index % len(self.waiting))
        slot.release()
        if owner not in self.waiting_owners:
            self.passed.pop(owner, None)

    def check_turn(self, path: Path, slot: Slot, eligible: set[str]) -> None:
        owner = path[0]
        assert owner in eligible
        same = [one for one in self.waiting if one[0] == path]
        assert same[0][1] is slot  # first in, first out
        self.waiting.remove((path, slot))
        self.running.append((path, slot))
        self.passed.pop(owner, None)
        for other in self.waiting_owners - {owner}:
            if other in eligible:
                self.passed[other][owner] += 1
                assert self.passed[other][owner] <= 1, f"{owner} had two turns while {other} waited"
            else:
                self.passed.pop(other, None)


def granted(slot: Slot) -> bool:
    return slot._granted is None or slot._granted.done()


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 6), st.integers(0, 2))
@settings(max_examples=150, deadline=None)
def test_owners_take_turns_and_no_slot_is_lost(seed: int, concurrent_max: int, queue_max: int, owner_max: int) -> None:
    async def run() -> None:
        limiter = ConcurrencyLimiter(concurrent_max, queue_max, owner_limits=OwnerLimits(owner_max))
        model = Reference(limiter, concurrent_max, owner_max or concurrent_max)
        wanted = islice(random_steps(seed), STEPS_MAX)
        for number, (step, path, index) in enumerate(wanted):
            if step in ("reserve", "ask"):
                if model.reserve(path, str(number), queue_max) and step == "ask":
                    model.start(*model.reserved.pop())
            elif step == "start" and model.reserved:
                model.start(*model.reserved.pop(index % len(model.reserved)))
            elif step == "cancel" and model.reserved:
                limiter.cancel(model.reserved.pop(index % len(model.reserved))[1])
            elif step == "release" and model.running:
                model.release(index)
            elif step == "leave" and model.waiting:
                model.leave(index)
            assert limiter.waiting <= limiter._places.bound(len(OWNERS), 3) + concurrent_max
            assert all(model.runs(owner) <= model.owner_max for owner in OWNERS)
            if len(model.running) < concurrent_max:
                assert all(model.runs(owner) >= model.owner_max for owner in model.waiting_owners)
        for _, reply_id in model.reserved:
            limiter.cancel(reply_id)
        while model.running:
            model.release(0)
        assert (limiter.running, limiter.waiting, limiter._places.total) == (0, 0, 0)
        assert not limiter._reserved_slots
        assert not limiter._running_of
        assert not limiter._places._users
        assert not limiter._reserved
        assert not limiter._queue._children  # idle, it has no entry of any owner

    asyncio.run(run())
