"""The processes of a round of the serving benchmark, and one case measured on one of them."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

from tests.bench.clients.load_clients import Cpu, Load, LoadFailed, LoadPlan, Measured
from tests.bench.clients.serving_cases import Floor, Product, Work
from tests.bench.harness import tables
from tests.bench.harness.bench_loop import loop_factory
from tests.bench.harness.bench_processes import ROOT, Child, product, started
from tests.bench.servers.fake_model import words
from tests.support.programs.external_programs import free_ports

SERVERS = Path(__file__).resolve().parents[1] / "servers"
SESSIONS_EACH = 20  # of each client that goes from one to the next


@dataclass(frozen=True)
class Case:
    """`goal` is the most that it may cost as a ratio to the floor's case `against` (its own where that is empty).

    0 makes the time to the first text its figure, in place of CPU time.
    """

    name: str
    title: str
    work: Work
    goal: float
    clients: int = 16
    delay_ms: float = 0.0
    unit: str = "us/turn"
    against: str = ""

    @property
    def floor(self) -> str:
        return self.against or self.name

    def value(self, figures: dict[str, float]) -> float:
        return figures["cpu_us" if self.goal else "first_text_p50_ms"]


@dataclass(frozen=True)
class Bench:
    """What is run. `cores`: the server's and the load's; None leaves them to the system."""

    cases: Sequence[Case]
    rounds: int = 5
    seconds: float = 5.0
    warmup_s: float = 1.0
    tokens: int = 64
    protocol: str = "midm"
    run: Path = ROOT / "run.py"
    settings: dict[str, str] = field(default_factory=dict)
    cores: tuple[int | None, int | None] = (None, None)
    folder: Path | None = None


@dataclass(frozen=True)
class Server:
    """A process under test, and how its clients speak to it."""

    target: Product | Floor
    child: Child
    url: str


@dataclass(frozen=True)
class Rig:
    model: Child
    model_url: str
    servers: Sequence[Server]


@contextmanager
def rig(folder: Path, bench: Bench) -> Iterator[Rig]:
    """All processes, with nothing in their memory and an empty database in `folder`."""
    ports = free_ports(2)
    model_url, floor_url = (f"http://127.0.0.1:{port}" for port in ports)
    way = {"PYTHONPATH": str(ROOT)}
    shared = ["--protocol", bench.protocol, "--port"]
    model = [sys.executable, str(SERVERS / "fake_model.py"), *shared, str(ports[0])]
    floor = [sys.executable, str(SERVERS / "floor_proxy.py"), *shared, str(ports[1]), "--model-url", model_url]
    server_core, load_core = bench.cores
    with (
        started(model, folder=folder, core=load_core, environment=way, ready=f"{model_url}/health") as fake,
        started(floor, folder=folder, core=server_core, environment=way, ready=f"{floor_url}/readyz") as relay,
        product(folder, model_url, bench.run, core=server_core, **bench.settings) as (ours, url),
    ):
        bare = Server(Floor(floor_url, bench.protocol), relay, floor_url)
        yield Rig(fake, model_url, (bare, Server(Product(url), ours, url)))


def shape(model_url: str, tokens: int, delay_ms: float, drop: int = -1) -> None:
    """Set what the fake model replies from now on; `drop` is the number of a token that it leaves out."""
    with urlopen(f"{model_url}/shape?tokens={tokens}&delay_ms={delay_ms}&drop={drop}", timeout=5) as answer:
        answer.read()


def measure(rig: Rig, case: Case, bench: Bench, server: Server) -> dict[str, float]:
    """One case on one server, with the model as it was shaped. Raises LoadFailed when any answer is wrong."""
    text = "".join(words(bench.tokens))
    spread_s = bench.tokens * case.delay_ms / 1000  # one turn: then the sessions are evenly out of step
    sessions = 1 if case.delay_ms else SESSIONS_EACH
    call = server.target.call(case.work, text, clients=case.clients, sessions_each=sessions)

    async def load() -> Measured:
        plan = LoadPlan(bench.seconds, bench.warmup_s, spread_s)
        return await Load([server.url], call, plan, lambda: Cpu(server.child.cpu_s(), rig.model.cpu_s())).run()

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            seen = runner.run(load())
    except LoadFailed as failure:
        raise LoadFailed(f"{case.name}, {server.target.name}: {failure}") from failure
    tokens = seen.text_bytes / len(text) * bench.tokens
    return figures(seen, tokens if case.delay_ms else len(seen.took_s)) | {"rss_mib": server.child.rss_bytes() / 2**20}


def figures(seen: Measured, operations: float) -> dict[str, float]:
    """Names carry the units; the shares are of one core."""
    if not operations or not seen.took_s:
        raise LoadFailed("nothing was answered within the measured time: give it more --seconds")
    first, gaps = seen.first_text_s or [0.0], seen.gaps_s or [0.0]
    return {
        "operations": operations,
        "cpu_us": seen.server_cpu_s / operations * 1e6,
        "per_s": operations / seen.seconds,
        "p50_ms": tables.percentile(seen.took_s, 0.5) * 1000,
        "p99_ms": tables.percentile(seen.took_s, 0.99) * 1000,
        "first_text_p50_ms": tables.percentile(first, 0.5) * 1000,
        "first_text_p99_ms": tables.percentile(first, 0.99) * 1000,
        "gap_p50_ms": tables.percentile(gaps, 0.5) * 1000,
        "gap_p99_ms": tables.percentile(gaps, 0.99) * 1000,
        "server_busy": seen.server_cpu_s / seen.seconds,
        "load_busy": seen.driver_cpu_s / seen.seconds,
        "model_busy": seen.model_cpu_s / seen.seconds,
    }
