"""Processes that serve one log together, and one kind of load measured on all of them."""

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

from tests.bench.clients.load_clients import Cpu, Load, LoadFailed, LoadPlan, Measured
from tests.bench.clients.serving_cases import Call, Product, Work
from tests.bench.harness import tables
from tests.bench.harness.bench_loop import loop_factory
from tests.bench.harness.bench_processes import START_TIMEOUT_S, Child, cpu_s, family, product
from tests.bench.servers.fake_model import words
from tests.support.programs.postgres_server import PostgresServer

SESSIONS_EACH, SESSIONS = 20, 320  # of each client that goes from one to the next at most, and of all clients
SETTINGS = {"CHATBOT_LLM_PROVIDER": "midm", "CHATBOT_NODES_SECRET": "a-secret-that-all-nodes-share"}
SLOT = re.compile(r'^chatbot_build_info\{.*worker="(\d+)"', re.MULTILINE)


@dataclass(frozen=True)
class Way:
    """So many processes over one log: workers on a SQLite file and one port, or nodes on PostgreSQL, each on a port."""

    processes: int
    on_postgres: bool

    @property
    def name(self) -> str:
        return f"{'nodes' if self.on_postgres else 'workers'}{self.processes}"

    @property
    def title(self) -> str:
        if not self.on_postgres:
            return f"--workers {self.processes}, SQLite"
        return f"{self.processes} node{'' if self.processes == 1 else 's'}, PostgreSQL"


@dataclass(frozen=True)
class Task:
    """What a client asks for, again and again. With `delay_ms` before each token of the model, tokens are counted.

    `each`: there are so many clients for each process, otherwise in all.
    """

    name: str
    title: str
    work: Work
    clients: int
    unit: str
    delay_ms: float = 0.0
    each: bool = False


@dataclass
class Fleet:
    """`urls` has one for each process, though workers share it. `postgres` is the pid of the database's server."""

    urls: Sequence[str]
    children: Sequence[Child]
    postgres: int | None
    looks: list[dict[int, float]] = field(default_factory=list)  # CPU of each serving process at each look

    def look(self, model: Child) -> Cpu:
        """What all have used so far, with the masters of workers."""
        self.looks.append(cpu_s(pid for child in self.children for pid in child.pids()))
        store_s = 0.0 if self.postgres is None else sum(cpu_s(family(self.postgres)).values())
        return Cpu(sum(self.looks[-1].values()), model.cpu_s(), store_s)

    def busiest_share(self) -> float:
        """Of all CPU between the last two looks, what one process used at most: 1 / n is a perfect spread."""
        before, after = self.looks[-2:]
        used = [seconds - before.get(pid, 0.0) for pid, seconds in after.items()]
        return max(used) / sum(used)


@contextmanager
def fleet(way: Way, folder: Path, model_url: str, server: PostgresServer | None, database: str = "") -> Iterator[Fleet]:
    """All its processes, ready, on an empty log: a file in `folder`, or `database`, the URL of an empty schema."""
    with ExitStack() as stack:
        if not way.on_postgres:
            own = SETTINGS | {"CHATBOT_SERVER_WORKERS": str(way.processes)}
            child, url = stack.enter_context(product(folder, model_url, core=None, **own))
            wait_for_workers(url, way.processes)
            yield Fleet([url] * way.processes, [child], None)
            return
        served = []
        for number in range(way.processes):
            place = folder / f"node-{number}"
            place.mkdir()
            projections = str(place / "projections.db")
            own = SETTINGS | {"DATABASE_URL": database, "CHATBOT_DATABASE_PROJECTIONS_PATH": projections}
            served.append(stack.enter_context(product(place, model_url, core=None, **own)))
        yield Fleet([url for _, url in served], [child for child, _ in served], server.pid if server else None)


def wait_for_workers(url: str, count: int) -> None:
    """Until so many serve. Raises RuntimeError when they do not."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while count > 1 and time.monotonic() < deadline_s:
        with urlopen(f"{url}/metrics", timeout=5) as answer:
            if len(set(SLOT.findall(answer.read().decode()))) >= count:
                return
        time.sleep(0.1)
    if count > 1:
        raise RuntimeError(f"{count} workers did not serve within {START_TIMEOUT_S:.0f} s")


def dealt(urls: Sequence[str], task: Task, text: str) -> Call:
    """The requests of all clients, the sessions of each made where it is dealt to: by all processes at once."""
    clients = task.clients * len(urls) if task.each else task.clients
    shares = [len(range(first, clients, len(urls))) for first in range(len(urls))]
    sessions = 1 if task.delay_ms else max(1, min(SESSIONS_EACH, SESSIONS // clients))

    def call(url: str, share: int) -> Call:
        return Product(url).call(task.work, text, clients=share, sessions_each=sessions)

    with ThreadPoolExecutor(len(urls)) as pool:
        calls = list(pool.map(call, urls, filter(None, shares)))
    requests = [calls[number % len(urls)].requests[number // len(urls)] for number in range(clients)]
    return Call(requests, calls[0].mark, calls[0].times, calls[0].text)


def measure(serving: Fleet, task: Task, model: Child, tokens: int, plan: LoadPlan, *, mixed: bool) -> dict[str, float]:
    """One task, with the model as it was shaped. Raises LoadFailed when any answer is wrong."""
    text = "".join(words(tokens))
    call = dealt(serving.urls, task, text)
    spread_s = tokens * task.delay_ms / 1000  # one turn: then the sessions are evenly out of step
    paced = LoadPlan(plan.seconds, plan.warmup_s, spread_s)

    async def load() -> Measured:
        return await Load(serving.urls, call, paced, lambda: serving.look(model), mixed=mixed).run()

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        seen = runner.run(load())
    operations = seen.text_bytes / len(text) * tokens if task.delay_ms else len(seen.took_s)
    took_s = seen.first_text_s if task.delay_ms else seen.took_s
    if not operations or not took_s:
        raise LoadFailed(f"{task.name}: nothing was answered within the measured time: give it more --seconds")
    return {
        "operations": operations,
        "per_s": operations / seen.seconds,
        "serving_us": seen.server_cpu_s / operations * 1e6,
        "store_us": seen.store_cpu_s / operations * 1e6,
        "p50_ms": tables.percentile(took_s, 0.5) * 1000,
        "p99_ms": tables.percentile(took_s, 0.99) * 1000,
        "busiest_share": serving.busiest_share(),
        "load_busy": seen.driver_cpu_s / seen.seconds,
        "model_busy": seen.model_cpu_s / seen.seconds,
    }
