"""What many processes over one log cost: workers over SQLite, nodes over PostgreSQL, and how soon they know each other.

    python -m tests.bench.nodes                 # each client has its node
    python -m tests.bench.nodes --mixed         # each request goes to any node: sessions are served by several
    python -m tests.bench.nodes --log           # the log alone, appended to by one process or by several
    python -m tests.bench.nodes --tasks chat64each --ways nodes1 nodes2 nodes4 nodes8   # what a further node costs

The processes of each way are started anew in each round, the ways in turn, on an empty log. Nothing is pinned: serving
processes, PostgreSQL, the model and the load share the machine's cores, so operations a second grow with the number of
processes only as far as there are cores. What can be compared and added up is CPU for each operation. PostgreSQL runs
in a temporary folder, with fsync; where none is installed its ways are left out.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.clients.load_clients import LoadFailed, LoadPlan
from tests.bench.harness import tables
from tests.bench.harness.bench_processes import ROOT, Child, started
from tests.bench.harness.node_fleet import Fleet, Task, Way, fleet, measure
from tests.bench.harness.serving_rig import shape
from tests.bench.workloads import cross_node_latency, shared_log_append
from tests.support.programs.external_programs import free_port
from tests.support.programs.postgres_server import PostgresServer, binaries, postgres_server

TASKS = (
    Task("chat16", "plain turn, C=16", "chat", 16, "turn"),
    Task("chat64", "plain turn, C=64", "chat", 64, "turn"),
    Task("paced64", "streamed token, 64 sessions x 50 tokens/s (ms: to the first text)", "stream", 64, "token", 20.0),
    Task("history", "newest 10 messages, C=16", "history", 16, "read"),
)
EACH = Task("chat64each", "plain turn, C=64 for each process", "chat", 64, "turn", each=True)
MORE_WAYS = tuple(Way(number, on_postgres=True) for number in (4, 6, 8))  # only those that are asked for
WAYS = tuple(Way(number, where) for where, numbers in ((False, (1, 2, 4)), (True, (1, 2, 3))) for number in numbers)
TOKENS = 64
FAR = "far"  # beside the tasks: how soon two processes know of each other
FIGURES = ("per_s", "serving_us", "store_us", "busiest_share", "p50_ms", "p99_ms")
HEADER = ("work", "served by", "per s", "serving, CPU us", "PostgreSQL, CPU us", "busiest process", "p50 ms", "p99 ms")
Found = dict[str, list[dict[str, float]]]  # "<task> <way>" -> figures of each round


@contextmanager
def database() -> Iterator[PostgresServer | None]:
    """A PostgreSQL server as an operator has it; None where none is installed."""
    if binaries() is None:
        print("no PostgreSQL server here: only SQLite is measured", file=sys.stderr)
        yield None
        return
    with postgres_server(autovacuum="on", shared_buffers="128MB", max_connections="100") as server:
        yield server


@contextmanager
def serving(way: Way, server: PostgresServer | None, folder: Path | None = None) -> Iterator[tuple[Fleet, Child, str]]:
    """A way's processes on an empty log, and the model with its URL."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, str(ROOT / "tests/bench/servers/fake_model.py"), "--port", url.rpartition(":")[2]]
    schema = asyncio.run(server.schema()) if server and way.on_postgres else ""
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        started(command, folder=Path(name), environment={"PYTHONPATH": str(ROOT)}, ready=f"{url}/health") as model,
        fleet(way, Path(name), url, server, schema) as processes,
    ):
        yield processes, model, url


def run_round(ways: Sequence[Way], tasks: Sequence[Task], server: PostgresServer | None, plan: LoadPlan, mixed: bool,
              tokens: int = TOKENS) -> dict[str, dict[str, float]]:  # fmt: skip
    """Every task on every way."""
    found: dict[str, dict[str, float]] = {}
    for way in ways:
        with serving(way, server) as (processes, model, url):
            for task in tasks:
                shape(url, tokens, task.delay_ms)
                seen = found[f"{task.name} {way.name}"] = measure(processes, task, model, tokens, plan, mixed=mixed)
                line = f"{task.name} {way.name}: {seen['per_s']:,.0f}/s, {seen['serving_us']:,.0f} us"
                print(f"{line} + {seen['store_us']:,.0f} us of PostgreSQL", file=sys.stderr, flush=True)
    return found


def report(found: Found, ways: Sequence[Way], tasks: Sequence[Task]) -> str:
    """In Markdown: medians and spreads of the rounds."""
    rows = []
    for task in tasks:
        for way in ways:
            rounds = found[f"{task.name} {way.name}"]
            figures = {name: tables.shown([one[name] for one in rounds]) for name in FIGURES}
            figures["store_us"] = figures["store_us"] if way.on_postgres else ""
            figures["busiest_share"] = f"{tables.median_spread([one['busiest_share'] for one in rounds])[0]:.0%}"
            rows.append((task.title, way.title, *figures.values()))
    return tables.table(HEADER, rows)


def caption(machine: dict[str, str], mixed: bool) -> str:
    spread = "each request at any node" if mixed else "each client at its node"
    return (
        f"{spread.capitalize()}. All serving processes, PostgreSQL, model and load share {machine['cores']} cores: "
        "more processes than that show no more operations a second, only what each operation costs. CPU us is the sum "
        "over all serving processes, their master included; a core carries 1,000,000 / CPU us a second."
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = [way.name for way in WAYS]
    names = [*defaults, *(way.name for way in MORE_WAYS)]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of each task")
    works = [*(task.name for task in TASKS), FAR]
    tasks = [*works, EACH.name]
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=works, metavar="TASK", help=", ".join(tasks))
    parser.add_argument("--ways", nargs="+", choices=names, default=defaults, metavar="WAY", help=", ".join(names))
    parser.add_argument("--mixed", action="store_true", help="each request goes to any of the nodes")
    parser.add_argument("--log", action="store_true", help="measure the log alone")
    parser.add_argument("--name", help="of the file in results/ (default: nodes, nodes-mixed, nodes-log)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    try:
        with database() as server:
            print(*(log_alone if options.log else served)(options, server), sep="\n\n")
    except (LoadFailed, RuntimeError) as failure:  # RuntimeError: a server that did not start, or refused a session
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


def log_alone(options: argparse.Namespace, server: PostgresServer | None) -> list[str]:
    """What is printed of the log."""
    machine, found = tables.machine(), shared_log_append.measure(server, options.rounds, options.seconds)
    tables.save(options.name or "nodes-log", {"machine": machine, "seconds": options.seconds, "rounds": found})
    return [tables.describe(machine), shared_log_append.report(found)]


def served(options: argparse.Namespace, server: PostgresServer | None) -> list[str]:
    """What is printed of the service."""
    ways = [way for way in (*WAYS, *MORE_WAYS) if way.name in options.ways and (server or not way.on_postgres)]
    tasks = [task for task in (*TASKS, EACH) if task.name in options.tasks]
    wants_far = FAR in options.tasks and not options.mixed
    found: Found = {f"{task.name} {way.name}": [] for task in tasks for way in ways}
    far: dict[str, list[cross_node_latency.Times]] = {way.name: [] for way in ways if way.processes == 2 and wants_far}
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        in_turn = ways[:: -1 if number % 2 else 1]
        if tasks:
            for key, figures in run_round(in_turn, tasks, server, LoadPlan(options.seconds), options.mixed).items():
                found[key].append(figures)
        for way in in_turn:
            if way.name in far:
                far[way.name].append(cross_node_latency.measure(way, server))
    machine = tables.machine()
    result: dict[str, Any] = {"machine": machine, "seconds": options.seconds, "mixed": options.mixed, "rounds": found}
    tables.save(options.name or ("nodes-mixed" if options.mixed else "nodes"), {**result, "far_ms": far})
    said = [tables.describe(machine)]
    said += [report(found, ways, tasks), caption(machine, options.mixed)] if tasks else []
    return said + ([cross_node_latency.report(far, ways)] if far else [])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
