"""How soon one process knows what happens at another: an event, a token of a running reply, a cancel.

All of it in one session, which has a reader at its own process (where its replies run) and one at another.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench.clients.raw_clients import address
from tests.bench.harness import tables
from tests.bench.harness.bench_loop import loop_factory
from tests.bench.harness.node_fleet import Way, fleet
from tests.bench.harness.timed_endpoints import WAIT_TIMEOUT_S, Line, Model
from tests.support.programs.postgres_server import PostgresServer

PAUSE_S = 0.01  # after each attempt, until all is quiet
OPENED_MAX, OPENED_AT_ONCE = 128, 8  # connections, until two processes have accepted what is needed
WHATS = {
    "acknowledged": "append, until it is acknowledged",
    "event": "append, until a feed has it",
    "token": "token, from the model's write until a feed has it",
    "cancel": "cancel, until the model's server sees its connection close",
}
Times = dict[str, list[float]]  # "<what> <own or far>" -> ms


class Counts(NamedTuple):
    """How often each is done in a round."""

    appends: int = 200
    tokens: int = 200
    cancels: int = 40


class Lines(NamedTuple):
    """Connections to two processes: the session's own, and another."""

    own: Line
    far: Line
    talk: Line  # to the own one, for requests that last as long as a reply
    own_feed: Line
    far_feed: Line


async def reach(urls: Sequence[str]) -> Lines:
    """Connections to the processes behind `urls`; which worker accepts one is chance. Raises RuntimeError."""
    found: dict[str, list[Line]] = {}
    for _ in range(OPENED_MAX // OPENED_AT_ONCE):
        loop = asyncio.get_running_loop()
        places = [address(urls[number % len(urls)]) for number in range(OPENED_AT_ONCE)]
        opened = await asyncio.gather(*(loop.create_connection(Line, *place) for place in places))
        lines = [line for _, line in opened]
        for name, line in zip(await asyncio.gather(*(line.node() for line in lines)), lines, strict=True):
            found.setdefault(name, []).append(line)
        if sum(len(some) >= 3 for some in found.values()) >= 2:
            (own, talk, own_feed), (far, far_feed, _) = [some[:3] for some in found.values() if len(some) >= 3][:2]
            return Lines(own, far, talk, own_feed, far_feed)
    raise RuntimeError(f"{OPENED_MAX} connections were all accepted by the same process")


class Session:
    """One session and its two readers; `times` is what was measured."""

    def __init__(self, lines: Lines, model: Model, session_id: str) -> None:
        self.times: Times = {}
        self._lines = lines
        self._model = model
        self._path = f"/api/sessions/{session_id}"
        self._body = {"session_id": session_id, "message": "go on"}
        lines.own_feed.follow(session_id)
        lines.far_feed.follow(session_id)

    async def append(self, number: int) -> None:
        """At the own process; seen at both."""
        title = f"title {number}"
        began_s = self._begin()
        await self._lines.own.ask("PATCH", self._path, {"title": title})
        self._note("acknowledged own", began_s, time.perf_counter())
        for where, feed in (("own", self._lines.own_feed), ("far", self._lines.far_feed)):
            seen_s = await feed.first(lambda frame: frame["type"] == "session" and frame["title"] == title)
            self._note(f"event {where}", began_s, seen_s)
        await asyncio.sleep(PAUSE_S)

    async def reply(self) -> None:
        """A whole one at a model's pace. Raises RuntimeError when a reader lacks a token."""
        self._begin()
        self._model.written_s.clear()
        await self._lines.talk.ask("POST", "/api/chat/stream", self._body)
        for where, feed in (("own", self._lines.own_feed), ("far", self._lines.far_feed)):
            await feed.first(lambda frame: frame["type"] == "complete")
            came_s = feed.tokens_s()
            if len(came_s) != len(self._model.written_s):
                raise RuntimeError(f"{where}: {len(came_s)} tokens came in place of {len(self._model.written_s)}")
            for written_s, seen_s in zip(self._model.written_s, came_s, strict=True):
                self._note(f"token {where}", written_s, seen_s)

    async def cancel(self, where: str) -> None:
        """A running reply of the own process, at that one (`own`) or at the other (`far`)."""
        self._begin()
        self._model.broken_s = asyncio.get_running_loop().create_future()
        talking = asyncio.create_task(self._lines.talk.ask("POST", "/api/chat/stream", self._body))
        for feed in (self._lines.own_feed, self._lines.far_feed):
            await feed.first(lambda frame: frame["type"] == "chunk")
        began_s = time.perf_counter()
        await (self._lines.own if where == "own" else self._lines.far).ask("POST", f"{self._path}/cancel")
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            self._note(f"cancel {where}", began_s, await self._model.broken_s)
            await talking
        for feed in (self._lines.own_feed, self._lines.far_feed):
            await feed.first(lambda frame: frame["type"] == "error")  # after it comes nothing of this reply
        await asyncio.sleep(PAUSE_S)

    def _begin(self) -> float:
        for feed in (self._lines.own_feed, self._lines.far_feed):
            feed.frames.clear()
        return time.perf_counter()

    def _note(self, name: str, began_s: float, ended_s: float) -> None:
        self.times.setdefault(name, []).append((ended_s - began_s) * 1000)


async def run(way: Way, folder: Path, server: PostgresServer | None, schema: str, counts: Counts) -> Times:
    """Everything, once. Raises RuntimeError, TimeoutError."""
    model = Model(counts.tokens)
    async with model.listening() as url:
        with fleet(way, folder, url, server, schema) as processes:
            lines = await reach(processes.urls)
            session = Session(lines, model, (await lines.own.json("POST", "/api/sessions", {}))["session_id"])
            for number in range(counts.appends):
                await session.append(number)
            await session.reply()
            for number in range(counts.cancels):
                await session.cancel("far" if number % 2 else "own")
            for line in lines:
                line.close()
            return session.times


def measure(way: Way, server: PostgresServer | None, counts: Counts | None = None) -> Times:
    """As `run`, on an empty log."""
    schema = asyncio.run(server.schema()) if server and way.on_postgres else ""
    with tempfile.TemporaryDirectory() as name, asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(run(way, Path(name), server, schema, counts or Counts()))


def report(found: dict[str, list[Times]], ways: Sequence[Way]) -> str:
    """In Markdown: percentiles of each round, their medians and spreads."""
    rows = []
    for what, title in WHATS.items():
        for way in (one for one in ways if found.get(one.name)):
            own, far = ([one.get(f"{what} {where}", []) for one in found[way.name]] for where in ("own", "far"))
            rows.append((title, way.title, *_percentiles(own), *_percentiles(far)))
    return tables.table(("what", "served by", "own p50 ms", "own p99 ms", "other p50 ms", "other p99 ms"), rows)


def _percentiles(rounds: Sequence[Sequence[float]]) -> tuple[str, str]:
    taken = [one for one in rounds if one]
    if not taken:
        return "", ""
    middle, most = ([tables.percentile(one, share) for one in taken] for share in (0.5, 0.99))
    return tables.shown(middle), tables.shown(most)
