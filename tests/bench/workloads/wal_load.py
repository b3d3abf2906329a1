"""Appends without a pause to a log in this process: each commit timed, the write-ahead file watched."""

import asyncio
import time
import uuid
from pathlib import Path
from typing import Any

from events.catalogue import Event, MessagePosted, Parameters, ReplyCompleted, ReplyStarted, SessionCreated, Usage
from events.log_observer import NoObserver
from events.options import LogOptions
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog

APPENDERS = 64
TEXT = "A conversation is a tree of messages, and every message of it is on the record. " * 6
FILE_CHECK_S = 0.02  # between looks at the write-ahead file
ASKED = Metadata(request_id="0" * 32)
PARAMETERS = Parameters(max_new_tokens=256, temperature=0.7)


class Commits(NoObserver):
    """Each commit's seconds, by whether a checkpoint was in it: only then the main file is written to."""

    def __init__(self, path: Path) -> None:
        self.plain_s: list[float] = []
        self.checkpoints_s: list[float] = []
        self.events = 0
        self._path = path
        self._written_ns = 0

    def appended(self, batch_events: int, append_s: float, commit_s: float) -> None:
        self.events += batch_events
        written_ns = self._path.stat().st_mtime_ns
        (self.plain_s if written_ns == self._written_ns else self.checkpoints_s).append(commit_s)
        self._written_ns = written_ns


def turn() -> list[Event]:
    asked, reply = str(uuid.uuid4()), str(uuid.uuid4())
    return [
        MessagePosted(asked, None, "user", TEXT[:160], reply, PARAMETERS),
        ReplyStarted(reply, asked, "node", "openai", "model", PARAMETERS, (asked,)),
        ReplyCompleted(reply, TEXT, "stop", "model", 1_500_000, Usage(90, 70, 160), 200_000),
    ]


async def append_until(log: SqliteLog, until_s: float) -> None:
    """Sessions of a few turns, one after the other."""
    while time.monotonic() < until_s:
        session_id, version = str(uuid.uuid4()), 1
        await log.append(session_id, 0, [SessionCreated(None, {}, 3_600)], ASKED)
        for _ in range(4):
            version = (await log.append(session_id, version, turn(), ASKED))[-1].version


async def sustained(folder: Path, seconds: float) -> dict[str, Any]:
    """What `seconds` of appends by APPENDERS at once show. Sizes are bytes."""
    folder.mkdir()
    path = folder / "chatbot.db"
    wal, sizes = folder / "chatbot.db-wal", [0]
    commits = Commits(path)
    log = await SqliteLog.open(path, observe=commits)

    async def watch() -> None:
        while True:
            sizes.append(wal.stat().st_size)
            await asyncio.sleep(FILE_CHECK_S)

    written, began_s = _written(), time.monotonic()
    watching = asyncio.create_task(watch())
    await asyncio.gather(*(append_until(log, began_s + seconds) for _ in range(APPENDERS)))
    took_s, end = time.monotonic() - began_s, wal.stat().st_size
    watching.cancel()
    await log.close()
    return {
        "seconds": took_s,
        "events": commits.events,
        "written_bytes": _written() - written,
        "wal_max_bytes": max(sizes),
        "wal_end_bytes": end,
        "wal_closed_bytes": wal.stat().st_size if wal.exists() else 0,
        "wal_limit_bytes": LogOptions().wal_limit_bytes,
        "commits_s": commits.plain_s,
        "checkpoints_s": commits.checkpoints_s,
    }


def _written() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])
