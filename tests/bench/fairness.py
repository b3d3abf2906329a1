"""Does one owner who floods the model delay others? An owner with 1,500 waiting turns, another with one at a time.

    python -m tests.bench.fairness               # three rounds, about two minutes

The model is slow by script. In each round history, lists and health are first asked while nothing else goes on, then
under the flood: one owner fills the queue and goes on asking ten times as often as the model can answer, and another
sends one turn after the other. The service has the first core, the load and the model the second.
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from tests.bench.harness import tables
from tests.bench.harness.bench_processes import product
from tests.support.model.model_server import ModelServer

SERVER_CORE, DRIVER_CORE = 0, 1
KEYS = {"flood": "a-very-long-secret-of-flood", "other": "a-very-long-secret-of-other"}
FLOOD_CONNECTIONS = 32
HISTORY_TURNS = 10
LISTED_SESSIONS = 40
ASKED_PER_S = 40.0  # of each kind of read
DRAIN_TIMEOUT_S = 120.0
GOAL_RATIO = 2.0
ACCEPTED = 202
SESSIONS_SPARE = 1_000  # of the owner that floods: turns that end while the queue fills
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Client:
    """A connection with an owner's key that is kept: one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: str) -> None:
        self._reader = reader
        self._writer = writer
        self._secret = secret

    @classmethod
    async def open(cls, url: str, owner: str) -> Self:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port), KEYS[owner])

    async def ask(self, method: str, path: str, body: object = None, headers: str = "") -> tuple[int, Any]:
        """The status, and the body."""
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._secret}\r\n{headers}"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        self._writer.write(head.encode() + content)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        found = _LENGTH.search(answer)
        return int(answer[9:12]), json.loads(await self._reader.readexactly(int(found[1]) if found else 0))

    async def session(self) -> str:
        status, body = await self.ask("POST", "/api/sessions", {})
        assert status == 201, body
        return str(body["session_id"])

    async def post(self, session_id: str, message: str) -> int:
        """Ask without waiting for the reply; the status."""
        body = {"session_id": session_id, "message": message}
        return (await self.ask("POST", "/api/chat", body, "Prefer: respond-async\r\n"))[0]


@dataclass
class Flood:
    """An owner that fills the queue and then goes on at `per_s`, each turn in a session without another."""

    per_s: float
    statuses: Counter[int] = field(default_factory=Counter)
    waiting: int = 0

    async def fill(self, url: str, sessions: list[str]) -> None:
        """Ask in session after session until the service refuses."""

        async def ask() -> None:
            client = await Client.open(url, "flood")
            while await client.post(session_id := sessions.pop(), "flood") == ACCEPTED:
                self.waiting += 1
            sessions.append(session_id)

        await asyncio.gather(*(ask() for _ in range(FLOOD_CONNECTIONS)))

    async def run(self, url: str, sessions: list[str]) -> None:
        """Until cancelled."""
        slots = itertools.count()
        began_s = time.perf_counter()

        async def ask() -> None:
            client = await Client.open(url, "flood")
            while True:
                number = next(slots)
                await asyncio.sleep(max(0.0, began_s + number / self.per_s - time.perf_counter()))
                session_id = sessions.pop()
                status = await client.post(session_id, f"flood {number}")
                self.statuses[status] += 1
                if status != ACCEPTED:
                    sessions.append(session_id)

        await asyncio.gather(*(ask() for _ in range(FLOOD_CONNECTIONS)))


async def take_turns(url: str, model: ModelServer, found: dict[str, Any]) -> None:
    """One turn after the other, until cancelled: how long each waited for the model once it was accepted, and how many
    others began meanwhile.
    """
    client = await Client.open(url, "other")
    session_id = await client.session()
    for number in itertools.count():
        text, known = f"turn {number} of {time.monotonic()}", len(model.requests)
        found["statuses"][await client.post(session_id, text)] += 1
        before, accepted_s = len(model.requests), time.monotonic()
        while not (own := [index for index in range(known, len(model.requests)) if said(model, index) == text]):
            await asyncio.sleep(0.002)
        found["turns_before"].append(max(0, own[0] - before))
        found["wait_s"].append(max(0.0, model.requests[own[0]].received_at - accepted_s))
        while model.requests[own[0]].ended_at is None:
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.02)  # until the reply's end is recorded: the session is to be free


def said(model: ModelServer, index: int) -> str:
    return str(model.requests[index].body["messages"][-1]["content"])


async def read_all(url: str, session_id: str, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each answer to history, lists and health, each asked at a pace."""
    paths = {
        "history": f"/api/sessions/{session_id}/messages",
        "list": "/api/sessions?limit=20",
        "health": "/api/health",
    }

    async def read(path: str) -> list[float]:
        client, times_ms = await Client.open(url, "other"), []
        end_s = time.perf_counter() + seconds
        while (began_s := time.perf_counter()) < end_s:
            status, body = await client.ask("GET", path)
            assert status == 200, body
            times_ms.append((time.perf_counter() - began_s) * 1000)
            await asyncio.sleep(max(0.0, began_s + 1 / ASKED_PER_S - time.perf_counter()))
        return times_ms

    return dict(zip(paths, await asyncio.gather(*map(read, paths.values())), strict=True))


@asynccontextmanager
async def running(*tasks: Any) -> AsyncIterator[None]:
    """While the block runs, these run beside it."""
    begun = [asyncio.create_task(one) for one in tasks]
    try:
        yield
        for one in begun:
            if one.done():
                one.result()
    finally:
        for one in begun:
            one.cancel()
        await asyncio.gather(*begun, return_exceptions=True)


async def drain(model: ModelServer) -> None:
    """Let the model answer at once until nothing waits any more."""
    async with asyncio.timeout(DRAIN_TIMEOUT_S):
        known = -1
        while known != len(model.requests) or any(one.ended_at is None for one in model.requests[-64:]):
            known = len(model.requests)
            await asyncio.sleep(0.5)
    model.requests.clear()
    await asyncio.sleep(1.0)


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    per_s = options.slots / options.turn_s
    settings = {
        "CHATBOT_API_KEYS": ",".join(f"{name}:{secret}" for name, secret in KEYS.items()),
        "CHATBOT_LLM_PROVIDER": "openai",
        "CHATBOT_LLM_CONCURRENT_MAX": str(options.slots),
        "CHATBOT_LLM_QUEUE_MAX": str(options.waiting),
        "CHATBOT_LLM_FIRST_TOKEN_TIMEOUT_S": "600",
    }
    found: dict[str, Any] = {"statuses": Counter(), "turns_before": [], "wait_s": [], "rounds": []}
    async with ModelServer() as model:
        model.script(times=None, pieces=("ok",))
        with product(folder, model.url, core=SERVER_CORE, **settings) as (child, url):
            other, flooding = await Client.open(url, "other"), await Client.open(url, "flood")
            flood = Flood(10 * per_s)
            own = await other.session()
            for number in range(HISTORY_TURNS):
                await other.ask("POST", "/api/chat", {"session_id": own, "message": f"hi {number}"})
            for _ in range(LISTED_SESSIONS):
                await other.session()
            needed = options.waiting + SESSIONS_SPARE + 2 * round(options.seconds * per_s)
            own_of_flood = [await flooding.session() for _ in range(needed)]
            for _ in range(options.rounds):
                sessions = list(own_of_flood)
                await asyncio.sleep(1.0)
                idle_s, idle = child.cpu_s(), await read_all(url, own, options.seconds)
                idle_s = child.cpu_s() - idle_s
                model.script(times=None, pieces=("ok",), delay_s=options.turn_s)
                await flood.fill(url, sessions)
                async with running(take_turns(url, model, found), flood.run(url, sessions)):
                    await asyncio.sleep(1.0)  # its connections are open, and the queue is full
                    loaded_s, loaded = child.cpu_s(), await read_all(url, own, options.seconds)
                    loaded_s = child.cpu_s() - loaded_s
                cpu = [one / options.seconds for one in (idle_s, loaded_s)]
                found["rounds"].append({"idle": idle, "loaded": loaded, "cpu": cpu})
                model.script(times=None, pieces=("ok",))
                await drain(model)
    return found | {"flood": dict(flood.statuses), "waiting": flood.waiting // options.rounds, "per_s": per_s}


def report(found: dict[str, Any], options: argparse.Namespace) -> str:
    """In Markdown. A ratio is taken within a round."""
    turns, waits_s = found["turns_before"], found["wait_s"]
    rows = []
    for name in ("history", "list", "health"):
        row = [name]
        for share in (0.5, 0.99):
            pairs = [
                [tables.percentile(one[part][name], share) for part in ("idle", "loaded")] for one in found["rounds"]
            ]
            idle, loaded = (statistics.median(one) for one in zip(*pairs, strict=True))
            ratio = statistics.median(both / alone for alone, both in pairs)
            row.append(f"{idle:.2f} / {loaded:.2f} = {ratio:.2f}")
        rows.append(row)
    cpu = " / ".join(
        f"{statistics.median(one):.0%}" for one in zip(*(one["cpu"] for one in found["rounds"]), strict=True)
    )
    return "\n\n".join(
        (
            f"The model answers {found['per_s']:.0f} turns a second in {options.slots} slots. The owner that floods has"
            f" {found['waiting']} turns that run or wait, asked {10 * found['per_s']:.0f} times a second"
            f" and got {_counts(found['flood'])}.",
            f"The other owner got {_counts(found['statuses'])}. At most {max(turns)} other turns began before one of"
            f" its {len(turns)} turns, {statistics.mean(turns):.2f} on average. One waited"
            f" {statistics.median(waits_s):.3f} s in the median and {max(waits_s):.3f} s at most; the model takes"
            f" {options.turn_s} s for a turn.",
            f"CPU of the service, idle / loaded: {cpu} of a core.",
            tables.table(["read", "p50 idle / loaded, ms", f"p99 idle / loaded, ms (goal {GOAL_RATIO})"], rows),
        )
    )


def _counts(statuses: dict[int, int]) -> str:
    return ", ".join(f"{count:,} x {status}" for status, count in sorted(statuses.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=1_500, help="turns of the owner that floods")
    parser.add_argument("--slots", type=int, default=4, help="turns that the model takes at a time")
    parser.add_argument("--turn-s", type=float, default=0.1, help="seconds that it takes for each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    options = parser.parse_args()
    os.sched_setaffinity(0, {DRIVER_CORE})
    with tempfile.TemporaryDirectory() as name:
        found = asyncio.run(measure(Path(name), options))
    machine = tables.machine()
    print(tables.describe(machine), report(found, options), sep="\n\n")
    found = {name: value for name, value in found.items() if name != "rounds"}
    tables.save("fairness", {"machine": machine, **found})


if __name__ == "__main__":
    main()
