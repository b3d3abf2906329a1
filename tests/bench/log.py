"""How fast the log is: appends, reads, rebuild and verify, each beside its floor in the same run, alternately.

    python -m tests.bench.log

Appends are acknowledged after an fsync. Their floor is aiosqlite alone (log_append.py says how), that of the others
what SQLite and Python need at least (log_read.py). CPU is that of all threads. With uvloop where it is installed.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from tests.bench.harness import tables
from tests.bench.record import fill
from tests.bench.workloads import log_append, log_read
from tests.bench.workloads.log_append import Rate

APPENDERS = (1, 16, 256)
HEADER = ("work", "per s", "CPU us", "floor", "floor per s", "floor CPU us", "ratio", "goal")
GOALS = {"append": "0.8 x", "rebuild": "80,000/s", "verify": "250,000/s"}

Found = dict[str, dict[str, list[Rate]]]  # work: side: rounds
Run = Callable[[Coroutine[Any, Any, Any]], Any]


def runner() -> tuple[str, Run]:
    """The event loop's name, and what runs a coroutine on it."""
    try:
        import uvloop  # an extra
    except ImportError:
        return "asyncio", asyncio.run
    return "uvloop", uvloop.run


def appended(run: Run, found: Found, seconds: float) -> None:
    """One round of appends, and of turns with and without projections."""
    for side, opened in (("floor", log_append.floor), ("ours", log_append.log)):
        for number, rate in run(log_append.measure(opened, APPENDERS, seconds)).items():
            found[f"append, {number} at once"][side].append(rate)
    for side, follow in (("floor", False), ("ours", True)):
        found["append 3 events, 16 at once, projections following"][side].append(
            run(log_append.turns(seconds, follow=follow))
        )


def read(run: Run, found: Found, database: Path) -> None:
    """One round of all that reads."""
    for work in log_read.WORKS:
        found[work.name]["floor"].append(run(log_read.timed(work.floor, database)))
        found[work.name]["ours"].append(run(log_read.timed(work.ours, database)))


def lines(found: Found) -> Sequence[tuple[str, ...]]:
    """The table: medians and spreads, and the median of the rounds' own ratios."""
    names = {work.name: work.floor_name for work in log_read.WORKS}
    shown = []
    for name, sides in found.items():
        ours, floor = sides["ours"], sides["floor"]
        ratio = tables.shown([mine.per_s / least.per_s for mine, least in zip(ours, floor, strict=True)])
        least = names.get(name, "without projections" if "following" in name else "aiosqlite")
        goal = next((text for word, text in GOALS.items() if name.startswith(word) and "following" not in name), "")
        shown.append((name, *_figures(ours), least, *_figures(floor), ratio, goal))
    return shown


def _figures(rounds: list[Rate]) -> tuple[str, str]:
    return tables.shown([rate.per_s for rate in rounds]), tables.shown([rate.cpu_us for rate in rounds])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each number of appenders appends")
    parser.add_argument("--events", type=int, default=200_000, help="length of the log that is read")
    parser.add_argument("--only", choices=("append", "read"))
    options = parser.parse_args()
    loop, run = runner()
    found: Found = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "log.db"
        if options.only != "append":
            run(fill(database, options.events))
        for number in range(options.rounds):
            print(f"\rround {number + 1} of {options.rounds}", end="", file=sys.stderr, flush=True)
            if options.only != "read":
                appended(run, found, options.seconds)
            if options.only != "append":
                read(run, found, database)
    print(file=sys.stderr)
    machine = {**tables.machine(), "event loop": loop}
    print(f"{tables.describe(machine)}; {options.rounds} rounds\n\n{tables.table(HEADER, lines(found))}")
    kept = {
        name: {side: [(r.per_s, r.cpu_us) for r in rates] for side, rates in sides.items()}
        for name, sides in found.items()
    }
    tables.save("log", {"machine": machine, "rounds": options.rounds, "per_s_and_cpu_us": kept})


if __name__ == "__main__":
    main()
