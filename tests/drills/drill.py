"""One drill: load and faults for a while, then all is healed and settles, and what is left is written down."""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from tests.drills.drill_record import DrillRecord
from tests.drills.environment.drill_cluster import Cluster, Shape, cluster
from tests.drills.fault_injection import FaultInjector, FaultPlan
from tests.drills.load.drill_clients import DrillClient, SessionPool
from tests.drills.load.drill_readers import DrillReader
from tests.drills.load.key_clients import KeyClient
from tests.drills.quiescence import collect_node_views, post_last_messages, wait_until_quiet

CLIENTS = 6
ADMINISTRATORS = 2
READERS = 6
FINISH_TIMEOUT_S = 150.0  # of what clients are at when the load ends: six attempts of a request
SHAPES = {
    "nodes": Shape(nodes=3, share=8),
    "nodes of workers": Shape(nodes=3, workers=2, share=5),
    "one process": Shape(postgres=False, share=2),
    "workers": Shape(workers=3, postgres=False, share=5),
}
WARM_UP_S = 1.5  # before the first fault


class DrillPlan(Struct, frozen=True):
    """What a drill is to be."""

    seed: int
    seconds: float
    shape: Shape
    faults: FaultPlan = FaultPlan()


class DrillResult(Struct):
    """What a drill was: all it wrote down, and how often each fault came."""

    record: DrillRecord
    injected: dict[str, int]
    no_network_reason: str | None
    connections: int


async def drill(plan: DrillPlan, folder: Path, say: Callable[[str], None]) -> DrillResult:
    """Run it in `folder`. Raises AssertionError where not even a verdict is possible: a part does not come back."""
    async with cluster(folder, plan.shape) as parts:
        record = DrillRecord([], [], [], [])
        try:
            return await _run(plan, parts, record, say)
        finally:
            record.save(folder)


async def _run(plan: DrillPlan, parts: Cluster, record: DrillRecord, say: Callable[[str], None]) -> DrillResult:
    rng = random.Random(plan.seed)
    pool, targets = SessionPool(), parts.targets
    clients = [DrillClient(f"client {n}", targets, pool, rng.randrange(2**32)) for n in range(CLIENTS)]
    readers = [DrillReader(f"reader {n}", targets, pool, rng.randrange(2**32)) for n in range(READERS)]
    administrators = [KeyClient(f"admin {n}", targets, rng.randrange(2**32)) for n in range(ADMINISTRATORS)]
    injector = FaultInjector(parts, plan.faults, rng.randrange(2**32), say)
    stop = asyncio.Event()
    following = [asyncio.create_task(reader.run()) for reader in readers]
    everybody: list[DrillClient | KeyClient] = [*clients, *administrators]
    working = [asyncio.create_task(client.run(stop)) for client in everybody]
    try:
        await asyncio.sleep(WARM_UP_S)
        await _run_with_faults(injector, plan.seconds, stop, [*following, *working])
        await injector.heal()
        say("healed; what is left is to settle")
        _, hung = await asyncio.wait(working, timeout=FINISH_TIMEOUT_S)
        if hung:
            record.complaints.append(f"{len(hung)} clients were left without an answer")
        healed_s = time.monotonic()
        await wait_until_quiet(parts.nodes[0], record)
        say(f"quiet {time.monotonic() - healed_s:.1f} s after the last answer")
        await post_last_messages(targets, readers, record)
        await wait_until_quiet(parts.nodes[0], record, is_last=True)
        say("all is at rest")
    finally:
        await _cancel([*following, *working])
        record.complaints += injector.complaints
        record.faults += injector.spans
        record.operations += [one for client in everybody for one in client.operations]
        record.operations += [one for reader in readers for one in reader.operations]
        record.heard += [one for reader in readers for one in reader.heard]
    secrets = {name: secret for one in administrators for name, secret in one.secrets.items()}
    await collect_node_views(parts, record, secrets)
    return DrillResult(
        record, dict(injector.injected), parts.no_network_reason, sum(reader.connections for reader in readers)
    )


async def _run_with_faults(
    injector: FaultInjector, seconds: float, stop: asyncio.Event, tasks: "list[asyncio.Task[None]]"
) -> None:
    """The faults, for so long. A client that fails by itself is a fault of the drill: it is raised at once."""
    faults = asyncio.create_task(injector.run(stop))
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
