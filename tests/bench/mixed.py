"""Does big work move the latency of chat? Chat and streams at a moderate pace, alone and beside each kind of big work.

    python -m tests.bench.mixed                          # six kinds of work, about twelve minutes
    python -m tests.bench.mixed --only verify,expiry --rounds 2

Alone and beside are measured alternately, and by turns one or the other first; a ratio is taken within a round.
What was written before a measurement is on the disk when it begins. The service has the first core, the load and the
model the second; other programs (`run.py rebuild`, `run.py export`) go where the system puts them.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.bench.clients.paced_load import Paced
from tests.bench.clients.reader_crowd import Model, Service
from tests.bench.harness import tables
from tests.bench.harness.bench_loop import loop_factory
from tests.bench.harness.bench_processes import product
from tests.bench.workloads.heavy_work import EVERY_WORK, EXPIRED, Work
from tests.bench.workloads.scale_fill import bar, fill

SERVER_CORE, DRIVER_CORE = 0, 1
TOKENS, DELAY_MS = 50, 20.0  # of a streamed reply: a second at a model's pace
EXPIRY_RATE = 60.0  # turns a second where the service is never without its big work: no rate can be tried before
SHARE = 0.35  # of the service's core that chat and streams take when alone
PARTS = ("alone", "beside")
GOAL_RATIO, GOAL_LATE_S = 1.2, 0.05
TURNS = 3  # of each session in the filled log: with its creation ten events
# A connection of the load may have nothing to do for minutes.
SETTINGS = {
    "CHATBOT_LLM_PROVIDER": "midm",
    "CHATBOT_LLM_CONCURRENT_MAX": "256",
    "CHATBOT_SERVER_KEEPALIVE_TIMEOUT_S": "3600",
}


async def beside(folder: Path, works: Sequence[Work], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Each kind of work in each round: chat alone, then beside it."""
    found: dict[str, list[dict[str, Any]]] = {work.name: [] for work in works}
    url_of_model = await Model(TOKENS, DELAY_MS).listen()
    with product(folder, url_of_model, core=SERVER_CORE, **SETTINGS) as (child, url):
        service = await Service.reach(child, url, connections=64)
        load = await Paced.prepare(service, SHARE)
        for work in works:
            await work.prepare(service, folder)
        for number in range(options.rounds):
            for work in works:
                seen: dict[str, Any] = {}
                for part in order(number):
                    await asyncio.to_thread(os.sync)
                    task = asyncio.create_task(work.run(service, folder)) if part == "beside" else None
                    seen[part] = (await load.run(options.seconds)).figures()
                    if task is not None:
                        task.cancel()
                        await asyncio.gather(task, return_exceptions=True)
                        await work.over(service)
                found[work.name].append({**seen, "done": work.taken()})
        service.close()
    return found


def order(number: int) -> tuple[str, ...]:
    """Of a round's parts: what the first leaves behind for the second is in the figures of both."""
    return PARTS if number % 2 == 0 else PARTS[::-1]


async def expiry(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Chat in a service that begins with so many sessions, none of which is due, or all of them at once."""
    for name, due in (("alone", 0), ("beside", options.due)):
        (folder / name).mkdir(parents=True)
        await asyncio.to_thread(fill, folder / name / "chatbot.db", options.due, 1, due, bar(f"sessions, {due} due"))
        with product(folder / name, "http://127.0.0.1:9"):
            pass  # its projections are there now: how long they take is not what is measured here
    found: list[dict[str, Any]] = []
    for number in range(options.rounds):
        seen: dict[str, Any] = {}
        for name in order(number):
            copy = folder / f"{name}-{number}"
            shutil.copytree(folder / name, copy)
            await asyncio.to_thread(os.sync)  # else the system writes the copy while its service is measured
            url_of_model = await Model(TOKENS, DELAY_MS).listen()
            with product(copy, url_of_model, core=SERVER_CORE, **SETTINGS) as (child, url):
                service = await Service.reach(child, url, connections=64)
                load = await Paced.prepare(service, SHARE, EXPIRY_RATE)
                before = await service.gauge(EXPIRED)
                seen[name] = (await load.run(options.seconds)).figures()
                if name == "beside":
                    seen["done"] = await service.gauge(EXPIRED) - before
                service.close()
            shutil.rmtree(copy)
        found.append(seen)
    return found


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    wanted = options.only.split(",") if options.only else [*EVERY_WORK, "expiry"]
    works = [EVERY_WORK[name]() for name in wanted if name != "expiry"]
    result: dict[str, Any] = {}
    if works:
        (folder / "log").mkdir()
        filling = asyncio.to_thread(fill, folder / "log" / "chatbot.db", options.events // 10, TURNS, 0, bar("events"))
        await filling
        result |= await beside(folder / "log", works, options)
    if "expiry" in wanted:
        result["expiry"] = await expiry(folder / "expiry", options)
    return result


def report(result: dict[str, Any]) -> str:
    """In Markdown. Medians of the rounds: where others use the machine, a bad second would be the p99 of all turns."""
    rows = []
    for name, rounds in result.items():
        row = [name, f"{statistics.median(one['done'] for one in rounds):,.0f}", turns_of(rounds)]
        for figure in ("chat_p50_ms", "chat_p99_ms", "gap_p99_ms"):
            ratios = [one["beside"][figure] / one["alone"][figure] for one in rounds]
            alone, both = (statistics.median(one[part][figure] for one in rounds) for part in PARTS)
            row.append(f"{alone:.1f} / {both:.1f} = {statistics.median(ratios):.2f}")
        row.append(" / ".join(_most(rounds, part, "late_max_s") for part in PARTS))
        row.append(" / ".join(_most(rounds, part, "cpu_share", "{:.0%}") for part in PARTS))
        row.append(f"{sum(one['beside']['refused'] for one in rounds)}")
        rows.append(row)
    header = ["beside", "done", "turns", "chat p50, ms", "chat p99, ms", "gap between tokens p99, ms",
              "loop late at most, s", "CPU", "refused"]  # fmt: skip
    return tables.table(header, rows)


def turns_of(rounds: Sequence[dict[str, Any]]) -> str:
    """How many a percentile of chat stands on: in each round, alone and beside."""
    least = min(one[part]["turns"] for one in rounds for part in PARTS)
    return f"{len(rounds)} x {least:,}"


def _most(rounds: Sequence[dict[str, Any]], part: str, figure: str, form: str = "{}") -> str:
    pick: Callable[[list[float]], float] = max
    return form.format(pick([one[part][figure] for one in rounds]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=500_000, help="in the log that is verified, rebuilt, exported")
    parser.add_argument("--due", type=int, default=100_000, help="sessions whose time is up, all at once")
    parser.add_argument("--rounds", type=int, default=4, help="an even number: each part is first in half")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement")
    parser.add_argument("--only", default="", help=f"some of {','.join([*EVERY_WORK, 'expiry'])}")
    parser.add_argument("--folder", type=tables.folder_at, help="where the files go (default: a temporary folder)")
    options = parser.parse_args()
    os.sched_setaffinity(0, {DRIVER_CORE})
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as name,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        result = runner.run(measure(Path(name), options))
    machine = tables.machine()
    print(tables.describe(machine), report(result), sep="\n\n")
    tables.save("mixed", {"machine": machine, **result})


if __name__ == "__main__":
    main()
