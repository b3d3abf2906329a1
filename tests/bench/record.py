"""How fast the record is proven, rebuilt and moved: makes a log of many events, then times run.py's commands on it.

    python -m tests.bench.record --events 1000000

Each command runs once in a process of its own; its time is wall time, start-up included; memory is its peak.
"""

import argparse
import asyncio
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from events.catalogue import (
    Event,
    MessagePosted,
    Parameters,
    ReplyCompleted,
    ReplyProgressed,
    ReplyStarted,
    SessionCreated,
    Usage,
)
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.bench.harness.tables import folder_at

ROOT = Path(__file__).resolve().parents[2]
TURNS = 12  # turns a session
AT_ONCE = 64  # sessions written side by side: they share commits
TEXT = "A conversation is a tree of messages, and every message of it is on the record. " * 4
ASKED = Metadata(actor="bench", request_id="0" * 32)


def turn(head: str | None) -> tuple[str, list[Event]]:
    """One turn after message `head`: its reply's id, and its four events."""
    asked, reply = str(uuid.uuid4()), str(uuid.uuid4())
    usage = Usage(prompt_tokens=90, completion_tokens=70, total_tokens=160)
    parameters = Parameters(max_new_tokens=256, temperature=0.7, do_sample=True)
    return reply, [
        MessagePosted(asked, head, "user", TEXT[:160], reply, parameters),
        ReplyStarted(reply, asked, "node", "openai", "model", parameters, (asked,)),
        ReplyProgressed(reply, 0, TEXT[:200]),
        ReplyCompleted(reply, TEXT, "stop", "model", 1_500_000, usage, 200_000),
    ]


async def write_session(log: SqliteLog) -> int:
    session_id, head, version = str(uuid.uuid4()), None, 1
    await log.append(session_id, 0, [SessionCreated("bench", {"user_id": session_id[:8]}, 86_400)], ASKED)
    for _ in range(TURNS):
        head, events = turn(head)
        await log.append(session_id, version, events, ASKED)
        version += len(events)
    return version


async def fill(path: Path, events: int) -> float:
    """Write a log of at least `events` events; returns events per second."""
    log = await SqliteLog.open(path)
    began_s, written, shown_s = time.monotonic(), 0, 0.0
    while written < events:
        written += sum(await asyncio.gather(*(write_session(log) for _ in range(AT_ONCE))))
        if time.monotonic() - shown_s > 1:
            shown_s = time.monotonic()
            print(f"\rwriting {written:,} of {events:,} events", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    await log.close()
    return written / (time.monotonic() - began_s)


def timed(folder: Path, events: int, name: str, *arguments: str, output: str | None = None) -> None:
    """Run one command and print its line of the table."""
    environment = {**os.environ, "DATABASE_URL": str(folder / "chatbot.db"), "CHATBOT_LOGGING_LEVEL": "error"}
    began_s = time.monotonic()
    with (folder / (output or "output")).open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *arguments], stdout=file, env=environment, cwd=folder
        )
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name} ended with exit code {process.returncode}")
    peak_mib = used.ru_maxrss / 1024 / (1024 if sys.platform == "darwin" else 1)
    cpu_s = used.ru_utime + used.ru_stime
    print(f"| {name} | {seconds:.1f} s | {events / seconds:,.0f} | {cpu_s:.1f} s | {peak_mib:.0f} MiB |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--folder", type=folder_at, help="where the files go (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        rate = asyncio.run(fill(folder / "chatbot.db", options.events))
        connection = sqlite3.connect(folder / "chatbot.db")
        ((events, session),) = connection.execute("SELECT max(position), stream_id FROM events").fetchall()
        connection.close()
        size_mib = (folder / "chatbot.db").stat().st_size / 2**20
        print(f"{events:,} events, {size_mib:,.0f} MiB, written at {rate:,.0f} events/s")
        print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores\n")
        print("| command | time | events/s | CPU | peak memory |\n|---|---|---|---|---|")
        timed(folder, events, "rebuild", "rebuild")
        timed(folder, events, "verify", "verify")
        key = folder / "audit.key"
        subprocess.run(
            [sys.executable, str(ROOT / "run.py"), "keygen", str(key)], cwd=folder, check=True, capture_output=True
        )
        timed(folder, events, "checkpoint", "checkpoint", "--key", str(key), output="checkpoint.txt")
        noted = ("--checkpoint", str(folder / "checkpoint.txt"))
        timed(folder, events, "verify --checkpoint", "verify", *noted, "--key", f"{key}.pub")
        timed(folder, events, "prove one session", "prove", "--session", session, *noted, output="proof.json")
        timed(folder, events, "export", "export", output="log.ndjson")
        timed(folder, events, "backup", "backup", str(folder / "copy.db"))
        (folder / "chatbot.db").unlink()
        (folder / "projections.db").unlink()
        timed(folder, events, "import", "import", str(folder / "log.ndjson"))


if __name__ == "__main__":
    main()
