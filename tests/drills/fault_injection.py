"""What goes wrong in a drill: each fault is done, lasts a while, and is undone; a script says which, and when.

A node that has ended by itself is started again, as a service's supervisor would, and counted.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

from msgspec import Struct

from tests.drills.drill_record import NEVER_S, FaultSpan
from tests.drills.environment.database_pair import DatabasePair
from tests.drills.environment.drill_cluster import SERVERS, Cluster
from tests.drills.environment.drill_database import Database
from tests.drills.environment.drill_nodes import Node
from tests.drills.environment.drill_processes import signal_process, wait_until_gone
from tests.drills.environment.network_namespaces import HUB, ProgramFailed

DURATION_MIN_S, INTERVAL_MIN_S = 0.3, 0.2  # of a fault, and from the end of one to the next
MODEL, PRIMARY, STANDBY = "model", "primary", "standby"
DETECTION_S = 1.5  # from a primary that nobody reaches any more to the promotion of its standby
OVERLAP_PROBABILITY = 0.25  # how likely another fault comes before one is undone
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'chatbot' AND pid <> pg_backend_pid()"
)
Act = Callable[[], Awaitable[None]]


class StopFailed(Exception):
    """A part that was asked to end did not, or not well."""


class Fault(Struct):
    """`parts` are those that it takes hold of: no other fault does so meanwhile."""

    kind: str
    parts: frozenset[str]
    do: Act
    undo: Act


class FaultPlan(Struct, frozen=True):
    """Which faults, and how close together. `only` are words that the kind of each must have, `first` those of the
    kind that comes first.
    """

    only: str = ""
    first: str = ""
    duration_max_s: float = 7.0  # twice nodes.failure_timeout_s in a drill
    interval_max_s: float = 4.0


async def no_undo() -> None:
    """There is nothing to undo."""


def faults_of(cluster: Cluster) -> list[Fault]:
    """All that can happen to this cluster."""
    found = [fault for node in cluster.nodes for fault in _node_faults(cluster, node)]
    return [*found, *_database_faults(cluster), _model_fault(cluster)]


def _model_fault(cluster: Cluster) -> Fault:
    async def break_off() -> None:
        for then in ("cut", "reset", "error"):
            cluster.model.script(times=2, then=then)

    return Fault("break off replies of the model", frozenset({MODEL}), break_off, no_undo)


def _node_faults(cluster: Cluster, node: Node) -> list[Fault]:
    async def freeze() -> None:
        node.part.send(signal.SIGSTOP)

    async def thaw() -> None:
        node.part.send(signal.SIGCONT)

    async def stop() -> None:
        is_up = await node.is_up()
        try:
            code = await node.part.stop()
        except TimeoutError:
            await node.part.stop(signal.SIGABRT)  # it writes where it hangs
            raise StopFailed(f"{node.name} was asked to end and did not; it was at: {node.tail()}") from None
        if code != 0 and is_up:
            raise StopFailed(f"{node.name} was asked to end, and its exit code is {code}: {node.tail(600)}")

    one = frozenset({node.name})
    found = [
        Fault("kill -9 a node", one, node.part.kill, node.part.start),
        Fault("freeze a node", one, freeze, thaw),
        Fault("stop a node", one, stop, node.part.start),
    ]
    if node.workers > 1:
        roles = ("worker", "writer") if cluster.databases is None else ("worker",)
        found += [fault for role in roles for fault in _process_faults(node, role)]
        found += _master_faults(node)
    peers = [other.name for other in cluster.nodes if other is not node]
    places = {"its peers": peers, "the database": list(SERVERS), "the clients": [HUB], "everybody": cluster.others}
    return found + [
        _cut(cluster, node, f"cut a node from {whom}", others)
        for whom, others in (places.items() if cluster.network else ())
    ]


def _process_faults(node: Node, role: str) -> Iterator[Fault]:
    """Of one of its processes; of none where it has none of this role at the time."""
    parts = frozenset({node.name})
    frozen: list[int] = []

    async def kill() -> None:
        for pid in node.processes(role)[:1]:
            signal_process(pid, signal.SIGKILL)

    async def freeze() -> None:
        frozen[:] = node.processes(role)[:1]
        for pid in frozen:
            signal_process(pid, signal.SIGSTOP)

    async def thaw() -> None:
        for pid in set(frozen) & set(node.part.children()):  # its master may have replaced it
            signal_process(pid, signal.SIGCONT)

    yield Fault(f"kill -9 a {role}", parts, kill, no_undo)
    yield Fault(f"freeze a {role}", parts, freeze, thaw)


def _master_faults(node: Node) -> Iterator[Fault]:
    parts = frozenset({node.name})
    orphans: list[int] = []

    async def reload() -> None:
        if node.part.pid is not None and await node.is_up():  # before that it would end it
            signal_process(node.part.pid, signal.SIGHUP)

    async def kill() -> None:
        orphans[:] = node.part.children()
        await node.part.kill_alone()

    async def start() -> None:
        await wait_until_gone(orphans)
        await node.part.start()

    yield Fault("replace the processes of a node", parts, reload, no_undo)
    yield Fault("kill -9 a master", parts, kill, start)


def _cut(cluster: Cluster, node: Node, kind: str, others: list[str]) -> Fault:
    net = cluster.network
    assert net is not None

    async def cut() -> None:
        await net.cut(node.name, others)

    async def join() -> None:
        await net.join(node.name, others)

    return Fault(kind, frozenset({node.name}), cut, join)


def _database_faults(cluster: Cluster) -> list[Fault]:
    pair = cluster.databases
    if pair is None:
        return []

    async def terminate() -> None:
        with suppress(ProgramFailed):
            await pair.primary.ask(TERMINATE)

    one, other = frozenset({PRIMARY}), frozenset({STANDBY})
    return [
        Fault("end its connections", one, terminate, no_undo),
        Fault("end its connections", one, terminate, no_undo),
        *_server_faults("primary", one, lambda: pair.primary),
        *_server_faults("standby", other, lambda: pair.standby),
        *_promotions(cluster, pair),
    ]


def _server_faults(role: str, parts: frozenset[str], server: Callable[[], Database]) -> Iterator[Fault]:
    """Of the server that has the role then: what changes the roles holds both parts."""

    async def kill() -> None:
        await server().part.kill()

    async def freeze() -> None:
        server().part.send(signal.SIGSTOP)

    async def thaw() -> None:
        server().part.send(signal.SIGCONT)

    async def stop() -> None:
        await server().stop()

    async def start() -> None:
        await server().start()

    yield Fault(f"kill -9 the {role}", parts, kill, start)
    yield Fault(f"freeze the {role}", parts, freeze, thaw)
    yield Fault(f"restart the {role}", parts, stop, start)


def _promotions(cluster: Cluster, pair: DatabasePair) -> Iterator[Fault]:
    """The standby takes over; the former primary comes back as its standby, with a fresh copy."""
    net = cluster.network
    both = frozenset({PRIMARY, STANDBY})

    async def kill() -> None:
        await pair.catch_up()
        await pair.primary.part.kill()
        await pair.promote()

    async def stop() -> None:
        await pair.catch_up()
        await pair.primary.stop()
        await asyncio.sleep(DETECTION_S)
        await pair.promote()

    yield Fault("kill -9 the primary, promote the standby", both, kill, pair.add_standby)
    yield Fault("stop the primary, promote the standby", both, stop, pair.add_standby)
    if net is None:
        return

    async def cut() -> None:
        await pair.catch_up()
        await net.cut(pair.primary.name, cluster.others)
        await asyncio.sleep(DETECTION_S)
        await pair.promote()

    async def join() -> None:
        await pair.standby.part.kill()  # before anybody can reach it again: it still takes itself for the primary
        await net.join(pair.standby.name, cluster.others)
        await pair.add_standby()

    yield Fault("cut off the primary, promote the standby", both, cut, join)


class FaultInjector:
    """Injects faults until told to stop; then undoes what is left. `injected` counts them by kind."""

    def __init__(self, cluster: Cluster, plan: FaultPlan, seed: int, say: Callable[[str], None]) -> None:
        self.injected: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.spans: list[FaultSpan] = []
        self._cluster = cluster
        self._plan = plan
        self._faults = [fault for fault in faults_of(cluster) if plan.only in fault.kind]
        self._rng = random.Random(seed)
        self._say = say
        self._active: list[tuple[Fault, FaultSpan]] = []
        self._round = self._shuffled()
        if plan.first:
            first = next(fault for fault in self._round if plan.first in fault.kind)
            self._round.remove(first)
            self._round.insert(0, first)

    async def run(self, stop: asyncio.Event) -> None:
        """Raises AssertionError when a part does not come back."""
        try:
            while not stop.is_set():
                await _sleep_unless(stop, self._rng.uniform(INTERVAL_MIN_S, self._plan.interval_max_s))
                await self._restart_ended_nodes()
                if not stop.is_set():
                    fits = await self._inject()
                    await _sleep_unless(
                        stop, self._rng.uniform(DURATION_MIN_S, self._plan.duration_max_s) if fits else 0
                    )
                    if not fits or self._rng.random() > OVERLAP_PROBABILITY:
                        await self._undo()
        finally:
            await asyncio.shield(self._undo())

    async def heal(self) -> None:
        """Everything runs, and is ready. Raises AssertionError when it does not become so."""
        await self._undo()
        await self._restart_ended_nodes()
        for node in self._cluster.nodes:
            await node.ready()

    async def _undo(self) -> None:
        while self._active:
            fault, span = self._active.pop()
            self._say(f"undo  {fault.kind} {span.parts}")
            await fault.undo()
            span.to_s = time.time()
            self._say(f"done  {fault.kind} {span.parts}")

    async def _restart_ended_nodes(self) -> None:
        held = self._affected_parts()
        for node in self._cluster.nodes:
            if node.part.pid is None and node.name not in held:
                self.injected["(a node that had ended by itself)"] += 1
                self._say(f"{node.name} has ended by itself: {node.tail(300)}")
                await node.part.start()

    async def _inject(self) -> bool:
        """Each fault has its turn, in an order drawn anew each round. False: all are of parts that are held already."""
        held = self._affected_parts()
        if not self._round:
            self._round = self._shuffled()
        fault = next((one for one in self._round if not one.parts & held), None)
        if fault is None:
            return False
        self._round.remove(fault)
        span = FaultSpan(fault.kind, sorted(fault.parts), time.time(), NEVER_S)
        self.spans.append(span)
        self._say(f"do    {fault.kind} {span.parts}")
        self._active.append((fault, span))
        self.injected[fault.kind] += 1
        try:
            await fault.do()
        except StopFailed as complaint:
            self.complaints.append(str(complaint))
        return True

    def _shuffled(self) -> list[Fault]:
        return self._rng.sample(self._faults, len(self._faults))

    def _affected_parts(self) -> set[str]:
        return {part for fault, _ in self._active for part in fault.parts}


async def _sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
