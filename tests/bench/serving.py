"""What serving costs: the product and the floor, alternately, in several rounds, against the same fake model.

    python -m tests.bench.serving --rounds 5 --seconds 5

The floor (servers/floor_proxy.py) is a relay on the same HTTP library that keeps nothing. The figure is the CPU time
of the server's process for each operation, which other work on the machine disturbs least; a ratio is taken within a
round, where both met the same disturbance, and the median over the rounds is what counts. The server has the first
core to itself, the load and the fake model share the second. Any wrong or missing answer fails the command.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.clients.load_clients import LoadFailed
from tests.bench.harness import plot, tables
from tests.bench.harness.bench_processes import ROOT
from tests.bench.harness.serving_rig import Bench, Case, measure, rig, shape

FIRST_TEXT_EXTRA_MS = 1.0  # what the first text may take beyond the floor's and one fsync
FULL = 0.9  # share of its core beyond which the load is no longer sure to be faster than the server
KEPT_UP = 0.85  # share of the tokens that a model at that pace writes, less a turn's beginning and end
CASES = (
    Case("paced256", "streamed token, 256 sessions x 50 tokens/s", "stream", 0.8, 256, 20.0, "us/token"),
    Case("chat", "plain turn, C=16", "chat", 3.0),
    Case("create", "session create, C=16 (floor: chat)", "create", 1.5, unit="us/create", against="chat"),
    Case("history", "newest 10 messages, C=16 (floor: chat)", "history", 1.5, unit="us/read", against="chat"),
    Case("burst", "streamed turn in a burst, C=16, 64 tokens", "stream", 2.0),
    Case(
        "v1paced256",
        "streamed token of /v1, 256 requests x 50 tokens/s",
        "completion_stream",
        0.8,
        256,
        20.0,
        "us/token",
        against="paced256",
    ),
    Case("v1chat", "completion of /v1, C=16 (floor: chat)", "completion", 4.0, against="chat"),
    Case("v1burst", "streamed completion of /v1 in a burst, C=16", "completion_stream", 3.0, against="burst"),
    Case("ttft", "time to first text, C=1", "stream", 0.0, clients=1, unit="ms"),
    Case("paced32", "streamed token, 32 sessions x 50 tokens/s", "stream", 1.1, 32, 20.0, "us/token"),
)
CURVE = tuple(  # only where named: the cost of a token by how many replies are written
    Case(f"paced{count}", f"streamed token, {count} sessions x 50 tokens/s", "stream", 1.1, count, 20.0, "us/token")
    for count in (1, 8, 16, 64, 128)
)
TURN_CURVE = tuple(  # only with --curve: the cost and the latency of a turn by how many clients ask
    Case(f"chat{count}", f"plain turn, C={count}", "chat", 3.0, count) for count in (1, 2, 4, 8, 16, 32, 64, 128)
)
GAPS = ("gap_p50_ms", "gap_p99_ms")
LATENCIES = ("p50_ms", "p99_ms")
Round = dict[str, dict[str, float]]  # "<case> <floor or ours>" -> figures


def run_round(number: int, bench: Bench) -> Round:
    """Every case on both, the floor first in one round and the product in the next."""
    found: Round = {}
    known = {case.name: case for case in (*CASES, *CURVE, *bench.cases)}
    wanted = {"floor": {case.floor for case in bench.cases}, "ours": {case.name for case in bench.cases}}
    with tempfile.TemporaryDirectory(dir=bench.folder) as name, rig(Path(name), bench) as processes:
        for case in known.values():
            shape(processes.model_url, bench.tokens, case.delay_ms)
            for server in processes.servers[:: -1 if number % 2 else 1]:
                if case.name in wanted[server.target.name]:
                    key = f"{case.name} {server.target.name}"
                    found[key] = measure(processes, case, bench, server)
                    line = f"round {number + 1}: {key} {tables.significant(case.value(found[key]))}"
                    print(line + doubt(case, found[key]), file=sys.stderr, flush=True)
        found["fsync ours"] = {"ms": tables.fsync_s(Path(name)) * 1000}
    return found


def doubt(case: Case, figures: dict[str, float]) -> str:
    """Why a figure says less than it should; empty when nothing is known against it."""
    if figures["load_busy"] + figures["model_busy"] > FULL:
        return " (doubtful: the load's core was full)"
    if case.delay_ms and figures["per_s"] < KEPT_UP * case.clients * 1000 / case.delay_ms:
        return f" (doubtful: only {figures['per_s']:,.0f} tokens/s, and those that wait come in one piece)"
    return ""


def summary(case: Case, rounds: Sequence[Round]) -> dict[str, Any]:
    """One line of the table: the values of all rounds, and what is made of them."""
    floor = [case.value(one[f"{case.floor} floor"]) for one in rounds]
    ours = [case.value(one[f"{case.name} ours"]) for one in rounds]
    ratios = [mine / theirs for mine, theirs in zip(ours, floor, strict=True)]
    fsyncs_ms = [one["fsync ours"]["ms"] for one in rounds]
    allowed = [(low + fsync + FIRST_TEXT_EXTRA_MS) / low for low, fsync in zip(floor, fsyncs_ms, strict=True)]
    goal = case.goal or tables.median_spread(allowed)[0]
    ratio = tables.median_spread(ratios)[0]
    line: dict[str, Any] = {"case": case.name, "title": case.title, "unit": case.unit, "floor": floor, "ours": ours}
    line |= {"ratios": ratios, "ratio": ratio, "goal": goal, "met": ratio <= goal}
    keys = {"floor": f"{case.floor} floor", "ours": f"{case.name} ours"}
    if case.delay_ms:
        line["gaps"] = [[one[keys[server]][gap] for one in rounds] for server in keys for gap in GAPS]
    if case in TURN_CURVE:
        line["latencies"] = [[one[keys[server]][name] for one in rounds] for server in keys for name in LATENCIES]
    return line


def report(lines: Sequence[dict[str, Any]]) -> str:
    rows = []
    for line in lines:
        unit = line["unit"]
        goal = f"{line['goal']:.1f}x" + (": floor + fsync + 1 ms" if unit == "ms" else "")
        floor = f"{tables.shown(line['floor'])} {'ms' if unit == 'ms' else 'us'}"
        ratio, spread = tables.median_spread(line["ratios"])
        met = "yes" if line["met"] else "no"
        rows.append(
            (line["title"], floor, f"{tables.shown(line['ours'])} {unit}", f"{ratio:.2f}x ±{spread:.0%}", goal, met)
        )
    return tables.table(("work", "floor", "ours", "ratio", "goal", "met?"), rows)


def gap_report(lines: Sequence[dict[str, Any]]) -> str:
    """Between two pieces of a reply's text at a client; empty where no case has a model's pace."""
    rows = [(one["title"], *(f"{tables.shown(gap)} ms" for gap in one["gaps"])) for one in lines if "gaps" in one]
    return tables.table(("gap between tokens", "floor p50", "floor p99", "ours p50", "ours p99"), rows) if rows else ""


def latency_report(lines: Sequence[dict[str, Any]]) -> str:
    """From a request to its whole answer, by how many clients ask; empty without --curve."""
    curve = [one for one in lines if "latencies" in one]
    rows = [(one["title"], *(f"{tables.shown(latency)} ms" for latency in one["latencies"])) for one in curve]
    return tables.table(("latency", "floor p50", "floor p99", "ours p50", "ours p99"), rows) if rows else ""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured time of each case")
    every = names + [case.name for case in CURVE]
    parser.add_argument("--cases", nargs="+", choices=every, default=names, metavar="CASE", help=", ".join(every))
    parser.add_argument("--curve", action="store_true", help="of plain turns, 1 to 128 clients, in place of the cases")
    parser.add_argument("--protocol", choices=("midm", "openai"), default="midm", help="of the fake model")
    parser.add_argument("--settings", nargs="*", default=[], metavar="NAME=VALUE", help="environment of the product")
    parser.add_argument("--product", type=Path, default=ROOT / "run.py", help="run.py of another checkout")
    parser.add_argument("--folder", type=tables.folder_at, help="where the databases go (default: a temporary folder)")
    parser.add_argument("--name", help="of the files in results/ (default: serving, serving-curve; -openai)")
    return parser.parse_args(arguments)


def pin() -> tuple[int | None, int | None]:
    """Keep this process to the second core; gives the server's core and its own. Nothing where there is only one."""
    if not hasattr(os, "sched_setaffinity") or len(cores := sorted(os.sched_getaffinity(0))) < 2:
        return None, None
    os.sched_setaffinity(0, {cores[1]})
    return cores[0], cores[1]


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    bench = Bench(
        cases=TURN_CURVE if options.curve else [case for case in (*CASES, *CURVE) if case.name in options.cases],
        rounds=options.rounds,
        seconds=options.seconds,
        protocol=options.protocol,
        run=options.product.resolve(),
        settings=dict(one.split("=", 1) for one in options.settings),
        cores=pin(),
        folder=options.folder,
    )
    try:
        rounds = [run_round(number, bench) for number in range(bench.rounds)]
    except (LoadFailed, RuntimeError) as failure:  # RuntimeError: a server that did not start, or refused a session
        print(f"error: {failure}", file=sys.stderr)
        return 1
    name = "serving-curve" if options.curve else "serving"
    conclude(bench, rounds, options.name or (name if bench.protocol == "midm" else f"{name}-{bench.protocol}"))
    return 0


def conclude(bench: Bench, rounds: Sequence[Round], name: str) -> None:
    """Print the table; keep every round's figures and the picture."""
    machine, lines = tables.machine(), [summary(case, rounds) for case in bench.cases]
    how = {"protocol": bench.protocol, "seconds": bench.seconds, "settings": bench.settings}
    result = {"machine": machine, **how, "lines": lines, "rounds": rounds}
    path = tables.save(name, result)
    print(f"{tables.describe(machine)}; protocol {bench.protocol}, {len(rounds)} rounds of {bench.seconds:g} s\n")
    picture = plot.serving(result, path.with_suffix(".png"))
    print(report(lines), latency_report(lines) or gap_report(lines), picture, sep="\n\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
