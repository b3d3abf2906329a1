"""What a turn leaves on the disk, how much is written for it, and what the write-ahead file does under load.

    python -m tests.bench.storage                # about a minute and a half

The first part asks the service for turns; the second appends to a log in this process, where each commit can be timed.
"""

import argparse
import asyncio
import os
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.clients.raw_clients import Caller
from tests.bench.clients.reader_crowd import Model, Service
from tests.bench.harness import tables
from tests.bench.harness.bench_loop import loop_factory
from tests.bench.harness.bench_processes import product
from tests.bench.workloads.wal_load import sustained

SERVER_CORE, DRIVER_CORE = 0, 1
TOKENS = 64  # of a reply
PACED_MS = 30.0  # a token, so that a streamed reply lasts two seconds and is checkpointed on its way
SESSIONS = 256
KINDS = ("plain turn", "streamed turn in a burst", "streamed turn at a model's pace")
MIB = 1024 * 1024


def on_disk(folder: Path) -> tuple[int, int]:
    """Bytes of the log and of the projections, each with what belongs to it."""
    sizes = {
        name: sum(path.stat().st_size for path in folder.glob(f"{name}.db*")) for name in ("chatbot", "projections")
    }
    return sizes["chatbot"], sizes["projections"]


def recorded(folder: Path) -> tuple[dict[str, int], int]:
    """Events by type, and bytes of their content."""
    connection = sqlite3.connect(f"file:{folder / 'chatbot.db'}?mode=ro", uri=True)
    try:
        rows = connection.execute(
            "SELECT type, count(*), sum(length(CAST(data AS BLOB))) FROM events GROUP BY type"
        ).fetchall()
    finally:
        connection.close()
    return {kind: count for kind, count, _ in rows}, sum(size or 0 for *_, size in rows)


async def turns(service: Service, ids: Sequence[str], *, streamed: bool) -> int:
    """One turn in each session; how many."""
    if not streamed:
        await service.chat_all(ids, "x" * 80)
        return len(ids)

    async def stream(session_id: str) -> None:
        caller = await Caller.open(service.url)
        await caller.ask("POST", "/api/chat/stream", {"session_id": session_id, "message": "x" * 80})
        caller.close()

    for first in range(0, len(ids), 64):
        await asyncio.gather(*(stream(one) for one in ids[first : first + 64]))
    return len(ids)


async def kind_of_turn(folder: Path, kind: str, rounds: int) -> dict[str, Any]:
    """What so many turns in each session leave behind. Every figure is the difference that they make."""
    folder.mkdir()
    model = Model(TOKENS, PACED_MS if kind == KINDS[2] else 0.0)
    settings = {"CHATBOT_LLM_PROVIDER": "midm", "CHATBOT_LLM_CONCURRENT_MAX": "64"}
    with product(folder, await model.listen(), core=SERVER_CORE, **settings) as (child, url):
        service = await Service.reach(child, url)
        ids = await service.sessions(SESSIONS)
        await service.settled("chatbot_projection_lag_events", 0)
    empty, (before, content) = on_disk(folder), recorded(folder)
    with product(folder, await model.listen(), core=SERVER_CORE, **settings) as (child, url):
        service = await Service.reach(child, url)
        written, cpu_s, done = child.written_bytes(), child.cpu_s(), 0
        for _ in range(rounds):
            done += await turns(service, ids, streamed=kind != KINDS[0])
        await service.settled("chatbot_projection_lag_events", 0)
        written, cpu_s = child.written_bytes() - written, child.cpu_s() - cpu_s
        service.close()
    full, (after, content_after) = on_disk(folder), recorded(folder)
    return {
        "turns": done,
        "log_bytes": (full[0] - empty[0]) / done,
        "projections_bytes": (full[1] - empty[1]) / done,
        "content_bytes": (content_after - content) / done,
        "written_bytes": written / done,
        "events": {kind: (count - before.get(kind, 0)) / done for kind, count in after.items()},
    }


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    rounds = {KINDS[0]: options.rounds, KINDS[1]: options.rounds, KINDS[2]: 1}
    found = {kind: await kind_of_turn(folder / str(uuid.uuid4()), kind, times) for kind, times in rounds.items()}
    return {"turns": found, "log": await sustained(folder / "sustained", options.seconds)}


def report(result: dict[str, Any]) -> str:
    """In Markdown: two tables."""
    rows = []
    for kind, one in result["turns"].items():
        events = ", ".join(f"{name} {count:.2f}" for name, count in sorted(one["events"].items()) if count)
        rows.append(
            [kind, f"{one['content_bytes']:,.0f}", f"{one['log_bytes']:,.0f}", f"{one['projections_bytes']:,.0f}",
             f"{one['written_bytes']:,.0f} ({one['written_bytes'] / one['content_bytes']:.1f})", events]
        )  # fmt: skip
    header = ["bytes for each turn", "content", "log", "projections", "written (for each of content)", "events"]
    log = result["log"]
    limit = log["wal_limit_bytes"] / MIB
    lines = [
        ["events", f"{log['events']:,}",
         f"{log['events'] / log['seconds']:,.0f}/s, {log['written_bytes'] / MIB:,.0f} MiB written"],
        ["write-ahead file at most / at the end / closed",
         " / ".join(f"{log[name] / MIB:.1f}" for name in ("wal_max_bytes", "wal_end_bytes", "wal_closed_bytes")),
         f"MiB; wal_limit_bytes {limit:.0f} MiB"],
        ["commit p50 / p99 / max, no checkpoint in it", _times(log["commits_s"]),
         f"ms, {len(log['commits_s']):,} commits"],
        ["commit p50 / p99 / max, with a checkpoint", _times(log["checkpoints_s"]),
         f"ms, {len(log['checkpoints_s']):,} commits"],
    ]  # fmt: skip
    return tables.table(header, rows) + "\n\n" + tables.table(["sustained appends", "figure", ""], lines)


def _times(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none"
    return " / ".join(
        f"{at * 1e3:.2f}" for at in (*(tables.percentile(seconds, share) for share in (0.5, 0.99)), max(seconds))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="turns of each session")
    parser.add_argument("--seconds", type=float, default=20.0, help="of sustained appends")
    parser.add_argument("--folder", type=tables.folder_at, help="where the files go (default: a temporary folder)")
    options = parser.parse_args()
    os.sched_setaffinity(0, {DRIVER_CORE})
    began_s = time.monotonic()
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as name,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        result = runner.run(measure(Path(name), options))
    machine = tables.machine()
    print(tables.describe(machine), report(result), f"{time.monotonic() - began_s:.0f} s", sep="\n\n")
    log = {name: value for name, value in result["log"].items() if not isinstance(value, list)}
    for name in ("commits_s", "checkpoints_s"):
        times = result["log"][name] or [0.0]
        log |= {f"{name}_p50": tables.percentile(times, 0.5), f"{name}_p99": tables.percentile(times, 0.99),
                f"{name}_max": max(times), f"{name}_count": len(result["log"][name])}  # fmt: skip
    tables.save("storage", {"machine": machine, "turns": result["turns"], "log": log})


if __name__ == "__main__":
    main()
