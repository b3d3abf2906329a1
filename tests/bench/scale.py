"""Does it stay flat? The same questions to the real program over a small log and over one of 10 million events.

    python -m tests.bench.scale                                # 1,000 and 1,000,000 sessions: 15 minutes, 9 GiB
    python -m tests.bench.scale --sessions 10000 --rounds 1    # a quick look

The two logs take turns, round by round. Where nothing else is said, their files are in the page cache; `not in memory`:
it was emptied of them before. One client, one request at a time; a chat turn includes the fake model's. `first`: the
session is in no actor, and what is asked is recorded, a first read included, so it waits for the disk.
"""

import argparse
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from tests.bench.harness import tables
from tests.bench.harness.bench_processes import ROOT, started
from tests.bench.workloads.scale_fill import TEXT_CHARS, TURN_EVENTS, session_id
from tests.bench.workloads.scale_measure import SESSIONS_A_ROUND, Figures, Round
from tests.support.programs.external_programs import free_port

SMALL = 1_000


@contextmanager
def model(folder: Path) -> Iterator[str]:
    """A fake model server; gives its URL."""
    port = free_port()
    command = [sys.executable, "-m", "tests.support.model.model_server", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with started(command, folder=folder, environment={"PYTHONPATH": str(ROOT)}, ready=f"{url}/v1/models"):
        yield url


def prepare(folder: Path, sessions: int, turns: int, text_chars: int) -> None:
    """A log of so many sessions and its projections in `folder`, unless they are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "chatbot.db"
    environment = {**os.environ, "DATABASE_URL": str(log), "PYTHONPATH": str(ROOT), "CHATBOT_LOGGING_LEVEL": "error"}
    made = [sys.executable, "-m", "tests.bench.workloads.scale_fill", str(log), "--sessions", str(sessions)]
    made += ["--turns", str(turns), "--text-chars", str(text_chars)]
    if not log.exists():
        subprocess.run(made, env=environment, check=True)
    if not (folder / "projections.db").exists():
        subprocess.run([sys.executable, str(ROOT / "run.py"), "rebuild"], env=environment, cwd=folder, check=True)


def disk(folder: Path, figures: Figures) -> None:
    """Bytes of the files, before anything is asked."""
    with closing(sqlite3.connect(folder / "projections.db")) as connection:
        ((events, turns),) = connection.execute("SELECT position, (SELECT sum(replies) FROM usage) FROM meta")
    figures["events"] = [events]
    for name, file in (("log", "chatbot.db"), ("projections", "projections.db")):
        size = (folder / file).stat().st_size
        figures[f"disk, {name} (MiB)"] = [size / 2**20]
        figures[f"disk, {name}, per event (bytes)"] = [size / events]
        figures[f"disk, {name}, per turn (bytes)"] = [size / turns]


def measured(folders: Mapping[str, tuple[Path, int]], rounds: int, model_url: str) -> dict[str, Figures]:
    """Every figure of every log, taken alternately; `folders` are their names, places and numbers of sessions."""
    found: dict[str, Figures] = {name: defaultdict(list) for name in folders}
    asked = {
        name: iter(random.Random(1).sample(range(sessions), sessions)) if sessions else iter(())
        for name, (_, sessions) in folders.items()
    }
    for name, (folder, sessions) in folders.items():
        if sessions:
            disk(folder, found[name])
    for number in range(rounds):
        for name, (folder, sessions) in folders.items():
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            one = Round(folder, model_url, map(session_id, asked[name]), found[name])
            if sessions:
                one.run()
            else:
                one.empty()
    return found


def table(found: Mapping[str, Figures]) -> str:
    """One line for each figure, in the order in which they were first taken."""
    rows: list[list[str]] = []
    for name in found["big"]:
        if "(" in name or name == "events":
            rows.append(_row(name, found, lambda values: tables.median_spread(values)[0]))
        else:
            rows.append(_row(f"{name}, p50 (ms)", found, lambda values: tables.percentile(values, 0.5), name))
            rows.append(_row(f"{name}, p99 (ms)", found, lambda values: tables.percentile(values, 0.99), name))
    return tables.table(["", *found, "big / small"], rows)


def summed_up(found: Mapping[str, Figures]) -> dict[str, dict[str, dict[str, float]]]:
    """By log and figure: how many values there are, and the middle and nearly the worst of them."""
    return {
        log: {
            name: {"count": len(values), "p50": tables.percentile(values, 0.5), "p99": tables.percentile(values, 0.99)}
            for name, values in figures.items()
        }
        for log, figures in found.items()
    }


def _row(label: str, found: Mapping[str, Figures], of: Callable[[list[float]], float], name: str = "") -> list[str]:
    name = name or label
    values = {log: of(figures[name]) if name in figures else None for log, figures in found.items()}
    small, big = values["small"], values["big"]
    ratio = f"{big / small:.2f}" if small and big else ""
    return [label, *("" if value is None else tables.significant(value) for value in values.values()), ratio]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1_000_000, help="of the big log")
    parser.add_argument("--events-per-session", type=int, default=10)
    parser.add_argument("--text-chars", type=int, default=TEXT_CHARS, help="of a question; an answer is twice as long")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the logs are kept, and found again the next time")
    options = parser.parse_args()
    if options.rounds * SESSIONS_A_ROUND > min(SMALL, options.sessions):
        raise SystemExit(f"each round takes {SESSIONS_A_ROUND} other sessions, and the small log has {SMALL}")
    turns = max(1, (options.events_per_session - 1) // TURN_EVENTS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folders = {
            "empty": (Path(temporary) / "empty", 0),
            "small": (folder / "small", SMALL),
            "big": (folder / "big", options.sessions),
        }
        folders["empty"][0].mkdir()
        for place, sessions in folders.values():
            if sessions:
                prepare(place, sessions, turns, options.text_chars)
        machine = tables.machine()
        with model(Path(temporary)) as model_url:
            found = measured(folders, options.rounds, model_url)
    print(f"\n{tables.describe(machine)}\n\n{table(found)}")
    sessions = {"small": SMALL, "big": options.sessions}
    tables.save("scale", {"machine": machine, "sessions": sessions, "figures": summed_up(found)})


if __name__ == "__main__":
    main()
