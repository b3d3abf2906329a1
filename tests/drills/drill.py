"""One drill: load and faults for a while, then all is healed and settles, and what is left is written down."""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from tests.drills.clients import Client, Pool
from tests.drills.cluster import Cluster, cluster
from tests.drills.faults import Script
from tests.drills.followers import Follower
from tests.drills.record import Record
from tests.drills.settling import collect, last_words, quiet

CLIENTS = 6
READERS = 6
FINISH_TIMEOUT_S = 150.0  # of what clients are at when the load ends: six attempts of a request
WARM_UP_S = 1.5  # before the first fault


class Plan(Struct, frozen=True):
    """What a drill is to be. `postgres`: over PostgreSQL, with several nodes; otherwise one over SQLite."""

    seed: int
    seconds: float
    nodes: int = 3
    postgres: bool = True
    only: str = ""  # words that the kind of a fault must have


class Drilled(Struct):
    """What a drill was: all it wrote down, and how often each fault came."""

    record: Record
    injected: dict[str, int]
    uncut: str | None
    connections: int


async def drill(plan: Plan, folder: Path, say: Callable[[str], None]) -> Drilled:
    """Run it in `folder`. Raises AssertionError where not even a verdict is possible: a part does not come back."""
    async with cluster(folder, plan.nodes, postgres=plan.postgres) as parts:
        record = Record([], [], [], [])
        try:
            return await _run(plan, parts, record, say)
        finally:
            record.save(folder)


async def _run(plan: Plan, parts: Cluster, record: Record, say: Callable[[str], None]) -> Drilled:
    rng = random.Random(plan.seed)
    pool, targets = Pool(), parts.targets
    clients = [Client(f"client {n}", targets, pool, rng.randrange(2**32)) for n in range(CLIENTS)]
    readers = [Follower(f"reader {n}", targets, pool, rng.randrange(2**32)) for n in range(READERS)]
    script = Script(parts, rng.randrange(2**32), say, plan.only)
    stop = asyncio.Event()
    following = [asyncio.create_task(reader.run()) for reader in readers]
    working = [asyncio.create_task(client.run(stop)) for client in clients]
    try:
        await asyncio.sleep(WARM_UP_S)
        await _watched(script, plan.seconds, stop, [*following, *working])
        await script.heal()
        say("healed; what is left is to settle")
        _, hung = await asyncio.wait(working, timeout=FINISH_TIMEOUT_S)
        if hung:
            record.complaints.append(f"{len(hung)} clients were left without an answer")
        healed_s = time.monotonic()
        await quiet(parts.nodes[0], record)
        say(f"quiet {time.monotonic() - healed_s:.1f} s after the last answer")
        await last_words(targets, readers, record)
    finally:
        await _cancel([*following, *working])
        record.complaints += script.complaints
        record.operations += [one for client in clients for one in client.operations]
        record.operations += [one for reader in readers for one in reader.operations]
        record.heard += [one for reader in readers for one in reader.heard]
    await collect(parts, record)
    return Drilled(record, dict(script.injected), parts.uncut, sum(reader.connections for reader in readers))


async def _watched(script: Script, seconds: float, stop: asyncio.Event, tasks: "list[asyncio.Task[None]]") -> None:
    """The faults, for so long. A client that fails by itself is a fault of the drill: it is raised at once."""
    faults = asyncio.create_task(script.run(stop))
    try:
        done, _ = await asyncio.wait([faults, *tasks], timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        stop.set()
        await faults


async def _cancel(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
