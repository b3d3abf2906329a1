"""A log of many sessions that look like real ones, written through the log's own interface, so with a true chain.

    python -m tests.bench.workloads.scale_fill chatbot.db --sessions 1000000          # 10 million events, 6 to 10
    minutes

`python run.py rebuild` makes its projections. Memory does not grow with the number of sessions.
"""

import argparse
import asyncio
import hashlib
import itertools
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from events.catalogue import (
    Event,
    MessagePosted,
    Parameters,
    ReplyCompleted,
    ReplyStarted,
    SessionAccessed,
    SessionCreated,
    Usage,
)
from events.factory import now_us
from events.options import APPEND_BATCH_LIMIT, LogOptions
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog

TURNS = 3  # with session_created, 10 events a session
TURN_EVENTS = 3  # message_posted, reply_started, reply_completed
READ_EVERY = 10  # one session in so many was also read: session_accessed
AT_ONCE = 512  # sessions written side by side: they share commits, and lie mixed in the log
TEXT_CHARS = 80  # of a question; an answer is twice as long
CACHE_KIB = 1024 * 1024  # of the connections while filling: new rows of the index by stream are anywhere in it
DAY_S = 86_400
SPAN_S = 30 * DAY_S  # the log tells of so long a time, and ends an hour ago
TIMEOUT_S = 60 * DAY_S  # so deadlines are spread over SPAN_S, the first a month from now
DUE_TIMEOUT_S = 60  # of sessions that are past their deadline
ASKED = Metadata(request_id="0" * 32)
PARAMETERS = Parameters(max_new_tokens=256, temperature=0.7)

_WORDS = "A conversation is a tree of messages, and every message of it is on the record. "

Progress = Callable[[int, int], None]


def session_id(number: int) -> str:
    """The id of the session with this number, from 0: random to look at, and known to whoever measures."""
    return str(uuid.UUID(bytes=hashlib.blake2b(str(number).encode(), digest_size=16).digest(), version=4))


def text_of(chars: int) -> str:
    """So many characters."""
    return (_WORDS * (chars // len(_WORDS) + 1))[:chars]


def fill(
    path: Path,
    sessions: int,
    turns: int = TURNS,
    due: int = 0,
    progress: Progress = lambda _written, _events: None,
    text_chars: int = TEXT_CHARS,
) -> int:
    """Write a new log of `sessions` sessions with `turns` turns each; returns the number of its events.

    The first `due` sessions are past their deadline by an hour or more, and not yet expired. `progress` is told, about
    once a second, how many events are written and how many there will be. Questions have `text_chars` characters,
    answers twice as many.
    """
    return asyncio.run(_Filling(sessions, turns, due, text_chars).run(path, progress))


class _Filling:
    def __init__(self, sessions: int, turns: int, due: int, text_chars: int) -> None:
        self._due = due
        self._turns = turns
        self._asked, self._answered = text_of(text_chars), text_of(2 * text_chars)
        self._events = sessions * (1 + turns * TURN_EVENTS) + -(-sessions // READ_EVERY)
        self._written = 0
        self._numbers = iter(range(sessions))
        appends = self._events - sessions * turns * (TURN_EVENTS - 1)
        self._clock = _times(appends)

    async def run(self, path: Path, progress: Progress) -> int:
        options = LogOptions(append_batch_max=APPEND_BATCH_LIMIT, cache_kib=CACHE_KIB, read_connections=1)
        log = await SqliteLog.open(path, options, clock=self._clock.__next__)
        telling = asyncio.create_task(self._tell(progress))
        try:
            await asyncio.gather(*(self._work(log) for _ in range(AT_ONCE)))
        finally:
            telling.cancel()
            await log.close()
        progress(self._written, self._events)
        return self._written

    async def _tell(self, progress: Progress) -> None:
        while True:
            progress(self._written, self._events)
            await asyncio.sleep(1)

    async def _work(self, log: SqliteLog) -> None:
        for number in self._numbers:  # shared: whoever is free takes the next
            await self._session(log, number)

    async def _session(self, log: SqliteLog, number: int) -> None:
        timeout_s = DUE_TIMEOUT_S if number < self._due else TIMEOUT_S
        metadata = {"user_id": f"user-{number // 10}", "channel": "web"}
        appends: list[list[Event]] = [[SessionCreated(None, metadata, timeout_s)]]
        head = None
        for _ in range(self._turns):
            head, events = self._turn(head)
            appends.append(events)
        if number % READ_EVERY == 0:
            appends.append([SessionAccessed()])
        id_, version = session_id(number), 0
        for events in appends:
            await log.append(id_, version, events, ASKED)
            version += len(events)
            self._written += len(events)

    def _turn(self, head: str | None) -> tuple[str, list[Event]]:
        asked, reply = str(uuid.uuid4()), str(uuid.uuid4())
        usage = Usage(prompt_tokens=90, completion_tokens=70, total_tokens=160)
        return reply, [
            MessagePosted(asked, head, "user", self._asked, reply, PARAMETERS),
            ReplyStarted(reply, asked, "node", "openai", "model", PARAMETERS, (head, asked) if head else (asked,)),
            ReplyCompleted(reply, self._answered, "stop", "model", 1_500_000, usage, 200_000),
        ]


def _times(appends: int) -> Iterator[int]:
    """Microseconds, UTC: `appends` of them, spread evenly over SPAN_S; from then on the last."""
    last_us = now_us() - 3_600 * 1_000_000
    first_us = last_us - SPAN_S * 1_000_000
    step_us = SPAN_S * 1_000_000 // max(appends, 1)
    return (min(first_us + step_us * number, last_us) for number in itertools.count())


def bar(what: str) -> Progress:
    """A progress bar on standard error."""
    began_s = time.monotonic()

    def show(done: int, total: int) -> None:
        share = done / total if total else 1.0
        rate = done / max(time.monotonic() - began_s, 1e-3)
        left_s = (total - done) / rate if rate else 0.0
        drawn = ("#" * round(share * 40)).ljust(40)
        end = "\n" if done >= total else ""
        line = f"\r{what} [{drawn}] {share:4.0%}  {done:,} of {total:,}  {rate:,.0f}/s  {left_s:,.0f} s left "
        print(line, end=end, file=sys.stderr, flush=True)

    return show


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--due", type=int, default=0, help="sessions that are past their deadline")
    parser.add_argument("--text-chars", type=int, default=TEXT_CHARS)
    options = parser.parse_args()
    if options.path.exists():
        raise SystemExit(f"{options.path} exists already")
    fill(options.path, options.sessions, options.turns, options.due, bar("events"), options.text_chars)


if __name__ == "__main__":
    main()
